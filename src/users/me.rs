//! `/users/me`: what users see of themselves.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::session::CachedUser;
use crate::http::user::PublicUser;

#[derive(Serialize, ToSchema)]
pub struct MeResponse {
    success: bool,
    user: PublicUser,
}

/// Shows the caller.
#[utoipa::path(
    get, path = "/api/v1/users/me", operation_id = "show_me", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "The caller.", body = MeResponse)),
)]
pub async fn show(CachedUser(seen): CachedUser) -> Response {
    let write = || {
        let answer = MeResponse { success: true, user: seen.user.clone().into() };
        serde_json::to_vec(&answer).expect("a struct of strings is JSON").into()
    };
    let mut response = Response::new(Body::from(seen.answer.get_or_init(write).clone()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Shows the caller, for clients that POST.
#[utoipa::path(
    post, path = "/api/v1/users/me", operation_id = "show_me_by_post", tag = "users",
    security(("access_token" = []), ("bearer" = [])),
    responses((status = 200, description = "The caller.", body = MeResponse)),
)]
pub async fn show_by_post(caller: CachedUser) -> Response {
    show(caller).await
}
