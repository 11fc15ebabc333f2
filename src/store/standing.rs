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

/// Marks a user as deleted, to be removed from `purge_at` on.
pub async fn set_deleted(
    db: &mut PgConnection,
    id: Uuid,
    purge_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set deleted_at = $3, purge_at = $2, modified_at = $3 where id = $1",
        id,
        purge_at,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lets a deleted user be removed from `purge_at` on.
pub async fn set_purge(
    db: &mut PgConnection,
    id: Uuid,
    purge_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!("update users set purge_at = $2 where id = $1", id, purge_at).execute(db).await?;
    Ok(())
}

/// Takes a deletion back.
pub async fn set_restored(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set deleted_at = null, purge_at = null, modified_at = $2 where id = $1",
        id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Until when a name or an address stays taken that a deleted account has, each in any case.
pub async fn find_purge(
    db: &mut PgConnection,
    username: &str,
    email: &str,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    let found = sqlx::query_scalar!(
        "select max(purge_at) from users
         where (username_key = $1 or email_key = $2) and deleted_at is not null",
        username.to_ascii_lowercase(),
        email.to_ascii_lowercase()
    );
    found.fetch_one(db).await
}
