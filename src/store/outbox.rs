//! Letters that wait to be sent.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

/// How long a claimed letter is its claimer's. Longer than a letter takes at most, or it would go out
/// twice: until it is begun, sent and settled.
pub const LEASE: TimeDelta = TimeDelta::seconds(140);

/// What a letter is about. A new one is a variant here with its word, a file in `worker/letters/`,
/// and its template in `mail/letters/`. Its word must be new, too: a release that knows the word
/// claims the letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterKind {
    /// Tells a user that their account is deleted, with the link that takes that back.
    AccountDeleted,
    /// Tells a user that it was taken back.
    AccountRestored,
    /// Tells a user that they are banned no longer.
    BanLifted,
    /// Asks the recipient to confirm that the address is theirs.
    Confirmation,
    /// Tells the old address that a new one waits to be confirmed.
    EmailChangeNotice,
    /// Has the link by which an invited person makes an account.
    Invitation,
    /// Tells a user that their password was changed, by whoever.
    PasswordChanged,
    /// Tells a user of a login from a device that was not seen before.
    NewDevice,
    /// Has the link and the code by which a password is reset.
    Reset,
    /// Shows an operator that a worker runs and letters leave.
    Test,
}

impl LetterKind {
    /// All that this release knows; a newer release's are left to it.
    pub const ALL: [Self; 10] = [
        Self::AccountDeleted,
        Self::AccountRestored,
        Self::BanLifted,
        Self::Confirmation,
        Self::EmailChangeNotice,
        Self::Invitation,
        Self::NewDevice,
        Self::PasswordChanged,
        Self::Reset,
        Self::Test,
    ];

    /// Its word here, and the name of its template.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccountDeleted => "account_deleted",
            Self::AccountRestored => "account_restored",
            Self::BanLifted => "ban_lifted",
            Self::Confirmation => "confirmation",
            Self::EmailChangeNotice => "email_change_notice",
            Self::Invitation => "invitation",
            Self::NewDevice => "new_device",
            Self::PasswordChanged => "password_changed",
            Self::Reset => "reset",
            Self::Test => "test",
        }
    }

    fn read(raw: &str) -> sqlx::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == raw)
            .ok_or_else(|| sqlx::Error::Decode(format!("unknown kind of letter {raw:?}").into()))
    }

    /// As the claim takes them.
    fn words() -> [&'static str; Self::ALL.len()] {
        Self::ALL.map(Self::as_str)
    }
}

#[derive(Clone, Debug)]
pub struct NewLetter<'a> {
    pub kind: LetterKind,
    /// The user that it is about: it goes when they are deleted.
    pub user_id: Option<Uuid>,
    pub recipient: &'a str,
    /// What its kind's file reads when it is sent; never a secret.
    pub data: Value,
    /// What its link or its code stands for.
    pub challenge_id: Option<Uuid>,
}

/// A letter that the caller has claimed.
#[derive(Clone, Debug)]
pub struct ClaimedLetter {
    pub id: Uuid,
    pub kind: LetterKind,
    pub user_id: Option<Uuid>,
    pub recipient: String,
    pub data: Value,
    /// What its link and its code stand for.
    pub challenge_id: Option<Uuid>,
    pub challenge_expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// Including this one.
    pub attempts: i32,
}

/// Queues letters, all distinct; of a user none that is identical to another that still awaits
/// its first attempt. They are due at once, even for an instance whose clock is behind the
/// caller's.
pub async fn insert(
    db: &mut PgConnection,
    letters: &[NewLetter<'_>],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = letters.iter().map(|_| Uuid::now_v7()).collect();
    let user_ids: Vec<Option<Uuid>> = letters.iter().map(|letter| letter.user_id).collect();
    let kinds: Vec<&str> = letters.iter().map(|letter| letter.kind.as_str()).collect();
    let recipients: Vec<&str> = letters.iter().map(|letter| letter.recipient).collect();
    let data: Vec<&Value> = letters.iter().map(|letter| &letter.data).collect();
    let challenges: Vec<Option<Uuid>> = letters.iter().map(|letter| letter.challenge_id).collect();
    sqlx::query!(
        "insert into outbox (id, user_id, kind, recipient, data, challenge_id, created_at, next_attempt_at)
         select asked.*, $7, least($7, now())
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::uuid[])
             as asked (id, user_id, kind, recipient, data, challenge_id)
         where not exists (
             select from outbox
             where user_id = asked.user_id and kind = asked.kind and recipient = asked.recipient
                 and data = asked.data and attempts = 0 and sent_at is null and failed_at is null
         )",
        &ids,
        &user_ids as &[Option<Uuid>],
        &kinds as &[&str],
        &recipients as &[&str],
        &data as &[&Value],
        &challenges as &[Option<Uuid>],
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Whether a letter of this kind from a user to this recipient waits to be sent.
pub async fn is_waiting(
    db: &mut PgConnection,
    user_id: Uuid,
    kind: LetterKind,
    recipient: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select from outbox
               where user_id = $1 and kind = $2 and recipient = $3
                   and sent_at is null and failed_at is null
           ) as "is_waiting!""#,
        user_id,
        kind.as_str(),
        recipient
    )
    .fetch_one(db)
    .await
}

