//! Codes in letters: what a try of one counts as.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::account::Error;
use crate::account::attempts::{self, Attempts, Counted};
use crate::limits::{Attempt, CODE_ACCOUNT};
use crate::security::mailed_code::CodePurpose;
use crate::security::token::{HandleKind, Opened};
use crate::state::AppState;
use crate::store::challenges::{self, ChallengeKind};

/// A code that was right. Its try was none, which is refunded when this is dropped.
pub struct RightCode {
    pub challenge_id: Uuid,
    counted: Counted,
}

/// Tries a code with the handle that its client got when it asked for the letter; `None` if they
/// are no good together, whatever is wrong. A wrong one is counted with the handle, and with the
/// address that the letter went to.
pub async fn try_code(
    state: &AppState,
    purpose: CodePurpose,
    handle: &str,
    code: &str,
    now: DateTime<Utc>,
) -> Result<Option<RightCode>, Error> {
    let opened = state.keys.open_handle(HandleKind::Code, handle, now);
    let Ok(id) = opened.and_then(Opened::unexpired) else { return Ok(None) };
    let recipient = state.db.read(|db| Box::pin(challenges::find_recipient(db, id))).await?;
    let Some(recipient) = recipient else { return Ok(None) };
    let subject = recipient.to_ascii_lowercase();
    let wrong = Attempts::charged_if_dropped([Attempt::on(&CODE_ACCOUNT, &subject)]);
    let [counted] = attempts::count(state, [wrong], now).await?;
    // A try whose answer is lost may be counted twice, which costs one of five.
    let trying =
        state.db.write(|db| Box::pin(challenges::count_try(db, id, kind_of(purpose), now)));
    let may_try = trying.await?;
    let is_right = state.codes.matches(purpose, id, code);
    if !may_try {
        // Nothing was compared: a client that goes on with a dead handle uses up no owner's budget.
        counted.refund().await?;
        return Ok(None);
    }
    if !is_right {
        counted.charge();
        return Ok(None);
    }
    Ok(Some(RightCode { challenge_id: id, counted: counted.refunded_if_dropped() }))
}

fn kind_of(purpose: CodePurpose) -> ChallengeKind {
    match purpose {
        CodePurpose::Reset => ChallengeKind::Reset,
        CodePurpose::Confirm => ChallengeKind::Confirm,
    }
}

impl RightCode {
    /// Nothing comes of it, and that is not the code's fault: it goes on being good.
    pub async fn give_back(self, state: &AppState) -> Result<(), Error> {
        let id = self.challenge_id;
        state.db.write(|db| Box::pin(challenges::give_back_try(db, id))).await?;
        drop(self.counted);
        Ok(())
    }
}
