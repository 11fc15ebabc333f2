//! The record of what happened, written in the transaction that it belongs to and logged when that is committed.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::ipnetwork::IpNetwork;
use uuid::Uuid;

use super::db::Tx;
use crate::context;
use crate::metrics::Tally;

/// Every event there is.
pub const NAMES: [&str; 19] = [
    "already_taken",
    "create_admin",
    "email_changed",
    "email_verified",
    "first_admin",
    "forbidden",
    "login",
    "login_refused",
    "logout",
    "logout_everywhere",
    "password_changed",
    "profile_updated",
    "rate_limited",
    "refresh_token_reused",
    "registered",
    "role_changed",
    "sessions_removed",
    "user_deleted",
    "wrong_password",
];

/// One thing that happened. `user_id` is whom it happened to, `actor_id` who did it.
#[derive(Clone, Debug, Default)]
pub struct Event {
    pub name: &'static str,
    pub user_id: Option<Uuid>,
    pub actor_id: Option<Uuid>,
    pub session_id: Option<Uuid>,
    pub ip: Option<IpAddr>,
    /// Never a secret and never an address.
    pub details: Value,
}

/// Writes the event; it is logged once the transaction is committed, under the same names.
pub async fn record(tx: &mut Tx, event: &Event, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into audit_log (at, event, user_id, actor_id, session_id, ip, details)
         values ($1, $2, $3, $4, $5, $6, coalesce(nullif($7::jsonb, 'null'), '{}'))",
        now,
        event.name,
        event.user_id,
        event.actor_id,
        event.session_id,
        event.ip.map(IpNetwork::from),
        event.details,
    )
    .execute(&mut **tx)
    .await?;
    tx.log_once_committed(event.clone());
    Ok(())
}

/// Deletes at most 1,000 rows from before `before`. Skips locked rows.
pub async fn delete_older(db: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with old as materialized (
             select id from audit_log where at < $1 order by at limit 1000 for update skip locked
         )
         delete from audit_log where id in (select id from old)",
        before
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

impl Event {
    /// Logs and counts it: recorded events once they are committed, and those that change nothing, such as a refusal,
    /// at once.
    pub fn log(&self, events: &Tally) {
        events.add(self.name);
        let text = |id: Option<Uuid>| id.map(tracing::field::display);
        let caller = context::current();
        tracing::info!(
            target: "security",
            event = self.name,
            user_id = text(self.user_id),
            actor_id = text(self.actor_id),
            session_id = text(self.session_id),
            ip = self.ip.or(caller.ip).map(tracing::field::display),
            request_id = caller.request_id,
            trace_id = caller.trace_id.map(tracing::field::display),
            details = (!self.details.is_null()).then(|| tracing::field::display(&self.details)),
        );
    }
}
