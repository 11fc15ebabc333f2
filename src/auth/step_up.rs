//! `POST /step_up`: a fresh proof of who calls, in the session that they have.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::step_up::{self, SteppedUp};
use crate::clock;
use crate::fields::Password;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::CurrentUser;
use crate::state::AppState;

#[derive(ToSchema)]
pub struct StepUpRequest {
    password: Password,
}

#[derive(Serialize, ToSchema)]
pub struct StepUpResponse {
    success: bool,
    /// A new access token, which says when the proof was given; the refresh token stays.
    token: String,
    /// Seconds until the access token expires.
    expires_in: i64,
    /// Until then the calls that ask for a fresh proof are open to this session.
    #[serde(serialize_with = "clock::rfc3339")]
    fresh_until: DateTime<Utc>,
}

impl StepUpRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        let password = form.required("password", |raw| Ok(Password::claimed(raw)));
        form.finish(|| Some(Self { password: password? }))
    }
}

/// Proves once more who calls, for the calls that ask for a fresh proof (RFC 9470).
///
/// It holds for this session alone, and a refresh does not renew it. A login is such a proof too.
#[utoipa::path(
    post, path = "/api/v1/step_up", tag = "auth",
    security(("access_token" = []), ("bearer" = [])),
    request_body = StepUpRequest,
    responses((status = 200, description = "Proven.", body = StepUpResponse)),
    extensions(("x-codes" = json!([Code::WrongPassword, Code::ResetRequired, Code::RateLimited]))),
)]
pub async fn step_up(
    State(state): State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    JsonBody(form): JsonBody,
) -> Result<Json<StepUpResponse>, ApiError> {
    let StepUpRequest { password } = StepUpRequest::parse(form)?;
    let (actor, user) = (caller.actor(&client), &caller.user);
    let SteppedUp { token, expires_in, fresh_until } =
        step_up::by_password(&state, actor, user, caller.generation, &password, &client).await?;
    Ok(Json(StepUpResponse { success: true, token, expires_in, fresh_until }))
}
