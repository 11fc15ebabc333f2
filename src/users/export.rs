//! `GET /users/me/export`: all that is held about the caller, as one JSON document.

use std::net::IpAddr;

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::activity::ActivityEvent;
use crate::account::attempts::{self, Attempts};
use crate::account::client::ClientInfo;
use crate::account::sessions::find_active;
use crate::clock;
use crate::http::error::{ApiError, Code};
use crate::http::session::{CurrentUser, Fresh};
use crate::http::user::PublicUser;
use crate::limits::{Attempt, EXPORT};
use crate::state::AppState;
use crate::store::activity;
use crate::store::audit::{Event, EventKind};
use crate::store::exports::{self, KeptLetter, KeptSession};
use crate::store::users::User;

/// Rows that are read at a time: some 2 MB at the most.
const BATCH: i64 = 2_000;

/// What is held about a person: no hashes, no secrets, and nothing of others.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written part by part")]
pub struct ExportResponse {
    success: bool,
    exported_at: String,
    user: ExportedUser,
    sessions: Vec<ExportedSession>,
    #[schema(value_type = Vec<Object>)]
    identities: [(); 0],
    #[schema(value_type = Vec<Object>)]
    factors: [(); 0],
    #[schema(value_type = Vec<Object>)]
    tokens: [(); 0],
    letters: Vec<ExportedLetter>,
    activity: Vec<ActivityEvent>,
}

#[derive(Serialize, ToSchema)]
pub struct ExportedUser {
    #[serde(flatten)]
    user: PublicUser,
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    email_verified_at: Option<DateTime<Utc>>,
    /// The last ban, where one is kept.
    #[schema(required = true)]
    banned: Option<ExportedBan>,
}

#[derive(Serialize, ToSchema)]
pub struct ExportedBan {
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    until: Option<DateTime<Utc>>,
    reason: String,
}

#[derive(Serialize, ToSchema)]
pub struct ExportedSession {
    public_id: Uuid,
    /// Whether it is the one that asks.
    current: bool,
    #[schema(required = true, value_type = Option<String>)]
    ip: Option<IpAddr>,
    /// What the program said of itself.
    #[schema(required = true)]
    user_agent: Option<String>,
    amr: Vec<String>,
    #[serde(serialize_with = "clock::rfc3339")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339")]
    last_used_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339")]
    expires_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    ended_at: Option<DateTime<Utc>>,
    #[schema(required = true)]
    end_reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct ExportedLetter {
    kind: String,
    recipient: String,
    #[serde(serialize_with = "clock::rfc3339")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    sent_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    failed_at: Option<DateTime<Utc>>,
}

/// Gives the caller all that is held about them, as a file.
///
/// It asks for a fresh proof of who calls. Where the session ends while it is sent, it breaks off.
#[utoipa::path(
    get, path = "/api/v1/users/me/export", operation_id = "export_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "All that is held about the caller.",
        headers(("content-disposition" = String, description = "`attachment`, with a name.")),
        body = ExportResponse)),
    extensions(("x-codes" = json!([Code::StepUpRequired, Code::RateLimited]))),
)]
pub async fn export(
    Fresh(caller): Fresh<CurrentUser>,
    State(state): State<AppState>,
    client: ClientInfo,
) -> Result<Response, ApiError> {
    let now = state.clock.now();
    let own = Attempt::on(&EXPORT, &caller.user.id.to_string());
    let [counted] = attempts::count(&state, [Attempts::refunded_if_dropped([own])], now).await?;
    let mut tx = state.db.begin().await?;
    let event = Event::by(caller.actor(&client), EventKind::Exported).on(caller.user.id);
    state.record(&mut tx, event, now).await?;
    counted.charge_in(&mut tx);
    tx.commit().await?;
    let name = format!("attachment; filename=\"account-{}.json\"", now.format("%Y-%m-%d"));
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_DISPOSITION, name),
    ];
    let export = Export { state, caller, now, is_first: true };
    let parts = stream::try_unfold((export, Some(Part::Head)), async |(mut export, part)| {
        let Some(part) = part else { return Ok::<_, BoxError>(None) };
        let (bytes, next) = export.write(part).await?;
        Ok(Some((bytes, (export, next))))
    });
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// An export that is being written. Each batch is a query of its own, so that a slow reader holds
/// neither memory nor a connection.
struct Export {
    state: AppState,
    caller: CurrentUser,
    now: DateTime<Utc>,
    /// No row of this list has been written.
    is_first: bool,
}

