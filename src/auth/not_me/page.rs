//! The page with the button, and what became of it.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::error::{ApiError, Code};
use crate::http::html::{self, Frame};
use crate::state::AppState;
use crate::store::not_me::Notice;

#[derive(Template)]
#[template(path = "auth/not_me.html", config = ".askama.toml")]
struct NotMePage<'a> {
    frame: Frame<'a>,
    title: &'a str,
    /// Of the link, while there is something to take back.
    token: Option<&'a str>,
    /// It was taken back before.
    is_over: bool,
    /// What is wrong.
    complaint: Option<&'a str>,
}

/// The page as it is opened.
pub(super) fn show(state: &AppState, found: Result<(String, Notice), ApiError>) -> Response {
    match found {
        Ok((_, notice)) if notice.is_used => {
            let page = NotMePage { is_over: true, ..page(state, "This was done already") };
            html::answer(StatusCode::OK, &page, html::NO_FORM)
        }
        Ok((token, _)) => {
            let page = NotMePage { token: Some(&token), ..page(state, "Was this not you?") };
            html::answer(StatusCode::OK, &page, "form-action 'self'")
        }
        Err(error) => refused(state, error),
    }
}

/// The page after the button was pressed.
pub(super) fn end(state: &AppState, outcome: Result<(), ApiError>) -> Response {
    match outcome {
        Ok(()) => done(state),
        Err(error) => refused(state, error),
    }
}

fn done(state: &AppState) -> Response {
    html::answer(StatusCode::OK, &page(state, "Everyone is signed out"), html::NO_FORM)
}

fn refused(state: &AppState, error: ApiError) -> Response {
    let title = match error.code {
        Code::LinkInvalid => "This link is not valid",
        Code::LinkExpired => "This link has run out",
        _ => "This did not work",
    };
    let page = NotMePage { complaint: Some(error.message()), ..page(state, title) };
    let response = html::answer(error.code.status(), &page, html::NO_FORM);
    html::with_headers_of(error, response)
}

fn page<'a>(state: &'a AppState, title: &'a str) -> NotMePage<'a> {
    NotMePage {
        frame: Frame::of(&state.config),
        title,
        token: None,
        is_over: false,
        complaint: None,
    }
}
