//! Mounts the features behind the middleware, in order.

use axum::http::{HeaderName, HeaderValue, Method, header};
use serde_json::Value;
use tower::Layer;
use tower::util::{Either, option_layer};
use tower_http::cors::{AllowOrigin, Cors, CorsLayer};
use tower_http::normalize_path::{NormalizePath, NormalizePathLayer};
use url::Url;
use utoipa_axum::router::OpenApiRouter;

use crate::config::CorsOrigins;
use crate::http::admission::Admission;
use crate::http::credentials::{ACCESS_TOKEN, REFRESH_TOKEN};
use crate::http::error::{ApiError, Code};
use crate::http::middleware::Middleware;
use crate::network::is_loopback_url;
use crate::state::AppState;
use crate::{admin, auth, health, mailbox, openapi, prometheus, users};

/// The whole service, from the outside in: every path answers with and without a slash at its end.
pub type App = NormalizePath<Middleware<Either<Cors<Admission>, Admission>>>;

pub fn app(state: AppState) -> App {
    let (router, api) = features().split_for_parts();
    let document =
        openapi::document(&api, &state.config.public_url, state.config.min_password_length);
    let (undocumented, paths) = openapi::routes(&document)
        .merge(mailbox::routes())
        .merge(prometheus::routes(&state.config))
        .into_parts();
    state.metrics.register_routes(api.paths.paths.into_keys().chain(paths));
    let router = router
        .merge(undocumented)
        .fallback(async || ApiError::from(Code::NotFound))
        .method_not_allowed_fallback(async || ApiError::from(Code::MethodNotAllowed))
        .with_state(state.clone());
    let cors = option_layer(cors(&state.config.cors_origins));
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

/// None where no origin may call: then OPTIONS is a method like any other.
fn cors(origins: &CorsOrigins) -> Option<CorsLayer> {
    let allowed = match origins {
        CorsOrigins::None => return None,
        CorsOrigins::Localhost => AllowOrigin::predicate(|origin, _| is_localhost(origin)),
        CorsOrigins::List(list) => {
            AllowOrigin::list(list.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
        }
    };
    let (access_token, refresh_token) = (ACCESS_TOKEN.clone(), REFRESH_TOKEN.clone());
    let request_id = HeaderName::from_static("x-request-id");
    let cors = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, access_token, refresh_token])
        .expose_headers([request_id, header::RETRY_AFTER, header::LINK])
        .max_age(std::time::Duration::from_mins(10));
    Some(cors)
}

fn is_localhost(origin: &HeaderValue) -> bool {
    let origin = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok());
    origin.is_some_and(|origin| is_loopback_url(&origin))
}
