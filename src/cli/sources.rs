//! Where a setting's value comes from: the command line, the environment or `.env`.

use std::{env, fmt};

use super::Failure;
use super::dotenv::{self, DotEnv};
use crate::config::{VARIABLES, meant_by};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    CommandLine,
    Environment,
    DotEnv,
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CommandLine => "command line",
            Self::Environment => "environment",
            Self::DotEnv => ".env",
            Self::Default => "default",
        })
    }
}

/// The values that are set, the first source first.
#[derive(Debug)]
pub struct Sources {
    command_line: Vec<(&'static str, String)>,
    dotenv: DotEnv,
}

impl Sources {
    /// Reads `.env`. The command line wins over the environment, and that over the file.
    pub fn read(command_line: Vec<(&'static str, String)>) -> Result<Self, Failure> {
        let is_no_text =
            |name: &&&str| env::var_os(name).is_some_and(|value| value.to_str().is_none());
        if let Some(name) = VARIABLES.iter().find(is_no_text) {
            return Err(format!(
                "{name} in the environment holds bytes that are no UTF-8 text: set it anew"
            )
            .into());
        }
        Ok(Self { command_line, dotenv: dotenv::load()? })
    }

    pub fn value(&self, name: &str) -> Option<String> {
        let given = self.command_line.iter().find(|(known, _)| *known == name);
        given.map(|(_, value)| value.clone()).or_else(|| env::var(name).ok())
    }

    pub fn of(&self, name: &str) -> Source {
        match self.value(name) {
            // An empty value is the same as none.
            None => Source::Default,
            Some(value) if value.trim().is_empty() => Source::Default,
            _ if self.command_line.iter().any(|(known, _)| *known == name) => Source::CommandLine,
            _ if self.dotenv.names.iter().any(|known| known == name) => Source::DotEnv,
            _ => Source::Environment,
        }
    }

    /// What is set and may not have been meant: in `.env`, and names in the environment that are
    /// almost those of settings.
    pub fn remarks(&self) -> Vec<String> {
        // The environment holds names of everybody's, of which the short ones have more neighbours.
        let is_long = |name: &String| name.len() >= 7 && !self.dotenv.names.contains(name);
        let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(is_long);
        let mistyped =
            names.filter(|name| !VARIABLES.contains(&name.as_str())).filter_map(|name| {
                let meant = meant_by(&name)?;
                Some(format!("{name} in the environment is no setting: did you mean {meant}?"))
            });
        self.dotenv.remarks.iter().cloned().chain(mistyped).collect()
    }
}
