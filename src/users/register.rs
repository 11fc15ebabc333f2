//! `POST /users/`: a new account, and the letter that asks to confirm its address.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::account::attempts::{self, Attempts};
use crate::account::client::ClientInfo;
use crate::account::{letters, password};
use crate::fields::{Email, Name, PasswordContext, Role, Username, parse_new_password};
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::user::PublicUser;
use crate::limits::{Attempt, REGISTER_DAY, REGISTER_HOUR};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::users::{self, NewUser, User};
use crate::users::record_if_taken;

/// What the form asks for; anything else in it is ignored.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body in the OpenAPI document; the form is read field by field"
)]
pub struct RegisterRequest {
    /// 3 to 64 of `A-Z a-z 0-9 . _ -`, starting with a letter or a digit; unique without regard to case.
    #[schema(
        min_length = 3,
        max_length = 64,
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$",
        example = "ada"
    )]
    username: String,
    /// Unique without regard to case.
    #[schema(format = "email", max_length = 254, example = "ada@example.com")]
    email: String,
    /// Not a common password, and nothing that the account itself says. The length is counted after NFC.
    #[schema(
        format = "password",
        min_length = 8,
        max_length = 256,
        example = "a long and good one"
    )]
    password: String,
    #[schema(max_length = 100, example = "Ada")]
    first_name: Option<String>,
    #[schema(max_length = 100, example = "Lovelace")]
    last_name: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct RegisterResponse {
    success: bool,
    message: &'static str,
    user: PublicUser,
}

/// Registers a user and queues the confirmation mail.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "users", request_body = RegisterRequest,
    responses((status = 201, description = "Registered.", body = RegisterResponse)),
    extensions(("x-codes" = json!(["username_taken", "email_taken", "rate_limited"]))),
)]
pub async fn register(
    State(state): State<AppState>,
    client: ClientInfo,
    JsonBody(mut form): JsonBody,
) -> Result<(StatusCode, Json<RegisterResponse>), ApiError> {
    let username = form.required("username", Username::parse);
    let email = form.required("email", Email::parse);
    let first_name = form.optional("first_name", Name::parse).unwrap_or_default();
    let last_name = form.optional("last_name", Name::parse).unwrap_or_default();
    let context = PasswordContext {
        username: username.as_ref().map_or("", Username::as_str),
        email: email.as_ref().map_or("", Email::as_str),
        first_name: first_name.as_str(),
        last_name: last_name.as_str(),
    };
    let min_length = state.config.min_password_length;
    let password = form.required("password", |raw| parse_new_password(raw, min_length, &context));
    let (username, email, password) = form.finish(|| Some((username?, email?, password?)))?;

    let now = state.clock.now();
    let attempts =
        [&REGISTER_HOUR, &REGISTER_DAY].map(|limit| Attempt::by_address(limit, client.ip));
    let requester = client.requester(false);
    state.hasher.check_room(requester)?;
    let [counted] = attempts::count(&state, [Attempts::charged_if_dropped(attempts)], now).await?;
    let (password_hash, counted) = password::hash(&state, requester, password, counted).await?;
    let new = NewUser {
        id: Uuid::now_v7(),
        username: &username,
        email: &email,
        email_verified_at: None,
        first_name: &first_name,
        last_name: &last_name,
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
    Ok((StatusCode::CREATED, Json(RegisterResponse { success: true, message, user: user.into() })))
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
        counted.into_iter().for_each(|counted| counted.charge_in(&mut tx));
    }
    let event = Event::new(EventKind::Registered).by_oneself(user.id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    tx.commit().await?;
    Ok(user)
}
