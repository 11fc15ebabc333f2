//! The links in letters.

use axum::http::Uri;

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
