//! `/users/me`: what a user sees and changes about themselves.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::account::{self, Origin};
use crate::fields::{Email, FieldError, Name, Password, Username};
use crate::http::error::{ApiError, Code};
use crate::http::form::JsonBody;
use crate::http::limit::{give_back, giving_back, giving_back_our_fault, reserve, unless_busy};
use crate::http::session::{CurrentUser, SeenUser};
use crate::http::user::PublicUser;
use crate::limits::{Attempt, PASSWORD, PROFILE, Reservation};
use crate::state::AppState;
use crate::store::audit::{self, Event};
use crate::store::outbox::{self, LetterKind};
use crate::store::users::{self, User};
use crate::users::{record_if_taken, reserve_letter};

/// The answer to a new address comes at a whole multiple of this after its look-up began: a free one costs a letter more
/// than a taken one, and neither takes as long as this unless the database is slow.
const BEAT: Duration = Duration::from_millis(10);

#[derive(Serialize, ToSchema)]
pub struct MeResponse {
    success: bool,
    user: PublicUser,
}

/// Shows the caller.
#[utoipa::path(
    get, path = "/api/v1/users/me", operation_id = "show_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "The caller.", body = MeResponse)),
)]
pub async fn show(SeenUser(seen): SeenUser) -> Response {
    let write = || {
        let answer = MeResponse { success: true, user: seen.user.clone().into() };
        serde_json::to_vec(&answer).expect("a struct of strings is JSON").into()
    };
    let mut response = Response::new(Body::from(seen.answer.get_or_init(write).clone()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Shows the caller, for clients that POST.
#[utoipa::path(
    post, path = "/api/v1/users/me", operation_id = "show_me_by_post", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "The caller.", body = MeResponse)),
)]
pub async fn show_by_post(caller: SeenUser) -> Response {
    show(caller).await
}

