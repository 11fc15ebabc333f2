//! `/dev/mailbox`: the letters of a development machine, which nobody sends anywhere.

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get};
use serde_json::json;

use crate::http::error::Code;
use crate::http::page::{self, wants_page};
use crate::mail::KeptLetter;
use crate::state::AppState;

/// How many letters are shown, newest first.
const SHOWN: usize = 50;

pub fn routes() -> Router<AppState> {
    Router::new().route("/dev/mailbox", get(show))
}

#[derive(Template)]
#[template(path = "mailbox.html", config = ".askama.toml")]
struct MailboxPage<'a> {
    style: &'a str,
    letters: &'a [KeptLetter],
}

/// The page for a browser, JSON for anybody else; nothing at all where mail is really sent.
async fn show(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let mailer = state.mailer.clone();
    let Ok(Some(letters)) = tokio::task::spawn_blocking(move || mailer.kept(SHOWN)).await else {
        return crate::http::error::ApiError::from(Code::NotFound).into_response();
    };
    if wants_page(&headers) {
        page::answer(StatusCode::OK, &MailboxPage { style: page::STYLE, letters: &letters }, "")
    } else {
        Json(json!({ "success": true, "letters": letters })).into_response()
    }
}
