//! `POST /login`: HTTP Basic (RFC 7617) or JSON in, a session out.

use axum::Json;
use axum::body::HttpBody;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, header};
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::password::{self, Checked};
use crate::account::sessions::{self, Started};
use crate::fields::Password;
use crate::http::answer::SessionResponse;
use crate::http::body::OptionalJsonBody;
use crate::http::credentials::{basic, basic_challenge, has_basic, refresh_token};
use crate::http::error::{ApiError, Code, WayOn};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};

/// For clients that send no HTTP Basic, beside which it is not read.
#[derive(ToSchema)]
pub struct LoginRequest {
    /// The username or the e-mail address.
    #[schema(example = "ada")]
    username: String,
    password: Password,
}

impl LoginRequest {
    /// From HTTP Basic, or else from the body, if there is one.
    async fn read(request: Request) -> Result<Option<Self>, ApiError> {
        if has_basic(request.headers())? {
            let given = basic(request.headers())?;
            return Ok(given.map(|(username, password)| Self { username, password }));
        }
        let media_type = request.headers().get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_empty = request.body().is_end_stream();
        if is_empty || !media_type.to_ascii_lowercase().contains("json") {
            return Ok(None);
        }
        let OptionalJsonBody(mut form) = OptionalJsonBody::from_request(request, &()).await?;
        let username = form.required("username", |raw| Ok(raw.to_owned()));
        let password = form.required("password", |raw| Ok(Password::claimed(raw)));
        form.finish(|| Some(Some(Self { username: username?, password: password? })))
    }
}

/// Logs in with a username or an e-mail address and a password.
///
/// An unknown user and a wrong password are answered with the same bytes after the same time. That
/// an account may not get in is told only to a right password. A
/// refresh token of the account in `x-refresh-token`, ended or expired, shows that the client has
/// logged in before, wherever it calls from.
#[utoipa::path(
    post, path = "/api/v1/login", tag = "auth",
    security(("basic" = []), ("basic" = [], "refresh_token" = []), ()),
    params(("x-device-id" = Option<String>, Header,
        description = "Made once by the frontend and kept with it, 16 to 64 of `A-Z a-z 0-9 - _`: then a login from another network tells its owner of no new device. It proves nothing, and any other value counts as none.")),
    request_body = Option<LoginRequest>,
    responses((status = 200, description = "Logged in.", body = SessionResponse)),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::CredentialsMissing, Code::InvalidCredentials,
        Code::AccountDeleted, Code::Banned, Code::ResetRequired, Code::RateLimited,
    ]))),
)]
pub async fn login(
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
    request: Request,
) -> Result<Json<SessionResponse>, ApiError> {
    let refused = |code: Code| {
        let way_on = WayOn { challenge: Some(basic_challenge(&headers)), ..WayOn::default() };
        ApiError { way_on: Box::new(way_on), ..code.into() }
    };
    let credentials = LoginRequest::read(request).await?;
    let LoginRequest { username, password } =
        credentials.ok_or_else(|| refused(Code::CredentialsMissing))?;
    let client = ClientInfo { device: device(&state, &headers), ..client };
    let (mut counted, mut user_id) = (None, None);
    // A second round only if the hash was replaced between the check and the session; counted as
    // one login.
    for _ in 0..2 {
        let checked =
            password::check(&state, &username, &password, &client, counted.take()).await?;
        let Some(Checked { user, proof }) = checked else { break };
        let now = state.clock.now();
        match sessions::start(&state, &user, proof, &client, now).await? {
            Started::Opened(opened) => {
                let (user, pair) = *opened;
                return Ok(Json(SessionResponse::new(user, pair)));
            }
            Started::Stale(attempt) => (counted, user_id) = (attempt, Some(user.id)),
        }
    }
    // Twice out of date: what `check` found wrong it has logged itself.
    if let (Some(_), Some(id)) = (counted, user_id) {
        state.log(&Event::new(EventKind::LoginRefused).on(id).from(client.ip));
    }
    Err(refused(Code::InvalidCredentials))
}

/// The session of a refresh token that the client still has. What is no such token does no harm.
fn device(state: &AppState, headers: &HeaderMap) -> Option<uuid::Uuid> {
    let token = refresh_token(headers).ok().flatten()?;
    state.keys.genuine_refresh(token, state.clock.now()).map(|claims| claims.sid)
}
