//! What the service says about itself.

use std::time::Duration;

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::context::run_to_completion;
use crate::http::error::{ApiError, Code};
use crate::http::html::{self, Frame, vary_by_accept, wants_page};
use crate::http::static_file::StaticFile;
use crate::state::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(root))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(jwks))
}

/// How long the database may take to prove that it is there.
const READINESS_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Serialize, ToSchema)]
pub struct StatusResponse {
    success: bool,
    status: &'static str,
}

#[derive(Template)]
#[template(path = "start.html", config = ".askama.toml")]
struct StartPage<'a> {
    frame: Frame<'a>,
    has_mailbox: bool,
}

/// The name of the service, and where to go from here.
#[utoipa::path(
    get, path = "/", tag = "service",
    responses((status = 200, description = "Name and links; or, for `accept: text/html`, a page.",
        content((serde_json::Value = "application/json"), (String = "text/html")))),
)]
pub async fn root(State(state): State<AppState>, headers: HeaderMap) -> Response {
    if wants_page(&headers) {
        let frame = Frame::of(&state.config);
        let has_mailbox = state.mailer.keeps_letters() && !state.config.is_public();
        let page = StartPage { frame, has_mailbox };
        return html::answer(StatusCode::OK, &page, html::NO_FORM);
    }
    let at = |path: &str| format!("{}{path}", state.config.public_url);
    let name_and_links = Json(json!({
        "success": true,
        "name": "Doorward",
        "links": {
            "docs": at("/docs"),
            "openapi": at("/openapi.json"),
            "jwks": at("/.well-known/jwks.json"),
            "health": at("/healthz"),
            "ready": at("/readyz"),
        },
    }));
    vary_by_accept(name_and_links.into_response())
}

/// Whether the process lives.
#[utoipa::path(
    get, path = "/healthz", tag = "service",
    responses((status = 200, description = "It does.", body = StatusResponse)),
)]
pub async fn healthz() -> Json<StatusResponse> {
    Json(StatusResponse { success: true, status: "alive" })
}

/// Whether it can be given work: the database answers and is migrated, and the process is not about
/// to end.
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses((status = 200, description = "It can.", body = StatusResponse)),
    extensions(("x-codes" = json!([Code::Busy, Code::DatabaseUnavailable]))),
)]
pub async fn readyz(State(state): State<AppState>) -> Result<Json<StatusResponse>, ApiError> {
    if state.readiness.is_draining() {
        return Err(ApiError { message: Some("Shutting down.".into()), ..Code::Busy.into() });
    }
    // Until then no request uses the database: a connection made before a pooler was noticed would
    // have prepared statements, which fail behind one.
    if !state.readiness.is_ready() {
        return Err(Code::DatabaseUnavailable.into());
    }
    // Runs to completion: else clients that hang up one after another would each take a connection.
    let is_ready = run_to_completion(async move {
        let question = timeout(READINESS_TIMEOUT, Box::pin(state.db.is_migrated()));
        state.readiness.ask(async { matches!(question.await, Ok(Ok(true))) }).await
    });
    if is_ready.await {
        Ok(Json(StatusResponse { success: true, status: "ready" }))
    } else {
        Err(Code::DatabaseUnavailable.into())
    }
}

/// The public keys of access tokens, as a JWK set (RFC 7517).
///
/// Caches may keep it for five minutes, and pages of every origin may read it.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "service",
    responses((status = 200, description = "The keys.", body = serde_json::Value)),
)]
pub async fn jwks(State(state): State<AppState>, headers: HeaderMap) -> Response {
    StaticFile::json(state.keys.jwks().to_string()).public(&headers).await
}
