//! The audit log: what happened, to whom and by whom.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::ipnetwork::IpNetwork;
use uuid::Uuid;

use crate::context;
use crate::metrics::Tally;

/// One list: the audit log, the security log, the metric and the README's table have the same
/// names.
macro_rules! events {
    ($($variant:ident = $name:literal;)*) => {
        /// What can happen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum EventKind { $($variant,)* }

        impl EventKind {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

events! {
    AccountDisowned = "account_disowned";
    AlreadyTaken = "already_taken";
    AuditRead = "audit_read";
    Banned = "banned";
    CreateAdmin = "create_admin";
    DeletionAsked = "deletion_asked";
    EmailChanged = "email_changed";
    EmailDisowned = "email_disowned";
    EmailVerified = "email_verified";
    Exported = "exported";
    FirstAdmin = "first_admin";
    Forbidden = "forbidden";
    InvitationAccepted = "invitation_accepted";
    InvitationRevoked = "invitation_revoked";
    Invited = "invited";
    LetterRetried = "letter_retried";
    LetterSent = "letter_sent";
    Login = "login";
    LoginRefused = "login_refused";
    Logout = "logout";
    LogoutEverywhere = "logout_everywhere";
    NotMe = "not_me";
    PasswordChanged = "password_changed";
    PasswordReset = "password_reset";
    ProfileEdited = "profile_edited";
    ProfileUpdated = "profile_updated";
    Purged = "purged";
    RateLimited = "rate_limited";
    RefreshTokenRepeated = "refresh_token_repeated";
    RefreshTokenReused = "refresh_token_reused";
    Registered = "registered";
    ResetAsked = "reset_asked";
    Restored = "restored";
    RoleChanged = "role_changed";
    SessionsEnded = "sessions_ended";
    SessionsRemoved = "sessions_removed";
    StepUp = "step_up";
    Unbanned = "unbanned";
    UserDeleted = "user_deleted";
    WrongPassword = "wrong_password";
}

impl EventKind {
    /// Whether the person to whom it happened may see it: what was done with their account, and not
    /// what others tried or read.
    pub fn is_shown_to_person(self) -> bool {
        match self {
            Self::Banned
            | Self::CreateAdmin
            | Self::DeletionAsked
            | Self::EmailChanged
            | Self::EmailDisowned
            | Self::EmailVerified
            | Self::Exported
            | Self::FirstAdmin
            | Self::InvitationAccepted
            | Self::LetterSent
            | Self::Login
            | Self::Logout
            | Self::LogoutEverywhere
            | Self::NotMe
            | Self::PasswordChanged
            | Self::PasswordReset
            | Self::ProfileEdited
            | Self::ProfileUpdated
            | Self::RefreshTokenRepeated
            | Self::RefreshTokenReused
            | Self::Registered
            | Self::ResetAsked
            | Self::Restored
            | Self::RoleChanged
            | Self::SessionsEnded
            | Self::SessionsRemoved
            | Self::StepUp
            | Self::Unbanned => true,
            // After some of these nobody is left to see them, others are in the log alone.
            Self::AccountDisowned
            | Self::AlreadyTaken
            | Self::AuditRead
            | Self::Forbidden
            | Self::InvitationRevoked
            | Self::Invited
            | Self::LetterRetried
            | Self::LoginRefused
            | Self::Purged
            | Self::RateLimited
            | Self::UserDeleted
            | Self::WrongPassword => false,
        }
    }

    /// Of those that a client can cause at will the span of time in which they are one row.
    fn counted_by(self) -> Option<&'static str> {
        match self {
            Self::RefreshTokenRepeated => Some("minute"),
            Self::AuditRead => Some("hour"),
            _ => None,
        }
    }
}

/// A user who does something in a session of theirs.
#[derive(Clone, Copy, Debug)]
pub struct Actor {
    pub user_id: Uuid,
    pub session_id: Uuid,
    pub ip: Option<IpAddr>,
}

/// One thing that happened. `user_id` is whom it happened to, `actor_id` who did it.
#[derive(Clone, Debug)]
pub struct Event {
    kind: EventKind,
    user_id: Option<Uuid>,
    actor_id: Option<Uuid>,
    session_id: Option<Uuid>,
    ip: Option<IpAddr>,
    /// Never a secret and never an address.
    details: Value,
    /// What a person wrote about it: recorded, and not logged.
    reason: Option<String>,
}

impl Event {
    /// Without an actor: by a client that is not logged in, or by the service itself.
    pub fn new(kind: EventKind) -> Self {
        let (user_id, actor_id, session_id, ip) = (None, None, None, None);
        Self { kind, user_id, actor_id, session_id, ip, details: Value::Null, reason: None }
    }

    /// In the actor's session and from their address, to another user unless `on` says so.
    pub fn by(actor: Actor, kind: EventKind) -> Self {
        Self {
            actor_id: Some(actor.user_id),
            session_id: Some(actor.session_id),
            ip: actor.ip,
            ..Self::new(kind)
        }
    }

    /// To this user.
    #[must_use]
    pub fn on(self, user_id: Uuid) -> Self {
        Self { user_id: Some(user_id), ..self }
    }

    /// To this user, by themselves.
    #[must_use]
    pub fn by_oneself(self, user_id: Uuid) -> Self {
        Self { user_id: Some(user_id), actor_id: Some(user_id), ..self }
    }

    #[must_use]
    pub fn in_session(self, id: Uuid) -> Self {
        Self { session_id: Some(id), ..self }
    }

    #[must_use]
    pub fn from(self, ip: Option<IpAddr>) -> Self {
        Self { ip, ..self }
    }

    #[must_use]
    pub fn with(self, details: Value) -> Self {
        Self { details, ..self }
    }

    #[must_use]
    pub fn with_reason(self, reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..self }
    }

    /// What is recorded of its details.
    fn recorded(&self) -> Value {
        let mut details = self.details.clone();
        if let Some(reason) = &self.reason {
            details["reason"] = reason.as_str().into();
        }
        details
    }

    /// Logs and counts it: an event that was recorded once that is committed, one that changes
    /// nothing, such as a refusal, at once.
    pub fn log(&self, counts: &Tally) {
        counts.add(self.kind.as_str());
        let text = |id: Option<Uuid>| id.map(tracing::field::display);
        let request = context::current();
        tracing::info!(
            target: "security",
            event = self.kind.as_str(),
            user_id = text(self.user_id),
            actor_id = text(self.actor_id),
            session_id = text(self.session_id),
            ip = self.ip.or(request.ip).map(tracing::field::display),
            request_id = request.request_id,
            trace_id = request.trace_id.map(tracing::field::display),
            details = (!self.details.is_null()).then(|| tracing::field::display(&self.details)),
        );
    }
}

/// Writes the event, in the transaction of what happened, with the request that it is of; whether
/// it was written or counted. One that a client can cause at will is counted in the row of its
/// minute; that somebody reads is written once an hour.
pub async fn insert(
    db: &mut PgConnection,
    event: &Event,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let request = context::current();
    let written = sqlx::query_scalar!(
        "insert into audit_log as a
             (at, event, user_id, actor_id, session_id, ip, details, minute, request_id, user_agent,
                 off_clock)
         values ($1, $2, $3, $4, $5, $6, coalesce(nullif($7::jsonb, 'null'), '{}'),
             date_trunc($8, $1::timestamptz), $9, $10,
             nullif(abs(extract(epoch from $1::timestamptz - now())) > 30, false))
         on conflict (user_id, event, ip, minute) where minute is not null
         do update set count = a.count + 1 where a.event <> 'audit_read'
         returning id",
        now,
        event.kind.as_str(),
        event.user_id,
        event.actor_id,
        event.session_id,
        event.ip.map(IpNetwork::from),
        event.recorded(),
        event.kind.counted_by(),
        request.request_id,
        request.user_agent,
    )
    .fetch_optional(db)
    .await?;
    Ok(written.is_some())
}

/// Deletes at most 1,000 rows from before `before`. Skips locked rows.
pub async fn delete_older(db: &mut PgConnection, before: DateTime<Utc>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with old as materialized (
             select id from audit_log where at < $1 order by at limit 1000 for update skip locked
         )
         delete from audit_log where id in (select id from old)",
        before
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
