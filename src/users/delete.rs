//! `DELETE /users/me`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::account::deletion;
use crate::clock;
use crate::fields::Password;
use crate::http::body::OptionalJsonBody;
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::session::CurrentUser;
use crate::state::AppState;

/// A proof of who calls, for those who gave none lately.
#[derive(ToSchema)]
pub struct DeleteRequest {
    password: Option<Password>,
}

#[derive(Serialize, ToSchema)]
pub struct DeleteResponse {
    success: bool,
    message: &'static str,
    /// Until then the deletion can be taken back; null where it is for good.
    #[serde(serialize_with = "clock::rfc3339_or_none")]
    #[schema(required = true)]
    restore_until: Option<DateTime<Utc>>,
}

impl DeleteRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        let password = form.optional("password", |raw| Ok(Password::claimed(raw)));
        form.finish(|| Some(Self { password }))
    }
}

/// Deletes the caller's account. Nothing of it works from then on, and every session has ended.
///
/// It can be taken back for a while: by the link in the letter that tells of it, or by the
/// `restore_token` that a login with the right password is answered with. Its name and its address
/// stay taken until then; after that everything is removed. It asks for a fresh proof of who calls, or
/// the password. The last admin stays.
#[utoipa::path(
    delete, path = "/api/v1/users/me", operation_id = "delete_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    request_body = Option<DeleteRequest>,
    responses((status = 202, description = "Deleted.", body = DeleteResponse)),
    extensions(("x-codes" = json!([
        Code::StepUpRequired, Code::WrongPassword, Code::LastAdmin, Code::RateLimited,
    ]))),
)]
pub async fn delete(
    State(state): State<AppState>,
    caller: CurrentUser,
    client: ClientInfo,
    OptionalJsonBody(form): OptionalJsonBody,
) -> Result<(StatusCode, Json<DeleteResponse>), ApiError> {
    let DeleteRequest { password } = DeleteRequest::parse(form)?;
    if password.is_none() {
        caller.check_fresh(&state)?;
    }
    let (actor, user) = (caller.actor(&client), &caller.user);
    let restore_until = deletion::ask(&state, actor, user, password.as_ref(), &client).await?;
    let message = match restore_until {
        Some(_) => "The account is deleted. Until it is removed, that can be taken back.",
        None => "The account is deleted.",
    };
    let answer = DeleteResponse { success: true, message, restore_until };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
