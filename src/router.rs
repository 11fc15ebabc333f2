//! Mounts the features behind the middleware, in order.

use serde_json::Value;
use tower::Layer;
use tower::util::{Either, option_layer};
use tower_http::cors::Cors;
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};
use utoipa_axum::router::OpenApiRouter;

use crate::http::admission::Admission;
use crate::http::cors;
use crate::http::error::{ApiError, Code};
use crate::http::html;
use crate::http::middleware::Middleware;
use crate::state::AppState;
use crate::{admin, auth, health, mailbox, openapi, prometheus, users};

/// The whole service, from the outside in: every path answers with and without a slash at its end.
pub type App = NormalizePath<Middleware<Either<Cors<Admission>, Admission>>>;

pub fn app(state: AppState) -> App {
    let (router, api) = features().split_for_parts();
    let document =
        openapi::document(&api, &state.config.public_url, state.config.min_password_length);
    let (undocumented, paths) = openapi::routes(&document, &state.config.app_name)
        .merge(html::routes())
        .merge(mailbox::routes())
        .merge(prometheus::routes(&state.config))
        .into_parts();
    state.metrics.register_routes(api.paths.paths.into_keys().chain(paths));
    let router = router
        .merge(undocumented)
        .fallback(async || ApiError::from(Code::NotFound))
        .method_not_allowed_fallback(async || ApiError::from(Code::MethodNotAllowed))
        .with_state(state.clone());
    let cors = option_layer(cors::layer(&state.config.cors_origins));
    let admission = cors.layer(Admission::new(state.clone(), router));
    NormalizePathLayer::trim_trailing_slash().layer(Middleware::new(state, admission))
}

/// The OpenAPI document, without a service.
pub fn openapi_document(public_url: &str, min_password_length: usize) -> Value {
    let (_, api) = features().split_for_parts();
    openapi::document(&api, public_url, min_password_length)
}

fn features() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(auth::routes())
        .merge(users::routes())
        .merge(admin::routes())
        .merge(health::routes())
}
