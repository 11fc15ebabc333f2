//! How often something has been tried lately.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use crate::config::limits::Allowance;

impl Allowance {
    /// The capacity, the time per unit or window, and whether it drains.
    fn parts(self) -> (i32, TimeDelta, bool) {
        match self {
            Self::Bucket { burst, every } => (burst, every, true),
            Self::Window { count, length } => (count, length, false),
        }
    }

    /// How long a row matters: a full bucket has drained after this long.
    fn memory(self) -> TimeDelta {
        let (most, length, drains) = self.parts();
        if drains { length * most } else { length }
    }

    /// How long after `at` a refused attempt may be made again.
    fn wait(self, level: f64) -> TimeDelta {
        let (most, length, drains) = self.parts();
        let lengths = if drains { level + 1.0 - f64::from(most) } else { 1.0 };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the length of a limit in milliseconds"
        )]
        let wait = (lengths * length.as_seconds_f64() * 1000.0).ceil() as i64;
        TimeDelta::milliseconds(wait)
    }
}

/// What the database says to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    /// Refused; the next one may be allowed at that instant.
    Refused(DateTime<Utc>),
}

/// Counts an attempt under each key (all distinct) where it is allowed, in one statement, so that
/// parallel guesses count. Locks the rows in the order given. A window that begins further in the
/// future than it is long was begun by a wrong clock, and counts as over. A bucket's time never
/// goes back, but from so far ahead that its clock was wrong: else each attempt at an instance
/// whose clock is behind would give those at another one back what drains in between.
pub async fn reserve(
    db: &mut PgConnection,
    keys: &[Vec<u8>],
    allowances: &[Allowance],
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<Decision>> {
    let parts = || allowances.iter().map(|allowance| allowance.parts());
    let most: Vec<f64> = parts().map(|(most, ..)| f64::from(most)).collect();
    let seconds: Vec<f64> = parts().map(|(_, length, _)| length.as_seconds_f64()).collect();
    let drains: Vec<bool> = parts().map(|(.., drains)| drains).collect();
    let expires_at: Vec<DateTime<Utc>> =
        allowances.iter().map(|allowance| now + allowance.memory()).collect();
    let rows = sqlx::query!(
        r#"insert into limits as l (key, level, at, allowed, expires_at)
           select key, 1, $2, true, expires_at from unnest($1::bytea[], $6::timestamptz[]) as asked (key, expires_at)
           on conflict (key) do update set (level, at, allowed, expires_at) = (
               select
                   used + case when used + 1 <= most then 1 else 0 end,
                   case
                       when drains and l.at <= $2 + most * seconds * interval '1 second' then greatest(l.at, $2)
                       when drains or used = 0 then $2
                       else l.at
                   end,
                   used + 1 <= most,
                   case
                       when drains and l.at <= $2 + most * seconds * interval '1 second'
                           then greatest(l.expires_at, excluded.expires_at)
                       when drains or used = 0 then excluded.expires_at
                       else l.expires_at
                   end
               from (
                   select most, seconds, drains, case
                       when drains then greatest(0, l.level - greatest(0, extract(epoch from $2 - l.at)::double precision) / seconds)
                       when abs(extract(epoch from $2 - l.at)::double precision) >= seconds then 0
                       else l.level
                   end::double precision as used
                   from unnest($1::bytea[], $3::double precision[], $4::double precision[], $5::boolean[])
                       as asked (key, most, seconds, drains)
                   where asked.key = l.key
               ) as present
           )
           returning key, level, at, allowed"#,
        keys,
        now,
        &most,
        &seconds,
        &drains,
        &expires_at,
    )
    .fetch_all(db)
    .await?;
    let decide = |(key, allowance): (&Vec<u8>, &Allowance)| {
        let row = rows.iter().find(|row| row.key == *key).ok_or(sqlx::Error::RowNotFound)?;
        let until = || row.at + allowance.wait(row.level);
        Ok(if row.allowed { Decision::Allowed } else { Decision::Refused(until()) })
    };
    keys.iter().zip(allowances).map(decide).collect()
}

/// Until when attempts under a key are refused, if the last one was.
pub async fn find_refusal(
    db: &mut PgConnection,
    key: &[u8],
    allowance: Allowance,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    let row = sqlx::query!("select level, at from limits where key = $1 and not allowed", key)
        .fetch_optional(db)
        .await?;
    let until = row.map(|row| row.at + allowance.wait(row.level));
    Ok(until.filter(|until| *until > now))
}

/// Refunds one attempt under each key: it was not the kind that the limit is for.
pub async fn refund(db: &mut PgConnection, keys: &[Vec<u8>]) -> sqlx::Result<()> {
    sqlx::query!(
        "with locked as (select key from limits where key = any($1) order by key for no key update)
         update limits l set level = greatest(0, level - 1) from locked where l.key = locked.key",
        keys
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Begins anew under these keys.
pub async fn clear(db: &mut PgConnection, keys: &[Vec<u8>]) -> sqlx::Result<()> {
    sqlx::query!(
        "with locked as (select key from limits where key = any($1) order by key for update)
         delete from limits l using locked where l.key = locked.key",
        keys
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes at most 1,000 expired rows and skips those that are locked: it must not wait for others,
/// who hold rows of their own, locked in another order, and may wait for it.
pub async fn delete_expired(db: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with old as materialized (
             select key from limits where expires_at < $1 limit 1000 for update skip locked
         )
         delete from limits l using old where l.key = old.key",
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
