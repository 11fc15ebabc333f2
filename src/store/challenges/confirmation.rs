//! Challenges of letters that ask to confirm an address.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{ChallengeKind, MAX_TRIES};

/// The challenge of a letter by which a user confirms an address.
#[derive(Clone, Copy, Debug)]
pub struct NewConfirmation<'a> {
    pub id: Uuid,
    pub user_id: Uuid,
    pub recipient: &'a str,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Writes a challenge, and makes it that of the letters that wait: their codes are this one's from
/// now on.
pub async fn insert(db: &mut PgConnection, confirmation: &NewConfirmation<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "with challenge as (
             insert into challenges (id, kind, user_id, recipient, created_at, expires_at)
             values ($1, $2, $3, $4, $5, $6)
             returning id, user_id, recipient
         )
         update outbox o set challenge_id = challenge.id
         from challenge
         where o.user_id = challenge.user_id and o.recipient = challenge.recipient
             and o.kind = 'confirmation' and o.sent_at is null and o.failed_at is null",
        confirmation.id,
        ChallengeKind::Confirm.as_str(),
        confirmation.user_id,
        confirmation.recipient,
        confirmation.created_at,
        confirmation.expires_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The challenge of a letter that waits, and when it ends: the newest one that is good until
/// `until` at least.
pub async fn find_waiting(
    db: &mut PgConnection,
    user_id: Uuid,
    recipient: &str,
    until: DateTime<Utc>,
) -> sqlx::Result<Option<(Uuid, DateTime<Utc>)>> {
    let row = sqlx::query!(
        "select c.id, c.expires_at from outbox o join challenges c on c.id = o.challenge_id
         where o.user_id = $1 and o.recipient = $2 and o.kind = 'confirmation'
             and o.sent_at is null and o.failed_at is null
             and c.used_at is null and c.tries < $4 and c.expires_at >= $3
         order by c.expires_at desc limit 1",
        user_id,
        recipient,
        until,
        MAX_TRIES,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.id, row.expires_at)))
}

/// Whose address a challenge confirms, and which, if it is still good but for that.
pub async fn find(
    db: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<(Uuid, String)>> {
    let row = sqlx::query!(
        r#"select user_id as "user_id!", recipient as "recipient!" from challenges
           where id = $1 and kind = $2 and used_at is null and expires_at > $3"#,
        id,
        ChallengeKind::Confirm.as_str(),
        now,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.user_id, row.recipient)))
}

/// Uses up the challenge of a user whose row the caller has locked, and whose address to confirm is
/// still the challenge's; whether it was still good.
pub async fn use_up(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update challenges set used_at = $3
         where id = $1 and kind = $2 and used_at is null and expires_at > $3",
        id,
        ChallengeKind::Confirm.as_str(),
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}
