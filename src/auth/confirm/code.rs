//! What the code of a letter does: the same as its link, once.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::account::{Finding, find_address, set_verified};
use crate::account::client::ClientInfo;
use crate::account::mailed_codes;
use crate::context::run_to_completion;
use crate::http::error::{ApiError, Code};
use crate::security::mailed_code::CodePurpose;
use crate::state::AppState;
use crate::store::challenges::confirmation;
use crate::store::users::{self, User};

/// Marks the address that the letter went to as confirmed, if it still is to be. The code is good
/// for nothing else afterwards, and goes on being good where another account has the address, or
/// we have trouble.
pub(super) async fn confirm(
    state: &AppState,
    challenge: &str,
    code: &str,
    client: &ClientInfo,
) -> Result<Finding, ApiError> {
    let now = state.clock.now();
    let trying = mailed_codes::try_code(state, CodePurpose::Confirm, challenge, code, now);
    let right = trying.await?.ok_or(Code::CodeInvalid)?;
    let (state, client) = (state.clone(), client.clone());
    // To completion: a client that hangs up would leave a right code counted as a wrong one.
    run_to_completion(async move {
        let outcome = use_up(&state, right.challenge_id, &client, now).await;
        if outcome.as_ref().is_err_and(|error| error.code != Code::CodeInvalid) {
            right.give_back(&state).await?;
        }
        match outcome {
            Err(error) if error.code == Code::EmailTaken => Ok(Finding::Taken),
            outcome => outcome,
        }
    })
    .await
}

async fn use_up(
    state: &AppState,
    id: Uuid,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Finding, ApiError> {
    let finding = state.db.read(|db| Box::pin(confirmation::find(db, id, now))).await?;
    let (user_id, email) = finding.ok_or(Code::CodeInvalid)?;
    let mut tx = state.db.begin_for(user_id).await?;
    let user = users::find_for_update(&mut tx, user_id).await?.filter(User::may_get_in);
    let (finding, Some(user)) = (find_address(&email, user.as_ref()), user) else {
        return Err(Code::CodeInvalid.into());
    };
    let is_open = matches!(finding, Finding::New | Finding::Pending);
    // By the letter's link, a moment ago.
    let is_done = matches!(finding, Finding::Confirmed);
    if !(is_open || is_done) || !confirmation::use_up(&mut tx, id, now).await? {
        return Err(Code::CodeInvalid.into());
    }
    if is_open {
        set_verified(state, tx, user, &email, client).await?;
    } else {
        tx.commit().await?;
    }
    Ok(Finding::Confirmed)
}
