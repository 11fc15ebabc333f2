//! CORS: which pages may call and read the answers.
//!
//! A listed origin may send any header. No cookie or other ambient credential counts here, so a
//! page gains nothing that its script does not hold.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowCredentials, AllowHeaders, AllowOrigin, CorsLayer};
use url::Url;

use crate::config::{Config, Origins, is_loopback_url};
use crate::state::AppState;

/// `None` where no origin may call: then OPTIONS is a method like any other.
pub fn layer(origins: &Origins) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let (origins, same) = (origins.clone(), origins.clone());
    let allows = |origins: &Origins, origin: &HeaderValue, _: &Parts| {
        origin.to_str().is_ok_and(|origin| allows(origins, origin))
    };
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts| allows(&origins, origin, parts)))
        .allow_credentials(AllowCredentials::predicate(move |origin, parts| {
            allows(&same, origin, parts)
        }))
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            HeaderName::from_static("x-request-id"),
            header::RETRY_AFTER,
            header::LINK,
            header::DATE,
            header::WWW_AUTHENTICATE,
        ])
        .max_age(Duration::from_mins(10));
    Some(cors)
}

/// Whether a page of this origin may call: one of the list or, in development, of this machine.
fn allows(origins: &Origins, origin: &str) -> bool {
    let is_local =
        || origin.starts_with("http") && Url::parse(origin).is_ok_and(|url| is_loopback_url(&url));
    origins.lists(origin) || (origins.allows_loopback() && is_local())
}

/// Origins that were refused: each gets a line a minute, since a frontend's author sees no more than
/// "blocked by CORS".
#[derive(Debug, Default)]
pub struct RefusedOrigins {
    /// The minute, counted from 1970, and the origins that were logged in it.
    logged: Mutex<(i64, Vec<String>)>,
}

/// Origins that are logged in a minute at most: a stranger can make up any number.
const MAX_LOGGED: usize = 20;

impl RefusedOrigins {
    /// Logs the origin of a request, if it may not call.
    pub fn note(&self, state: &AppState, origin: &HeaderValue, headers: &HeaderMap) {
        // A form of a page of ours, which sends no referrer: browsers say `null` then.
        if headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate") {
            return;
        }
        let origin = origin.to_str().unwrap_or_default();
        if allows(&state.config.cors_origins, origin)
            || is_own(&state.config, headers, origin)
            || is_navigation(headers)
        {
            return;
        }
        let origin = printable(origin);
        let now = state.clock.now().timestamp() / 60;
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let (minute, origins) = &mut *logged;
        if *minute != now {
            (*minute, *origins) = (now, Vec::new());
        }
        if origins.len() < MAX_LOGGED && !origins.contains(&origin) {
            if origin.contains("://") && origin != "file://" {
                tracing::warn!(
                    origin,
                    "cors: a page of this origin may not call; CORS_ORIGINS would allow it"
                );
            } else {
                tracing::warn!(
                    origin,
                    "cors: a page without an origin of its own may not call: serve it from a web server"
                );
            }
            origins.push(origin);
        }
    }
}

/// Whether a browser goes to a page, with a form or a link: it sends an origin then as well, which
/// keeps nothing back.
fn is_navigation(headers: &HeaderMap) -> bool {
    let is = |name: &str, values: &[&str]| {
        headers.get(name).is_some_and(|given| values.iter().any(|value| given == value))
    };
    is("sec-fetch-mode", &["navigate", "no-cors"]) || is("sec-fetch-site", &["same-origin"])
}

/// An origin as it may stand in the log: a client can send anything under this name.
fn printable(origin: &str) -> String {
    origin.chars().filter(char::is_ascii_graphic).take(200).collect()
}

/// Whether the page is one of ours: browsers send an origin with a form, too.
fn is_own(config: &Config, headers: &HeaderMap, origin: &str) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    (authority.is_some() && authority == host)
        || Url::parse(&config.public_url)
            .is_ok_and(|url| url.origin().ascii_serialization() == origin)
}
