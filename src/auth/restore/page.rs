//! The page with the button that takes a deletion back, and what became of it.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::error::{ApiError, Code};
use crate::http::html::{self, Frame};
use crate::state::AppState;
use crate::store::challenges::Open;

#[derive(Template)]
#[template(path = "auth/restore.html", config = ".askama.toml")]
struct RestorePage<'a> {
    frame: Frame<'a>,
    title: &'a str,
    /// Of the link, while there is a button to press.
    token: Option<&'a str>,
    username: &'a str,
    until: String,
    /// What is wrong.
    complaint: Option<&'a str>,
}

/// The page as it is opened.
pub(super) fn show(state: &AppState, found: Result<(String, Open), ApiError>) -> Response {
    let (token, open) = match found {
        Ok(found) => found,
        Err(error) => return refused(state, error),
    };
    let page = RestorePage {
        token: Some(&token),
        username: &open.user.username,
        until: open.expires_at.format("%-d %B %Y, %H:%M UTC").to_string(),
        ..page(state, "Restore your account")
    };
    html::answer(StatusCode::OK, &page, "form-action 'self'")
}

/// The page after the button was pressed.
pub(super) fn end(state: &AppState, outcome: Result<(), ApiError>) -> Response {
    match outcome {
        Ok(()) => {
            html::answer(StatusCode::OK, &page(state, "Your account is restored"), html::NO_FORM)
        }
        Err(error) => refused(state, error),
    }
}

fn refused(state: &AppState, error: ApiError) -> Response {
    let title = match error.code {
        Code::LinkInvalid => "This link is not valid",
        Code::LinkExpired | Code::ChallengeExpired => "This link has run out",
        _ => "This did not work",
    };
    let page = RestorePage { complaint: Some(error.message()), ..page(state, title) };
    let response = html::answer(error.code.status(), &page, html::NO_FORM);
    html::with_headers_of(error, response)
}

fn page<'a>(state: &'a AppState, title: &'a str) -> RestorePage<'a> {
    let (frame, until) = (Frame::of(&state.config), String::new());
    RestorePage { frame, title, token: None, username: "", until, complaint: None }
}
