//! `create-admin`, and the first admin from the settings.

mod questions;

use std::io::{IsTerminal, Write};

use chrono::{DateTime, Utc};
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
use crate::store::admins;
use crate::store::audit::{Event, EventKind};
use crate::store::users::{self, NewUser};
use crate::store::{db, standing};

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
    let Arguments { email, username, password_stdin } = arguments;
    let free_email = async |email: &str| free_email(state, email).await;
    let email = questions::answer("--email", email, "E-mail address: ", free_email).await?;
    let made = name_from(&email);
    let free_username =
        async |name: &str| free_username(state, if name.is_empty() { &made } else { name }).await;
    let is_asked = !password_stdin && std::io::stdin().is_terminal();
    let username = username.or_else(|| (!is_asked).then(String::new));
    let question = format!("Username (Enter for {made}): ");
    let username = questions::answer("--username", username, &question, free_username).await?;
    let with = |password: SecretString| NewAdmin {
        email: email.clone(),
        username: username.clone(),
        password,
    };
    let is_usable = |password: &SecretString| {
        with(password.clone()).usable_password(state.config.min_password_length).map(drop)
    };
    let password = if password_stdin && !std::io::stdin().is_terminal() {
        questions::first_line()?
    } else {
        questions::password(is_usable)?
    };
    insert(state, &with(password), EventKind::CreateAdmin).await.map_err(|error| {
        match error.downcast_ref().and_then(db::unique_violation) {
            Some("users_email_key") => EMAIL_TAKEN.into(),
            Some(_) => username_taken(&username),
            None => error,
        }
    })?;
    writeln!(std::io::stdout(), "Created the admin {}.", username.as_str())?;
    Ok(())
}

const EMAIL_TAKEN: &str = "somebody has registered this e-mail address: choose another one, or have an admin make them \
                           one, too (PUT /api/v1/users/{id}?role=Admin)";

fn username_taken(username: &Username) -> Failure {
    format!("the username {} is taken: choose another one", username.as_str()).into()
}

/// Nothing is told but that: an admin sees more.
fn taken_by_deleted(what: &str, until: DateTime<Utc>) -> Failure {
    let until = until.format("%Y-%m-%d %H:%M UTC");
    format!(
        "this {what} is that of an account whose owner has deleted it, which keeps it until {until}: choose \
         another one, wait, or have an admin remove the account for good (DELETE /api/v1/users/{{id}})"
    )
    .into()
}

async fn free_email(state: &AppState, email: &str) -> Result<Email, Failure> {
    let email = Email::parse(email).map_err(|error| complaint("e-mail address", &error))?;
    let db = &mut *state.db.acquire().await?;
    match users::find_taken(db, "", email.as_str(), None).await? {
        (_, true) => Err(match standing::find_purge(db, "", email.as_str()).await? {
            Some(until) => taken_by_deleted("e-mail address", until),
            None => EMAIL_TAKEN.into(),
        }),
        _ => Ok(email),
    }
}

async fn free_username(state: &AppState, name: &str) -> Result<Username, Failure> {
    let username =
        Username::parse_reserved_too(name).map_err(|error| complaint("username", &error))?;
    let db = &mut *state.db.acquire().await?;
    match users::find_taken(db, username.as_str(), "", None).await? {
        (true, _) => Err(match standing::find_purge(db, username.as_str(), "").await? {
            Some(until) => taken_by_deleted("username", until),
            None => username_taken(&username),
        }),
        _ => Ok(username),
    }
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
    if admins::count(&mut *state.db.acquire().await?).await? > 0 {
        return Ok(());
    }
    let admin = NewAdmin::new(email, username.as_deref(), password.clone()).map_err(in_settings)?;
    match insert(state, &admin, EventKind::FirstAdmin).await {
        Ok(()) => tracing::info!("created the first admin from ADMIN_EMAIL and ADMIN_PASSWORD"),
        Err(error) => match error.downcast_ref().and_then(db::unique_violation) {
            // Two instances at their first start, or a user who has registered before: that user is
            // not made an admin, as an address that was registered need not be its user's own.
            Some(_) => {
                let db = &mut *state.db.acquire().await?;
                let (name, email) = (admin.username.as_str(), admin.email.as_str());
                let kept_until = standing::find_purge(db, name, email).await?;
                tracing::warn!(
                    kept_until = kept_until.map(tracing::field::display),
                    "no admin was made: the name or the address in ADMIN_* is taken{}",
                    if kept_until.is_some() {
                        ", by an account that its owner has deleted"
                    } else {
                        ""
                    }
                );
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
