//! The headers that hold credentials. Each has its one reader here, so that no two handlers read
//! one request differently.

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::fields::Password;
use crate::http::error::ApiError;

pub static ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
pub static REFRESH_TOKEN: HeaderName = HeaderName::from_static("x-refresh-token");

/// The access token from `x-access-token` or `Authorization: Bearer`; two different ones are
/// refused.
pub fn access_token(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    match (single(headers, &ACCESS_TOKEN)?, bearer(headers)?) {
        (Some(own), Some(bearer)) if own != bearer => {
            Err(ApiError::malformed("x-access-token and authorization hold different tokens."))
        }
        (own, bearer) => Ok(own.or(bearer)),
    }
}

pub fn refresh_token(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    single(headers, &REFRESH_TOKEN)
}

/// The token of `Authorization: Bearer` (RFC 6750).
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    Ok(authorization(headers, "bearer")?.map(|token| token.trim_start_matches(' ')))
}

/// The name and the password of `Authorization: Basic` (RFC 7617), split at the first colon; `None`
/// where the header holds none.
pub fn basic(headers: &HeaderMap) -> Result<Option<(String, Password)>, ApiError> {
    // Some clients leave the padding out.
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let encoded = authorization(headers, "basic")?;
    let read = || {
        let decoded = GeneralPurpose::new(&STANDARD, LENIENT).decode(encoded?.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (login, password) = text.split_once(':')?;
        // PostgreSQL's text cannot hold U+0000, and no name does: the look-up of an empty name
        // finds no user, in the same time.
        let login = if login.contains('\0') { "" } else { login };
        Some((login.to_owned(), Password::claimed(password)))
    };
    Ok(read())
}

/// What a refused login answers in `www-authenticate`. A script in a browser gets a scheme that no
/// browser knows, so that none opens its own dialog over the frontend's.
pub fn basic_challenge(headers: &HeaderMap) -> &'static str {
    let fetch_mode = headers.get("sec-fetch-mode");
    let is_script = fetch_mode.is_some_and(|mode| mode != "navigate")
        || headers.contains_key("x-requested-with");
    if is_script {
        r#"xBasic realm="Login required!", charset="UTF-8""#
    } else {
        r#"Basic realm="Login required!", charset="UTF-8""#
    }
}

/// What follows the scheme in `authorization`, where it is this scheme.
fn authorization<'a>(headers: &'a HeaderMap, scheme: &str) -> Result<Option<&'a str>, ApiError> {
    let value = single(headers, &header::AUTHORIZATION)?;
    let parts = value.and_then(|value| value.split_once(' '));
    Ok(parts.filter(|(given, _)| given.eq_ignore_ascii_case(scheme)).map(|(_, rest)| rest))
}

/// The value of a header that may occur once; an empty one counts as none.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(ApiError::malformed(format!("The header {name} is given twice.")));
    }
    // A value that is not ASCII becomes `?`: no token check accepts that, and as `authorization` it
    // holds neither a token nor a password.
    Ok(first.map(|value| value.to_str().unwrap_or("?")).filter(|value| !value.is_empty()))
}
