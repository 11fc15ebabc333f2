//! `PUT /users/me/change_password`.

use axum::Json;
use axum::extract::State;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::password;
use crate::fields::{NewPassword, Password, PasswordContext};
use crate::http::answer::Message;
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
        form.finish(|| Some(Self { old_password: old?, new_password: new? }))
    }
}

/// Changes the password and ends every other session of the user.
///
/// A new address that waits in `pending_email` is dropped: it may have been set by a thief of the
/// old password.
#[utoipa::path(
    put, path = "/api/v1/users/me/change_password", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = ChangePasswordRequest,
    responses((status = 200, description = "Changed.", body = Message)),
    extensions(("x-codes" = json!([Code::WrongPassword, Code::RateLimited]))),
)]
pub async fn change_password(
    State(state): State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    JsonBody(form): JsonBody,
) -> Result<Json<Message>, ApiError> {
    let user = &caller.user;
    let ChangePasswordRequest { old_password: old, new_password: new } =
        ChangePasswordRequest::parse(form, state.config.min_password_length, user)?;
    let (actor, now) = (caller.actor(&client), state.clock.now());
    password::change(&state, actor, user, [&old, &new.into()], &client, now).await?;
    let message = "The password is changed. Every other session has ended.";
    Ok(Json(Message::new(message)))
}
