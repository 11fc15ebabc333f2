//! What waits for a second step. A row lets nobody in: the client or the letter holds a signed
//! handle that names it (`security/token/handle.rs`).

pub mod confirmation;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::users::{User, query_users, user_of};

/// Wrong codes after which a handle is good for nothing.
pub const MAX_TRIES: i32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeKind {
    /// A password's reset, by link or by code.
    Reset,
    /// An address that is confirmed by code; the letter's link is a token of its own.
    Confirm,
    /// A deletion that can be taken back.
    Restore,
}

impl ChallengeKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Confirm => "confirm",
            Self::Restore => "restore",
        }
    }
}

/// A challenge, and the letter that carries it.
#[derive(Clone, Debug)]
pub struct NewChallenge {
    pub id: Uuid,
    pub kind: ChallengeKind,
    pub letter_id: Uuid,
    /// As it was typed; whoever has the address when the letter is sent is meant.
    pub recipient: String,
    /// Of whoever asked.
    pub ip: Option<IpAddr>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// Writes a challenge and queues its letter, in one statement that reads nothing, so that its time
/// tells nothing. Run twice it is written once.
pub async fn insert_with_letter(
    db: &mut PgConnection,
    challenge: &NewChallenge,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with challenge as (
             insert into challenges (id, kind, recipient, created_at, expires_at, data)
             values ($1, $2, $3, $4, $5, $7)
             on conflict (id) do nothing
             returning id, kind, recipient
         )
         insert into outbox (id, kind, recipient, challenge_id, created_at, next_attempt_at)
         select $6, kind, recipient, id, $4, least($4, now()) from challenge",
        challenge.id,
        challenge.kind.as_str(),
        challenge.recipient,
        challenge.created_at,
        challenge.expires_at,
        challenge.letter_id,
        json!({ "ip": challenge.ip }),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes a challenge of this user, whose letter, if there is one, carries it.
pub async fn insert(
    db: &mut PgConnection,
    id: Uuid,
    kind: ChallengeKind,
    user: &User,
    [created_at, expires_at]: [DateTime<Utc>; 2],
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into challenges (id, kind, user_id, recipient, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        id,
        kind.as_str(),
        user.id,
        user.email,
        created_at,
        expires_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// A challenge that is still good: neither used nor out of time, and its user still has the address
/// that the letter went to. One of a reset is void, too, once the password has been set since. Those
/// of a deleted account restore it, or are good for nothing.
#[derive(Clone, Debug)]
pub struct Open {
    pub id: Uuid,
    pub user: User,
    pub expires_at: DateTime<Utc>,
}

/// For whom a challenge is from now on, and who asked for it.
#[derive(Clone, Debug)]
pub struct Bound {
    /// It was for nobody before.
    pub is_first: bool,
    pub ip: Option<IpAddr>,
}

/// Says for whom a challenge is, once its letter is about to be sent; `None` if it is no longer
/// good.
pub async fn bind(
    db: &mut PgConnection,
    id: Uuid,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Bound>> {
    let row = sqlx::query!(
        r#"with before as (select user_id from challenges where id = $1 for update)
           update challenges c set user_id = $2
           from users u, before
           where c.id = $1 and u.id = $2 and coalesce(before.user_id, $2) = $2
               and c.used_at is null and c.expires_at > $3
               and u.email_key = lower(c.recipient collate "C")
               and (u.password_set_at is null or u.password_set_at <= c.created_at)
               and u.deleted_at is null and (u.banned_at is null or u.banned_until <= now())
           returning before.user_id is null as "is_first!", c.data ->> 'ip' as ip"#,
        id,
        user_id,
        now,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Bound { is_first: row.is_first, ip: row.ip.and_then(|ip| ip.parse().ok()) }))
}

/// Does to a challenge for nobody what [`bind`] does to another: a call that tries a code waits as
/// long for either, and learns nothing from it.
pub async fn bind_to_nobody(db: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("update challenges set user_id = null where id = $1", id).execute(db).await?;
    Ok(())
}

/// The challenge, if it is still good. That of a banned account is not, nor that of a deleted one,
/// unless it takes the deletion back.
pub async fn find_open(
    db: &mut PgConnection,
    id: Uuid,
    kind: ChallengeKind,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Open>> {
    let row = query_users!(
        "select c.expires_at, "
            + COLUMNS
            + r#" from challenges c join users u on u.id = c.user_id
                where c.id = $1 and c.kind = $2 and c.used_at is null and c.expires_at > $3
                    and u.email_key = lower(c.recipient collate "C")
                    and (u.password_set_at is null or u.password_set_at <= c.created_at)
                    and (u.deleted_at is not null) = (c.kind = 'restore')
                    and (c.kind = 'restore' or u.banned_at is null or u.banned_until <= now())"#,
        id,
        kind.as_str(),
        now,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Open { id, expires_at: row.expires_at, user: user_of!(row) }))
}

/// The newest challenge of a user that is still good.
pub async fn find_of_user(
    db: &mut PgConnection,
    user_id: Uuid,
    kind: ChallengeKind,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "select id from challenges
         where user_id = $1 and kind = $2 and used_at is null and expires_at > $3
         order by id desc limit 1",
        user_id,
        kind.as_str(),
        now,
    )
    .fetch_optional(db)
    .await
}

/// The address of a challenge, whether or not anybody has it.
pub async fn find_recipient(db: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select coalesce(recipient, '') as "recipient!" from challenges where id = $1"#,
        id
    )
    .fetch_optional(db)
    .await
}

/// Counts a try of a code, before anything is compared; whether one was left.
pub async fn count_try(
    db: &mut PgConnection,
    id: Uuid,
    kind: ChallengeKind,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update challenges set tries = tries + 1
         where id = $1 and kind = $2 and tries < $4 and used_at is null and expires_at > $3",
        id,
        kind.as_str(),
        now,
        MAX_TRIES,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The code was right: it was no try.
pub async fn give_back_try(db: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("update challenges set tries = greatest(tries - 1, 0) where id = $1", id)
        .execute(db)
        .await?;
    Ok(())
}

/// Uses a challenge up; whether it was still good. Of several uses at once one is.
pub async fn use_up(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        r#"update challenges c set used_at = $2
         from users u
         where c.id = $1 and c.used_at is null and c.expires_at > $2
             and u.id = c.user_id and u.email_key = lower(c.recipient collate "C")
             and (u.password_set_at is null or u.password_set_at <= c.created_at)
             and (u.deleted_at is not null) = (c.kind = 'restore')"#,
        id,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Uses up all of a user's of one kind.
pub async fn void_all(
    db: &mut PgConnection,
    user_id: Uuid,
    kind: ChallengeKind,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update challenges set used_at = $3 where user_id = $1 and kind = $2 and used_at is null",
        user_id,
        kind.as_str(),
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Uses up all of a user's, whatever they are for; but "this was not me", which goes on once the
/// account does.
pub async fn void_every(
    db: &mut PgConnection,
    user_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update challenges set used_at = $2
         where user_id = $1 and used_at is null and kind <> 'not_me'",
        user_id,
        now,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes at most 1,000 that were over before `before`. Skips locked rows.
pub async fn delete_expired(db: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "delete from challenges where id in (
             select id from challenges where expires_at < $1
             order by expires_at limit 1000
             for update skip locked
         )",
        before
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
