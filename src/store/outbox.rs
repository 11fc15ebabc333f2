//! Letters that wait to be sent.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// What a letter is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterKind {
    /// Asks the recipient to confirm that the address is theirs.
    Confirmation,
    /// Tells the old address that a new one waits to be confirmed.
    EmailChangeNotice,
}

impl LetterKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Confirmation => "confirmation",
            Self::EmailChangeNotice => "email_change_notice",
        }
    }

    fn read(raw: &str) -> sqlx::Result<Self> {
        [Self::Confirmation, Self::EmailChangeNotice]
            .into_iter()
            .find(|kind| kind.as_str() == raw)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown kind of letter {raw:?}").into()))
    }
}

/// A letter that the caller has claimed, with its user's present data.
#[derive(Clone, Debug)]
pub struct ClaimedLetter {
    pub id: Uuid,
    pub kind: LetterKind,
    pub user_id: Uuid,
    pub recipient: String,
    pub created_at: DateTime<Utc>,
    /// Including this one.
    pub attempts: i32,
    pub username: String,
    pub email: String,
    pub is_email_verified: bool,
    pub pending_email: Option<String>,
}

/// Queues a letter, unless an identical one still awaits its first attempt. It is due at once, even for an instance
/// whose clock is behind the caller's.
pub async fn insert(
    db: &mut PgConnection,
    kind: LetterKind,
    user_id: Uuid,
    recipient: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    insert_all(db, user_id, &[(kind, recipient)], now).await
}

/// As [`insert`], for letters about one user, all distinct.
pub async fn insert_all(
    db: &mut PgConnection,
    user_id: Uuid,
    letters: &[(LetterKind, &str)],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = letters.iter().map(|_| Uuid::now_v7()).collect();
    let (kinds, recipients): (Vec<&str>, Vec<&str>) =
        letters.iter().map(|(kind, recipient)| (kind.as_str(), *recipient)).unzip();
    sqlx::query!(
        "insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at)
         select asked.id, $2, asked.kind, asked.recipient, $5, least($5, now())
         from unnest($1::uuid[], $3::text[], $4::text[]) as asked (id, kind, recipient)
         where not exists (
             select from outbox
             where user_id = $2 and kind = asked.kind and recipient = asked.recipient
               and attempts = 0 and sent_at is null and failed_at is null
         )",
        &ids,
        user_id,
        &kinds as &[&str],
        &recipients as &[&str],
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Claims the letter that has been due longest. Nobody else gets it before `now + lease`: by then the caller has
/// settled it or died.
pub async fn claim_next(
    db: &mut PgConnection,
    now: DateTime<Utc>,
    lease: TimeDelta,
) -> sqlx::Result<Option<ClaimedLetter>> {
    let row = sqlx::query!(
        "update outbox set attempts = attempts + 1, next_attempt_at = $2
         from users
         where users.id = outbox.user_id and outbox.id = (
             select id from outbox
             where sent_at is null and failed_at is null and next_attempt_at <= $1
                 -- One of a newer release's is left to it.
                 and kind in ('confirmation', 'email_change_notice')
             order by next_attempt_at
             limit 1
             for update skip locked
         )
         returning outbox.id, outbox.kind, outbox.user_id, outbox.recipient, outbox.created_at, outbox.attempts,
             users.username, users.email, users.email_verified_at, users.pending_email",
        now,
        now + lease,
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(ClaimedLetter {
        id: row.id,
        kind: LetterKind::read(&row.kind)?,
        user_id: row.user_id,
        recipient: row.recipient,
        created_at: row.created_at,
        attempts: row.attempts,
        username: row.username,
        email: row.email,
        is_email_verified: row.email_verified_at.is_some(),
        pending_email: row.pending_email,
    }))
}

pub async fn set_sent(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!("update outbox set sent_at = $2, last_error = null where id = $1", id, now)
        .execute(db)
        .await?;
    Ok(())
}

/// Gives a letter up, with the reason.
pub async fn set_failed(
    db: &mut PgConnection,
    id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set failed_at = $3, last_error = $2 where id = $1",
        id,
        reason,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Leaves a letter for another attempt.
pub async fn set_next_attempt(
    db: &mut PgConnection,
    id: Uuid,
    reason: &str,
    next_attempt_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update outbox set next_attempt_at = $3, last_error = $2 where id = $1",
        id,
        reason,
        next_attempt_at
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How many letters wait, counted up to `most`, and since when the oldest of these does.
pub async fn count_waiting(
    db: &mut PgConnection,
    most: i64,
) -> sqlx::Result<(i64, Option<DateTime<Utc>>)> {
    let row = sqlx::query!(
        r#"select count(*) as "count!", min(created_at) as oldest from (
             select created_at from outbox
             where sent_at is null and failed_at is null
             order by next_attempt_at limit $1
         ) waiting"#,
        most
    )
    .fetch_one(db)
    .await?;
    Ok((row.count, row.oldest))
}

/// When the next letter is due.
pub async fn first_due(db: &mut PgConnection) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "select min(next_attempt_at) from outbox where sent_at is null and failed_at is null"
    )
    .fetch_one(db)
    .await
}

/// Removes at most 1,000 letters that were settled before `before`.
pub async fn delete_settled(db: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "delete from outbox where id in (
             select id from outbox
             where created_at < $1 and coalesce(sent_at, failed_at) < $1
             order by created_at limit 1000
             for update skip locked
         )",
        before
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
