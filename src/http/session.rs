//! The arguments of handlers that prove who calls.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use chrono::{DateTime, Utc};

use crate::account;
use crate::account::client::ClientInfo;
use crate::account::step_up::is_fresh;
use crate::fields::Role;
use crate::http::credentials::{access_token, refresh_token};
use crate::http::error::{ApiError, Code, WayOn};
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
    /// Of the pair that the access token was issued with; a token of other backends' has none.
    pub generation: Option<i64>,
}

/// A [`CurrentUser`] who is staff or an admin at this moment.
#[derive(Clone, Debug)]
pub struct StaffUser(pub CurrentUser);

/// A [`CurrentUser`] who is an admin at this moment.
#[derive(Clone, Debug)]
pub struct AdminUser(pub CurrentUser);

/// A caller who has proven not long ago who they are. Who may not call at all is told so before
/// they are asked for a proof.
#[derive(Clone, Debug)]
pub struct Fresh<C>(pub C);

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

    /// Refuses a caller whose last proof of who they are is not fresh (RFC 9470).
    pub fn check_fresh(&self, state: &AppState) -> Result<(), ApiError> {
        if is_fresh(state, &self.session, state.clock.now()) {
            return Ok(());
        }
        let max_age = Some(state.config.account.step_up_within.num_seconds());
        let way_on = WayOn { methods: &["password"], max_age, ..WayOn::default() };
        Err(ApiError { way_on: Box::new(way_on), ..Code::StepUpRequired.into() })
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
        Ok(Self { user, session, generation: claims.generation })
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
        let CurrentUser { user, session, .. } = CurrentUser::read(state, &claims, now).await?;
        Ok(Self(state.session_cache.keep(token, expires_at, stamp, session, user)))
    }
}

impl CurrentUser {
    /// The caller, if they have the role.
    fn with_role(self, role: Role, state: &AppState) -> Result<Self, ApiError> {
        if self.user.role >= role {
            return Ok(self);
        }
        let event = Event::new(EventKind::Forbidden);
        state.log(&event.on(self.user.id).in_session(self.session.id));
        let message = match role {
            Role::Admin => None,
            _ => Some("This is for staff and admins.".to_owned()),
        };
        Err(ApiError { message, ..Code::Forbidden.into() })
    }
}

impl FromRequestParts<AppState> for StaffUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let caller = CurrentUser::from_request_parts(parts, state).await?;
        caller.with_role(Role::Staff, state).map(Self)
    }
}

impl FromRequestParts<AppState> for AdminUser {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let caller = CurrentUser::from_request_parts(parts, state).await?;
        caller.with_role(Role::Admin, state).map(Self)
    }
}

impl<C> FromRequestParts<AppState> for Fresh<C>
where
    C: FromRequestParts<AppState, Rejection = ApiError> + AsRef<CurrentUser>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let caller = C::from_request_parts(parts, state).await?;
        caller.as_ref().check_fresh(state)?;
        Ok(Self(caller))
    }
}

impl AsRef<Self> for CurrentUser {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl AsRef<CurrentUser> for AdminUser {
    fn as_ref(&self) -> &CurrentUser {
        &self.0
    }
}

impl StaffUser {
    /// Whether they still are staff or an admin: for long answers.
    pub async fn is_still_staff(&self, state: &AppState) -> sqlx::Result<bool> {
        let (session, user) = (self.0.session.id, self.0.user.id);
        let active =
            account::sessions::find_active(state, session, user, state.clock.now()).await?;
        Ok(active.is_some_and(|(_, user)| user.role.is_staff()))
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
