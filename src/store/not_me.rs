//! "This was not me": the letters' links, and the address that an account gets back.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

/// The row behind the link of a letter that tells of a change.
#[derive(Clone, Debug)]
pub struct NewNotice<'a> {
    pub id: Uuid,
    /// `None`: its link is good for nothing.
    pub user_id: Option<Uuid>,
    /// The address that the letter goes to, which is verified.
    pub recipient: &'a str,
    /// What the letter tells of.
    pub told: &'a str,
    /// When that began.
    pub since: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// A notice whose time is not over, used or not.
#[derive(Clone, Debug)]
pub struct Notice {
    pub id: Uuid,
    pub user_id: Uuid,
    pub recipient: String,
    pub told: String,
    pub created_at: DateTime<Utc>,
    pub is_used: bool,
}

pub async fn insert(db: &mut PgConnection, notice: &NewNotice<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into challenges (id, kind, user_id, recipient, data, created_at, expires_at)
         values ($1, 'not_me', $2, $3, $4, $5, $6)",
        notice.id,
        notice.user_id,
        notice.recipient,
        json!({ "told": notice.told, "since": notice.since }),
        notice.created_at,
        notice.expires_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Unlike a challenge of another kind it is good whatever address the account has by now, and while
/// the account is deleted, if that came after the letter: a thief may have done it.
pub async fn find(
    db: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Notice>> {
    sqlx::query_as!(
        Notice,
        r#"select c.id, c.user_id as "user_id!", c.recipient as "recipient!",
               coalesce(c.data ->> 'told', '') as "told!", c.created_at,
               c.used_at is not null as "is_used!"
           from challenges c join users u on u.id = c.user_id
           where c.id = $1 and c.kind = 'not_me' and c.expires_at > $2
               and (u.deleted_at is null or (c.created_at <= u.deleted_at and u.purge_at > $2))"#,
        id,
        now,
    )
    .fetch_optional(db)
    .await
}

/// Uses a notice up; whether it was still unused. Of several uses at once one is.
pub async fn use_up(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update challenges c set used_at = $2 from users u
         where c.id = $1 and c.kind = 'not_me' and c.used_at is null and c.expires_at > $2
             and u.id = c.user_id
             and (u.deleted_at is null or (c.created_at <= u.deleted_at and u.purge_at > $2))",
        id,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Deletes the notices that went to other addresses since: whoever reads those has lost the account
/// by this one.
pub async fn delete_later(db: &mut PgConnection, notice: &Notice) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from challenges
         where user_id = $1 and kind = 'not_me' and id <> $2 and created_at >= $3
             and lower(recipient) <> lower($4)",
        notice.user_id,
        notice.id,
        notice.created_at,
        notice.recipient,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes the account that somebody made with this address since and never confirmed; its id.
pub async fn delete_unverified(
    db: &mut PgConnection,
    email: &str,
    but: Uuid,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "delete from users
         where email_key = $1 and id <> $2 and email_verified_at is null and role = 'user'
         returning id",
        email.to_ascii_lowercase(),
        but,
    )
    .fetch_optional(db)
    .await
}

/// Gives an account the address that it had, which the reader of its letters has proven; whether no
/// other account has it by now.
pub async fn give_back_address(
    db: &mut PgConnection,
    user_id: Uuid,
    email: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update users set email = $2, email_verified_at = $4, modified_at = $4
         where id = $1
             and not exists (select from users where email_key = $3 and id <> $1)",
        user_id,
        email,
        email.to_ascii_lowercase(),
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}
