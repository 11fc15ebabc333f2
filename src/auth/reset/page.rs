//! The page on which a new password is typed, and what became of it.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::account::recovery::Proven;
use crate::http::error::{ApiError, Code};
use crate::http::html::{self, Frame};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "auth/reset.html", config = ".askama.toml")]
struct ResetPage<'a> {
    frame: Frame<'a>,
    title: &'a str,
    /// Of the link, while there is a password to type.
    token: Option<&'a str>,
    /// For password managers.
    username: &'a str,
    /// What is wrong.
    complaints: Vec<String>,
    min_length: usize,
}

/// The page as it is opened.
pub(super) fn show(state: &AppState, found: Result<(String, Proven), ApiError>) -> Response {
    match found {
        Ok((token, proven)) => {
            let username = &proven.challenge.user.username;
            form(state, StatusCode::OK, &token, username, Vec::new())
        }
        Err(error) => refused(state, error),
    }
}

/// The page after the form was sent.
pub(super) fn end(
    state: &AppState,
    outcome: Result<(), ApiError>,
    typed: Option<&Typed>,
) -> Response {
    match (outcome, typed) {
        (Ok(()), _) => {
            let page = page(state, "Your new password is set");
            html::answer(StatusCode::OK, &page, html::NO_FORM)
        }
        // The link goes on being good.
        (Err(error), Some(typed))
            if ![Code::LinkInvalid, Code::LinkExpired].contains(&error.code) =>
        {
            let mut complaints: Vec<String> =
                error.errors.iter().map(|error| error.message.clone()).collect();
            if complaints.is_empty() {
                complaints.push(error.message().to_owned());
            }
            let page = form(state, error.code.status(), &typed.token, &typed.username, complaints);
            html::with_headers_of(error, page)
        }
        (Err(error), _) => refused(state, error),
    }
}

/// What the form held beside the password.
pub(super) struct Typed {
    pub(super) token: String,
    pub(super) username: String,
}

fn form(
    state: &AppState,
    status: StatusCode,
    token: &str,
    username: &str,
    complaints: Vec<String>,
) -> Response {
    let page =
        ResetPage { token: Some(token), username, complaints, ..page(state, "Set a new password") };
    html::answer(status, &page, "form-action 'self'")
}

fn refused(state: &AppState, error: ApiError) -> Response {
    let title = match error.code {
        Code::LinkInvalid => "This link is not valid",
        Code::LinkExpired => "This link has run out",
        _ => "This did not work",
    };
    let complaints = vec![error.message().to_owned()];
    let page = ResetPage { complaints, ..page(state, title) };
    let response = html::answer(error.code.status(), &page, html::NO_FORM);
    html::with_headers_of(error, response)
}

fn page<'a>(state: &'a AppState, title: &'a str) -> ResetPage<'a> {
    ResetPage {
        frame: Frame::of(&state.config),
        title,
        token: None,
        username: "",
        complaints: Vec::new(),
        min_length: state.config.min_password_length,
    }
}
