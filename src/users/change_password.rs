//! `PUT /users/me/change_password`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::account;
use crate::account::client::ClientInfo;
use crate::account::password;
use crate::fields::{NewPassword, Password, PasswordContext};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::CurrentUser;
use crate::state::AppState;
use crate::store::users::User;

#[derive(ToSchema)]
pub struct ChangePasswordRequest {
    old_password: Password,
    new_password: NewPassword,
    /// Replaces this session, too: the answer has its tokens.
    #[schema(required = false)]
    renew: bool,
}

/// The tokens are there with `renew` only: those of the session that takes the place of this one.
#[derive(Serialize, ToSchema)]
pub struct ChangePasswordResponse {
    success: bool,
    message: &'static str,
    #[serde(flatten)]
    tokens: Option<Tokens>,
}

#[derive(Serialize, ToSchema)]
struct Tokens {
    /// The access token, for `x-access-token`.
    token: String,
    /// For `x-refresh-token` at `/refresh`.
    refresh_token: String,
    /// Seconds until the access token expires.
    expires_in: i64,
}

impl ChangePasswordRequest {
    fn parse(mut form: Input, min_password_chars: usize, user: &User) -> Result<Self, ApiError> {
        let context = PasswordContext {
            username: &user.username,
            email: &user.email,
            first_name: &user.first_name,
            last_name: &user.last_name,
        };
        let old = form.required("old_password", |raw| Ok(Password::claimed(raw)));
        let parse = |raw: &str| NewPassword::parse(raw, min_password_chars, &context);
        let new = form.required("new_password", parse);
        let renew = form.boolean("renew").unwrap_or(false);
        form.finish(|| Some(Self { old_password: old?, new_password: new?, renew }))
    }
}

/// Changes the password and ends every other session of the user; with `renew: true` this one is
/// replaced as well.
///
/// A new address that waits in `pending_email` is dropped: it may have been set by a thief of the
/// old password.
#[utoipa::path(
    put, path = "/api/v1/users/me/change_password", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = ChangePasswordRequest,
    responses((status = 200, description = "Changed.", body = ChangePasswordResponse)),
    extensions(("x-codes" = json!([
        Code::WrongPassword, Code::ResetRequired, Code::RateLimited,
    ]))),
)]
pub async fn change_password(
    State(state): State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    JsonBody(form): JsonBody,
) -> Result<Json<ChangePasswordResponse>, ApiError> {
    let user = &caller.user;
    let ChangePasswordRequest { old_password: old, new_password: new, renew } =
        ChangePasswordRequest::parse(form, state.config.min_password_length, user)?;
    let (actor, now) = (caller.actor(&client), state.clock.now());
    let changing =
        password::change(&state, actor, user, [&old, &new.into()], renew, &client, now).await;
    let pair = changing.map_err(|error| match error {
        account::Error::WrongPassword => {
            ApiError::conflict(&[("old_password", Code::WrongPassword)])
        }
        error => error.into(),
    })?;
    Ok(Json(ChangePasswordResponse {
        success: true,
        message: "The password is changed. Every other session has ended.",
        tokens: pair.map(|pair| Tokens {
            token: pair.access,
            refresh_token: pair.refresh,
            expires_in: pair.expires_in,
        }),
    }))
}
