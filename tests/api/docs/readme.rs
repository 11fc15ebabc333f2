//! What README.md and .env.example promise: the walk by curl, the table of codes, the names of the
//! settings.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use doorward::config::{Config, VARIABLES};
use doorward::fields::{NewPassword, PasswordContext};
use doorward::http::error::Code;
use doorward::mail::letters::KINDS;
use doorward::router::openapi_document;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::harness::app::PUBLIC_URL;
use crate::harness::machine::root;
use crate::harness::markdown::{in_backticks, readme, rows, section};

const BINARY: &str = env!("CARGO_BIN_EXE_doorward");
/// How long the walk, or a start or a stop, may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// The one line of the walk that a test may change.
const URL_LINE: &str = "URL=http://127.0.0.1:8000\n";

/// Every `sh` block of the walk, as one script.
fn walk(readme: &str) -> String {
    let blocks = section(readme, "A walk through every endpoint").split("```sh\n").skip(1);
    let blocks: Vec<_> = blocks.map(|block| block.split_once("```").unwrap().0).collect();
    assert!(blocks.len() > 10, "the walk has {} blocks", blocks.len());
    blocks.concat()
}

/// In `folder`, with none of the caller's own settings.
fn command(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command
}

async fn start(folder: &Path, port: u16) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    let service = command(BINARY, folder)
        .arg("serve")
        .env("HOST", "127.0.0.1")
        .env("PORT", port.to_string())
        .stderr(log)
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !fs::read_to_string(folder.join("log")).unwrap().contains(" ready\n") {
        assert!(
            started.elapsed() < PATIENCE,
            "{}",
            fs::read_to_string(folder.join("log")).unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    service
}

/// Every operation that the log says was answered as asked, as `GET /path`.
fn answered(log: &str) -> BTreeSet<String> {
    let value = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}="))?;
        Some(rest.split(' ').next()?.trim_matches('"').to_owned())
    };
    let lines =
        log.lines().filter(|line| value(line, "status").is_some_and(|s| s.starts_with('2')));
    lines
        .filter_map(|line| Some(format!("{} {}", value(line, "method")?, value(line, "route")?)))
        .collect()
}

#[tokio::test]
async fn the_walk_by_curl_holds_word_for_word_and_leaves_out_no_endpoint() {
    // The walk names the binary as it lies in the project's folder. PostgreSQL may run under
    // another account, which has to be able to enter.
    let folder = tempfile::Builder::new().prefix("doorward-test-").tempdir().unwrap();
    let folder = folder.path();
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(folder.join("target/debug")).unwrap();
    symlink(BINARY, folder.join("target/debug/doorward")).unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let mut service = start(folder, port).await;

    let walk = walk(&readme());
    assert_eq!(walk.matches(URL_LINE).count(), 1, "{walk}");
    let walk = walk.replace(URL_LINE, &format!("URL={url}\n")) + "echo \"passwords: $NEW $BOSS\"\n";
    let run = command("sh", folder).args(["-eu", "-c", &walk]).output();
    let run = tokio::time::timeout(PATIENCE, run).await.expect("the walk comes to an end").unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}\n{complained}");

    // Where it has led: Ada was promoted, and is gone; the admin is there, and who was invited.
    assert!(said.contains("ada is staff now."), "{said}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let log_in = async |name: &str, password: &str| {
        let call = client.post(format!("{url}/api/v1/login")).basic_auth(name, Some(password));
        call.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let passwords = said.split_once("passwords: ").unwrap().1.trim();
    let (adas, admins) = passwords.split_once(' ').unwrap();
    assert_eq!(log_in("ada", adas).await["code"], "invalid_credentials");
    let admin = log_in("boss", admins).await;
    let list = client.get(format!("{url}/api/v1/users/"));
    let list =
        list.header("x-access-token", admin["token"].as_str().unwrap()).send().await.unwrap();
    let list: Value = list.json().await.unwrap();
    let users: Vec<_> =
        list["users"].as_array().unwrap().iter().map(|user| &user["username"]).collect();
    assert_eq!(users, ["boss", "grace"]);
    let document = client.get(format!("{url}/openapi.json")).send().await.unwrap();
    let document: Value = document.json().await.unwrap();

    kill_process(
        Pid::from_raw(i32::try_from(service.id().unwrap()).unwrap()).unwrap(),
        Signal::TERM,
    )
    .unwrap();
    let ended = tokio::time::timeout(PATIENCE, service.wait()).await.expect("it stops").unwrap();
    let log = fs::read_to_string(folder.join("log")).unwrap();
    assert!(ended.success(), "{log}");
    let answered = answered(&log);
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods.map(move |method| format!("{} {path}", method.to_ascii_uppercase()))
    });
    let left_out: Vec<_> = operations.filter(|operation| !answered.contains(operation)).collect();
    assert_eq!(left_out, [""; 0], "the walk does not show these");
}

