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

/// A ban as an admin asks for it.
#[derive(Clone, Copy, Debug)]
pub struct NewBan<'a> {
    pub reason: &'a str,
    /// `None`: for good.
    pub until: Option<DateTime<Utc>>,
    pub by: Uuid,
}

/// Bans an account, in place of an earlier ban; whether that holds, which one that has ended by the
/// database's clock does not.
pub async fn set_ban(
    db: &mut PgConnection,
    id: Uuid,
    ban: &NewBan<'_>,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"update users set banned_at = $2, banned_until = $3, ban_reason = $4, banned_by = $5,
               modified_at = $2
           where id = $1
           returning coalesce(banned_until > now(), true) as "holds!""#,
        id,
        now,
        ban.until,
        ban.reason,
        ban.by,
    )
    .fetch_one(db)
    .await
}

/// Lifts the ban of an account.
pub async fn lift_ban(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set banned_at = null, banned_until = null, ban_reason = null,
             banned_by = null, modified_at = $2
         where id = $1",
        id,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}
