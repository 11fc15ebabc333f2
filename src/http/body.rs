//! What a request carries: a JSON object, or the query of its URL.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::strict_json;

/// Largest body in bytes, where an endpoint does not ask for another one: `JsonBody<{ 64 * 1024 }>`.
/// How long it may take to arrive: `admission.rs`.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// Bodies above this take turns. Nearly all are smaller, and 4,000 connections that never send the
/// end of theirs cost 59 MB in place of 395.
const SMALL_BODY_BYTES: usize = 2 * 1024;
/// So many bytes of larger ones are taken in at once.
static LARGE_BODY_BYTES: Semaphore = Semaphore::const_new(4 * 1024 * 1024);
/// So many larger ones wait for their turn, and how long. What their clients send meanwhile is held
/// by the system.
static LARGE_BODIES_WAITING: Semaphore = Semaphore::const_new(256);
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The body, which has to be a JSON object.
#[derive(Debug)]
pub struct JsonBody<const MAX_BYTES: usize = MAX_BODY_BYTES>(pub Input);

impl<S: Sync, const MAX_BYTES: usize> FromRequest<S> for JsonBody<MAX_BYTES> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(Code::UnsupportedMediaType.into());
        }
        let bytes = read_body(request.into_body(), MAX_BYTES).await?;
        Ok(Self(parse_object(&bytes)?))
    }
}

/// The body of a call that needs none: an empty one is an empty object.
#[derive(Debug)]
pub struct OptionalJsonBody(pub Input);

impl<S: Sync> FromRequest<S> for OptionalJsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let json = is_json(request.headers());
        let bytes = read_body(request.into_body(), MAX_BODY_BYTES).await?;
        match (bytes.is_empty(), json) {
            (true, _) => Ok(Self(Input::new(Map::new()))),
            (false, true) => Ok(Self(parse_object(&bytes)?)),
            (false, false) => Err(Code::UnsupportedMediaType.into()),
        }
    }
}

/// The query of the URL. A name given twice is refused: two readers could choose different values.
#[derive(Debug)]
pub struct QueryString(pub Input);

impl<S: Sync> FromRequestParts<S> for QueryString {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut values = Map::new();
        for (name, value) in
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
        {
            let value = Value::String(value.into_owned());
            if values.insert(name.to_string(), value).is_some() {
                return Err(ApiError::malformed("A parameter of the query is given twice."));
            }
        }
        Ok(Self(Input::new(values)))
    }
}

/// The body of a call that a page's form sends as well as a program: pairs of a form or a JSON
/// object. An empty one is an empty object.
#[derive(Debug)]
pub struct OptionalFormBody(pub Input);

impl<S: Sync> FromRequest<S> for OptionalFormBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_form(request.headers()) {
            let OptionalJsonBody(body) = OptionalJsonBody::from_request(request, state).await?;
            return Ok(Self(body));
        }
        let bytes = read_body(request.into_body(), MAX_BODY_BYTES).await?;
        Ok(Self(parse_form(&bytes)))
    }
}

/// Whether the body is a form's.
pub fn is_form(headers: &HeaderMap) -> bool {
    let mut given = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(value)), None) = (given.next().map(|value| value.to_str()), given.next()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// A field given twice is a list, which none is that we read: two readers could choose different
/// values.
fn parse_form(bytes: &[u8]) -> Input {
    let mut values = Map::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        let value = Value::String(value.into_owned());
        match values.get_mut(&*name) {
            None => {
                values.insert(name.into_owned(), value);
            }
            Some(Value::Array(all)) => all.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Input::new(values)
}

/// `application/json` or of its kind (`application/problem+json`), in UTF-8 if a charset is named,
/// and not compressed.
fn is_json(headers: &HeaderMap) -> bool {
    is_text_of(headers, is_json_type)
}

/// Whether the body is of such a type, in UTF-8 if a charset is named, and not compressed.
pub(super) fn is_text_of(headers: &HeaderMap, is_type: fn(&str) -> bool) -> bool {
    let is_utf8 =
        |charset: &str| ["utf-8", "utf8"].iter().any(|it| charset.eq_ignore_ascii_case(it));
    let mut packed = headers.get_all(header::CONTENT_ENCODING).iter();
    // Some clients wrongly name the charset there.
    let is_plain = |coding: &str| {
        coding.is_empty() || coding.eq_ignore_ascii_case("identity") || is_utf8(coding)
    };
    if !packed.all(|packed| packed.to_str().is_ok_and(is_plain)) {
        return false;
    }
    let mut given = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(value)), None) = (given.next().map(|value| value.to_str()), given.next()) else {
        return false;
    };
    let mut parts = value.split(';').map(str::trim);
    parts.next().is_some_and(is_type)
        && parts.filter_map(|parameter| parameter.split_once('=')).all(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset") || is_utf8(value.trim().trim_matches('"'))
        })
}

/// RFC 6839, 3.1: what ends in `+json` is JSON, too.
fn is_json_type(essence: &str) -> bool {
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    let suffix = subtype.rsplit_once('+').filter(|(name, _)| !name.is_empty());
    let is_token = subtype.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    kind.eq_ignore_ascii_case("application")
        && is_token
        && suffix.map_or(subtype, |(_, suffix)| suffix).eq_ignore_ascii_case("json")
}

