//! People.

use chrono::{DateTime, Datelike, Utc};
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::fields::{Email, Name, Role, Username};

#[derive(Clone, Debug, FromRow)]
pub struct User {
    pub id: Uuid,
    pub username: String,
    pub email: String,
    pub email_verified_at: Option<DateTime<Utc>>,
    /// Waits for its own confirmation, beside a verified `email`.
    pub pending_email: Option<String>,
    pub first_name: String,
    pub last_name: String,
    pub role: Role,
    pub password_hash: String,
    pub created_at: DateTime<Utc>,
    pub modified_at: DateTime<Utc>,
}

impl User {
    pub fn is_email_verified(&self) -> bool {
        self.email_verified_at.is_some()
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

/// `query_as!(User, "select <all columns> from users " + tail)`.
macro_rules! select_users {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            User,
            r#"select id, username, email, email_verified_at, pending_email, first_name, last_name,
                   role as "role: Role", password_hash, created_at, modified_at
               from users "# + $tail
            $(, $argument)*
        )
    };
}

#[derive(Clone, Debug)]
pub struct NewUser<'a> {
    pub id: Uuid,
    pub username: &'a Username,
    pub email: &'a Email,
    pub email_verified_at: Option<DateTime<Utc>>,
    pub first_name: &'a Name,
    pub last_name: &'a Name,
    pub role: Role,
    pub password_hash: &'a str,
}

/// Fails with a violation of `users_username_key` or `users_email_key` when the name or the address is taken.
pub async fn insert(
    db: &mut PgConnection,
    user: &NewUser<'_>,
    now: DateTime<Utc>,
) -> sqlx::Result<User> {
    sqlx::query!(
        "insert into users (id, username, email, email_verified_at, first_name, last_name, role, password_hash,
             created_at, modified_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
        user.id,
        user.username.as_str(),
        user.email.as_str(),
        user.email_verified_at,
        user.first_name.as_str(),
        user.last_name.as_str(),
        user.role.as_str(),
        user.password_hash,
        now,
    )
    .execute(db)
    .await?;
    Ok(User {
        id: user.id,
        username: user.username.as_str().to_owned(),
        email: user.email.as_str().to_owned(),
        email_verified_at: user.email_verified_at,
        pending_email: None,
        first_name: user.first_name.as_str().to_owned(),
        last_name: user.last_name.as_str().to_owned(),
        role: user.role,
        password_hash: user.password_hash.to_owned(),
        created_at: now,
        modified_at: now,
    })
}

pub async fn find(db: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<User>> {
    select_users!("where id = $1", id).fetch_optional(db).await
}

/// Reads a user and keeps everybody else from changing it until the transaction ends.
pub async fn find_for_update(db: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<User>> {
    select_users!("where id = $1 for no key update", id).fetch_optional(db).await
}

/// Whether somebody has this address, in any case.
pub async fn is_email_taken(db: &mut PgConnection, email: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from users where email_key = $1) as "taken!""#,
        email.to_ascii_lowercase()
    )
    .fetch_one(db)
    .await
}

/// Writes what a user may change about themselves.
pub async fn update_profile(db: &mut PgConnection, user: &User) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set username = $2, email = $3, email_verified_at = $4, pending_email = $5, first_name = $6,
             last_name = $7, modified_at = $8
         where id = $1",
        user.id,
        user.username,
        user.email,
        user.email_verified_at,
        user.pending_email,
        user.first_name,
        user.last_name,
        user.modified_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Replaces the hash of a password that was changed.
pub async fn set_password_hash(
    db: &mut PgConnection,
    id: Uuid,
    new: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set password_hash = $2, modified_at = $3 where id = $1",
        id,
        new,
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Replaces the hash of an unchanged password by one with today's parameters, unless it has been replaced before.
pub async fn set_rehashed_password(
    db: &mut PgConnection,
    id: Uuid,
    old: &str,
    new: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update users set password_hash = $3 where id = $1 and password_hash = $2",
        id,
        old,
        new
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

/// Whoever takes an admin's role away holds this advisory lock; any number does, as long as it never changes.
const ADMINS_LOCK: i64 = 0x6164_6d69_6e73;

/// The ids of all admins. Until the transaction ends nobody else gets past here, so the caller's decision about the
/// last of them stands. A lock of its own and not the rows': a row that was demoted while somebody waited for it stays
/// locked and leaves the list, and then two callers lock the rest in different orders.
pub async fn list_admins_for_update(db: &mut PgConnection) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query!("select pg_advisory_xact_lock($1)", ADMINS_LOCK).execute(&mut *db).await?;
    sqlx::query_scalar!("select id from users where role = 'admin'").fetch_all(db).await
}

pub async fn count_admins(db: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from users where role = 'admin'"#)
        .fetch_one(db)
        .await
}

/// Which users a list holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Part of a username, an e-mail address or a name, in any case.
    pub search: Option<String>,
    pub role: Option<Role>,
    pub email_verified: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    CreatedAt,
    ModifiedAt,
    Username,
    Email,
}

