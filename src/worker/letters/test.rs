//! The letter by which an operator sees that a worker runs and letters leave, which `doorward
//! doctor` cannot show: it sends its own. It has no user, and is queued in psql:
//!
//! ```sql
//! insert into outbox (id, kind, recipient, data, created_at, next_attempt_at)
//! values (gen_random_uuid(), 'test', 'you@example.com', '{"number": 1}', now(), now());
//! ```

use serde::Deserialize;

use super::{Composed, Draft};
use crate::mail::letters::Values;

#[derive(Deserialize)]
struct Data {
    /// Tells several letters apart.
    number: Option<u32>,
}

/// It is always wanted.
pub(super) fn compose(draft: &Draft<'_>) -> Composed {
    let Data { number } = draft.data()?;
    draft.letter(draft.recipient(), &Values::new().set_if("number", number))
}
