//! Who is invited to make an account.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::keyset::{Position, SortColumn};
use crate::fields::{Email, Name, Role};

#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Invitation {
    pub id: Uuid,
    pub email: String,
    pub role: Role,
    pub first_name: String,
    pub last_name: String,
    pub invited_by: Uuid,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub accepted_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// What the link in its newest letter names.
    pub challenge_id: Uuid,
}

impl Invitation {
    pub fn position(&self) -> Position {
        Position { value: self.created_at.timestamp_micros().to_string(), id: self.id }
    }
}

/// `query!("before" + COLUMNS + "after", arguments)`: a checked query that yields invitations.
macro_rules! query_invitations {
    ($before:literal + COLUMNS $(+ $after:literal)* $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Invitation,
            $before
                + r#"id, email, role as "role: Role", first_name, last_name, invited_by, created_at,
                     expires_at, accepted_at, revoked_at, challenge_id"#
                $(+ $after)*
            $(, $argument)*
        )
    };
}

#[derive(Clone, Debug)]
pub struct NewInvitation<'a> {
    pub email: &'a Email,
    pub role: Role,
    pub first_name: &'a Name,
    pub last_name: &'a Name,
    pub invited_by: Uuid,
    pub expires_at: DateTime<Utc>,
    pub challenge_id: Uuid,
}

/// Invites an address. An invitation of it that is neither accepted nor revoked is made anew, and
/// its link is void.
pub async fn insert(
    db: &mut PgConnection,
    new: &NewInvitation<'_>,
    now: DateTime<Utc>,
) -> sqlx::Result<Invitation> {
    query_invitations!(
        "insert into invitations (id, email, role, first_name, last_name, invited_by, created_at,
             expires_at, challenge_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (email_key) where accepted_at is null and revoked_at is null do update set
             email = excluded.email, role = excluded.role, first_name = excluded.first_name,
             last_name = excluded.last_name, invited_by = excluded.invited_by,
             expires_at = excluded.expires_at, challenge_id = excluded.challenge_id
         returning "
            + COLUMNS,
        Uuid::now_v7(),
        new.email.as_str(),
        new.role.as_str(),
        new.first_name.as_str(),
        new.last_name.as_str(),
        new.invited_by,
        now,
        new.expires_at,
        new.challenge_id,
    )
    .fetch_one(db)
    .await
}

/// The invitation that a link is for, if it is still good.
pub async fn find_open(
    db: &mut PgConnection,
    challenge_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Invitation>> {
    query_invitations!(
        "select "
            + COLUMNS
            + " from invitations
               where challenge_id = $1 and accepted_at is null and revoked_at is null
                   and expires_at > $2",
        challenge_id,
        now,
    )
    .fetch_optional(db)
    .await
}

/// Uses the link up; whether it was still good. Of several uses at once one is.
pub async fn set_accepted(
    db: &mut PgConnection,
    challenge_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update invitations set accepted_at = $2
         where challenge_id = $1 and accepted_at is null and revoked_at is null
             and expires_at > $2",
        challenge_id,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes an invitation back; `None` if there is none that is neither accepted nor taken back.
pub async fn revoke(
    db: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Invitation>> {
    query_invitations!(
        "update invitations set revoked_at = $2
         where id = $1 and accepted_at is null and revoked_at is null
         returning "
            + COLUMNS,
        id,
        now,
    )
    .fetch_optional(db)
    .await
}

/// The order of the list.
pub const ORDER: SortColumn = SortColumn::Instant("created_at");

/// One page: at most `limit` invitations, newest first, after the one at `after`. Without those
/// that were over before `since`.
pub async fn list(
    db: &mut PgConnection,
    since: DateTime<Utc>,
    after: Option<&Position>,
    limit: i64,
) -> sqlx::Result<Vec<Invitation>> {
    let mut query = sqlx::QueryBuilder::new(
        "select * from invitations where coalesce(accepted_at, revoked_at, expires_at) >= ",
    );
    query.push_bind(since);
    ORDER.push_page(&mut query, true, after, limit);
    query.build_query_as().fetch_all(db).await
}

/// Deletes at most 1,000 that were over before `before`: accepted, taken back or out of time. Skips
/// locked rows.
pub async fn delete_old(db: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "delete from invitations where id in (
             select id from invitations
             where coalesce(accepted_at, revoked_at, expires_at) < $1
             order by created_at limit 1000
             for update skip locked
         )",
        before
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
