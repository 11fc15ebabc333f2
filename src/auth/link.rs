//! The links in letters, and the forms of the pages that they open.

use axum::http::{HeaderMap, Uri, header};

use crate::config::Config;
use crate::http::body::is_form;
use crate::http::error::{ApiError, Code};

/// Whether the call is that of a link.
pub(super) fn is_one(uri: &Uri) -> bool {
    let mut query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    query.any(|(name, _)| name == "token")
}

/// The token of the link. Whatever else the query holds is let be: mail programs and trackers add
/// to links, and a name given twice among it (`utm_source`) says nothing of the token.
pub(super) fn token(uri: &Uri) -> Result<String, ApiError> {
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut tokens = query.filter(|(name, _)| name == "token").map(|(_, token)| token);
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token.into_owned()),
        (None, _) => Err(Code::LinkInvalid.into()),
        (Some(_), Some(_)) => Err(ApiError::malformed("The token is given twice.")),
    }
}

/// Refuses a form that another page than our own has sent: a browser says so by itself, where it is
/// not too old for that.
pub(super) fn check_form(config: &Config, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_own = match text("sec-fetch-site") {
        Some(site) => site == "same-origin",
        None => text(header::ORIGIN.as_str()) == Some(config.origin().as_str()),
    };
    if is_own || !is_form(headers) {
        return Ok(());
    }
    let message = "A form is taken from our own page alone: send JSON.".to_owned();
    Err(ApiError { message: Some(message), ..Code::Forbidden.into() })
}