#[test]
fn the_table_of_codes_is_that_of_the_service() {
    let readme = readme();
    let table: Vec<_> = rows(section(&readme, "Answers and errors"))
        .into_iter()
        .map(|row| (row[0].to_owned(), row[1].trim_matches('`').to_owned()))
        .collect();
    let codes = Code::ALL.iter();
    let codes: Vec<_> =
        codes.map(|code| (code.status().as_str().to_owned(), code.as_str().to_owned())).collect();
    assert_eq!(table, codes);
}

#[test]
fn the_table_of_letters_is_that_of_the_service() {
    let readme = readme();
    let rows = rows(section(&readme, "Letters"));
    let told: Vec<_> = rows.iter().map(|row| (row[0].to_owned(), row[2].to_owned())).collect();
    assert_eq!(told.len(), KINDS.len(), "{told:?}");
    for (kind, (word, values)) in KINDS.iter().zip(&told) {
        assert_eq!(*word, format!("`{}`", kind.word));
        let names: Vec<_> = in_backticks(values).collect();
        assert_eq!(names, kind.values().map(|(name, _)| name).collect::<Vec<_>>(), "{word}");
        for (name, is_optional) in kind.values() {
            assert_eq!(values.contains(&format!("`{name}`?")), is_optional, "{word}: {name}");
        }
    }
}

#[test]
fn every_setting_that_the_readme_names_exists() {
    let readme = readme();
    let in_table = rows(section(&readme, "Settings"));
    let in_table: Vec<_> = in_table.iter().flat_map(|row| in_backticks(row[0])).collect();
    assert!(in_table.len() > 10, "{in_table:?}");
    // Elsewhere a name is known by its underscore.
    let words = readme.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let in_text = words.filter(|word| word.trim_matches('_').contains('_'));
    for name in in_table.into_iter().chain(in_text) {
        // The rest of the name is a limit's own.
        assert!(
            VARIABLES.contains(&name) || name == "LIMIT_",
            "README.md names {name}, which no part of Doorward reads"
        );
    }
}

/// `.env.example` with the `# ` before each setting taken away.
fn example() -> String {
    let file = fs::read_to_string(root().join(".env.example")).unwrap();
    let uncommented = file.lines().map(|line| {
        assert!(
            line.is_empty() || line.starts_with('#'),
            "a copy of it would set something: {line}"
        );
        let setting = line.strip_prefix("# ").unwrap_or_default();
        let name = setting.split('=').next().unwrap_or_default();
        if VARIABLES.contains(&name) { setting } else { line }
    });
    uncommented.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_names_every_setting_once_and_no_other() {
    let example = example();
    let names = dotenvy::from_read_iter(example.as_bytes()).map(|pair| pair.unwrap().0);
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, VARIABLES);
    let other = example.lines().filter_map(|line| line.strip_prefix("# ")?.split_once('='));
    let is_name = |name: &&str| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let other: Vec<_> = other.map(|(name, _)| name).filter(is_name).collect();
    assert_eq!(other, [""; 0]);
}

#[test]
fn every_value_in_the_example_is_one_that_can_be_used() {
    let example = example();
    let pairs = dotenvy::from_read_iter(example.as_bytes()).map(Result::unwrap);
    let pairs: Vec<(String, String)> = pairs.collect();
    // The two ways to send mail exclude each other; a key has to be everybody's own.
    for without in ["GMAIL_", "SMTP_"] {
        let lookup = |name: &str| {
            let own = (name == "SECRET_KEY")
                .then(|| "a key of the tests, which is long enough".to_owned());
            let pair = pairs.iter().find(|(key, _)| key == name && !key.starts_with(without));
            own.or_else(|| Some(pair?.1.clone()))
        };
        if let Err(complaints) = Config::from_vars(lookup) {
            panic!("{complaints}");
        }
    }
}

#[test]
fn no_password_of_the_documentation_can_be_chosen() {
    let context = PasswordContext::default();
    let mut passwords: Vec<String> = dotenvy::from_read_iter(example().as_bytes())
        .map(Result::unwrap)
        .filter(|(name, _)| name == "ADMIN_PASSWORD")
        .map(|(_, value)| value)
        .collect();
    let document = openapi_document(PUBLIC_URL, 8);
    for schema in ["Password", "NewPassword"] {
        let examples = document["components"]["schemas"][schema]["examples"].as_array().unwrap();
        passwords.extend(examples.iter().map(|one| one.as_str().unwrap().to_owned()));
    }
    assert_eq!(passwords.len(), 3);
    for password in passwords {
        assert_eq!(NewPassword::parse(&password, 8, &context).unwrap_err().code, "too_common");
    }
    // The walk makes its own.
    let readme = readme();
    let literal = readme.split("\"password\": \"").skip(1).find(|rest| !rest.starts_with("'$"));
    assert_eq!(literal, None, "a password of the walk");
}
