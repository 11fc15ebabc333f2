//! Sessions: one per login, and the counter of its current refresh token. How that grows:
//! `refreshes.rs`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::users::{User, query_users, user_of};

/// A session that has not ended.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: Uuid,
    pub counter: i64,
    /// Whether the newest pair of tokens has been used.
    pub successor_used: bool,
    pub expires_at: DateTime<Utc>,
    pub authentication: Authentication,
}

/// How and when a session's user last proved who they are.
#[derive(Clone, Debug)]
pub struct Authentication {
    /// By which methods (RFC 8176).
    pub amr: Vec<String>,
    pub at: DateTime<Utc>,
}

/// Reads an active session and its user in one query.
pub async fn find_with_user(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(Session, User)>> {
    let row = query_users!(
        r#"select s.counter, s.successor_used, s.expires_at, s.amr,
               coalesce(s.authenticated_at, s.created_at) as "authenticated_at!", "#
            + COLUMNS
            + " from sessions s join users u on u.id = s.user_id
           where s.id = $1 and s.user_id = $2 and s.ended_at is null and s.expires_at > $3
               -- Ended in the transaction that bars the account, but for those that the release before
               -- opens, or a statement by hand leaves.
               and u.deleted_at is null and (u.banned_at is null or u.banned_until <= now())
               and (u.reset_required_at is null or s.created_at < u.reset_required_at
                   or s.amr <> '{pwd}')",
        id,
        user_id,
        now,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        let session = Session {
            id,
            counter: row.counter,
            successor_used: row.successor_used,
            expires_at: row.expires_at,
            authentication: Authentication { amr: row.amr, at: row.authenticated_at },
        };
        (session, user_of!(row))
    }))
}

/// Whether a session of this user is active, as of this statement.
pub async fn is_active(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from sessions s join users u on u.id = s.user_id
               where s.id = $1 and s.user_id = $2 and s.ended_at is null and s.expires_at > $3
                   and u.deleted_at is null and (u.banned_at is null or u.banned_until <= now())
           ) as "is_active!""#,
        id,
        user_id,
        now,
    )
    .fetch_one(db)
    .await
}

/// Keeps that the session's user has proven who they are once more; `None` if it is not active.
pub async fn set_authenticated(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(Session, User)>> {
    let row = query_users!(
        "update sessions s set authenticated_at = $3
         from users u
         where s.id = $1 and s.user_id = $2 and s.ended_at is null and s.expires_at > $3
             and u.id = s.user_id
         returning s.counter, s.successor_used, s.expires_at, s.amr, "
            + COLUMNS,
        id,
        user_id,
        now,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        let session = Session {
            id,
            counter: row.counter,
            successor_used: row.successor_used,
            expires_at: row.expires_at,
            authentication: Authentication { amr: row.amr, at: now },
        };
        (session, user_of!(row))
    }))
}

/// Marks the pair with this counter as used.
pub async fn set_successor_used(db: &mut PgConnection, id: Uuid, counter: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update sessions set successor_used = true
         where id = $1 and counter = $2 and not successor_used",
        id,
        counter
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Why a session ended that the change of a password has ended.
pub const PASSWORD_CHANGED: &str = "password_changed";
/// Likewise of one that was reset by a letter.
pub const PASSWORD_RESET: &str = "password_reset";
/// Likewise of one that somebody else than the user may have begun.
pub const NOT_ME: &str = "not_me";
/// Likewise of one whose account its owner has deleted.
pub const ACCOUNT_DELETED: &str = "account_deleted";

/// Likewise of one whose user was banned.
pub const BANNED: &str = "banned";

/// Ends one session; returns whether it was active.
pub async fn revoke(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update sessions set ended_at = $3, end_reason = $4
         where id = $1 and user_id = $2 and ended_at is null and expires_at > $3",
        id,
        user_id,
        now,
        reason
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Ends all of a user's sessions but `kept`; how many of them were active.
pub async fn revoke_all(
    db: &mut PgConnection,
    user_id: Uuid,
    kept: Option<Uuid>,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<u64> {
    let ended = sqlx::query_scalar!(
        r#"with ended as (
               update sessions set ended_at = $3, end_reason = $4
               where user_id = $1 and id is distinct from $2 and ended_at is null
               returning expires_at
           )
           select count(*) filter (where expires_at > $3) as "active!" from ended"#,
        user_id,
        kept,
        now,
        reason
    )
    .fetch_one(db)
    .await?;
    Ok(ended.unsigned_abs())
}

/// Ranks a user's sessions, active and most recently used first, and deletes at most 1,000 beyond
/// the first `kept`; returns how many. Skips rows that are locked or refreshed meanwhile.
pub async fn delete_surplus(db: &mut PgConnection, user_id: Uuid, kept: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with surplus as materialized (
             select s.id from sessions s join (
                 select id, counter from sessions where user_id = $1
                 order by (ended_at is null) desc, coalesce(rotated_at, created_at) desc, id desc
                 offset $2 limit 1000
             ) seen on seen.id = s.id and seen.counter = s.counter
             for update of s skip locked
         )
         delete from sessions where id in (select id from surplus)",
        user_id,
        kept
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes at most 1,000 sessions whose `ends_at` lies before `before`. Skips locked rows, as
/// others lock them in another order. Sessions that ran out earlier, unused, stay until then: an
/// index to find them by would make every refresh slower.
pub async fn delete_expired(db: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with old as materialized (
             select id from sessions where ends_at < $1
             order by ends_at limit 1000 for update skip locked
         )
         delete from sessions where id in (select id from old)",
        before
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// How many are active: exact among up to `most` rows, beyond that the planner's estimate.
pub async fn count_active_about(
    db: &mut PgConnection,
    now: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<i64> {
    let row = sqlx::query!(
        r#"select count(*) as "all!",
             count(*) filter (where ended_at is null and expires_at > $1) as "active!"
         from (select ended_at, expires_at from sessions limit $2) sample"#,
        now,
        most + 1
    )
    .fetch_one(&mut *db)
    .await?;
    if row.all <= most {
        return Ok(row.active);
    }
    super::db::estimate(db, "select from sessions where ended_at is null and expires_at > now()")
        .await
}
