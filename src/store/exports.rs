//! What is held about a user beside their own row and the audit log, for their export: in the order
//! of its ids, a batch at a time.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// A session, ended or not.
#[derive(Clone, Debug)]
pub struct KeptSession {
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
    /// The last refresh; null before the first.
    pub rotated_at: Option<DateTime<Utc>>,
    pub expires_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub end_reason: Option<String>,
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    pub amr: Vec<String>,
}

pub async fn list_sessions(
    db: &mut PgConnection,
    user_id: Uuid,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<KeptSession>> {
    let rows = sqlx::query!(
        "select id, created_at, rotated_at, expires_at, ended_at, end_reason, ip, user_agent, amr
         from sessions where user_id = $1 and id > $2 order by id limit $3",
        user_id,
        after,
        limit
    )
    .fetch_all(db)
    .await?;
    let sessions = rows.into_iter().map(|row| KeptSession {
        id: row.id,
        created_at: row.created_at,
        rotated_at: row.rotated_at,
        expires_at: row.expires_at,
        ended_at: row.ended_at,
        end_reason: row.end_reason,
        ip: row.ip.map(|ip| ip.ip()),
        user_agent: row.user_agent,
        amr: row.amr,
    });
    Ok(sessions.collect())
}

/// A letter to or about the user. What its kind keeps beside is not among it: that may name others.
#[derive(Clone, Debug)]
pub struct KeptLetter {
    pub id: Uuid,
    pub kind: String,
    pub recipient: String,
    pub created_at: DateTime<Utc>,
    pub sent_at: Option<DateTime<Utc>>,
    pub failed_at: Option<DateTime<Utc>>,
}

pub async fn list_letters(
    db: &mut PgConnection,
    user_id: Uuid,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<KeptLetter>> {
    sqlx::query_as!(
        KeptLetter,
        "select id, kind, recipient, created_at, sent_at, failed_at
         from outbox where user_id = $1 and id > $2 order by id limit $3",
        user_id,
        after,
        limit
    )
    .fetch_all(db)
    .await
}
