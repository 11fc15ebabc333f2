//! Pages by keyset: each begins after the last row of the page before it. An index finds what
//! follows, however far down a list.

use chrono::{DateTime, Datelike, Utc};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

/// The last row of a page: its value in the list's order, and its id, which decides among equal
/// values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Of an instant the microseconds since 1970.
    pub value: String,
    pub id: Uuid,
}

impl Position {
    /// Years 0 to 9999 only: chrono's range begins long before PostgreSQL's.
    fn instant(&self) -> Option<DateTime<Utc>> {
        let at = self.value.parse().ok().and_then(DateTime::from_timestamp_micros);
        at.filter(|at| (0..10_000).contains(&at.year()))
    }
}

/// A column that a list can be sorted by, never null, under an index of this column and the id.
#[derive(Clone, Copy, Debug)]
pub enum SortColumn {
    Instant(&'static str),
    Text(&'static str),
}

impl SortColumn {
    /// Whether `position` can be one of a list in this order.
    pub fn fits(self, position: &Position) -> bool {
        match self {
            Self::Instant(_) => position.instant().is_some(),
            Self::Text(_) => !position.value.contains('\0'),
        }
    }

    /// Ends a query, whose `where` is open to one more ` and`: at most `limit` rows after `after`.
    pub fn push_page(
        self,
        query: &mut QueryBuilder<Postgres>,
        descending: bool,
        after: Option<&Position>,
        limit: i64,
    ) {
        let (Self::Instant(column) | Self::Text(column)) = self;
        let (direction, beyond) = if descending { ("desc", "<") } else { ("asc", ">") };
        if let Some(position) = after {
            // The key is in sub-selects, hidden from the planner, and the limit is a literal,
            // visible to it: so the generic plan looks as good as any custom one, and is not remade
            // for each page.
            query.push(format_args!(" and ({column}, id) {beyond} ((select "));
            match self {
                Self::Instant(_) => query.push_bind(position.instant()),
                Self::Text(_) => query.push_bind(position.value.clone()),
            };
            query.push("), (select ").push_bind(position.id).push("))");
        }
        query.push(format_args!(" order by {column} {direction}, id {direction} limit {limit}"));
    }
}
