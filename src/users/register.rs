//! `POST /users/`: a new account, and the letter that asks to confirm its address.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::account::attempts::{self, Attempts};
use crate::account::client::ClientInfo;
use crate::account::{letters, password};
use crate::fields::{Email, Name, NewPassword, PasswordContext, Role, Username};
use crate::http::answer::UserMessage;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::limits::{Attempt, REGISTER_DAY, REGISTER_HOUR};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::users::{self, NewUser, User};
use crate::users::record_if_taken;

/// Any other field is ignored.
#[derive(ToSchema)]
pub struct RegisterRequest {
    username: Username,
    email: Email,
    password: NewPassword,
    first_name: Option<Name>,
    last_name: Option<Name>,
}

impl RegisterRequest {
    fn parse(mut form: Input, min_password_chars: usize) -> Result<Self, ApiError> {
        let username = form.required("username", Username::parse);
        let email = form.required("email", Email::parse);
        let first_name = form.optional("first_name", Name::parse);
        let last_name = form.optional("last_name", Name::parse);
        let context = PasswordContext {
            username: username.as_ref().map_or("", Username::as_str),
            email: email.as_ref().map_or("", Email::as_str),
            first_name: first_name.as_ref().map_or("", Name::as_str),
            last_name: last_name.as_ref().map_or("", Name::as_str),
        };
        let parse = |raw: &str| NewPassword::parse(raw, min_password_chars, &context);
        let password = form.required("password", parse);
        form.finish(|| {
            let (username, email, password) = (username?, email?, password?);
            Some(Self { username, email, password, first_name, last_name })
        })
    }
}

/// Registers a user and queues the confirmation mail.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "users", request_body = RegisterRequest,
    responses((status = 201, description = "Registered.", body = UserMessage)),
    extensions(("x-codes" = json!([Code::UsernameTaken, Code::EmailTaken, Code::RateLimited]))),
)]
pub async fn register(
    State(state): State<AppState>,
    client: ClientInfo,
    JsonBody(form): JsonBody,
) -> Result<(StatusCode, Json<UserMessage>), ApiError> {
    let RegisterRequest { username, email, password, first_name, last_name } =
        RegisterRequest::parse(form, state.config.min_password_length)?;

    let now = state.clock.now();
    let attempts =
        [&REGISTER_HOUR, &REGISTER_DAY].map(|limit| Attempt::by_address(limit, client.ip));
    let requester = client.requester(false);
    state.hasher.check_room(requester)?;
    let [counted] = attempts::count(&state, [Attempts::charged_if_dropped(attempts)], now).await?;
    let (password_hash, counted) =
        password::hash(&state, requester, password.into(), counted).await?;
    let new = NewUser {
        id: Uuid::now_v7(),
        username: &username,
        email: &email,
        email_verified_at: None,
        first_name: &first_name.unwrap_or_default(),
        last_name: &last_name.unwrap_or_default(),
        role: Role::User,
        password_hash: &password_hash,
    };
    // To ask for a name that is taken counts as an attempt.
    let written = counted.settle(insert(&state, &new, &client, now).await);
    record_if_taken(&state, &written, Event::new(EventKind::AlreadyTaken).from(client.ip), now)
        .await?;
    let user = written?;
    state.mail_queued.notify_one();
    let message = "Registered. Please follow the link in the mail that is on its way.";
    Ok((StatusCode::CREATED, Json(UserMessage::new(message, user))))
}

/// Writes the account and queues the first letter.
async fn insert(
    state: &AppState,
    new: &NewUser<'_>,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<User, ApiError> {
    let letter = letters::count_first(state, new.email.as_str(), client, now).await?;
    let mut tx = state.db.begin().await?;
    let user = users::insert(&mut tx, new, now).await?;
    if let Some(counted) = letter {
        letters::queue_confirmation(&mut tx, &user, now).await?;
        for counted in counted {
            counted.charge_in(&mut tx);
        }
    }
    let event = Event::new(EventKind::Registered).by_oneself(user.id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    tx.commit().await?;
    Ok(user)
}
