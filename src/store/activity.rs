//! What a person sees of the audit log: the rows about them, without what is staff's own.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit::EventKind;

/// An event as its person sees it.
#[derive(Clone, Debug)]
pub struct Activity {
    pub id: i64,
    pub at: DateTime<Utc>,
    pub event: String,
    /// The person's own, as is `ip`.
    pub session_id: Option<Uuid>,
    pub ip: Option<IpAddr>,
    /// Likewise.
    pub user_agent: Option<String>,
    /// `you`, `staff` or `system`.
    pub by: String,
    pub details: Value,
}

/// Events of a user, newest first: at most `limit` before the one with the id `before`. Several
/// that are one row have their `count` in the details.
pub async fn list(
    db: &mut PgConnection,
    user_id: Uuid,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Activity>> {
    let shown = EventKind::ALL.iter().filter(|kind| kind.is_shown_to_person());
    let shown: Vec<&str> = shown.map(|kind| kind.as_str()).collect();
    let rows = sqlx::query!(
        r#"select id, at, event, details, count,
             case when is_own then session_id end as session_id,
             case when is_own then ip end as ip,
             case when is_own then user_agent end as user_agent,
             case when actor_id is null then 'system' when is_own then 'you' else 'staff' end as "by!"
           from audit_log, lateral (select coalesce(
               actor_id = user_id,
               -- Nobody's act may be a stranger's, such as the reader's of a letter who disowns an
               -- address; who asks for a reset or comes with a stolen token is shown to the owner.
               event in ('reset_asked', 'refresh_token_repeated', 'refresh_token_reused')
           ) as is_own) who
           where user_id = $1 and event = any($2) and id < $3
           order by id desc limit $4"#,
        user_id,
        &shown as &[&str],
        before.unwrap_or(i64::MAX),
        limit
    )
    .fetch_all(db)
    .await?;
    let activity = rows.into_iter().map(|row| Activity {
        id: row.id,
        at: row.at,
        event: row.event,
        session_id: row.session_id,
        ip: row.ip.map(|ip| ip.ip()),
        user_agent: row.user_agent,
        by: row.by,
        details: with_count(row.details, row.count),
    });
    Ok(activity.collect())
}

fn with_count(mut details: Value, count: i32) -> Value {
    if let Some(details) = details.as_object_mut().filter(|_| count > 1) {
        details.insert("count".to_owned(), count.into());
    }
    details
}
