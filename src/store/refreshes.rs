//! Refreshes: the counter of a session's refresh token, and when it grew.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use sqlx::types::ipnetwork::IpNetwork;
use uuid::Uuid;

use super::sessions::Authentication;
use super::users::{User, query_users, user_of};

/// The state of a session after a refresh.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The counter of the successor.
    pub counter: i64,
    pub rotated_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub authentication: Authentication,
    pub user: User,
}

/// What a refresh writes.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    pub now: DateTime<Utc>,
    /// When the session ends, unless its `ends_at` comes before.
    pub expires_at: DateTime<Utc>,
    pub ip: Option<IpAddr>,
    /// How many refreshes [`BURST`] allows; `None`: any number.
    pub most: Option<i32>,
}

/// A list of the times of refreshes goes on while they are closer together than this.
pub const BURST: TimeDelta = TimeDelta::seconds(60);
/// How many times are kept where any number is allowed.
const KEPT: i32 = 128;

/// Replaces the current counter, or a later one, by its successor. `None` if it is an older one, if
/// there were too many refreshes, or if there is no such session: [`find_for_refresh`] tells.
pub async fn renew(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    presented: i64,
    rotation: Rotation,
) -> sqlx::Result<Option<Rotated>> {
    let Rotation { now, expires_at, ip, most } = rotation;
    let row = query_users!(
        r#"update sessions s
           set counter = $3 + 1, rotated_at = $4, expires_at = least($5, ends_at),
               successor_used = false, rotated_ip = $6,
               replaced_at = case
                   -- A list that goes on: neither interrupted, nor out of date by a release that
                   -- does not know it, nor by a counter that was skipped.
                   when s.counter = $3
                       and s.replaced_at[cardinality(s.replaced_at)] >= greatest($9, s.rotated_at)
                   then s.replaced_at[cardinality(s.replaced_at) - $8 + 2 :] || $4::timestamptz
                   else array[$4::timestamptz]
               end
           from users u
           where s.id = $1 and s.user_id = $2 and s.ended_at is null and s.expires_at > $4
               and s.counter <= $3 and u.id = s.user_id
               and u.deleted_at is null and (u.banned_at is null or u.banned_until <= now())
               and (u.reset_required_at is null or s.created_at < u.reset_required_at
                   or s.amr <> '{pwd}')
               -- Times that lie ahead were written by a clock that was wrong.
               and (s.replaced_at[cardinality(s.replaced_at) - $7 + 1] > $9
                   and s.replaced_at[cardinality(s.replaced_at) - $7 + 1] <= $10) is not true
           returning s.counter, s.rotated_at as "rotated_at!", s.expires_at, s.amr,
               coalesce(s.authenticated_at, s.created_at) as "authenticated_at!", "#
            + COLUMNS,
        id,
        user_id,
        presented,
        now,
        expires_at,
        ip.map(IpNetwork::from),
        most.unwrap_or(i32::MAX),
        most.unwrap_or(KEPT),
        now - BURST,
        now + BURST,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Rotated {
        counter: row.counter,
        rotated_at: row.rotated_at,
        expires_at: row.expires_at,
        authentication: Authentication { amr: row.amr, at: row.authenticated_at },
        user: user_of!(row),
    }))
}

/// What decides about a refresh token that [`renew`] does not take.
#[derive(Clone, Debug)]
pub struct Refreshes {
    pub counter: i64,
    pub successor_used: bool,
    pub successor_given_at: Option<DateTime<Utc>>,
    pub rotated_at: Option<DateTime<Utc>>,
    /// When the latest counters were replaced, the newest last.
    pub replaced_at: Vec<DateTime<Utc>>,
    pub rotated_ip: Option<IpAddr>,
    pub expires_at: DateTime<Utc>,
    pub authentication: Authentication,
}

/// The statement that reads [`Refreshes`] of an active session and its user.
macro_rules! refreshes {
    ($db:expr, $id:expr, $user_id:expr, $now:expr $(, $lock:literal)?) => {{
        let row = query_users!(
            r#"select s.counter, s.successor_used, s.successor_given_at, s.rotated_at, s.replaced_at,
                   s.rotated_ip, s.expires_at, s.amr,
                   coalesce(s.authenticated_at, s.created_at) as "authenticated_at!", "#
                + COLUMNS
                + " from sessions s join users u on u.id = s.user_id
                   where s.id = $1 and s.user_id = $2 and s.ended_at is null
                       and s.expires_at > $3 and u.deleted_at is null
                       and (u.banned_at is null or u.banned_until <= now())
                       and (u.reset_required_at is null or s.created_at < u.reset_required_at
                           or s.amr <> '{pwd}')"
                $(+ $lock)?,
            $id,
            $user_id,
            $now,
        )
        .fetch_optional($db)
        .await?;
        Ok(row.map(|row| {
            let refreshes = Refreshes {
                counter: row.counter,
                successor_used: row.successor_used,
                successor_given_at: row.successor_given_at,
                rotated_at: row.rotated_at,
                replaced_at: row.replaced_at,
                rotated_ip: row.rotated_ip.map(|network| network.ip()),
                expires_at: row.expires_at,
                authentication: Authentication { amr: row.amr, at: row.authenticated_at },
            };
            (refreshes, user_of!(row))
        }))
    }};
}

/// Reads an active session and its user; no other transaction refreshes or ends it before this one
/// ends.
pub async fn find_for_refresh(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(Refreshes, User)>> {
    refreshes!(db, id, user_id, now, " for no key update of s")
}

/// As [`find_for_refresh`], without a lock.
pub async fn find_refreshes(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(Refreshes, User)>> {
    refreshes!(db, id, user_id, now)
}

/// Keeps that the token before the newest one was still good at `now`: the newest pair was given out
/// once more, while it was unused. The release before reads it in `successor_given_at`.
pub async fn set_successor_given(
    db: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update sessions
         set successor_given_at = $2, replaced_at = case
             when replaced_at[cardinality(replaced_at)] >= rotated_at
             -- Another instance, or a request that came later, may have written a later time.
             then replaced_at[: cardinality(replaced_at) - 1] || greatest(replaced_at[cardinality(replaced_at)], $2)
             else array[greatest(rotated_at, $2)]
         end
         where id = $1",
        id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}
