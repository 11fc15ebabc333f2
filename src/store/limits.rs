//! How often something has been tried lately.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

/// How much of something is allowed.
#[derive(Clone, Copy, Debug)]
pub enum Allowance {
    /// `burst` at once; each is given back after another `every`.
    Bucket { burst: i32, every: TimeDelta },
    /// `count` in `length`, from the first one on.
    Window { count: i32, length: TimeDelta },
}

/// What the database says to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed,
    /// Refused; the next one may be allowed at that instant.
    Refused(DateTime<Utc>),
}

/// Counts one attempt under `key`, if it is allowed: one statement, so that guesses in parallel count.
pub async fn reserve(
    db: &mut PgConnection,
    key: &[u8],
    allowance: Allowance,
    now: DateTime<Utc>,
) -> sqlx::Result<Decision> {
    let (max, length, drains) = match allowance {
        Allowance::Bucket { burst, every } => (burst, every, true),
        Allowance::Window { count, length } => (count, length, false),
    };
    let seconds = length.as_seconds_f64();
    // A bucket that is full to the brim is empty after this long.
    let memory = if drains { length * max } else { length };
    let row = sqlx::query!(
        r#"insert into limits as l (key, level, at, allowed, expires_at) values ($1, 1, $2, true, $3)
           on conflict (key) do update set (level, at, allowed, expires_at) = (
               select
                   used + case when used + 1 <= $4::double precision then 1 else 0 end,
                   case when $6 or used = 0 then $2 else l.at end,
                   used + 1 <= $4::double precision,
                   case when $6 or used = 0 then $3 else l.expires_at end
               from (select case
                   when $6 then greatest(0, l.level - greatest(0, extract(epoch from $2 - l.at)::double precision) / $5::double precision)
                   when extract(epoch from $2 - l.at)::double precision >= $5::double precision then 0
                   else l.level
               end::double precision as used) as present
           )
           returning level, at, allowed"#,
        key,
        now,
        now + memory,
        f64::from(max),
        seconds,
        drains,
    )
    .fetch_one(db)
    .await?;
    if row.allowed {
        return Ok(Decision::Allowed);
    }
    let wait = if drains { (row.level + 1.0 - f64::from(max)) * seconds } else { seconds };
    #[expect(clippy::cast_possible_truncation, reason = "the length of a limit in milliseconds")]
    let wait = TimeDelta::milliseconds((wait * 1000.0).ceil() as i64);
    Ok(Decision::Refused(row.at + wait))
}

/// Gives one attempt back: it was none of those that the limit is there for.
pub async fn give_back(db: &mut PgConnection, keys: &[Vec<u8>]) -> sqlx::Result<()> {
    sqlx::query!("update limits set level = greatest(0, level - 1) where key = any($1)", keys)
        .execute(db)
        .await?;
    Ok(())
}

/// Removes at most 1,000 rows that say nothing any more.
pub async fn delete_expired(db: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "delete from limits where key in (select key from limits where expires_at < $1 limit 1000)",
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
