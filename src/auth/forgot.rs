//! `POST /password/forgot`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::recovery::{self, CODE_LIFETIME};
use crate::fields::Email;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::state::AppState;

#[derive(ToSchema)]
pub struct ForgotRequest {
    email: Email,
}

/// The same for every address.
#[derive(Serialize, ToSchema)]
pub struct ForgotResponse {
    success: bool,
    message: &'static str,
    /// Too many letters went before: none goes out for this call, and the code in one that came
    /// before is good with the `challenge` of that one.
    limited: bool,
    /// To be sent along with the code in the letter.
    challenge: String,
    /// Seconds for which the code is good.
    expires_in: i64,
}

impl ForgotRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        let email = form.required("email", Email::parse);
        form.finish(|| Some(Self { email: email? }))
    }
}

/// Sends a letter by which the password can be reset, if an account has the address.
///
/// The answer does not tell whether one has. The letter has a link, good for 30 minutes, and a code
/// that is good for 10 with the `challenge` of this answer.
#[utoipa::path(
    post, path = "/api/v1/password/forgot", operation_id = "forgot_password", tag = "auth",
    request_body = ForgotRequest,
    responses((status = 202, description = "Asked for.", body = ForgotResponse)),
    extensions(("x-codes" = json!([Code::DatabaseUnavailable]))),
)]
pub async fn forgot(
    State(state): State<AppState>,
    client: ClientInfo,
    JsonBody(form): JsonBody,
) -> Result<(StatusCode, Json<ForgotResponse>), ApiError> {
    let ForgotRequest { email } = ForgotRequest::parse(form)?;
    let asked = recovery::ask(&state, &email, &client, state.clock.now()).await?;
    let message = if asked.is_limited {
        "If an account has this address, a letter that was asked for before may be on its way."
    } else {
        "If an account has this address, a letter is on its way."
    };
    let expires_in = CODE_LIFETIME.num_seconds();
    let answer = ForgotResponse {
        success: true,
        message,
        limited: asked.is_limited,
        challenge: asked.handle,
        expires_in,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
