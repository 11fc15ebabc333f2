//! The record of what happened, written in the transaction that it belongs to.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::ipnetwork::IpNetwork;
use uuid::Uuid;

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

/// Writes the event, and logs it: once each, under the same names.
pub async fn record(db: &mut PgConnection, event: &Event, now: DateTime<Utc>) -> sqlx::Result<()> {
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
    .execute(db)
    .await?;
    let text = |id: Option<Uuid>| id.map(tracing::field::display);
    tracing::info!(
        target: "security",
        event = event.name,
        user_id = text(event.user_id),
        actor_id = text(event.actor_id),
        session_id = text(event.session_id),
        ip = event.ip.map(tracing::field::display),
    );
    Ok(())
}
