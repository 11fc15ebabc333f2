//! What a request carries: a JSON object, or the query of its URL.

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};

use crate::http::error::{ApiError, Code};
use crate::http::input::Input;
use crate::http::strict_json;

/// Largest body in bytes. How long it may take to arrive: `admission.rs`.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The body, which has to be a JSON object.
#[derive(Debug)]
pub struct JsonBody(pub Input);

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(Code::UnsupportedMediaType.into());
        }
        let bytes = read_body(request.into_body()).await?;
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
        let bytes = read_body(request.into_body()).await?;
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

/// `application/json`, in UTF-8 if a charset is named, and not compressed.
fn is_json(headers: &HeaderMap) -> bool {
    let mut packed = headers.get_all(header::CONTENT_ENCODING).iter();
    // Some clients wrongly name the charset there.
    let is_plain = |coding: &[u8]| {
        [&b""[..], b"identity", b"utf-8"].iter().any(|plain| coding.eq_ignore_ascii_case(plain))
    };
    if !packed.all(|packed| is_plain(packed.as_bytes())) {
        return false;
    }
    let mut given = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(value)), None) = (given.next().map(|value| value.to_str()), given.next()) else {
        return false;
    };
    let mut parts = value.split(';').map(str::trim);
    let is_json =
        parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.filter_map(|parameter| parameter.split_once('=')).all(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}

async fn read_body(body: Body) -> Result<Vec<u8>, ApiError> {
    // Too large by its own announcement: refused before the client sends it.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(Code::PayloadTooLarge.into());
    }
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    // Copied into one buffer: frames of one byte each would take forty times the memory.
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(Code::PayloadTooLarge.into());
            }
            Err(_) => return Err(ApiError::malformed("The body could not be read to its end.")),
        }
    }
    Ok(bytes)
}

fn parse_object(bytes: &[u8]) -> Result<Input, ApiError> {
    let value = strict_json::parse(bytes).map_err(|error| match error.classify() {
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
            "\u{feff}{}",
        ] {
            assert_eq!(code(bad), Err(Code::MalformedRequest), "{bad}");
        }
        assert_eq!(code(&"[".repeat(60_000)), Err(Code::MalformedRequest));
        assert!(parse_object(b"{\"a\": \"\xff\"}").is_err());
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
        assert!(
            check("application/json")
                && check("Application/JSON; charset=UTF-8")
                && check("application/json;charset=\"utf-8\"")
        );
        assert!(
            !check("text/plain")
                && !check("application/json; charset=latin1")
                && !check("application/jsonx")
        );
        assert!(!is_json(&HeaderMap::new()));
        for (coding, expected) in
            [("Identity", true), ("utf-8", true), ("gzip", false), ("identity, br", false)]
        {
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