/// Only the fields that are given change; anything else is ignored.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body in the OpenAPI document; the form is read field by field"
)]
pub struct UpdateRequest {
    #[schema(max_length = 100)]
    first_name: Option<String>,
    #[schema(max_length = 100)]
    last_name: Option<String>,
    #[schema(min_length = 3, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    username: Option<String>,
    /// Replaces an unverified address at once; waits in `pending_email` beside a verified one.
    #[schema(format = "email", max_length = 254)]
    email: Option<String>,
    /// The present password: needed to change a verified address.
    #[schema(format = "password")]
    password: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct UpdateResponse {
    success: bool,
    user: PublicUser,
    /// The fields that have another value now.
    updated: Vec<&'static str>,
}

/// Changes the fields that are given, all or nothing.
#[utoipa::path(
    put, path = "/api/v1/users/me", operation_id = "update_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = UpdateRequest,
    responses((status = 200, description = "Changed.", body = UpdateResponse)),
    extensions(("x-codes" = json!(["wrong_password", "username_taken", "email_taken", "rate_limited"]))),
)]
pub async fn update(
    State(state): State<AppState>,
    caller: CurrentUser,
    origin: Origin,
    JsonBody(mut form): JsonBody,
) -> Result<Json<UpdateResponse>, ApiError> {
    let changes = Changes {
        first_name: form.optional("first_name", Name::parse),
        last_name: form.optional("last_name", Name::parse),
        // Whoever was given a reserved name keeps it, in any spelling.
        username: form.optional("username", |raw| {
            let own = raw.eq_ignore_ascii_case(&caller.user.username);
            if own { Username::parse_reserved_too(raw) } else { Username::parse(raw) }
        }),
        email: form.optional("email", Email::parse),
    };
    let password = form.optional("password", |raw| Ok(Password::claimed(raw)));
    if changes.touches_verified_address(&caller.user) && password.is_none() {
        form.refuse("password", password_required());
    }
    form.check()?;
    let proven = changes.touches_verified_address(&caller.user);
    let now = state.clock.now();
    let attempts = [Attempt::on(&PROFILE, &caller.user.id.to_string())];
    let change = reserve(&state, &attempts, now).await?;
    let reservation = match password {
        Some(password) if proven => {
            let proof = prove(&state, &caller, password, &origin, now).await;
            giving_back_our_fault(&state, change.clone(), proof)?
        }
        _ => Reservation::default(),
    };
    let told = if proven {
        let told = reserve_notice(&state, &caller.user, &reservation, now).await;
        giving_back(&state, change.clone(), told)?
    } else {
        Reservation::default()
    };
    let started = Instant::now();
    let (counted, noticed, unused) = (reservation.clone(), told.clone(), change.clone());
    let writing = async {
        let letter = match changes.new_address(&caller.user) {
            Some(email) => reserve_letter(&state, email, &origin, now).await?,
            None => None,
        };
        let mut tx = state.db.begin_for(caller.user.id).await?;
        let before = account::lock_caller(&mut tx, caller.user.id, caller.session.id, now).await?;
        let before = before.ok_or(Code::SessionEnded)?;
        // After the user's row, as everywhere.
        reservation.give_back(&mut tx).await?;
        if changes.touches_verified_address(&before)
            && !(proven && before.password_hash == caller.user.password_hash)
        {
            // The address was verified, or the password changed, while this call was on its way.
            return Err(ApiError::invalid_field(
                "password",
                "required",
                password_required().message,
            ));
        }
        let mut user = before.clone();
        let updated = changes.apply(&mut user);
        let mut is_queued = false;
        if updated.is_empty() {
            unused.give_back(&mut tx).await?;
        } else {
            user.modified_at = now;
            users::update_profile(&mut tx, &user).await?;
            is_queued = queue_letters(&mut tx, &before, &user, letter.is_some(), now).await?;
            let event = Event {
                name: "profile_updated",
                user_id: Some(user.id),
                actor_id: Some(user.id),
                session_id: Some(caller.session.id),
                ip: origin.ip,
                details: serde_json::json!({ "fields": updated }),
            };
            audit::record(&mut tx, &event, now).await?;
        }
        if user.pending_email == before.pending_email {
            noticed.give_back(&mut tx).await?;
        }
        if let (true, Some(letter)) = (is_queued, letter) {
            // Before it is certain: whoever hangs up meanwhile gets no letter for nothing.
            letter.keep();
        }
        state.commit(tx, user.id).await?;
        Ok((user, updated))
    };
    let written = giving_back(&state, told, giving_back(&state, counted, writing.await));
    let written = giving_back_our_fault(&state, change, written);
    let by = Event {
        actor_id: Some(caller.user.id),
        session_id: Some(caller.session.id),
        ip: origin.ip,
        ..Event::default()
    };
    record_if_taken(&state, &written, by, now).await?;
    if written.is_ok() {
        state.mail_queued.notify_one();
    }
    if changes.new_address(&caller.user).is_some() {
        sleep_until_beat(started).await;
    }
    let (user, updated) = written?;
    Ok(Json(UpdateResponse { success: true, user: user.into(), updated }))
}

/// The same as PUT.
#[utoipa::path(
    patch, path = "/api/v1/users/me", operation_id = "patch_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = UpdateRequest,
    responses((status = 200, description = "Changed.", body = UpdateResponse)),
    extensions(("x-codes" = json!(["wrong_password", "username_taken", "email_taken", "rate_limited"]))),
)]
pub async fn patch(
    state: State<AppState>,
    caller: CurrentUser,
    origin: Origin,
    body: JsonBody,
) -> Result<Json<UpdateResponse>, ApiError> {
    update(state, caller, origin, body).await
}

/// Whether the password is right; what it was counted as. The same budget as for changing it: here it could be guessed as
/// well.
async fn prove(
    state: &AppState,
    caller: &CurrentUser,
    password: Password,
    origin: &Origin,
    now: DateTime<Utc>,
) -> Result<Reservation, ApiError> {
    let CurrentUser { user, session } = caller;
    let attempts = [Attempt::on(&PASSWORD, &user.id.to_string())];
    let reserved = reserve(state, &attempts, now).await?;
    let checked =
        state.hasher.verify(origin.as_client(true), password, Some(&user.password_hash)).await;
    let (verdict, reserved) = unless_busy(state, reserved, checked).await?;
    if verdict.matches {
        return Ok(reserved);
    }
    let (user_id, session_id) = (Some(user.id), Some(session.id));
    Event { name: "wrong_password", user_id, session_id, ..Event::default() }.log(&state.db.events);
    Err(Code::WrongPassword.into())
}

