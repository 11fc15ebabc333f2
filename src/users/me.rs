//! `/users/me`: what users see of themselves.

use axum::response::Response;

use crate::http::answer::UserAnswer;
use crate::http::session::CachedUser;

/// Shows the caller.
#[utoipa::path(
    get, path = "/api/v1/users/me", operation_id = "show_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "The caller.", body = UserAnswer)),
)]
pub async fn show(CachedUser(seen): CachedUser) -> Response {
    UserAnswer::cached(&seen)
}

/// Shows the caller, for clients that POST.
#[utoipa::path(
    post, path = "/api/v1/users/me", operation_id = "show_me_by_post", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "The caller.", body = UserAnswer)),
)]
pub async fn show_by_post(caller: CachedUser) -> Response {
    show(caller).await
}
