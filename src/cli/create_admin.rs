//! `create-admin`, and the first admin from the settings.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::Failure;
use crate::account::client::ClientInfo;
use crate::config::{Config, FirstAdmin};
use crate::fields::{
    Email, FieldError, MIN_USERNAME_CHARS, Name, NewPassword, PasswordContext, Role, Username,
};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::db;
use crate::store::users::{self, NewUser};

/// What is not given is asked for, where there is a terminal to ask on.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The admin's e-mail address; it counts as verified
    #[arg(long)]
    email: Option<String>,
    /// The admin's username; made from the address unless given
    #[arg(long)]
    username: Option<String>,
    /// Read the password from the first line of standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

struct NewAdmin {
    email: Email,
    username: Username,
    password: SecretString,
}

pub async fn create_admin(state: &AppState, arguments: Arguments) -> Result<(), Failure> {
    let email = match arguments.email {
        Some(email) => email,
        None => ask("E-mail address: ", "--email")?,
    };
    let password = if arguments.password_stdin { first_line()? } else { ask_password()? };
    let admin = NewAdmin::new(&email, arguments.username.as_deref(), password)?;
    let username = admin.username.as_str().to_owned();
    insert(state, &admin, EventKind::CreateAdmin)
        .await
        .map_err(|error| explain(error, &username))?;
    writeln!(std::io::stdout(), "Created the admin {username}.")?;
    Ok(())
}

/// What `serve` would complain about in the admin that the settings name.
pub fn check_first_admin(config: &Config) -> Result<(), Failure> {
    let Some(FirstAdmin { email, username, password }) = &config.first_admin else {
        return Ok(());
    };
    let admin = NewAdmin::new(email, username.as_deref(), password.clone());
    let checked = admin.and_then(|admin| admin.usable_password(config.min_password_length));
    checked.map(drop).map_err(in_settings)
}

/// Makes the admin that the settings name, unless there is one already.
pub async fn first_admin(state: &AppState) -> Result<(), Failure> {
    let Some(FirstAdmin { email, username, password }) = &state.config.first_admin else {
        return Ok(());
    };
    if users::count_admins(&mut *state.db.acquire().await?).await? > 0 {
        return Ok(());
    }
    let admin = NewAdmin::new(email, username.as_deref(), password.clone()).map_err(in_settings)?;
    match insert(state, &admin, EventKind::FirstAdmin).await {
        Ok(()) => tracing::info!("created the first admin from ADMIN_EMAIL and ADMIN_PASSWORD"),
        Err(error) => match error.downcast_ref().and_then(db::unique_violation) {
            // Two instances at their first start, or a user who has registered before: that user is
            // not made an admin, as an address that was registered need not be its user's own.
            Some(_) => {
                tracing::warn!("no admin was made: the name or the address in ADMIN_* is taken");
            }
            None if error.is::<sqlx::Error>() => return Err(error),
            None => return Err(in_settings(error)),
        },
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err asks for")]
fn in_settings(error: Failure) -> Failure {
    format!("see ADMIN_EMAIL, ADMIN_USERNAME and ADMIN_PASSWORD: {error}").into()
}

impl NewAdmin {
    fn new(email: &str, username: Option<&str>, password: SecretString) -> Result<Self, Failure> {
        let email = Email::parse(email).map_err(|error| complaint("e-mail address", &error))?;
        let username = username.map_or_else(|| name_from(&email), str::to_owned);
        let username = Username::parse_reserved_too(&username)
            .map_err(|error| complaint("username", &error))?;
        Ok(Self { email, username, password })
    }

    fn usable_password(&self, min_length: usize) -> Result<NewPassword, Failure> {
        let context = PasswordContext {
            username: self.username.as_str(),
            email: self.email.as_str(),
            ..PasswordContext::default()
        };
        NewPassword::parse(self.password.expose_secret(), min_length, &context)
            .map_err(|error| complaint("password", &error))
    }
}

/// The local part, without what a username cannot hold.
fn name_from(email: &Email) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(c);
    let name: String = email.local_part().chars().filter(plain).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.len() < MIN_USERNAME_CHARS {
        format!("{name}-admin").trim_start_matches('-').to_owned()
    } else {
        name.to_owned()
    }
}

async fn insert(state: &AppState, admin: &NewAdmin, event: EventKind) -> Result<(), Failure> {
    let password = admin.usable_password(state.config.min_password_length)?;
    let password_hash = state
        .hasher
        .hash(ClientInfo::default().requester(true), password.into())
        .await
        .map_err(|_| "busy")?;
    let now = state.clock.now();
    let name = Name::default();
    let user = NewUser {
        id: Uuid::now_v7(),
        username: &admin.username,
        email: &admin.email,
        email_verified_at: Some(now),
        first_name: &name,
        last_name: &name,
        role: Role::Admin,
        password_hash: &password_hash,
    };
    let mut tx = state.db.begin().await?;
    users::insert(&mut tx, &user, now).await?;
    state.record(&mut tx, Event::new(event).on(user.id), now).await?;
    tx.commit().await?;
    Ok(())
}

fn complaint(what: &str, error: &FieldError) -> Failure {
    format!("the {what} is not usable: {}", error.message).into()
}

fn explain(error: Failure, username: &str) -> Failure {
    match error.downcast_ref().and_then(db::unique_violation) {
        Some("users_email_key") => {
            "somebody has registered this e-mail address: choose another one with --email, or \
             have an admin make them one, too (PUT /api/v1/users/{id}?role=Admin)"
                .into()
        }
        Some(_) => {
            format!("the username {username} is taken: choose another one with --username").into()
        }
        None => error,
    }
}

fn ask(prompt: &str, flag: &str) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(format!("there is no terminal to ask on: give {flag}").into());
    }
    write!(std::io::stderr(), "{prompt}")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn ask_password() -> Result<SecretString, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err("there is no terminal to ask on: give --password-stdin".into());
    }
    let first = SecretString::from(rpassword::prompt_password("Password: ")?);
    let again = SecretString::from(rpassword::prompt_password("Once more: ")?);
    if first.expose_secret() == again.expose_secret() {
        Ok(first)
    } else {
        Err("the two passwords differ".into())
    }
}

fn first_line() -> Result<SecretString, Failure> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned().into())
}
