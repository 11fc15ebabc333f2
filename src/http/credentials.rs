//! The headers that hold credentials. Each has its one reader here, so that no two handlers read
//! one request differently.

use axum::http::{HeaderMap, HeaderName, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::fields::Password;
use crate::http::error::ApiError;
use crate::security::token::TokenKeys;

pub static ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
pub static REFRESH_TOKEN: HeaderName = HeaderName::from_static("x-refresh-token");

/// The access token from `x-access-token` or `Authorization: Bearer`. Beside the former a Bearer that
/// is not ours, such as a gateway's, is passed over; two different ones of ours are refused.
pub fn access_token<'a>(
    headers: &'a HeaderMap,
    keys: &TokenKeys,
) -> Result<Option<&'a str>, ApiError> {
    match (token(headers, &ACCESS_TOKEN)?, bearer(headers)?) {
        (Some(own), Some(bearer))
            if own != bearer && keys.is_genuine_access(own) && keys.is_genuine_access(bearer) =>
        {
            Err(ApiError::malformed("x-access-token and authorization hold different tokens."))
        }
        (own, bearer) => Ok(own.or(bearer)),
    }
}

pub fn refresh_token(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    token(headers, &REFRESH_TOKEN)
}

/// A token in a header of its own.
fn token<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    Ok(single(headers, name)?.filter(|value| !is_stray(value)))
}

/// What a script sends that has no token: `fetch` writes the word.
fn is_stray(value: &str) -> bool {
    matches!(value, "undefined" | "null")
}

/// The token of `Authorization: Bearer` (RFC 6750).
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let token = authorization(headers, "bearer")?.map(|token| token.trim_start_matches(' '));
    Ok(token.filter(|token| !is_stray(token) && !token.is_empty()))
}

/// The name and the password of `Authorization: Basic` (RFC 7617), split at the first colon; `None`
/// where the header holds none. Bytes that are not UTF-8 are read as ISO 8859-1, which many clients
/// send (RFC 7617, B.2), and the alphabet of URLs as the usual one.
pub fn basic(headers: &HeaderMap) -> Result<Option<(String, Password)>, ApiError> {
    // Some clients leave the padding out.
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let encoded = authorization(headers, "basic")?;
    let read = || {
        let usual = encoded?.trim().replace('-', "+").replace('_', "/");
        let decoded = GeneralPurpose::new(&STANDARD, LENIENT).decode(usual).ok()?;
        let text = String::from_utf8(decoded)
            .unwrap_or_else(|bytes| bytes.into_bytes().into_iter().map(char::from).collect());
        let (login, password) = text.split_once(':')?;
        Some((login.to_owned(), Password::claimed(password)))
    };
    Ok(read())
}

/// Whether `Authorization: Basic` is there, whatever it holds.
pub fn has_basic(headers: &HeaderMap) -> Result<bool, ApiError> {
    Ok(authorization(headers, "basic")?.is_some())
}

/// What a refused login answers in `www-authenticate`. A script in a browser gets a scheme that no
/// browser knows, so that none opens its own dialog over the frontend's.
pub fn basic_challenge(headers: &HeaderMap) -> &'static str {
    let fetch_mode = headers.get("sec-fetch-mode");
    let is_script = fetch_mode.is_some_and(|mode| mode != "navigate")
        || headers.contains_key("x-requested-with")
        || headers.contains_key(header::ORIGIN);
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
