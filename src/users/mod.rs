//! A person and their own account.

mod change_password;
mod me;
mod register;
mod verify_email;

use chrono::{DateTime, Utc};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::account::Origin;
use crate::http::error::{ApiError, Code};
use crate::http::limit::Tentative;
use crate::limits::{Attempt, MAIL_ADDRESS, MAIL_RECIPIENT_DAY, MAIL_RECIPIENT_HOUR, Outcome};
use crate::state::AppState;
use crate::store::audit::{self, Event};
use crate::store::to_the_end;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(register::register))
        .routes(routes!(me::show, me::show_by_post, me::update, me::patch))
        .routes(routes!(change_password::change_password))
        .routes(routes!(verify_email::verify_email))
}

/// Records who asked for a name or an address that another one has. So whoever tries out addresses can be seen; and they
/// wait as long as for a free one, for which something is committed as well.
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

/// What a letter to `recipient` because of a call from `origin` was counted as; `None` where there are to be no more.
/// Whoever may not is not told: the answer would tell a stranger what the address has been sent before. To be kept where
/// a letter is queued: else strangers would use up those of whoever has the address.
async fn reserve_letter(
    state: &AppState,
    recipient: &str,
    origin: &Origin,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Tentative>> {
    let recipient = recipient.to_ascii_lowercase();
    let attempts = [
        Attempt::on(&MAIL_RECIPIENT_HOUR, &recipient),
        Attempt::on(&MAIL_RECIPIENT_DAY, &recipient),
        Attempt::by_address(&MAIL_ADDRESS, origin.ip),
    ];
    let state = state.clone();
    // To the end: what was counted for somebody who hangs up meanwhile is given back, too.
    to_the_end(async move {
        let outcome = state.limits.reserve(&state.db, &attempts, now).await?;
        Ok(match outcome {
            Outcome::Reserved(reservation) => Some(Tentative::new(&state, reservation)),
            Outcome::Refused(_) => None,
        })
    })
    .await
}
