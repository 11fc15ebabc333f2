//! `/dev/mailbox`: the letters of a development machine, which stay there.

use std::net::IpAddr;

use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json};
use serde_json::json;

use crate::config::without_port;
use crate::http::client::ConnectionInfo;
use crate::http::error::{ApiError, Code};
use crate::http::html::{self, Frame, vary_by_accept, wants_page};
use crate::http::routes::Routes;
use crate::mail::KeptLetter;
use crate::state::AppState;

/// How many letters are shown, newest first.
const SHOWN: usize = 50;

pub fn routes() -> Routes {
    Routes::default().route("/dev/mailbox", get(show))
}

/// The letters have styles of their own; a frame has the policy of the page around it.
const POLICY: &str =
    "style-src-elem 'unsafe-inline'; style-src-attr 'unsafe-inline'; form-action 'none'";

/// The most characters of a link as it is shown.
const SHORT: usize = 60;

/// What proxies and content delivery networks add, beside `x-forwarded-*`.
const FORWARDING_HEADERS: [&str; 17] = [
    "cdn-loop",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-ray",
    "client-ip",
    "fastly-client-ip",
    "fly-client-ip",
    "forwarded",
    "true-client-ip",
    "via",
    "x-amzn-trace-id",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "x-original-host",
    "x-real-ip",
];

#[derive(Template)]
#[template(path = "mailbox.html", config = ".askama.toml")]
struct MailboxPage<'a> {
    frame: Frame<'a>,
    letters: Vec<Shown>,
}

/// A letter on the page.
struct Shown {
    letter: KeptLetter,
    /// For a frame, from which a link leads to a tab of its own: within it our pages are not shown.
    html: String,
    links: Vec<Link>,
}

struct Link {
    url: String,
    short: String,
}

impl Shown {
    fn new(letter: KeptLetter) -> Self {
        let html = letter.html.replacen("<head>", r#"<head><base target="_blank">"#, 1);
        let links = letter.links.iter().map(|url| Link { url: url.clone(), short: short(url) });
        Self { html, links: links.collect(), letter }
    }
}

/// The beginning of a link: what is left out is a token.
fn short(url: &str) -> String {
    let mut short: String = url.chars().take(SHORT).collect();
    if short.len() < url.len() {
        short.push('…');
    }
    short
}

/// The page for a browser, JSON for other clients; nothing at all where mail is really sent, where
/// the service is for others than this machine, or for another machine, a proxy's clients among
/// them.
async fn show(
    State(state): State<AppState>,
    peer: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
) -> Response {
    let is_local =
        peer.is_some_and(|Extension(peer)| peer.address.ip().to_canonical().is_loopback());
    // A page from elsewhere can make its own name lead here (DNS rebinding), but not call us by
    // this machine's.
    if state.config.is_public()
        || !is_local
        || is_forwarded(&headers)
        || !is_loopback_host(&headers)
    {
        return ApiError::from(Code::NotFound).into_response();
    }
    let mailer = state.mailer.clone();
    let Ok(Some(letters)) = tokio::task::spawn_blocking(move || mailer.kept(SHOWN)).await else {
        return ApiError::from(Code::NotFound).into_response();
    };
    if wants_page(&headers) {
        let letters = letters.into_iter().map(Shown::new).collect();
        let page = MailboxPage { frame: Frame::of(&state.config), letters };
        html::answer(StatusCode::OK, &page, POLICY)
    } else {
        vary_by_accept(Json(json!({ "success": true, "letters": letters })).into_response())
    }
}

/// Whether a proxy says that somebody stands behind it.
fn is_forwarded(headers: &HeaderMap) -> bool {
    let is_by_proxy =
        |name: &str| name.starts_with("x-forwarded") || FORWARDING_HEADERS.contains(&name);
    headers.keys().any(|name| is_by_proxy(name.as_str()))
}

/// Whether the client has called us by a name of this machine's, with any port.
fn is_loopback_host(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = without_port(host);
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: &str, value: &str) -> HeaderMap {
        let name: HeaderName = name.parse().expect("a name");
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a value"))])
    }

    #[test]
    fn only_names_of_this_machine_lead_to_the_mailbox() {
        for own in
            ["localhost", "LocalHost:8000", "127.0.0.1", "127.8.8.8:80", "[::1]", "[::1]:8000"]
        {
            assert!(is_loopback_host(&headers("host", own)), "{own}");
        }
        for other in [
            "auth.example.com",
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "example.com:127",
            "192.168.0.1",
            "0.0.0.0:8000",
            "[::]",
            "[::2]:8000",
            "",
            ":8000",
            "localhost:8000@example.com",
        ] {
            assert!(!is_loopback_host(&headers("host", other)), "{other}");
        }
        assert!(!is_loopback_host(&HeaderMap::new()));
    }

    #[test]
    fn a_proxy_is_known_by_whatever_it_adds() {
        for name in FORWARDING_HEADERS.iter().chain(&["x-forwarded-for", "x-forwarded-proto"]) {
            assert!(is_forwarded(&headers(name, "x")), "{name}");
        }
        assert!(!is_forwarded(&headers("user-agent", "curl")));
    }
}
