//! A person and their own account.

mod change_password;
mod change_profile;
mod changes;
mod me;
mod register;
mod verify_email;

use chrono::{DateTime, Utc};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::account::Origin;
use crate::http::error::{ApiError, Code};
use crate::http::limit::{RefundOnDrop, reserve_to_completion};
use crate::limits::{Attempt, MAIL_ADDRESS, MAIL_RECIPIENT_DAY, MAIL_RECIPIENT_HOUR};
use crate::state::AppState;
use crate::store::audit::{self, Event};

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(register::register))
        .routes(routes!(me::show, me::show_by_post, change_profile::update, change_profile::patch))
        .routes(routes!(change_password::change_password))
        .routes(routes!(verify_email::verify_email))
}

/// Records who asked for a name or an address that is taken. So probing for addresses can be seen; and the answer takes
/// as long as for a free one, for which something is committed as well.
async fn record_if_taken<T>(
    state: &AppState,
    outcome: &Result<T, ApiError>,
    by: Event,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let taken = outcome.as_ref().err().map(|error| error.code);
    let Some(code @ (Code::UsernameTaken | Code::EmailTaken)) = taken else { return Ok(()) };
    let details = serde_json::json!({ "code": code.as_str() });
    let mut tx = state.db.begin().await?;
    audit::record(&mut tx, &Event { name: "already_taken", details, ..by }, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Counts a letter to `recipient` caused by a call from `origin`; `None` if the limit is reached. The caller is not
/// told: it would reveal to a stranger what the address was sent before. To be kept only if a letter is queued: else
/// strangers would use up the budget of whoever owns the address.
async fn reserve_letter(
    state: &AppState,
    recipient: &str,
    origin: &Origin,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<RefundOnDrop>> {
    let [hour, day] = letters_to(recipient);
    let attempts = vec![hour, day, Attempt::by_address(&MAIL_ADDRESS, origin.ip)];
    Ok(reserve_to_completion(state, attempts, now).await?.ok())
}

/// Counts the first letter of a new account, by itself: whoever was sent other letters is sent it all the same, but an
/// account that moves on from one address to the next frees each for another registration.
async fn reserve_first_letter(
    state: &AppState,
    recipient: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<RefundOnDrop>> {
    let attempts = letters_to(&format!("registration {recipient}")).to_vec();
    Ok(reserve_to_completion(state, attempts, now).await?.ok())
}

fn letters_to(recipient: &str) -> [Attempt; 2] {
    let recipient = recipient.to_ascii_lowercase();
    [&MAIL_RECIPIENT_HOUR, &MAIL_RECIPIENT_DAY].map(|limit| Attempt::on(limit, &recipient))
}
