//! `POST /users/{public_id}/send`: a letter to a user who needs one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::act::Act;
use super::users::PublicId;
use crate::account::client::ClientInfo;
use crate::account::{confirmation, letters, recovery};
use crate::fields::FieldError;
use crate::http::answer::Message;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::session::AdminUser;
use crate::state::AppState;
use crate::store::audit::EventKind;
use crate::store::db::Tx;
use crate::store::users::{self, User};

#[derive(ToSchema)]
pub struct SendRequest {
    letter: LetterName,
}

/// The letters that an admin can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LetterName {
    /// To the address that waits to be confirmed.
    Confirmation,
    /// To the account's address, by which a new password can be set.
    Reset,
}

impl LetterName {
    pub(super) fn parse(raw: &str) -> Result<Self, FieldError> {
        match raw {
            "confirmation" => Ok(Self::Confirmation),
            "reset" => Ok(Self::Reset),
            _ => Err(FieldError::new("invalid_choice", "Use confirmation or reset.")),
        }
    }
}

/// Sends a user the letter that confirms an address, or the one that sets a new password.
///
/// The code in it is good for nobody but who asks for such a letter themselves: this answer has no
/// `challenge`. Where one waits to be sent, or too many went before, none goes out, and the message
/// says so.
#[utoipa::path(
    post, path = "/api/v1/users/{public_id}/send", operation_id = "send_letter", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    params(("public_id" = Uuid, Path)),
    request_body = SendRequest,
    responses((status = 202, description = "A letter is on its way.", body = Message)),
    extensions(("x-codes" = json!([
        Code::Forbidden, Code::UserNotFound, Code::EmailAlreadyVerified, Code::EmailTaken,
        Code::UserBanned,
    ]))),
)]
pub async fn send(
    AdminUser(caller): AdminUser,
    State(state): State<AppState>,
    PublicId(id): PublicId,
    client: ClientInfo,
    JsonBody(mut form): JsonBody,
) -> Result<(StatusCode, Json<Message>), ApiError> {
    let letter = form.required("letter", LetterName::parse);
    let SendRequest { letter } = form.finish(|| Some(SendRequest { letter: letter? }))?;
    let is_sent = queue(&Act::new(&state, &caller, &client), id, letter).await?;
    let message = if is_sent {
        "The letter is on its way."
    } else {
        "A letter that was sent before may be on its way: another one is not sent now."
    };
    Ok((StatusCode::ACCEPTED, Json(Message::new(message))))
}

/// Queues the letter; whether one was, since none waits and not too many went before.
pub(super) async fn queue(act: &Act<'_>, id: Uuid, letter: LetterName) -> Result<bool, ApiError> {
    let (state, now) = (act.state, act.now);
    let found = state.db.read(|db| Box::pin(users::find(db, id))).await?;
    let seen = found.ok_or(Code::UserNotFound)?;
    let counted = match letter {
        LetterName::Confirmation => {
            letters::count_confirmation_by_admin(state, seen.address_to_confirm(), now).await?
        }
        LetterName::Reset => {
            letters::count_reset_by_admin(state, &seen.email, act.client, now).await?
        }
    };
    let (mut tx, user) = act.begin_on_present(id).await?;
    if user.standing.is_banned {
        return Err(Code::UserBanned.into());
    }
    let is_sent = match letter {
        LetterName::Confirmation => {
            confirmation(act, &mut tx, [&seen, &user], counted.is_some()).await?
        }
        LetterName::Reset => {
            let has_letter = counted.is_some() && user.email == seen.email;
            if has_letter {
                recovery::send(&mut tx, &user, now).await?;
            }
            has_letter
        }
    };
    if let Some(counted) = counted.filter(|_| is_sent) {
        let details = json!({ "letter": letter });
        state.record(&mut tx, act.event(EventKind::LetterSent, id).with(details), now).await?;
        counted.charge_in(&mut tx);
        tx.commit().await?;
        state.mail_queued.notify_one();
    }
    Ok(is_sent)
}

/// Queues the letter that confirms an address, unless it waits already or `may_send` forbids it.
async fn confirmation(
    act: &Act<'_>,
    tx: &mut Tx,
    [seen, user]: [&User; 2],
    may_send: bool,
) -> Result<bool, ApiError> {
    if !user.has_address_to_confirm() {
        return Err(Code::EmailAlreadyVerified.into());
    }
    let address = user.address_to_confirm();
    if users::is_email_taken(tx, address, user.id).await? {
        return Err(ApiError::conflict(&[("email", Code::EmailTaken)]));
    }
    // A letter to an address that was set meanwhile is counted by the call that set it.
    let is_same = address == seen.address_to_confirm();
    let is_waiting = letters::is_confirmation_waiting(tx, user).await?;
    let has_letter = may_send && is_same && !is_waiting;
    if has_letter {
        confirmation::ask(act.state, tx, user, true, act.now).await?;
    }
    Ok(has_letter)
}
