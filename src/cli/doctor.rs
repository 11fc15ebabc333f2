//! `doctor`: what is wrong with a set-up, in plain words, one line a check, each with how to fix
//! it.

mod database;
mod mail;
mod rehearsal;
mod settings;
mod tables;

use std::fmt;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::compose::{letters, mailer};
use super::sources::Sources;
use super::{Failure, print};
use crate::config::Config;
use crate::mail::letters::{KINDS, Letters};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Send a letter to this address, too
    #[arg(long, value_name = "ADDRESS")]
    send_to: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What one check has found. A warning works, but not as well as it should; a failure does not
/// work.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level}  {:<11} {}", self.check, self.message)
    }
}

/// How long the database may take in all, and the mail server beside it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Without any of these that is usable, no database is asked.
const DATABASE_URLS: [&str; 3] = ["DATABASE_URL", "DATABASE_DIRECT_URL", "DATABASE_READ_URL"];

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, level: Level, message: impl Into<String>) {
        self.0.push(Finding { check, level, message: message.into() });
    }

    fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Level::Ok, message);
    }

    fn warn(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Level::Warn, message);
    }

    fn fail(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Level::Fail, message);
    }
}

/// Checks everything, prints what was found, and fails if anything does not work.
pub async fn doctor(arguments: &Arguments, sources: &Sources) -> Result<(), Failure> {
    let findings = examine(arguments, sources).await.0;
    if arguments.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?;
    } else {
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        print(&(lines.join("\n") + "\n"))?;
    }
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        1 => Err("one check failed".into()),
        failed => Err(format!("{failed} checks failed").into()),
    }
}

async fn examine(arguments: &Arguments, sources: &Sources) -> Findings {
    let (config, mut complaints) = Config::read(|name| sources.value(name));
    let mailer = mailer(&config, &mut complaints);
    let mut of_letters = Vec::new();
    let letters = letters(&config, &mut of_letters);
    let mut findings = settings::examine(&config, &complaints);
    sources.remarks().into_iter().for_each(|remark| findings.warn("settings", remark));
    templates(&letters, of_letters, &mut findings);
    let send_to = arguments.send_to.as_deref();
    let database = async {
        if DATABASE_URLS.iter().all(|name| is_usable(name, &complaints)) {
            database::examine(&config).await
        } else {
            Findings::default()
        }
    };
    let (database, mail) =
        tokio::join!(database, mail::examine(&config, (&mailer, &letters), send_to));
    findings.0.extend(database.0);
    findings.0.extend(mail.0);
    findings
}

/// Whether every letter can be written.
fn templates(letters: &Letters, complaints: Vec<String>, findings: &mut Findings) {
    if complaints.is_empty() {
        let own = match letters.overrides() {
            [] => String::new(),
            own => format!(", with LETTERS_DIR's own {}", own.join(", ")),
        };
        findings.ok("letters", format!("all {} kinds can be written{own}", KINDS.len()));
    }
    for complaint in complaints {
        findings.fail("letters", complaint);
    }
    for remark in letters.remarks() {
        findings.warn("letters", format!("LETTERS_DIR: {remark}"));
    }
}

/// Whether nothing has been said against a setting.
fn is_usable(name: &str, complaints: &[String]) -> bool {
    !complaints.iter().any(|complaint| is_about(name, complaint))
}

fn is_about(name: &str, complaint: &str) -> bool {
    complaint.split(' ').next() == Some(name)
}
