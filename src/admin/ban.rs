//! `/users/{public_id}/ban`: an account that is kept out, until an instant or for good.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::act::Act;
use super::users::PublicId;
use crate::account::client::ClientInfo;
use crate::account::letters;
use crate::clock::in_rfc3339;
use crate::fields::{BanReason, Instant};
use crate::http::answer::ManagedUserAnswer;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::{AdminUser, Fresh};
use crate::state::AppState;
use crate::store::audit::EventKind;
use crate::store::challenges;
use crate::store::outbox;
use crate::store::sessions::{self, BANNED};
use crate::store::standing::{self, NewBan, Standing};
use crate::store::users::User;

#[derive(ToSchema)]
pub struct BanRequest {
    reason: BanReason,
    /// In the future; left out: for good.
    until: Option<Instant>,
}

impl BanRequest {
    /// Reads the fields; the form keeps what is wrong with them.
    pub(super) fn read(form: &mut Input) -> Option<Self> {
        let reason = form.required("reason", BanReason::parse);
        let until = form.optional("until", Instant::parse);
        Some(Self { reason: reason?, until })
    }
}

/// Bans a user, in place of an earlier ban.
///
/// Every session of theirs ends, and what waits for a second step, such as a reset, is void. Whether
/// the ban holds is decided by the database's clock whenever somebody wants in, so nobody has to lift
/// it. A right password is told `banned`, until when, and not why.
#[utoipa::path(
    put, path = "/api/v1/users/{public_id}/ban", operation_id = "ban_user", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    request_body = BanRequest,
    responses((status = 200, description = "The user is banned.", body = ManagedUserAnswer)),
    extensions(("x-codes" = json!([
        Code::StepUpRequired, Code::Forbidden, Code::UserNotFound, Code::NotYourself,
    ]))),
)]
pub async fn ban(
    Fresh(AdminUser(caller)): Fresh<AdminUser>,
    State(state): State<AppState>,
    PublicId(id): PublicId,
    client: ClientInfo,
    JsonBody(mut form): JsonBody,
) -> Result<Json<ManagedUserAnswer>, ApiError> {
    let terms = BanRequest::read(&mut form);
    let terms = form.finish(|| terms)?;
    let user = set(&Act::new(&state, &caller, &client), id, &terms).await?;
    Ok(Json(ManagedUserAnswer::new(user)))
}

/// Lifts a ban; the user is told by a letter to a verified address. Where there is none that holds,
/// nothing happens.
#[utoipa::path(
    delete, path = "/api/v1/users/{public_id}/ban", operation_id = "unban_user", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    responses((status = 200, description = "The user is not banned.", body = ManagedUserAnswer)),
    extensions(("x-codes" = json!([Code::StepUpRequired, Code::Forbidden, Code::UserNotFound]))),
)]
pub async fn unban(
    Fresh(AdminUser(caller)): Fresh<AdminUser>,
    State(state): State<AppState>,
    PublicId(id): PublicId,
    client: ClientInfo,
) -> Result<Json<ManagedUserAnswer>, ApiError> {
    let user = lift(&Act::new(&state, &caller, &client), id).await?;
    Ok(Json(ManagedUserAnswer::new(user)))
}

/// The last admin is not in danger: one stays who bans, and nobody bans themselves.
pub(super) async fn set(act: &Act<'_>, id: Uuid, terms: &BanRequest) -> Result<User, ApiError> {
    let (state, now, by) = (act.state, act.now, act.caller.user.id);
    if id == by {
        return Err(Code::NotYourself.into());
    }
    let (mut tx, user) = act.begin_on_present(id).await?;
    let (reason, until) = (terms.reason.as_str(), terms.until.map(Instant::get));
    if !standing::set_ban(&mut tx, id, &NewBan { reason, until, by }, now).await? {
        let message = "A ban ends in the future: leave this out for one that does not end.";
        return Err(ApiError::invalid_field("until", "out_of_range", message));
    }
    sessions::revoke_all(&mut tx, id, None, BANNED, now).await?;
    challenges::void_every(&mut tx, id, now).await?;
    let details = until.map_or(Value::Null, |until| json!({ "until": in_rfc3339(until) }));
    let event = act.event(EventKind::Banned, id).with(details).with_reason(reason);
    state.record(&mut tx, event, now).await?;
    state.commit(tx, id).await?;
    let standing = Standing {
        is_banned: true,
        banned_until: until,
        ban_reason: Some(reason.to_owned()),
        banned_by: Some(by),
        ..user.standing
    };
    Ok(User { standing, modified_at: now, ..user })
}

pub(super) async fn lift(act: &Act<'_>, id: Uuid) -> Result<User, ApiError> {
    let (state, now) = (act.state, act.now);
    let (mut tx, user) = act.begin_on_present(id).await?;
    if !user.standing.is_banned {
        return Ok(user);
    }
    standing::lift_ban(&mut tx, id, now).await?;
    state.record(&mut tx, act.event(EventKind::Unbanned, id), now).await?;
    if user.is_email_verified() {
        outbox::insert(&mut tx, &[letters::ban_lifted(&user)], now).await?;
    }
    state.commit(tx, id).await?;
    state.mail_queued.notify_one();
    let standing = Standing {
        is_banned: false,
        banned_until: None,
        ban_reason: None,
        banned_by: None,
        ..user.standing
    };
    Ok(User { standing, modified_at: now, ..user })
}
