//! The arguments of handlers that prove who calls.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};

use crate::account;
use crate::account::client::ClientInfo;
use crate::http::credentials::{access_token, refresh_token};
use crate::http::error::{ApiError, Code};
use crate::security::token::{AccessClaims, Opened, RefreshClaims, TokenError};
use crate::session_cache::CachedSession;
use crate::state::AppState;
use crate::store::audit::{Actor, Event, EventKind};
use crate::store::sessions::{self, Session};
use crate::store::users::User;

/// A caller with an active session. Token, session and user are checked on every request, the
/// latter two in one query.
#[derive(Clone, Debug)]
pub struct CurrentUser {
    pub user: User,
    pub session: Session,
}

/// A [`CurrentUser`] who is an admin at this moment.
#[derive(Clone, Debug)]
pub struct AdminUser(pub CurrentUser);

impl FromRequestParts<AppState> for CurrentUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let token = access_token(&parts.headers, &state.keys)?.ok_or(Code::TokenMissing)?;
        let now = state.clock.now();
        let claims = state.keys.open_access(token, now)?.unexpired()?;
        Self::read(state, &claims, now).await
    }
}

impl CurrentUser {
    /// Who acts, for the audit log.
    pub fn actor(&self, client: &ClientInfo) -> Actor {
        Actor { user_id: self.user.id, session_id: self.session.id, ip: client.ip }
    }

    async fn read(
        state: &AppState,
        claims: &AccessClaims,
        now: DateTime<Utc>,
    ) -> Result<Self, ApiError> {
        let active = account::sessions::find_active(state, claims.sid, claims.sub, now).await?;
        let (session, user) = active.ok_or(Code::SessionEnded)?;
        if !session.successor_used && claims.generation == Some(session.counter) {
            // The newest pair is in use: from now on its predecessor counts as replaced.
            let (id, counter) = (session.id, session.counter);
            let db = &state.db;
            db.write(|db| Box::pin(sessions::set_successor_used(db, id, counter))).await?;
        }
        Ok(Self { user, session })
    }
}

/// A [`CurrentUser`], from the session cache if it is there: for answers that only read.
#[derive(Clone, Debug)]
pub struct CachedUser(pub Arc<CachedSession>);

impl FromRequestParts<AppState> for CachedUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let token = access_token(&parts.headers, &state.keys)?.ok_or(Code::TokenMissing)?;
        let now = state.clock.now();
        if let Some(seen) = state.session_cache.find(token, now) {
            return Ok(Self(seen));
        }
        // Boxed: else every request's future would be as large as a look-up needs.
        Box::pin(Self::look_up(token, state, now)).await
    }
}

impl CachedUser {
    async fn look_up(token: &str, state: &AppState, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let opened = state.keys.open_access(token, now)?;
        let expires_at = opened.expires_at;
        let claims = opened.unexpired()?;
        let stamp = state.session_cache.stamp(claims.sub);
        let CurrentUser { user, session } = CurrentUser::read(state, &claims, now).await?;
        Ok(Self(state.session_cache.keep(token, expires_at, stamp, session, user)))
    }
}

impl FromRequestParts<AppState> for AdminUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let caller = CurrentUser::from_request_parts(parts, state).await?;
        if !caller.user.role.is_admin() {
            let event = Event::new(EventKind::Forbidden);
            state.log(&event.on(caller.user.id).in_session(caller.session.id));
            return Err(Code::Forbidden.into());
        }
        Ok(Self(caller))
    }
}

impl AdminUser {
    /// Whether they still are an admin: for long answers.
    pub async fn is_still_admin(&self, state: &AppState) -> sqlx::Result<bool> {
        let (session, user) = (self.0.session.id, self.0.user.id);
        let active =
            account::sessions::find_active(state, session, user, state.clock.now()).await?;
        Ok(active.is_some_and(|(_, user)| user.role.is_admin()))
    }
}

/// The tokens of a request, each verified by itself; the access token may have expired.
#[derive(Clone, Debug)]
pub struct PresentedTokens {
    pub access: Option<Opened<AccessClaims>>,
    pub refresh: Option<RefreshClaims>,
}

impl FromRequestParts<AppState> for PresentedTokens {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let now = state.clock.now();
        let refresh = match refresh_token(&parts.headers)? {
            None => None,
            Some(token) => {
                Some(state.keys.open_refresh(token, now).map_err(|error| match error {
                    TokenError::Expired => Code::RefreshTokenExpired,
                    TokenError::Invalid => Code::RefreshTokenInvalid,
                })?)
            }
        };
        let access = match access_token(&parts.headers, &state.keys)? {
            None => None,
            Some(token) => match state.keys.open_access(token, now) {
                // It is not needed then: a client may send what it has left.
                Err(_) if refresh.is_some() => None,
                opened => Some(opened?),
            },
        };
        if let (Some(access), Some(refresh)) = (&access, &refresh)
            && access.claims.sid != refresh.sid
        {
            return Err(Code::TokenMismatch.into());
        }
        Ok(Self { access, refresh })
    }
}