impl SortBy {
    fn column(self) -> &'static str {
        match self {
            Self::CreatedAt => "created_at",
            Self::ModifiedAt => "modified_at",
            Self::Username => "username_key",
            Self::Email => "email_key",
        }
    }

    fn is_instant(self) -> bool {
        matches!(self, Self::CreatedAt | Self::ModifiedAt)
    }

    /// The value by which `user` stands where it stands.
    pub fn value(self, user: &User) -> String {
        let instant = |at: DateTime<Utc>| at.timestamp_micros().to_string();
        match self {
            Self::CreatedAt => instant(user.created_at),
            Self::ModifiedAt => instant(user.modified_at),
            Self::Username => user.username.to_ascii_lowercase(),
            Self::Email => user.email.to_ascii_lowercase(),
        }
    }
}

/// The place of the last user of a page: what comes after it is found by an index, however far down it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub value: String,
    pub id: Uuid,
}

impl Position {
    /// Whether the value is one that `sort_by` sorts by.
    pub fn fits(&self, sort_by: SortBy) -> bool {
        !self.value.contains('\0') && (!sort_by.is_instant() || self.instant().is_some())
    }

    /// One that a clock shows: the years of chrono begin long before those of PostgreSQL.
    fn instant(&self) -> Option<DateTime<Utc>> {
        let at = self.value.parse().ok().and_then(DateTime::from_timestamp_micros);
        at.filter(|at| (0..10_000).contains(&at.year()))
    }
}

/// One page: at most `limit` users after `after`, without the hashes of their passwords.
pub async fn list(
    db: &mut PgConnection,
    filter: &Filter,
    (sort_by, descending): (SortBy, bool),
    after: Option<&Position>,
    limit: i64,
) -> sqlx::Result<Vec<User>> {
    let column = sort_by.column();
    let (direction, beyond) = if descending { ("desc", "<") } else { ("asc", ">") };
    let mut query = QueryBuilder::new(
        "select id, username, email, email_verified_at, pending_email, first_name, last_name, role, '' as password_hash,
             created_at, modified_at
         from users where true",
    );
    push_filter(&mut query, filter);
    if let Some(position) = after {
        // In sub-selects, where the planner does not see how much is left, and the limit as a number, where it does: so
        // one plan is as good as any for a page, and it does not make a new one for each.
        query.push(format_args!(" and ({column}, id) {beyond} ((select "));
        if sort_by.is_instant() {
            query.push_bind(position.instant());
        } else {
            query.push_bind(position.value.clone());
        }
        query.push("), (select ").push_bind(position.id).push("))");
    }
    query.push(format_args!(" order by {column} {direction}, id {direction} limit {limit}"));
    // A plan for any word at all would not look for the word's letters.
    let persistent = filter.search.is_none();
    query.build_query_as().persistent(persistent).fetch_all(db).await
}

pub async fn count(db: &mut PgConnection, filter: &Filter) -> sqlx::Result<i64> {
    let mut query = QueryBuilder::new("select count(*) from users where true");
    push_filter(&mut query, filter);
    query.build_query_scalar().fetch_one(db).await
}

/// How many there are: counted up to `most`, and beyond that as the planner estimates, for a count reads every row.
pub async fn count_about(db: &mut PgConnection, most: i64) -> sqlx::Result<i64> {
    let counted = sqlx::query_scalar!(
        r#"select count(*) as "count!" from (select from users limit $1) sample"#,
        most + 1
    )
    .fetch_one(&mut *db)
    .await?;
    if counted <= most { Ok(counted) } else { super::estimate(db, "select from users").await }
}

fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if let Some(search) = &filter.search {
        let part = format!("%{}%", escape_like(search));
        query.push(" and (username_key like ").push_bind(part.to_ascii_lowercase());
        query.push(" or email_key like ").push_bind(part.to_ascii_lowercase());
        // Names may be of any script, and which letters have a lower case is a matter of the database's locale: it
        // folds both sides, so that a name's own spelling finds it under each.
        query
            .push(" or lower(first_name || ' ' || last_name) like lower(")
            .push_bind(part)
            .push("))");
    }
    // A constant and no parameter: else a plan for all roles could not use the indexes of the rare ones.
    if let Some(role) = filter.role {
        query.push(format_args!(" and role = '{}'", role.as_str()));
    }
    if let Some(verified) = filter.email_verified {
        query.push(format_args!(" and num_nonnulls(email_verified_at) = {}", u8::from(verified)));
    }
}

/// Whatever `like` takes for more than itself.
fn escape_like(part: &str) -> String {
    part.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