/// Claims the letter that has been due longest. No other worker gets it before `now + lease`: by
/// then the caller has settled it or died. A claim whose answer is lost costs the letter that wait
/// and one attempt, so the claim may be repeated.
pub async fn claim_next(
    db: &mut PgConnection,
    now: DateTime<Utc>,
    lease: TimeDelta,
) -> sqlx::Result<Option<ClaimedLetter>> {
    let row = sqlx::query!(
        "update outbox set attempts = attempts + 1, next_attempt_at = $2
         where id = (
             select id from outbox
             where sent_at is null and failed_at is null and next_attempt_at <= $1
                 and kind = any($3)
             order by next_attempt_at
             limit 1
             for update skip locked
         )
         returning id, kind, user_id, recipient, data, challenge_id, created_at, attempts,
             (select expires_at from challenges where id = challenge_id) as challenge_expires_at",
        now,
        now + lease,
        &LetterKind::words() as &[&str],
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(ClaimedLetter {
        id: row.id,
        kind: LetterKind::read(&row.kind)?,
        user_id: row.user_id,
        recipient: row.recipient,
        data: row.data,
        challenge_id: row.challenge_id,
        challenge_expires_at: row.challenge_expires_at,
        created_at: row.created_at,
        attempts: row.attempts,
    }))
}

pub async fn set_sent(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!("update outbox set sent_at = $2, last_error = null where id = $1", id, now)
        .execute(db)
        .await?;
    Ok(())
}

/// Says whom a letter is about: it goes when they are removed.
pub async fn set_user(db: &mut PgConnection, id: Uuid, user_id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("update outbox set user_id = $2 where id = $1", id, user_id).execute(db).await?;
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

/// What a letter that is tried once more is, and whom it is about.
#[derive(Clone, Debug)]
pub struct Retried {
    pub kind: String,
    pub user_id: Option<Uuid>,
}

/// Makes a letter that waits or was given up due at once, with as many attempts as a new one if it was
/// given up; `None` if it is neither. One that is due before a lease could end may be on its way: its
/// time stays, else it would go out twice.
pub async fn set_due(
    db: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Retried>> {
    sqlx::query_as!(
        Retried,
        "update outbox set failed_at = null,
             attempts = case when failed_at is null then attempts else 0 end,
             next_attempt_at = case
                 when failed_at is null and attempts > 0 and next_attempt_at <= $3
                     then next_attempt_at
                 else least($2, now())
             end
         where id = $1 and sent_at is null
         returning kind, user_id",
        id,
        now,
        now + LEASE,
    )
    .fetch_optional(db)
    .await
}

/// Forgets a letter.
pub async fn delete(db: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from outbox where id = $1", id).execute(db).await?;
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

/// When the next letter of a known kind is due.
pub async fn first_due(db: &mut PgConnection) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "select min(next_attempt_at) from outbox
         where sent_at is null and failed_at is null and kind = any($1)",
        &LetterKind::words() as &[&str],
    )
    .fetch_one(db)
    .await
}

/// Removes at most 1,000 letters that were settled before `before`, or whose link has long run out:
/// without a mail server nothing settles those.
pub async fn delete_settled(db: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "delete from outbox where id in (
             select id from outbox
             where created_at < $1 and (coalesce(sent_at, failed_at) < $1 or kind in ('reset', 'invitation'))
             order by created_at limit 1000
             for update skip locked
         )",
        before
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
