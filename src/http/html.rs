//! The few pages that people see: no script, one style sheet, and a policy that allows nothing
//! else.

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use crate::http::error::ApiError;
use crate::security::csp_hash;

/// The style sheet of every page, inside the page itself.
pub const STYLE: &str = include_str!("html.css");

/// Whether the client is a browser that shows pages: `text/html` stands in its `accept` by name.
pub fn wants_page(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').any(|range| {
            let essence = range.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("text/html")
        })
    })
}

/// A page that may load nothing and run nothing; `directives` are added to its content security
/// policy.
pub fn answer(status: StatusCode, page: &impl Template, directives: &str) -> Response {
    let html = match page.render() {
        Ok(html) => html,
        Err(error) => return ApiError::internal(error).into_response(),
    };
    let style = csp_hash(STYLE);
    let policy = format!(
        "default-src 'none'; style-src {style}; frame-ancestors 'none'; base-uri 'none'; {directives}"
    );
    let policy =
        HeaderValue::from_str(&policy).expect("a policy of URLs and words is a header value");
    (status, [(header::CONTENT_SECURITY_POLICY, policy)], Html(html)).into_response()
}
