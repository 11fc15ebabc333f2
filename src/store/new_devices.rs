//! Logins from devices that were not seen before, and the letters that tell of them.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use sqlx::types::ipnetwork::IpNetwork;
use uuid::Uuid;

use super::logins::NewSession;
use crate::network::Network;

/// Letters that tell of a new device, to one user within a day.
const LETTERS_A_DAY: i64 = 3;

/// Whether neither the block of addresses nor the device of a session that was just opened was in
/// another one of its user, as far as those are kept. A session that ended by a theft makes nothing
/// seen. A user's first login is from no new device; of who has logged in before sessions were last
/// removed the audit log knows.
pub async fn is_new(db: &mut PgConnection, session: &NewSession) -> sqlx::Result<bool> {
    let block = session.ip.map(Network::block);
    let (first, last) =
        block.map(|net| (IpNetwork::from(net.first), IpNetwork::from(net.last))).unzip();
    sqlx::query_scalar!(
        r#"select not exists (
               select from sessions
               where user_id = $1 and id <> $2 and ip between $3 and $4
                   and (end_reason is null or end_reason not in ('refresh_token_reused', 'not_me'))
           ) and not exists (
               select from sessions
               where user_id = $1 and id <> $2 and device_hash = $5
                   and (end_reason is null or end_reason not in ('refresh_token_reused', 'not_me'))
           ) and (
               exists (select from sessions where user_id = $1 and id <> $2)
               or exists (
                   select from audit_log
                   where user_id = $1 and event = 'login' and session_id is distinct from $2
               )
           ) as "is_new!""#,
        session.user_id,
        session.id,
        first as Option<IpNetwork>,
        last as Option<IpNetwork>,
        session.device_hash,
    )
    .fetch_one(db)
    .await
}

/// Notes a login in the latest letter, to be counted in the next one, where a user had as many
/// letters within a day as may be; whether they had. The user's row is locked.
pub async fn put_off(
    db: &mut PgConnection,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update outbox
         set data = jsonb_set(data, '{later}', to_jsonb(coalesce((data ->> 'later')::bigint, 0) + 1))
         where id = (
             select id from outbox where user_id = $1 and kind = 'new_device'
             order by id desc limit 1
         ) and (
             select count(*) from outbox
             where user_id = $1 and kind = 'new_device' and created_at > $2
         ) >= $3",
        user_id,
        now - TimeDelta::days(1),
        LETTERS_A_DAY,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// How many logins were put off since the latest letter.
pub async fn count_put_off(db: &mut PgConnection, user_id: Uuid) -> sqlx::Result<i64> {
    let later = sqlx::query_scalar!(
        r#"select coalesce((data ->> 'later')::bigint, 0) as "later!" from outbox
           where user_id = $1 and kind = 'new_device' order by id desc limit 1"#,
        user_id
    )
    .fetch_optional(db)
    .await?;
    Ok(later.unwrap_or(0))
}
