//! The page on which an invited person makes an account, and what became of it.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;

use crate::http::error::{ApiError, Code};
use crate::http::html::{self, Frame};
use crate::http::input::Input;
use crate::state::AppState;
use crate::store::invitations::Invitation;
use crate::store::users::User;

#[derive(Template)]
#[template(path = "auth/invitation.html", config = ".askama.toml")]
struct InvitationPage<'a> {
    frame: Frame<'a>,
    title: &'a str,
    /// While there is an account to make.
    form: Option<&'a Typed>,
    /// What is wrong.
    complaints: Vec<String>,
    is_link_over: bool,
    min_length: usize,
}

/// What the form holds beside the password.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    token: String,
    email: String,
    username: String,
    first_name: String,
    last_name: String,
}

impl Typed {
    fn new(token: String, invitation: Invitation) -> Self {
        let Invitation { email, first_name, last_name, .. } = invitation;
        Self { token, email, username: String::new(), first_name, last_name }
    }

    /// As it was sent.
    pub(super) fn read(token: String, form: &Input, invitation: &Invitation) -> Self {
        let text = |field: &str| form.text(field).map(str::to_owned);
        let (username, first_name, last_name) =
            (text("username").unwrap_or_default(), text("first_name"), text("last_name"));
        let typed = Self::new(token, invitation.clone());
        Self {
            username,
            first_name: first_name.unwrap_or(typed.first_name),
            last_name: last_name.unwrap_or(typed.last_name),
            ..typed
        }
    }
}

/// The page as it is opened.
pub(super) fn show(state: &AppState, found: Result<(String, Invitation), ApiError>) -> Response {
    match found {
        Ok((token, invitation)) => {
            form(state, StatusCode::OK, &Typed::new(token, invitation), Vec::new())
        }
        Err(error) => refused(state, error),
    }
}

/// The page after the form was sent.
pub(super) fn end(
    state: &AppState,
    outcome: Result<User, ApiError>,
    typed: Option<&Typed>,
) -> Response {
    match (outcome, typed) {
        (Ok(_), _) => {
            let page = page(state, "Your account is made");
            html::answer(StatusCode::CREATED, &page, html::NO_FORM)
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
            let page = form(state, error.code.status(), typed, complaints);
            html::with_headers_of(error, page)
        }
        (Err(error), _) => refused(state, error),
    }
}

fn form(state: &AppState, status: StatusCode, typed: &Typed, complaints: Vec<String>) -> Response {
    let page = InvitationPage { form: Some(typed), complaints, ..page(state, "Make your account") };
    html::answer(status, &page, "form-action 'self'")
}

fn refused(state: &AppState, error: ApiError) -> Response {
    let title = match error.code {
        Code::LinkInvalid => "This link is not valid",
        Code::LinkExpired => "This link has run out",
        _ => "This did not work",
    };
    let complaints = vec![error.message().to_owned()];
    let is_link_over = [Code::LinkInvalid, Code::LinkExpired].contains(&error.code);
    let page = InvitationPage { complaints, is_link_over, ..page(state, title) };
    let response = html::answer(error.code.status(), &page, html::NO_FORM);
    html::with_headers_of(error, response)
}

fn page<'a>(state: &'a AppState, title: &'a str) -> InvitationPage<'a> {
    InvitationPage {
        frame: Frame::of(&state.config),
        title,
        form: None,
        complaints: Vec::new(),
        is_link_over: false,
        min_length: state.config.min_password_length,
    }
}
