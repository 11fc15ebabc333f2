//! A person and their own account.

mod change_password;
mod change_profile;
mod me;
mod profile_changes;
mod register;
mod verify_email;

use chrono::{DateTime, Utc};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::error::{ApiError, Code};
use crate::state::AppState;
use crate::store::audit::Event;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(register::register))
        .routes(routes!(me::show, me::show_by_post, change_profile::update, change_profile::patch))
        .routes(routes!(change_password::change_password))
        .routes(routes!(verify_email::verify_email))
}

/// Records that a client asked for a name or an address that is taken. So probing for addresses can
/// be seen; and the answer takes as long as for a free one, for which something is committed as
/// well.
async fn record_if_taken<T>(
    state: &AppState,
    outcome: &Result<T, ApiError>,
    event: Event,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let taken = outcome.as_ref().err().map(|error| error.code);
    let Some(code @ (Code::UsernameTaken | Code::EmailTaken)) = taken else { return Ok(()) };
    let mut tx = state.db.begin().await?;
    let event = event.with(serde_json::json!({ "code": code.as_str() }));
    state.record(&mut tx, event, now).await?;
    tx.commit().await?;
    Ok(())
}
