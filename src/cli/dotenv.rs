//! `.env`: read before anything else, and what is wrong with it in words that show no secret.

use super::Failure;
use crate::config::VARIABLES;

/// Reads `.env` into the environment, which wins over the file. A file that cannot be read is an
/// error, a missing one is not.
pub fn load() -> Result<(), Failure> {
    match dotenvy::dotenv() {
        Err(error) if !error.not_found() => Err(unreadable(&error)),
        _ => Ok(()),
    }
}

/// The library's own words would show the line, and a line may hold a password.
fn unreadable(error: &dotenvy::Error) -> Failure {
    let what = match error {
        dotenvy::Error::LineParse(line, _) => {
            let name = line.split('=').next().unwrap_or_default();
            let name = name.trim().trim_start_matches("export ").trim_start();
            let line = if VARIABLES.contains(&name) { name } else { "a line" };
            format!(
                "{line} is not NAME=value, a value with spaces has no quotes, or a quote is not closed"
            )
        }
        error => error.to_string(),
    };
    format!(".env cannot be read: {what}").into()
}
