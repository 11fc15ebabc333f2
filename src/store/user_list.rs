//! Lists of users: filtered, sorted, page by page.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::keyset::{Position, SortColumn};
use super::users::{User, query_users};

use crate::fields::{Role, Search};

/// Which users a list holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Each part is one of a username, an address, a pending address or a name, in any case.
    pub search: Option<Search>,
    /// In lower case.
    pub email: Option<String>,
    /// In lower case.
    pub username: Option<String>,
    pub role: Option<Role>,
    pub email_verified: Option<bool>,
    /// At the moment, by the database's clock.
    pub banned: Option<bool>,
}

/// What a list may be sorted by: each with an index of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    CreatedAt,
    ModifiedAt,
    Username,
    Email,
}

impl SortBy {
    pub fn column(self) -> SortColumn {
        match self {
            Self::CreatedAt => SortColumn::Instant("created_at"),
            Self::ModifiedAt => SortColumn::Instant("modified_at"),
            Self::Username => SortColumn::Text("username_key"),
            Self::Email => SortColumn::Text("email_key"),
        }
    }

    /// Where `user` stands in this order.
    pub fn position(self, user: &User) -> Position {
        let instant = |at: DateTime<Utc>| at.timestamp_micros().to_string();
        let value = match self {
            Self::CreatedAt => instant(user.created_at),
            Self::ModifiedAt => instant(user.modified_at),
            Self::Username => user.username.to_ascii_lowercase(),
            Self::Email => user.email.to_ascii_lowercase(),
        };
        Position { value, id: user.id }
    }
}

/// One page: at most `limit` users after `after`, with empty `password_hash`es.
pub async fn list(
    db: &mut PgConnection,
    filter: &Filter,
    (sort_by, descending): (SortBy, bool),
    after: Option<&Position>,
    limit: i64,
) -> sqlx::Result<Vec<User>> {
    let select = concat!("select ", query_users!(COLUMNS), " from users u where true");
    let mut query = QueryBuilder::new(select);
    push_filter(&mut query, filter);
    sort_by.column().push_page(&mut query, descending, after, limit);
    // A generic plan, made for any pattern, would not use the trigram index.
    let persistent = filter.search.is_none();
    query.build_query_as().persistent(persistent).fetch_all(db).await
}

pub async fn count(db: &mut PgConnection, filter: &Filter) -> sqlx::Result<i64> {
    let mut query = QueryBuilder::new("select count(*) from users u where true");
    push_filter(&mut query, filter);
    query.build_query_scalar().fetch_one(db).await
}

fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &Filter) {
    query.push(" and deleted_at is null");
    if let Some(Search { parts, id }) = &filter.search {
        query.push(" and (");
        for (number, part) in parts.iter().enumerate() {
            query.push(if number == 0 { "(" } else { " and (" });
            push_part(query, &format!("%{}%", escape_like(part)));
            query.push(")");
        }
        if let Some(id) = id {
            query.push(" or id = ").push_bind(*id);
        }
        query.push(")");
    }
    for (column, value) in [("email_key", &filter.email), ("username_key", &filter.username)] {
        if let Some(value) = value {
            query.push(format_args!(" and {column} = ")).push_bind(value.clone());
        }
    }
    // A literal, not a parameter: a generic plan could not use the indexes of the rare roles.
    if let Some(role) = filter.role {
        query.push(format_args!(" and role = '{}'", role.as_str()));
    }
    if let Some(verified) = filter.email_verified {
        query.push(format_args!(" and num_nonnulls(email_verified_at) = {}", u8::from(verified)));
    }
    // The banned ones are few: an index holds them alone.
    match filter.banned {
        Some(true) => query
            .push(" and banned_at is not null and (banned_until is null or banned_until > now())"),
        Some(false) => query.push(" and (banned_at is null or banned_until <= now())"),
        None => query,
    };
}

fn push_part(query: &mut QueryBuilder<Postgres>, pattern: &str) {
    query.push("username_key like ").push_bind(pattern.to_ascii_lowercase());
    query.push(" or email_key like ").push_bind(pattern.to_ascii_lowercase());
    query.push(" or lower(pending_email) like ").push_bind(pattern.to_ascii_lowercase());
    // Names may be in any script, and lower-casing depends on the database's locale. So the
    // database folds both sides: a name's own spelling finds it under every locale.
    query.push(" or lower(first_name || ' ' || last_name) like lower(");
    query.push_bind(pattern.to_owned()).push(")");
}

/// Escapes the wildcards of `like`.
fn escape_like(part: &str) -> String {
    part.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
