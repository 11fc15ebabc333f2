//! `POST /login`: HTTP Basic (RFC 7617) in, a session out.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account;
use crate::account::attempts::{RefundOnDrop, reserve_to_completion};
use crate::account::client::ClientInfo;
use crate::fields::Password;
use crate::http::error::{ApiError, Code};
use crate::http::limit::check_password;
use crate::http::user::PublicUser;
use crate::limits::{self, Attempt, LOGIN_ACCOUNT, LOGIN_ADDRESS, LOGIN_STRANGERS};
use crate::state::AppState;
use crate::store::audit::Event;
use crate::store::users::User;

#[derive(Serialize, ToSchema)]
pub struct LoginResponse {
    success: bool,
    /// The access token, for `x-access-token`.
    token: String,
    /// For `x-refresh-token` at `/refresh`.
    refresh_token: String,
    /// Seconds until the access token expires.
    expires_in: i64,
    user: PublicUser,
}

/// Logs in with a username or an e-mail address and a password.
///
/// An unknown user and a wrong password are answered with the same bytes after the same time.
#[utoipa::path(
    post, path = "/api/v1/login", tag = "auth", security(("basic" = [])),
    responses((status = 200, description = "Logged in.", body = LoginResponse)),
    extensions(("x-codes" = json!(["malformed_request", "credentials_missing", "invalid_credentials", "rate_limited"]))),
)]
pub async fn login(
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
) -> Result<Json<LoginResponse>, ApiError> {
    let refused = |code: Code| ApiError { challenge: Some(challenge(&headers)), ..code.into() };
    let (login, password) =
        basic_credentials(&headers)?.ok_or_else(|| refused(Code::CredentialsMissing))?;
    let mut now = state.clock.now();
    // A recent refusal is repeated without asking the database.
    let by_address = Attempt::by_address(&LOGIN_ADDRESS, client.ip);
    let as_typed = Attempt::as_typed(&LOGIN_ACCOUNT, &login, client.ip);
    if let Some(refusal) = state.limits.refused_before(&[by_address.clone(), as_typed.clone()], now)
    {
        return Err(ApiError::rate_limited(refusal, now));
    }
    // A second round only if the hash was replaced between the check and the session.
    let (mut user_id, mut counted) = (None, None);
    let mut permits = Vec::new();
    for _ in 0..2 {
        // What runs before and after the hash is boxed: the many futures that may wait for one stay small.
        let (found, is_known) = Box::pin(state.logins.find(&login, client.ip)).await?;
        user_id = found.as_ref().map(|user| user.id);
        let mut attempts = vec![by_address.clone()];
        attempts.extend(attempts_on_account(found.as_ref(), &login, &client, is_known));
        if permits.is_empty() {
            permits = Box::pin(state.limits.acquire_permits(&attempts, is_known)).await?;
            // That may have taken a while.
            now = state.clock.now();
        }
        let requester = client.requester(is_known);
        let outcome = if let Some(counted) = counted.take() {
            Ok(RefundOnDrop::keep(counted))
        } else {
            state.hasher.check_room(requester)?;
            if is_known {
                let reserving = reserve_to_completion(&state, attempts, now);
                reserving.await?.map(RefundOnDrop::keep)
            } else {
                Box::pin(state.limits.reserve(&state.db, &attempts, now)).await?
            }
        };
        let reservation = match outcome {
            Ok(reservation) => reservation,
            Err(refusal) => {
                if refusal.limit != LOGIN_ADDRESS.name {
                    state.limits.remember(&as_typed, refusal, now);
                }
                return Err(ApiError::rate_limited(refusal, now));
            }
        };
        let hash = found.as_ref().map(|user| user.password_hash.as_str());
        let (verdict, reservation) =
            check_password(&state, reservation, requester, password.clone(), hash).await?;
        let Some(checked) = found.filter(|_| verdict.matches) else { break };
        let rehashed = if verdict.outdated {
            let right = RefundOnDrop::new(&state, reservation.clone());
            let rehashed = state.hasher.hash(requester, password.clone()).await.ok();
            right.keep();
            rehashed
        } else {
            None
        };
        // Retrying during an outage must not lock anybody out.
        let right = (state.clone(), reservation.clone());
        let refund = move || drop(RefundOnDrop::new(&right.0, right.1));
        let counted_as = reservation.clone();
        let starting = account::sessions::start_session(
            &state, &checked, rehashed, counted_as, &client, now, refund,
        );
        let Some((user, pair)) = Box::pin(starting).await? else {
            // Counted as one login, however many rounds it takes.
            counted = Some(RefundOnDrop::new(&state, reservation));
            continue;
        };
        state.limits.forget(&reservation, Some(&as_typed));
        return Ok(Json(LoginResponse {
            success: true,
            token: pair.access,
            refresh_token: pair.refresh,
            expires_in: pair.expires_in,
            user: user.into(),
        }));
    }
    // Never the name as it was typed: people type their password there.
    Event { name: "login_refused", user_id, ip: client.ip, ..Event::default() }
        .log(&state.db.events);
    Err(refused(Code::InvalidCredentials))
}

/// What a login counts as beside its address: an attempt on the account from this address block and, unless the address
/// is known to the account, one of all strangers together.
fn attempts_on_account(
    user: Option<&User>,
    login: &str,
    client: &ClientInfo,
    is_known: bool,
) -> impl Iterator<Item = Attempt> {
    let subject = limits::account_subject(user.map(|user| user.id), login);
    let own = Attempt::on_account_from(&LOGIN_ACCOUNT, &subject, client.ip);
    let shared = (!is_known).then(|| Attempt::on(&LOGIN_STRANGERS, &subject));
    std::iter::once(own).chain(shared)
}

/// The name and the password, split at the first colon; `None` where there are none to be read.
pub fn basic_credentials(headers: &HeaderMap) -> Result<Option<(String, Password)>, ApiError> {
    // Some clients leave the padding out.
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next();
    if values.next().is_some() {
        return Err(ApiError::malformed("The header authorization is given twice."));
    }
    let read = || {
        let (scheme, encoded) = value?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = GeneralPurpose::new(&STANDARD, LENIENT).decode(encoded.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (login, password) = text.split_once(':')?;
        // PostgreSQL's text cannot hold U+0000, and no name does: look up nobody, in the same time.
        let login = if login.contains('\0') { "" } else { login };
        Some((login.to_owned(), Password::claimed(password)))
    };
    Ok(read())
}

/// Asks for credentials. A script in a browser gets a scheme that no browser knows, so that none opens its own
/// dialog over the frontend's.
fn challenge(headers: &HeaderMap) -> &'static str {
    let fetch_mode = headers.get("sec-fetch-mode");
    let is_script = fetch_mode.is_some_and(|mode| mode != "navigate")
        || headers.contains_key("x-requested-with");
    if is_script {
        r#"xBasic realm="Login required!", charset="UTF-8""#
    } else {
        r#"Basic realm="Login required!", charset="UTF-8""#
    }
}
