//! `/dev/mailbox`: the letters of a development machine, which stay there.

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

/// The letters' own styles stand in attributes; a frame has the policy of the page around it.
const POLICY: &str = "style-src-attr 'unsafe-inline'; form-action 'none'";

/// The most characters of a link as it is shown.
const SHORT: usize = 60;

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

/// The page for a browser, JSON for other clients; nothing at all where mail is really sent, or for
/// another machine, a proxy's clients among them.
async fn show(
    State(state): State<AppState>,
    peer: Option<Extension<ConnectionInfo>>,
    headers: HeaderMap,
) -> Response {
    let is_forwarded = ["x-forwarded-for", "forwarded"].iter().any(|&by| headers.contains_key(by));
    let is_local = !is_forwarded
        && peer.is_some_and(|Extension(peer)| peer.address.ip().to_canonical().is_loopback());
    // A page from elsewhere can make its own name lead here (DNS rebinding), but not call us by
    // ours.
    if !is_local || !is_own_host(&headers, state.config.site()) {
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

fn is_own_host(headers: &HeaderMap, site: &str) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    [site, "localhost", "127.0.0.1", "[::1]"].contains(&without_port(host))
}