/// What comes next, after the last row so far.
enum Part {
    Head,
    Sessions(Uuid),
    Letters(Uuid),
    Activity(Option<i64>),
}

impl Export {
    async fn write(&mut self, part: Part) -> Result<(Bytes, Option<Part>), BoxError> {
        let (state, id, session) = (&self.state, self.caller.user.id, self.caller.session.id);
        if find_active(state, session, id, state.clock.now()).await?.is_none() {
            return Err("the session has ended".into());
        }
        let mut out = Vec::new();
        let next = match part {
            Part::Head => {
                self.head(&mut out)?;
                Some(Part::Sessions(Uuid::nil()))
            }
            Part::Sessions(after) => {
                let find =
                    state.db.read_many(|db| Box::pin(exports::list_sessions(db, id, after, BATCH)));
                let found = find.await?;
                let more = more(&found).map(|last| Part::Sessions(last.id));
                let shown = found.into_iter().map(|kept| ExportedSession::new(kept, session));
                self.rows(&mut out, shown)?;
                more.or_else(|| {
                    let rest = r#"],"identities":[],"factors":[],"tokens":[],"letters":["#;
                    self.begin(&mut out, rest);
                    Some(Part::Letters(Uuid::nil()))
                })
            }
            Part::Letters(after) => {
                let find =
                    state.db.read_many(|db| Box::pin(exports::list_letters(db, id, after, BATCH)));
                let found = find.await?;
                let more = more(&found).map(|last| Part::Letters(last.id));
                self.rows(&mut out, found.into_iter().map(ExportedLetter::from))?;
                more.or_else(|| {
                    self.begin(&mut out, r#"],"activity":["#);
                    Some(Part::Activity(None))
                })
            }
            Part::Activity(after) => {
                let find = state.db.read_many(|db| Box::pin(activity::list(db, id, after, BATCH)));
                let found = find.await?;
                let more = more(&found).map(|last| Part::Activity(Some(last.id)));
                self.rows(&mut out, found.into_iter().map(ActivityEvent::from))?;
                if more.is_none() {
                    out.extend(b"]}");
                }
                more
            }
        };
        Ok((out.into(), next))
    }

    fn head(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        out.extend(br#"{"success":true,"exported_at":"#);
        clock::rfc3339(&self.now, &mut serde_json::Serializer::new(&mut *out))?;
        out.extend(br#","user":"#);
        serde_json::to_writer(&mut *out, &ExportedUser::from(self.caller.user.clone()))?;
        out.extend(br#","sessions":["#);
        Ok(())
    }

    /// Ends one list and begins the next.
    fn begin(&mut self, out: &mut Vec<u8>, words: &str) {
        self.is_first = true;
        out.extend(words.as_bytes());
    }

    fn rows<T: Serialize>(
        &mut self,
        out: &mut Vec<u8>,
        rows: impl Iterator<Item = T>,
    ) -> serde_json::Result<()> {
        for row in rows {
            if !std::mem::take(&mut self.is_first) {
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, &row)?;
        }
        Ok(())
    }
}

/// The last row of a batch that others may follow.
fn more<T>(found: &[T]) -> Option<&T> {
    let is_full = i64::try_from(found.len()).is_ok_and(|found| found == BATCH);
    found.last().filter(|_| is_full)
}

impl From<User> for ExportedUser {
    fn from(user: User) -> Self {
        let (email_verified_at, until) = (user.email_verified_at, user.standing.banned_until);
        let reason = user.standing.ban_reason.clone();
        let banned = reason.map(|reason| ExportedBan { until, reason });
        Self { user: user.into(), email_verified_at, banned }
    }
}

impl ExportedSession {
    fn new(kept: KeptSession, current: Uuid) -> Self {
        Self {
            public_id: kept.id,
            current: kept.id == current,
            ip: kept.ip,
            user_agent: kept.user_agent,
            amr: kept.amr,
            created_at: kept.created_at,
            last_used_at: kept.rotated_at.unwrap_or(kept.created_at),
            expires_at: kept.expires_at,
            ended_at: kept.ended_at,
            end_reason: kept.end_reason,
        }
    }
}

impl From<KeptLetter> for ExportedLetter {
    fn from(kept: KeptLetter) -> Self {
        let KeptLetter { kind, recipient, created_at, sent_at, failed_at, .. } = kept;
        Self { kind, recipient, created_at, sent_at, failed_at }
    }
}
