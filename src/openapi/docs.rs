//! `/openapi.json`, and `/docs`, the page to read and try it: everything comes from the binary.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderValue;
use serde_json::{Value, json};
use utoipa_swagger_ui::Config;

use crate::http::routes::Routes;
use crate::http::static_file::StaticFile;

const PAGE: &str = include_str!("docs.html");

/// The page writes styles into elements, and loads nothing but what lies beside it.
const PAGE_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'none'";

/// What the page loads.
const FILES: [&str; 5] = [
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
    "favicon-32x32.png",
];

pub fn routes(document: &Value) -> Routes {
    // The page calls its own origin, which need not be PUBLIC_URL (localhost, a preview's host):
    // its policy allows no other.
    let mut for_page = document.clone();
    for_page["servers"] = json!([{ "url": "/" }]);
    let routes = Routes::default()
        .route("/openapi.json", published(document).get())
        .route("/docs", StaticFile::page(PAGE, PAGE_CSP).get())
        .route("/docs/openapi.json", published(&for_page).get());
    let files = files();
    files.fold(routes, |routes, (name, file)| routes.route(&format!("/docs/{name}"), file.get()))
}

fn published(document: &Value) -> StaticFile {
    StaticFile::new(HeaderValue::from_static("application/json"), document.to_string())
}

fn files() -> impl Iterator<Item = (&'static str, StaticFile)> {
    let config = Config::from("/docs/openapi.json")
        .try_it_out_enabled(true)
        .persist_authorization(false)
        // Else the page sends the document's address to swagger.io, for a badge.
        .validator_url("none");
    let config = Arc::new(config);
    FILES.into_iter().filter_map(move |name| {
        let file = utoipa_swagger_ui::serve(name, Arc::clone(&config)).ok().flatten()?;
        let bytes = match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let content_type = HeaderValue::try_from(file.content_type).ok()?;
        Some((name, StaticFile::new(content_type, bytes)))
    })
}
