//! `POST /users/`: a new account, and the letter that asks to confirm its address.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::account::attempts::{self, Attempts, Counted};
use crate::account::client::ClientInfo;
use crate::account::{confirmation, letters, password};
use crate::fields::{Email, Name, NewPassword, PasswordContext, Role, Username};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::taken::{Wanted, explain_if_taken, is_taken};
use crate::http::user::PublicUser;
use crate::limits::{Attempt, REGISTER_DAY, REGISTER_HOUR, REGISTER_NETWORK, REGISTER_TAKEN};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::users::{self, NewUser, User};

/// Any other field is ignored.
#[derive(ToSchema)]
pub struct RegisterRequest {
    username: Username,
    email: Email,
    password: NewPassword,
    first_name: Option<Name>,
    last_name: Option<Name>,
}

/// The account, whose address is to be confirmed.
#[derive(Serialize, ToSchema)]
pub struct RegisterResponse {
    success: bool,
    message: &'static str,
    user: PublicUser,
    /// To be sent to `/confirm` along with the code in the letter.
    challenge: String,
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
///
/// The letter has a link, good for 24 hours, and a code that is good for 60 minutes with the
/// `challenge` of this answer.
#[utoipa::path(
    post, path = "/api/v1/users", tag = "users", request_body = RegisterRequest,
    responses((status = 201, description = "Registered.", body = RegisterResponse)),
    extensions(("x-codes" = json!([Code::UsernameTaken, Code::EmailTaken, Code::RateLimited]))),
)]
pub async fn register(
    State(state): State<AppState>,
    client: ClientInfo,
    JsonBody(form): JsonBody,
) -> Result<(StatusCode, Json<RegisterResponse>), ApiError> {
    let RegisterRequest { username, email, password, first_name, last_name } =
        RegisterRequest::parse(form, state.config.min_password_length)?;

    let now = state.clock.now();
    let requester = client.requester(false);
    state.hasher.check_room(requester)?;
    let counted = count(&state, &client, now).await?;
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
    let (user, challenge) = match insert(&state, &new, &client, now).await {
        Err(error) if is_taken(&error) => {
            return Err(refuse_taken(&state, error, &new, &client, counted, now).await?);
        }
        written => counted.settle(written)?,
    };
    state.mail_queued.notify_one();
    let message = "Registered. Please follow the link in the mail that is on its way.";
    let answer = RegisterResponse { success: true, message, user: user.into(), challenge };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Counts the account that is about to be made. Not where this client has asked for too many names
/// that are taken: those have a budget of their own, so that a look for a free name does not use up
/// what an office needs to sign up.
async fn count(
    state: &AppState,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Counted, ApiError> {
    let mut all = vec![
        Attempt::by_address(&REGISTER_HOUR, client.ip),
        Attempt::by_address(&REGISTER_DAY, client.ip),
    ];
    all.extend(Attempt::by_network(&REGISTER_NETWORK, client.ip));
    // A flood costs the database nothing.
    let mut refusal = state.limits.refused_before(&all, now);
    if refusal.is_none() {
        let taken = Attempt::by_address(&REGISTER_TAKEN, client.ip);
        refusal = state.limits.find_refusal(&state.db, &taken, now).await?;
    }
    if let Some(refusal) = refusal {
        return Err(ApiError::rate_limited(refusal, now));
    }
    let [counted] = attempts::count(state, [Attempts::charged_if_dropped(all)], now).await?;
    Ok(counted)
}

/// Counts a name or an address that is taken in place of an account, and names both where both
/// are.
async fn refuse_taken(
    state: &AppState,
    error: ApiError,
    new: &NewUser<'_>,
    client: &ClientInfo,
    counted: Counted,
    now: DateTime<Utc>,
) -> Result<ApiError, ApiError> {
    let wanted = Wanted { username: new.username.as_str(), email: new.email.as_str(), but: None };
    let event = Event::new(EventKind::AlreadyTaken).from(client.ip);
    let error = explain_if_taken(state, error, wanted, event, Some(counted), now).await?;
    let taken = Attempts::charged_if_dropped([Attempt::by_address(&REGISTER_TAKEN, client.ip)]);
    let [counted] = attempts::count(state, [taken], now).await?;
    Ok(match counted.settle::<(), _>(Err(error)) {
        Err(error) => error,
        Ok(()) => Code::Internal.into(),
    })
}

/// Writes the account and queues the first letter; the handle for its code.
async fn insert(
    state: &AppState,
    new: &NewUser<'_>,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<(User, String), ApiError> {
    let letter = letters::count_first(state, new.email.as_str(), client, now).await?;
    let mut tx = state.db.begin().await?;
    let user = users::insert(&mut tx, new, now).await?;
    let challenge = confirmation::ask(state, &mut tx, &user, letter.is_some(), now).await?;
    for counted in letter.into_iter().flatten() {
        counted.charge_in(&mut tx);
    }
    let event = Event::new(EventKind::Registered).by_oneself(user.id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    tx.commit().await?;
    Ok((user, challenge))
}
