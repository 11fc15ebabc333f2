//! People.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{FromRow, PgConnection, Postgres};
use uuid::Uuid;

use super::standing::Standing;
use crate::fields::{Email, Name, Role, Username};

#[derive(Clone, Debug, FromRow)]
pub struct User {
    pub id: Uuid,
    pub username: String,
    pub email: String,
    pub email_verified_at: Option<DateTime<Utc>>,
    /// A new address that awaits confirmation while `email` is verified.
    pub pending_email: Option<String>,
    pub first_name: String,
    pub last_name: String,
    pub role: Role,
    #[sqlx(try_from = "String")]
    pub password_hash: SecretString,
    pub created_at: DateTime<Utc>,
    pub modified_at: DateTime<Utc>,
    #[sqlx(flatten)]
    pub standing: Standing,
}

impl User {
    pub fn is_email_verified(&self) -> bool {
        self.email_verified_at.is_some()
    }

    /// Of its own, or one that waits to replace it.
    pub fn has_address_to_confirm(&self) -> bool {
        !self.is_email_verified() || self.pending_email.is_some()
    }

    /// The pending address, or else the user's own.
    pub fn address_to_confirm(&self) -> &str {
        self.pending_email.as_ref().unwrap_or(&self.email)
    }
}

/// A role is a text column whose check constraint knows the same words.
impl sqlx::Type<Postgres> for Role {
    fn type_info() -> sqlx::postgres::PgTypeInfo {
        <String as sqlx::Type<Postgres>>::type_info()
    }
}

impl<'r> sqlx::Decode<'r, Postgres> for Role {
    fn decode(value: sqlx::postgres::PgValueRef<'r>) -> Result<Self, sqlx::error::BoxDynError> {
        Ok(Self::try_from(<String as sqlx::Decode<Postgres>>::decode(value)?)?)
    }
}

/// `query!("before" + COLUMNS + "after", arguments)`: a checked query that yields all columns of
/// the user `u`, for [`user_of!`]. Other columns of it need other names. `query_users!(COLUMNS)` is
/// the list for a query that is put together at run time: plain text, without the password's hash.
///
/// A column of `users` is named here, in [`user_of!`] and in [`User`], and by what writes it.
macro_rules! query_users {
    ($before:literal + COLUMNS $(+ $after:literal)* $(, $argument:expr)* $(,)?) => {
        query_users!(@[sqlx::query] [$before +] [
            + r#", u.role as "role: crate::fields::Role", u.password_hash,
              (u.banned_at is not null and coalesce(u.banned_until > now(), true)) as "is_banned!""#
            $(+ $after)*
            $(, $argument)*
        ])
    };
    (COLUMNS) => {
        query_users!(@[concat] [] [
            , ", u.role, '' as password_hash, \
               (u.banned_at is not null and coalesce(u.banned_until > now(), true)) as is_banned"
        ])
    };
    (@[$($query:tt)+] [$($before:tt)*] [$($after:tt)*]) => {
        $($query)+!(
            $($before)*
            "u.id, u.username, u.email, u.email_verified_at, u.pending_email, u.first_name, \
             u.last_name, u.created_at, u.modified_at, u.deleted_at, u.purge_at, \
             u.reset_required_at, u.banned_until, u.ban_reason, u.banned_by"
            $($after)*
        )
    };
}

/// The user in a row of [`query_users!`]. `user_of!(row?)` leaves the function with `None` where a
/// column is null: for an outer join, or where PostgreSQL cannot say that no column is.
macro_rules! user_of {
    ($row:ident $($or_none:tt)?) => {
        $crate::store::users::User {
            id: $row.id $($or_none)?,
            username: $row.username $($or_none)?,
            email: $row.email $($or_none)?,
            email_verified_at: $row.email_verified_at,
            pending_email: $row.pending_email,
            first_name: $row.first_name $($or_none)?,
            last_name: $row.last_name $($or_none)?,
            role: $row.role $($or_none)?,
            password_hash: ::secrecy::SecretString::from($row.password_hash $($or_none)?),
            created_at: $row.created_at $($or_none)?,
            modified_at: $row.modified_at $($or_none)?,
            standing: $crate::store::standing::Standing {
                deleted_at: $row.deleted_at,
                purge_at: $row.purge_at,
                reset_required_at: $row.reset_required_at,
                is_banned: $row.is_banned,
                banned_until: $row.banned_until,
                ban_reason: $row.ban_reason,
                banned_by: $row.banned_by,
            },
        }
    };
}

pub(in crate::store) use {query_users, user_of};

#[derive(Clone, Debug)]
pub struct NewUser<'a> {
    pub id: Uuid,
    pub username: &'a Username,
    pub email: &'a Email,
    pub email_verified_at: Option<DateTime<Utc>>,
    pub first_name: &'a Name,
    pub last_name: &'a Name,
    pub role: Role,
    pub password_hash: &'a SecretString,
}

/// Fails with a violation of `users_username_key` or `users_email_key` when the name or the address
/// is taken.
pub async fn insert(
    db: &mut PgConnection,
    user: &NewUser<'_>,
    now: DateTime<Utc>,
) -> sqlx::Result<User> {
    let row = query_users!(
        "insert into users as u (id, username, email, email_verified_at, first_name, last_name,
             role, password_hash, created_at, modified_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
         returning "
            + COLUMNS,
        user.id,
        user.username.as_str(),
        user.email.as_str(),
        user.email_verified_at,
        user.first_name.as_str(),
        user.last_name.as_str(),
        user.role.as_str(),
        user.password_hash.expose_secret(),
        now,
    );
    row.map(|row| user_of!(row)).fetch_one(db).await
}