pub(super) async fn read_body(body: Body, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
    let too_large = || ApiError {
        message: Some(format!("A body has at most {} KiB here.", max_bytes / 1024)),
        ..Code::PayloadTooLarge.into()
    };
    // Too large by its own announcement: refused before the client sends it.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max_bytes {
        return Err(too_large());
    }
    let mut body = Limited::new(body, max_bytes);
    // Copied into one buffer: frames of one byte each would take forty times the memory.
    let mut bytes = Vec::new();
    let mut turn = None;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                if bytes.len() + data.len() > SMALL_BODY_BYTES && turn.is_none() {
                    turn = Some(turn_for(max_bytes).await?);
                    bytes.reserve_exact(announced);
                }
                bytes.extend_from_slice(data);
            }
            Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
            Err(_) => return Err(ApiError::malformed("The body could not be read to its end.")),
        }
    }
    Ok(bytes)
}

async fn turn_for(max_bytes: usize) -> Result<SemaphorePermit<'static>, ApiError> {
    let busy = || ApiError::from(Code::Busy);
    let _waiting = LARGE_BODIES_WAITING.try_acquire().map_err(|_| busy())?;
    let bytes = u32::try_from(max_bytes).map_err(ApiError::internal)?;
    if let Ok(turn) = LARGE_BODY_BYTES.try_acquire_many(bytes) {
        return Ok(turn);
    }
    let turn = timeout(TURN_TIMEOUT, LARGE_BODY_BYTES.acquire_many(bytes)).await;
    turn.map_err(|_| busy())?.map_err(ApiError::internal)
}

pub(super) fn parse_object(bytes: &[u8]) -> Result<Input, ApiError> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to() + 1;
        ApiError::malformed(format!("The body is not UTF-8: see byte {at}."))
    })?;
    // RFC 8259, 8.1: a mark may be passed over.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value = strict_json::parse(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => ApiError::malformed("The body holds a key twice."),
        _ => ApiError::malformed(format!(
            "The body is not JSON: see line {}, column {}.",
            error.line(),
            error.column()
        )),
    })?;
    match value {
        Value::Object(values) => Ok(Input::new(values)),
        _ => Err(ApiError::malformed("The body has to be a JSON object.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::input::{MAX_UNASKED, MAX_UNASKED_CHARS};

    fn code(body: &str) -> Result<(), Code> {
        parse_object(body.as_bytes()).and_then(Input::check).map_err(|error| error.code)
    }

    #[test]
    fn a_body_is_one_json_object_with_each_key_once() {
        assert_eq!(code(r#"{"a": {"b": [1, -2, 3.5, true, null, "x"]}}"#), Ok(()));
        for bad in [
            "",
            " ",
            "{",
            "[]",
            "null",
            "1",
            "\"x\"",
            "{}{}",
            "{} x",
            "{'a': 1}",
            "{\"a\": NaN}",
            "{\"a\": 1,}",
            r#"{"a": 1, "a": 1}"#,
            r#"{"x": {"a": 1, "a": 1}}"#,
            r#"{"x": [{"a": 1, "\u0061": 1}]}"#,
            r#"{"a": "\ud800"}"#,
            "\u{feff}\u{feff}{}",
            " \u{feff}{}",
            "{}\u{feff}",
        ] {
            assert_eq!(code(bad), Err(Code::MalformedRequest), "{bad}");
        }
        assert_eq!(code("\u{feff}{}"), Ok(()));
        assert_eq!(code(&"[".repeat(60_000)), Err(Code::MalformedRequest));
        let error = parse_object(b"\xef\xbb\xbf{\"a\": \"\xe9\"}").expect_err("ISO 8859-1");
        assert_eq!(error.message(), "The body is not UTF-8: see byte 11.");
    }

    #[test]
    fn nul_is_refused_wherever_it_hides() {
        for bad in [
            r#"{"a": "x\u0000"}"#,
            r#"{"a": [{"b": "\u0000"}]}"#,
            r#"{"a": {"\u0000": 1}}"#,
            r#"{"\u0000": 1}"#,
        ] {
            assert_eq!(code(bad), Err(Code::ValidationFailed), "{bad}");
        }
    }

    #[test]
    fn complaints_about_what_nobody_asked_for_are_few_and_short() {
        let field = |number: usize| format!("\"{number:02}{}\": \"\\u0000\"", "x".repeat(998));
        let fields: Vec<String> = (0..50).map(field).collect();
        let form = parse_object(format!("{{{}}}", fields.join(",")).as_bytes()).expect("JSON");
        let errors = form.check().expect_err("U+0000 is refused").errors;
        assert_eq!((errors.len(), errors[0].field.len()), (MAX_UNASKED, MAX_UNASKED_CHARS));
    }

    #[test]
    fn json_is_told_by_its_media_type() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().expect("valid"));
            is_json(&headers)
        };
        for json in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
            "application/json; charset=Utf8",
            "application/vnd.api+json",
            "application/problem+JSON; charset=utf-8",
            "application/a+b+json",
        ] {
            assert!(check(json), "{json}");
        }
        for other in [
            "text/plain",
            "text/json",
            "text/x+json",
            "application/json; charset=latin1",
            "application/json; charset=utf-16",
            "application/jsonx",
            "application/+json",
            "application/json+xml",
            "application/jsonp+",
            "application/a b+json",
            "application/x,application/y+json",
            "json",
        ] {
            assert!(!check(other), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
        for (coding, expected) in [
            ("Identity", true),
            ("utf-8", true),
            ("UTF8", true),
            ("gzip", false),
            ("identity, br", false),
        ] {
            let headers =
                [(header::CONTENT_TYPE, "application/json"), (header::CONTENT_ENCODING, coding)];
            let headers: HeaderMap = headers
                .map(|(name, value)| (name, value.parse().expect("valid")))
                .into_iter()
                .collect();
            assert_eq!(is_json(&headers), expected, "{coding}");
        }
    }
}
