//! `/openapi.json`, and `/docs`, the page to read and try it: everything comes from the binary.

use std::borrow::Cow;
use std::sync::Arc;

use askama::Template;
use axum::body::Bytes;
use axum::http::HeaderValue;
use serde_json::{Value, json};
use utoipa_swagger_ui::Config;

use crate::http::html;
use crate::http::routes::Routes;
use crate::http::static_file::{StaticFile, version_of};

/// The page writes styles into elements, and loads nothing but what lies beside it.
const PAGE_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; \
    form-action 'none'";

/// What the page loads of Swagger UI.
const FILES: [&str; 3] =
    ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"];

/// Starts Swagger UI.
const START: &str = include_str!("docs.js");

#[derive(Template)]
#[template(path = "openapi/docs.html", config = ".askama.toml")]
struct DocsPage<'a> {
    name: &'a str,
    version: &'a str,
}

pub fn routes(document: &Value, name: &str) -> Routes {
    // The page calls where it came from, which need not be PUBLIC_URL (localhost, a preview's
    // host): its policy allows no other. Relative to the document, as everything is.
    let mut for_page = document.clone();
    for_page["servers"] = json!([{ "url": "..", "description": "this service" }]);
    let javascript = HeaderValue::from_static("text/javascript; charset=utf-8");
    let own = [
        ("openapi.json", StaticFile::json(for_page.to_string())),
        ("start.js", StaticFile::new(javascript, START)),
        ("favicon.ico", html::icon()),
    ];
    let files: Vec<_> = own.into_iter().chain(files()).collect();
    let version = version_of(files.iter().map(|(_, file)| file.bytes()));
    let page = DocsPage { name, version: &version };
    let page = page.render().expect("writing strings into a string does not fail");
    let routes = Routes::default()
        .route("/openapi.json", StaticFile::json(document.to_string()).get_public())
        .route("/docs", StaticFile::page(page, PAGE_CSP).get());
    files.into_iter().fold(routes, |routes, (name, file)| {
        // The page names its files relative to itself, and so works below any path that a proxy
        // strips. It is at `/docs/` as well: from there a browser asks one folder deeper.
        let handler = file.get_versioned(&version);
        routes
            .route(&format!("/docs/{name}"), handler.clone())
            .route(&format!("/docs/docs/{name}"), handler)
    })
}

fn files() -> impl Iterator<Item = (&'static str, StaticFile)> {
    let config = Arc::new(Config::default());
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