pub async fn find(db: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<User>> {
    let row = query_users!("select " + COLUMNS + " from users u where u.id = $1", id);
    row.map(|row| user_of!(row)).fetch_optional(db).await
}

/// The user with this address, in any case.
pub async fn find_by_email(db: &mut PgConnection, email: &str) -> sqlx::Result<Option<User>> {
    let row = query_users!(
        "select " + COLUMNS + " from users u where u.email_key = $1",
        email.to_ascii_lowercase()
    );
    row.map(|row| user_of!(row)).fetch_optional(db).await
}

/// Reads a user, whom no other transaction changes until this one ends.
pub async fn find_for_update(db: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<User>> {
    let row =
        query_users!("select " + COLUMNS + " from users u where u.id = $1 for no key update", id);
    row.map(|row| user_of!(row)).fetch_optional(db).await
}

/// Reads a user after a change that is in flight; no other transaction changes them until this one
/// ends.
pub async fn find_for_share(db: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<User>> {
    let row = query_users!("select " + COLUMNS + " from users u where u.id = $1 for share", id);
    row.map(|row| user_of!(row)).fetch_optional(db).await
}

/// Writes what a user may change about themselves. `false`, with nothing written, if `new_pending`
/// is some user's address.
pub async fn update_profile(
    db: &mut PgConnection,
    user: &User,
    new_pending: Option<&str>,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update users set username = $2, email = $3, email_verified_at = $4, pending_email = $5,
             first_name = $6, last_name = $7, modified_at = $8
         where id = $1 and not exists (select from users where email_key = $9)",
        user.id,
        user.username,
        user.email,
        user.email_verified_at,
        user.pending_email,
        user.first_name,
        user.last_name,
        user.modified_at,
        new_pending.map(str::to_ascii_lowercase),
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether a user other than `but` has this name, and whether one has this address, in any case.
pub async fn find_taken(
    db: &mut PgConnection,
    username: &str,
    email: &str,
    but: Option<Uuid>,
) -> sqlx::Result<(bool, bool)> {
    let row = sqlx::query!(
        r#"select
             exists (select from users where username_key = $1 and id is distinct from $3) as "name!",
             exists (select from users where email_key = $2 and id is distinct from $3) as "email!""#,
        username.to_ascii_lowercase(),
        email.to_ascii_lowercase(),
        but
    )
    .fetch_one(db)
    .await?;
    Ok((row.name, row.email))
}

/// Whether a user other than `but` has this address, in any case.
pub async fn is_email_taken(db: &mut PgConnection, email: &str, but: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from users where email_key = $1 and id <> $2) as "taken!""#,
        email.to_ascii_lowercase(),
        but
    )
    .fetch_one(db)
    .await
}

/// Replaces the hash of a password that was changed. An address that waits to be confirmed is
/// dropped: a thief of the old password may have set it.
pub async fn set_password_hash(
    db: &mut PgConnection,
    id: Uuid,
    new: &SecretString,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set password_hash = $2, pending_email = null, modified_at = $3,
             password_set_at = $3, reset_required_at = null
         where id = $1",
        id,
        new.expose_secret(),
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Sets the password by a letter to the address, which is proven by that.
pub async fn reset_password(
    db: &mut PgConnection,
    id: Uuid,
    hash: &SecretString,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    set_password_hash(db, id, hash, now).await?;
    sqlx::query!(
        "update users set email_verified_at = coalesce(email_verified_at, $2) where id = $1",
        id,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Replaces the hash of an unchanged password with one of today's parameters, if `old` is still the
/// stored one.
pub async fn set_rehashed_password(
    db: &mut PgConnection,
    id: Uuid,
    old: &SecretString,
    new: &SecretString,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set password_hash = $3 where id = $1 and password_hash = $2",
        id,
        old.expose_secret(),
        new.expose_secret()
    )
    .execute(db)
    .await?;
    Ok(())
}

pub async fn set_role(
    db: &mut PgConnection,
    id: Uuid,
    role: Role,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set role = $2, modified_at = $3 where id = $1",
        id,
        role.as_str(),
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

pub async fn delete(db: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from users where id = $1", id).execute(db).await?;
    Ok(())
}

/// Deletes the user with this address, in any case, if they never proved it: whoever reads its letters
/// has it. Their id; none of the staff.
pub async fn delete_unverified(db: &mut PgConnection, email: &Email) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "delete from users
         where email_key = $1 and email_verified_at is null and role = 'user'
         returning id",
        email.as_str().to_ascii_lowercase(),
    )
    .fetch_optional(db)
    .await
}

/// How many there are: exact up to `most`, beyond that the planner's estimate, as a count reads
/// every row.
pub async fn count_about(db: &mut PgConnection, most: i64) -> sqlx::Result<i64> {
    let counted = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from users limit $1) sample"#,
        most + 1
    )
    .fetch_one(&mut *db)
    .await?;
    if counted <= most { Ok(counted) } else { super::db::estimate(db, "select from users").await }
}
