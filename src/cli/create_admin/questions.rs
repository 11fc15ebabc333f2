//! Asking the operator, who hears at once what is wrong with an answer.

use std::io::{BufRead, IsTerminal, Write};

use secrecy::{ExposeSecret, SecretString};

use crate::cli::Failure;

/// The answer to a question: the one that a flag gives, or the first one typed that is good. Where
/// there is no terminal, or the database fails, nothing is asked again.
pub async fn answer<T>(
    flag: &str,
    given: Option<String>,
    question: &str,
    check: impl AsyncFn(&str) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if let Some(given) = given {
        return match check(&given).await {
            Err(error) if !error.is::<sqlx::Error>() => Err(format!("{flag}: {error}").into()),
            checked => checked,
        };
    }
    if !std::io::stdin().is_terminal() {
        return Err(format!("there is no terminal to ask on: give {flag}").into());
    }
    loop {
        let mut line = String::new();
        write!(std::io::stderr(), "{question}")?;
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            return Err("the input has ended: no admin was made".into());
        }
        match check(line.trim()).await {
            Err(error) if !error.is::<sqlx::Error>() => say(&error)?,
            checked => return checked,
        }
    }
}

/// A password that is good and was typed twice; nothing of it is shown.
pub fn password(
    check: impl Fn(&SecretString) -> Result<(), Failure>,
) -> Result<SecretString, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err("there is no terminal to ask on: give --password-stdin".into());
    }
    let hidden = |question| rpassword::prompt_password(question).map(SecretString::from);
    loop {
        let first = hidden("Password: ")?;
        if first.expose_secret().is_empty() {
            return Err("no password was given: no admin was made".into());
        }
        if let Err(error) = check(&first) {
            say(&error)?;
        } else if hidden("Once more: ")?.expose_secret() == first.expose_secret() {
            return Ok(first);
        } else {
            say(&"the two passwords differ".into())?;
        }
    }
}

/// The first line of standard input, which a program has written.
pub fn first_line() -> Result<SecretString, Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned().into())
}

fn say(error: &Failure) -> Result<(), Failure> {
    Ok(writeln!(std::io::stderr(), "{error}")?)
}
