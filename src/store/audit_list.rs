//! The audit log as it is read: filtered, page by page.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::types::ipnetwork::IpNetwork;
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::audit::EventKind;

/// Which events a list holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub event: Option<EventKind>,
    /// Whom they happened to.
    pub user_id: Option<Uuid>,
    /// Who did it.
    pub actor_id: Option<Uuid>,
    pub ip: Option<IpAddr>,
    pub request_id: Option<String>,
    /// From then on.
    pub since: Option<DateTime<Utc>>,
    /// Before then.
    pub until: Option<DateTime<Utc>>,
}

/// A row of the log.
#[derive(Clone, Debug, FromRow)]
pub struct Entry {
    pub id: i64,
    pub at: DateTime<Utc>,
    /// Another release may know others.
    pub event: String,
    pub user_id: Option<Uuid>,
    pub actor_id: Option<Uuid>,
    pub session_id: Option<Uuid>,
    pub ip: Option<IpNetwork>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub details: Value,
    /// How many there were.
    pub count: i32,
}

/// How far rows that are not marked `off_clock` may be out of the order of their ids: each within
/// half a minute of the database's clock, and written in a transaction of a minute at the most.
const DISORDER: TimeDelta = TimeDelta::minutes(2);

/// One page: at most `limit` events after the one with the id `after`, in the order of their ids.
///
/// What an index cannot find in that order at once is asked for in parts that it can, and put
/// together: events of oneself and of others (migration 0022), and those of a span of time, which
/// are a span of ids and a few beside (migration 0019).
pub async fn list(
    db: &mut PgConnection,
    filter: &Filter,
    descending: bool,
    after: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Entry>> {
    let span = find_span(db, filter).await?;
    let mut query = QueryBuilder::new("select * from (");
    let people = own_or_others(filter);
    let parts = people.iter().flat_map(|who| span.iter().map(move |ids| (who, ids)));
    for (number, (who, ids)) in parts.enumerate() {
        query.push(if number == 0 { "(" } else { " union all (" });
        query.push(
            "select id, at, event, user_id, actor_id, session_id, ip, user_agent, request_id, \
             details, count from audit_log where true",
        );
        query.push(who).push(ids);
        push_filter(&mut query, filter);
        if let Some(after) = after {
            query.push(if descending { " and id < " } else { " and id > " }).push_bind(after);
        }
        push_order(&mut query, descending, limit);
        query.push(")");
    }
    query.push(") parts");
    push_order(&mut query, descending, limit);
    // Planned for its values each time: they decide which index finds the fewest rows.
    query.build_query_as().persistent(false).fetch_all(db).await
}

fn push_order(query: &mut QueryBuilder<Postgres>, descending: bool, limit: i64) {
    let direction = if descending { "desc" } else { "asc" };
    query.push(format_args!(" order by id {direction} limit {limit}"));
}

/// Whom it happened to and who did it, as conditions: of an actor what they did to others and what
/// to themselves, where the filter does not say which.
///
/// What one did to oneself is told behind a `coalesce`, which the planner takes for half of the
/// rows: told plainly it is taken for next to none, and all of a user's rows are read and sorted.
fn own_or_others(filter: &Filter) -> Vec<String> {
    let others =
        |actor: Uuid| format!(" and actor_id = '{actor}' and actor_id is distinct from user_id");
    let own = |id: Uuid| format!(" and user_id = '{id}' and coalesce(actor_id = user_id, false)");
    match (filter.actor_id, filter.user_id) {
        (Some(actor), Some(user)) if actor == user => vec![own(user)],
        (Some(actor), Some(user)) => vec![format!(" and user_id = '{user}'") + &others(actor)],
        (Some(actor), None) => vec![others(actor), own(actor)],
        (None, Some(user)) => vec![format!(" and user_id = '{user}'")],
        (None, None) => vec![String::new()],
    }
}

/// A span of time, as conditions: on what is in order, between two ids, and on what is not. In the
/// first the time stands behind a `coalesce`, since it leaves what the ids do: told plainly the
/// planner takes both for chances of their own, and reads all of a short span and sorts it.
async fn find_span(db: &mut PgConnection, filter: &Filter) -> sqlx::Result<Vec<String>> {
    let Filter { since, until, .. } = *filter;
    if since.is_none() && until.is_none() {
        return Ok(vec![String::new()]);
    }
    // Each is the first row that is surely out of the span; none where the log ends before.
    let ends = sqlx::query!(
        "select
             (select id from audit_log where at < $1 and off_clock is null
              order by at desc limit 1) as before,
             (select id from audit_log where at >= $2 and off_clock is null
              order by at limit 1) as beyond",
        since.map(|since| since - DISORDER),
        until.map(|until| until + DISORDER),
    )
    .fetch_one(db)
    .await?;
    let since = since.map(|since| format!("at >= '{}'", since.to_rfc3339()));
    let until = until.map(|until| format!("at < '{}'", until.to_rfc3339()));
    let in_span: Vec<String> = since.into_iter().chain(until).collect();
    let in_order = in_span.iter().map(|condition| format!(" and coalesce({condition}, false)"));
    let before = ends.before.map(|before| format!(" and id > {before}"));
    let beyond = ends.beyond.map(|beyond| format!(" and id < {beyond}"));
    let in_order: String = in_order.chain(before).chain(beyond).collect();
    let in_order = format!(" and off_clock is null{in_order}");
    let others: String = in_span.iter().flat_map(|condition| [" and ", condition]).collect();
    let others = format!(" and off_clock{others}");
    Ok(vec![in_order, others])
}

fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if let Some(event) = filter.event {
        query.push(" and event = ").push_bind(event.as_str());
    }
    if let Some(ip) = filter.ip {
        query.push(" and ip = ").push_bind(IpNetwork::from(ip));
    }
    if let Some(id) = &filter.request_id {
        query.push(" and request_id = ").push_bind(id.clone());
    }
}
