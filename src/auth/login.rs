//! `POST /login`: HTTP Basic (RFC 7617) in, a session out.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::password::{self, Checked};
use crate::account::sessions::{self, Started, TokenPair};
use crate::fields::Password;
use crate::http::error::{ApiError, Code};
use crate::http::user::PublicUser;
use crate::state::AppState;
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

impl LoginResponse {
    fn new(user: User, pair: TokenPair) -> Self {
        Self {
            success: true,
            token: pair.access,
            refresh_token: pair.refresh,
            expires_in: pair.expires_in,
            user: user.into(),
        }
    }
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
    let mut counted = None;
    // A second round only if the hash was replaced between the check and the session; counted as one login.
    for _ in 0..2 {
        let checked = password::check(&state, &login, &password, &client, counted).await?;
        let Some(Checked { user, proof }) = checked else { break };
        let now = state.clock.now();
        match sessions::start(&state, &user, proof, &client, now).await? {
            Started::Opened(user, pair) => return Ok(Json(LoginResponse::new(user, pair))),
            Started::Stale(attempt) => counted = attempt,
        }
    }
    Err(refused(Code::InvalidCredentials))
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
