//! The page behind the link: what there is to confirm, or what became of it, and a way on.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use url::Url;

use super::account::{Finding, Seen};
use crate::account::letters::LINK_LIFETIME;
use crate::config::Config;
use crate::http::error::Code;
use crate::http::html::{self, Frame};
use crate::state::AppState;

#[derive(Template)]
#[template(path = "auth/confirm.html", config = ".askama.toml")]
struct ConfirmPage<'a> {
    frame: Frame<'a>,
    title: &'a str,
    finding: &'a Finding,
    email: &'a str,
    /// Empty where there is no account.
    username: &'a str,
    hours: i64,
    /// To the frontend, where one is set.
    onward: Option<Url>,
}

/// The page as it is opened.
pub(super) fn show(state: &AppState, seen: &Seen) -> Response {
    render(&state.config, seen)
}

/// The page after a button was pressed: every end of it leads to the frontend, where one is set.
/// Trouble of ours is no end: the browser may send the form once more.
pub(super) fn end(state: &AppState, seen: &Seen) -> Response {
    let mut response = render(&state.config, seen);
    if response.status().is_server_error() {
        return response;
    }
    let onward = onward(&state.config, seen).map(|url| HeaderValue::try_from(url.as_str()));
    if let Some(Ok(location)) = onward {
        *response.status_mut() = StatusCode::SEE_OTHER;
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn render(config: &Config, seen: &Seen) -> Response {
    let page = ConfirmPage {
        frame: Frame::of(config),
        title: title(&seen.finding),
        finding: &seen.finding,
        email: &seen.email,
        username: seen.username.as_deref().unwrap_or_default(),
        hours: LINK_LIFETIME.num_hours(),
        onward: onward(config, seen),
    };
    let policy = policy(config, &seen.finding);
    match seen.finding.told() {
        Ok(_) => html::answer(StatusCode::OK, &page, policy),
        Err(error) => {
            let response = html::answer(error.code.status(), &page, policy);
            html::with_headers_of(error, response)
        }
    }
}

/// `CONFIRM_REDIRECT_URL` with what became of the link in its query.
fn onward(config: &Config, seen: &Seen) -> Option<Url> {
    let mut url = config.confirm_redirect_url.clone()?;
    match seen.finding.told() {
        Ok(done) => {
            let confirmed = if done.email_verified { "true" } else { "false" };
            url.query_pairs_mut().append_pair("confirmed", confirmed);
        }
        Err(error) => {
            url.query_pairs_mut().append_pair("error", error.code.as_str());
        }
    }
    Some(url)
}

/// Browsers hold form-action against each redirect that follows the form as well, and the frontend
/// may redirect to another origin. So wide a policy rests on the page's escaping; only a page with
/// a form has it.
fn policy(config: &Config, finding: &Finding) -> &'static str {
    if !matches!(finding, Finding::New | Finding::Pending) {
        return html::NO_FORM;
    }
    match config.confirm_redirect_url.as_ref().map(Url::scheme) {
        None => "form-action 'self'",
        Some("https") => "form-action 'self' https:",
        Some(_) => "form-action 'self' https: http:",
    }
}

fn title(finding: &Finding) -> &'static str {
    match finding {
        Finding::New => "Confirm your e-mail address",
        Finding::Pending => "Confirm your new e-mail address",
        Finding::Confirmed => "E-mail address confirmed",
        Finding::Taken => "This e-mail address is taken",
        Finding::MovedOn => "The account has another e-mail address",
        Finding::Gone => "This account does not exist any more",
        Finding::Expired => "This link has run out",
        Finding::Deleted => "The account is deleted",
        Finding::Dropped => "The account keeps the address that it has",
        Finding::NothingLeft => "There is nothing left to do",
        Finding::NotDisowned => "Nothing was changed",
        Finding::Trouble(error) if error.code == Code::LinkInvalid => "This link is not valid",
        Finding::Trouble(_) => "This did not work",
    }
}
