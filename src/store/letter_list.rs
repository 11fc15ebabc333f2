//! The letters of the last 30 days as staff see them: filtered, page by page.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection, QueryBuilder};
use uuid::Uuid;

use super::keyset::{Position, SortColumn};
use super::outbox::LetterKind;

/// What has become of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterState {
    /// For its first attempt, or for another.
    Waiting,
    Sent,
    /// Given up.
    Failed,
}

impl LetterState {
    pub const ALL: [Self; 3] = [Self::Waiting, Self::Sent, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Failed => "failed",
        }
    }

    fn condition(self) -> &'static str {
        match self {
            Self::Waiting => " and sent_at is null and failed_at is null",
            Self::Sent => " and sent_at is not null",
            Self::Failed => " and failed_at is not null",
        }
    }
}

/// Which letters a list holds.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub state: Option<LetterState>,
    pub kind: Option<LetterKind>,
    /// Whom they are about.
    pub user_id: Option<Uuid>,
}

/// A letter, as far as it tells nothing that is in it.
#[derive(Clone, Debug, FromRow)]
pub struct ListedLetter {
    pub id: Uuid,
    /// Another release may know others.
    pub kind: String,
    pub recipient: String,
    pub created_at: DateTime<Utc>,
    pub attempts: i32,
    pub sent_at: Option<DateTime<Utc>>,
    pub failed_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
}

impl ListedLetter {
    pub fn state(&self) -> LetterState {
        match (self.sent_at, self.failed_at) {
            (Some(_), _) => LetterState::Sent,
            (None, Some(_)) => LetterState::Failed,
            (None, None) => LetterState::Waiting,
        }
    }

    pub fn position(&self) -> Position {
        Position { value: self.created_at.timestamp_micros().to_string(), id: self.id }
    }
}

/// The order of the list.
pub const ORDER: SortColumn = SortColumn::Instant("created_at");

/// One page: at most `limit` letters, newest first, after the one at `after`.
pub async fn list(
    db: &mut PgConnection,
    filter: &Filter,
    after: Option<&Position>,
    limit: i64,
) -> sqlx::Result<Vec<ListedLetter>> {
    let mut query = QueryBuilder::new(
        "select id, kind, recipient, created_at, attempts, sent_at, failed_at, last_error
         from outbox where true",
    );
    if let Some(state) = filter.state {
        query.push(state.condition());
    }
    if let Some(kind) = filter.kind {
        query.push(" and kind = ").push_bind(kind.as_str());
    }
    if let Some(id) = filter.user_id {
        query.push(" and user_id = ").push_bind(id);
    }
    ORDER.push_page(&mut query, true, after, limit);
    // Planned for its values each time: of a rare kind, or of few that wait, another index is the
    // best.
    query.build_query_as().persistent(false).fetch_all(db).await
}