/// The old address is told of each change; so that this is no way to flood it, there are only so many. Where there are no
/// more, the right password is given back at once.
async fn reserve_notice(
    state: &AppState,
    user: &User,
    counted: &Reservation,
    now: DateTime<Utc>,
) -> Result<Reservation, ApiError> {
    match reserve(state, &account::notice_attempts(&user.email), now).await {
        Ok(told) => Ok(told),
        Err(refused) => {
            give_back(state, counted.clone()).await?;
            Err(refused)
        }
    }
}

async fn sleep_until_beat(started: Instant) {
    let beats = started.elapsed().as_millis() / BEAT.as_millis() + 1;
    tokio::time::sleep_until(started + BEAT * u32::try_from(beats).unwrap_or(1)).await;
}

fn password_required() -> FieldError {
    FieldError::new("required", "Your present password is needed to change a verified address.")
}

struct Changes {
    first_name: Option<Name>,
    last_name: Option<Name>,
    username: Option<Username>,
    email: Option<Email>,
}

impl Changes {
    /// Whether these would set out to replace an address that has been verified by another one.
    fn touches_verified_address(&self, user: &User) -> bool {
        user.is_email_verified() && self.new_address(user).is_some()
    }

    /// The address that is to take the place of the user's, another spelling of which is none.
    fn new_address(&self, user: &User) -> Option<&str> {
        let email = self.email.as_ref().map(Email::as_str);
        email.filter(|email| !email.eq_ignore_ascii_case(&user.email))
    }

    /// Writes the changes into `user` and names the fields that have another value now.
    fn apply(&self, user: &mut User) -> Vec<&'static str> {
        let mut updated = Vec::new();
        let mut set = |field: &mut String, value: Option<&str>, name| {
            if let Some(value) = value.filter(|value| value != field) {
                value.clone_into(field);
                updated.push(name);
            }
        };
        set(&mut user.first_name, self.first_name.as_ref().map(Name::as_str), "first_name");
        set(&mut user.last_name, self.last_name.as_ref().map(Name::as_str), "last_name");
        set(&mut user.username, self.username.as_ref().map(Username::as_str), "username");
        let Some(email) = self.email.as_ref().map(Email::as_str) else { return updated };
        let is_other = !email.eq_ignore_ascii_case(&user.email);
        let pending = if user.is_email_verified() && is_other {
            Some(email.to_owned())
        } else {
            set(&mut user.email, Some(email), "email");
            None
        };
        if user.pending_email != pending {
            user.pending_email = pending;
            updated.push("pending_email");
        }
        updated
    }
}

/// A new address is asked to confirm itself; where it is to replace a verified one, that one is told.
async fn queue_letters(
    db: &mut PgConnection,
    before: &User,
    after: &User,
    may_send: bool,
    now: DateTime<Utc>,
) -> Result<bool, ApiError> {
    if let Some(pending) =
        after.pending_email.as_ref().filter(|_| after.pending_email != before.pending_email)
    {
        // Nobody else may have it now; whether nobody has it when it is confirmed, the database decides then.
        if users::is_email_taken(db, pending).await? {
            return Err(Code::EmailTaken.into());
        }
        if may_send {
            account::queue_confirmation(db, after, now).await?;
        }
        outbox::insert(db, LetterKind::EmailChangeNotice, after.id, &before.email, now).await?;
        return Ok(may_send);
    }
    let is_due = may_send && !after.email.eq_ignore_ascii_case(&before.email);
    if is_due {
        account::queue_confirmation(db, after, now).await?;
    }
    Ok(is_due)
}
