//! How an account stands: deleted by its owner, banned, or to be let in by a new password alone.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
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

/// Takes the present password for known to somebody else, and drops an address that waits, which
/// they may have set: from then on a new password alone lets in.
pub async fn require_reset(
    db: &mut PgConnection,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set reset_required_at = $2, pending_email = null, modified_at = $2
         where id = $1",
        user_id,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}
