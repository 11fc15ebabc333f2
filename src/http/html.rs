//! The few pages that people see: no script, one style sheet, and a policy that allows nothing
//! else.

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

use crate::config::{Color, Config};
use crate::http::error::{ApiError, Code};
use crate::http::routes::Routes;
use crate::http::static_file::StaticFile;
use crate::security::csp_hash;

/// The style sheet of every page, inside the page itself.
const STYLE: &str = include_str!("html.css");

/// The icon of every page.
const ICON: &[u8] = include_bytes!("favicon.ico");

/// The policy of a page without a form, beside what every page has.
pub const NO_FORM: &str = "form-action 'none'";

/// The paths at which a browser is shown a page, whatever goes wrong; where nothing is, likewise.
const PAGES: [&str; 8] = [
    "/",
    "/api/v1/confirm",
    "/api/v1/invitations",
    "/api/v1/invitations/accept",
    "/api/v1/not_me",
    "/api/v1/password/reset",
    "/api/v1/restore",
    "/dev/mailbox",
];

/// What stands on every page, for the layout in `page.html`.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub style: &'static str,
    /// Of the buttons.
    color: Color,
    /// The service as people know it.
    pub name: &'a str,
    /// The start of every link: a path, so that a page leads to the host that it came from.
    pub path: &'a str,
}

impl<'a> Frame<'a> {
    pub fn of(config: &'a Config) -> Self {
        let color = config.app_color;
        Self { style: STYLE, color, name: &config.app_name, path: config.public_path() }
    }

    /// What the style sheet begins with.
    pub fn colors(&self) -> String {
        let (on_it, edge) = (self.color.of_words_on_it(), self.color.of_its_edge());
        format!(":root {{ --button: {}; --on-button: {on_it}; --edge: {edge}; }}\n", self.color)
    }
}

pub fn routes() -> Routes {
    Routes::default().route("/favicon.ico", icon().get())
}

pub fn icon() -> StaticFile {
    StaticFile::new(HeaderValue::from_static("image/x-icon"), ICON)
}

/// Whether the client is a browser that shows pages: `text/html` stands in its `accept` by name.
pub fn wants_page(headers: &HeaderMap) -> bool {
    accepts_by_name(headers, "text/html")
}

/// Whether the media type stands in `accept` by name, and is not refused there (`q=0`).
pub fn accepts_by_name(headers: &HeaderMap, media_type: &str) -> bool {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(media_type))
            && !parts.any(is_refusal)
    })
}

/// RFC 9110, 12.4.2: a weight of 0 is "not acceptable".
pub(super) fn is_refusal(parameter: &str) -> bool {
    let weight = parameter.split_once('=').filter(|(name, _)| name.trim_end() == "q");
    weight.is_some_and(|(_, weight)| weight.trim().parse().is_ok_and(|weight: f32| weight <= 0.0))
}

/// Whether what goes wrong at this route is told on a page, to a client that shows pages. `None`
/// where the path is none of ours.
pub(super) fn tells_errors(route: Option<&str>) -> bool {
    route.is_none_or(|route| PAGES.contains(&route))
}

/// The answer to other clients than those that show pages, where there is a page for them.
pub fn vary_by_accept(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// A page that may load nothing but its icon and run nothing; `directives` are added to its content
/// security policy.
pub fn answer(status: StatusCode, page: &impl Template, directives: &str) -> Response {
    let html = match page.render() {
        Ok(html) => html,
        Err(error) => return ApiError::internal(error).into_response(),
    };
    // Nobody else's: what others chose is escaped, and stands behind it.
    let style = html.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
    let style = csp_hash(style.map_or("", |(style, _)| style));
    let policy = format!(
        "default-src 'none'; style-src {style}; img-src 'self'; frame-ancestors 'none'; \
         base-uri 'none'; {directives}"
    );
    let policy =
        HeaderValue::from_str(&policy).expect("a policy of URLs and words is a header value");
    let headers = [(header::CONTENT_SECURITY_POLICY, policy)];
    vary_by_accept((status, headers, Html(html)).into_response())
}

/// The page of an error with the headers that another client would get, and the error itself, for
/// the log.
pub fn with_headers_of(error: ApiError, mut page: Response) -> Response {
    let (bare, _) = error.into_response().into_parts();
    page.headers_mut().extend(bare.headers);
    page.extensions_mut().extend(bare.extensions);
    page
}

/// An error for people.
pub(super) fn error_page(config: &Config, error: &ApiError, request_id: &str) -> Response {
    #[derive(Template)]
    #[template(path = "http/error.html", config = ".askama.toml")]
    struct ErrorPage<'a> {
        frame: Frame<'a>,
        title: &'a str,
        message: &'a str,
        request_id: &'a str,
    }

    let title = match error.code {
        Code::NotFound => "Page not found",
        _ => "This did not work",
    };
    let (frame, message) = (Frame::of(config), error.message());
    answer(error.code.status(), &ErrorPage { frame, title, message, request_id }, NO_FORM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_is_named_unless_it_is_refused() {
        let accepts = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("valid"))]);
            (wants_page(&headers), accepts_by_name(&headers, "application/json"))
        };
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", (true, false)),
            ("application/json, text/plain, */*", (false, true)),
            ("application/json, TEXT/HTML;q=0.1", (true, true)),
            ("text/html;q=0, application/json;q=1", (false, true)),
            ("application/json;q=0.000", (false, false)),
            ("*/*", (false, false)),
            ("text/*, application/*", (false, false)),
            ("application/jsonx, text/htmlx", (false, false)),
            ("", (false, false)),
        ] {
            assert_eq!(accepts(accept), expected, "{accept}");
        }
    }
}
