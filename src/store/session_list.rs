//! A user's sessions, page by page: the newest login first.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// Sessions that are read for a page at most. Those that ran out unused are in the index until they
/// are removed, and an account may have thousands of them in a row.
const READ_AT_MOST: i64 = 1_000;

/// A session that is active, as its owner sees it.
#[derive(Clone, Debug)]
pub struct ListedSession {
    pub id: Uuid,
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    pub amr: Vec<String>,
    pub created_at: DateTime<Utc>,
    /// The last refresh, or else the login.
    pub last_used_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// At most `limit` active sessions that began before `after`, and where the next page begins, if
/// there is one. A page in a long row of sessions that ran out has fewer, or none.
pub async fn list(
    db: &mut PgConnection,
    user_id: Uuid,
    after: Option<Uuid>,
    limit: usize,
    now: DateTime<Utc>,
) -> sqlx::Result<(Vec<ListedSession>, Option<Uuid>)> {
    let after = after.unwrap_or(Uuid::max());
    let rows = sqlx::query!(
        r#"select id, ip, user_agent, amr, created_at, expires_at,
               coalesce(rotated_at, created_at) as "last_used_at!"
           from (
               select id, ip, user_agent, amr, created_at, expires_at, rotated_at from sessions
               where user_id = $1 and ended_at is null and id < $2
               order by id desc limit $3
           ) living
           where expires_at > $4 order by id desc limit $5"#,
        user_id,
        after,
        READ_AT_MOST,
        now,
        i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1),
    )
    .fetch_all(&mut *db)
    .await?;
    let is_full = rows.len() > limit;
    let sessions: Vec<ListedSession> = rows
        .into_iter()
        .take(limit)
        .map(|row| ListedSession {
            id: row.id,
            ip: row.ip.map(|ip| ip.ip()),
            user_agent: row.user_agent,
            amr: row.amr,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            expires_at: row.expires_at,
        })
        .collect();
    let next = if is_full {
        sessions.last().map(|last| last.id)
    } else {
        last_read(db, user_id, after).await?
    };
    Ok((sessions, next))
}

/// The last session that was read, where as many were read as may be.
async fn last_read(
    db: &mut PgConnection,
    user_id: Uuid,
    after: Uuid,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "select id from sessions where user_id = $1 and ended_at is null and id < $2
         order by id desc offset $3 limit 1",
        user_id,
        after,
        READ_AT_MOST - 1,
    )
    .fetch_optional(db)
    .await
}
