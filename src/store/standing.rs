//! How an account stands: deleted by its owner, banned, or to be let in by a new password alone.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

/// What keeps an account from getting in.
#[derive(Clone, Debug, Default, FromRow)]
pub struct Standing {
    /// Its owner has asked for it to be deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// From then on it is as good as gone.
    pub purge_at: Option<DateTime<Utc>>,
    /// The present password is taken for known to somebody else.
    pub reset_required_at: Option<DateTime<Utc>>,
    /// By the database's clock: a ban that runs out is lifted by nobody.
    pub is_banned: bool,
    /// `None`: for good.
    pub banned_until: Option<DateTime<Utc>>,
    pub ban_reason: Option<String>,
    pub banned_by: Option<Uuid>,
}
