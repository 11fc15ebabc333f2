//! `PUT /users/me/change_password`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::password;
use crate::fields::{Password, PasswordContext, parse_new_password};
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::session::CurrentUser;
use crate::state::AppState;

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the body in the OpenAPI document; the form is read field by field"
)]
pub struct ChangePasswordRequest {
    #[schema(format = "password", example = "a long and good one")]
    old_password: String,
    /// Not a common password, and nothing that the account itself says. The length is counted after NFC.
    #[schema(
        format = "password",
        min_length = 8,
        max_length = 256,
        example = "an even better one"
    )]
    new_password: String,
}

#[derive(Serialize, ToSchema)]
pub struct ChangePasswordResponse {
    success: bool,
    message: &'static str,
}

/// Changes the password and ends every other session of the user.
///
/// A new address that waits in `pending_email` is dropped: whoever knew the old password may have set it.
#[utoipa::path(
    put, path = "/api/v1/users/me/change_password", tag = "users", security(("access_token" = []), ("bearer" = [])),
    request_body = ChangePasswordRequest,
    responses((status = 200, description = "Changed.", body = ChangePasswordResponse)),
    extensions(("x-codes" = json!(["wrong_password", "rate_limited"]))),
)]
pub async fn change_password(
    State(state): State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    JsonBody(mut form): JsonBody,
) -> Result<Json<ChangePasswordResponse>, ApiError> {
    let user = &caller.user;
    let context = PasswordContext {
        username: &user.username,
        email: &user.email,
        first_name: &user.first_name,
        last_name: &user.last_name,
    };
    let min_length = state.config.min_password_length;
    let old = form.required("old_password", |raw| Ok(Password::claimed(raw)));
    let new = form.required("new_password", |raw| parse_new_password(raw, min_length, &context));
    let (old, new) = form.finish(|| Some((old?, new?)))?;
    let (actor, now) = (caller.actor(&client), state.clock.now());
    password::change(&state, actor, user, [&old, &new], &client, now).await?;
    let message = "The password is changed. Every other session has ended.";
    Ok(Json(ChangePasswordResponse { success: true, message }))
}
