//! What a client sent, field by field: parsed at the door, all complaints at once.

use std::fmt;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::fields::FieldError;
use crate::http::error::{ApiError, Code, FieldProblem};

/// Largest body in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// How many unknown fields are complained about, and by how many characters of their names: more would be wasted work.
const MOST_UNASKED: usize = 20;
const LONGEST_UNASKED: usize = 64;

/// Named values, and what was found wrong with them so far. Fields that nobody asks for are ignored; `null` is the
/// same as leaving a field out.
#[derive(Debug)]
pub struct Form {
    values: Map<String, Value>,
    problems: Vec<FieldProblem>,
}

impl Form {
    fn new(values: Map<String, Value>) -> Self {
        Self { values, problems: Vec::new() }
    }

    /// A string that has to be there, in the form that `parse` asks for.
    pub fn required<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        if matches!(self.values.get(field), None | Some(Value::Null)) {
            self.refuse(field, FieldError::new("required", "This field is required."));
            return None;
        }
        self.optional(field, parse)
    }

    /// A string that may be left out.
    pub fn optional<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        let parsed = match self.values.get(field) {
            None | Some(Value::Null) => return None,
            Some(value) if holds_nul(value) => Err(nul_refused()),
            Some(Value::String(raw)) => parse(raw),
            Some(_) => Err(FieldError::new("invalid_type", "This has to be a string.")),
        };
        parsed.map_err(|error| self.refuse(field, error)).ok()
    }

    /// A yes or no that may be left out: `true` or `false`, `1` or `0`.
    pub fn flag(&mut self, field: &str) -> Option<bool> {
        self.optional(field, |raw| match raw {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(FieldError::new("invalid_choice", "Use true or false.")),
        })
    }

    pub fn refuse(&mut self, field: &str, error: FieldError) {
        // The first complaint about a field is the one that helps.
        if !self.problems.iter().any(|problem| problem.field == field) {
            self.problems.push(FieldProblem::new(field, error));
        }
    }

    /// Every complaint, if there is one.
    pub fn check(self) -> Result<(), ApiError> {
        self.finish(|| Some(()))
    }

    /// The checked values, or every complaint.
    ///
    /// `values` gives `None` only if a required field is missing, and that has been complained about.
    pub fn finish<T>(mut self, values: impl FnOnce() -> Option<T>) -> Result<T, ApiError> {
        // In unknown fields, too; the known ones have already complained, in their own order.
        let values_left = std::mem::take(&mut self.values).into_iter();
        let refused = values_left.filter(|(name, value)| name.contains('\0') || holds_nul(value));
        for (name, _) in refused.take(MOST_UNASKED) {
            let name: String = name.chars().take(LONGEST_UNASKED).collect();
            self.refuse(&name, nul_refused());
        }
        match values() {
            Some(values) if self.problems.is_empty() => Ok(values),
            _ => Err(ApiError::invalid(self.problems)),
        }
    }
}

/// PostgreSQL's text cannot hold U+0000, and no name or password needs it.
fn nul_refused() -> FieldError {
    FieldError::new("invalid_characters", "The character U+0000 is not allowed.")
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

/// The body, which has to be a JSON object.
#[derive(Debug)]
pub struct JsonBody(pub Form);

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
pub struct OptionalJsonBody(pub Form);

impl<S: Sync> FromRequest<S> for OptionalJsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let json = is_json(request.headers());
        let bytes = read_body(request.into_body()).await?;
        match (bytes.is_empty(), json) {
            (true, _) => Ok(Self(Form::new(Map::new()))),
            (false, true) => Ok(Self(parse_object(&bytes)?)),
            (false, false) => Err(Code::UnsupportedMediaType.into()),
        }
    }
}

/// The query of the URL. A name given twice is refused: two readers could choose different values.
#[derive(Debug)]
pub struct QueryString(pub Form);

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
        Ok(Self(Form::new(values)))
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

fn parse_object(bytes: &[u8]) -> Result<Form, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| match error.classify() {
            serde_json::error::Category::Data => ApiError::malformed("The body holds a key twice."),
            _ => ApiError::malformed(format!(
                "The body is not JSON: see line {}, column {}.",
                error.line(),
                error.column()
            )),
        })?;
    match value {
        Value::Object(values) => Ok(Form::new(values)),
        _ => Err(ApiError::malformed("The body has to be a JSON object.")),
    }
}

/// Reads any JSON value and refuses an object that holds a key twice, at any depth: serde's own maps keep the last
/// one, and another reader of the same bytes may keep the first.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(Self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Self)?;
            if values.insert(key, value).is_some() {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> Result<(), Code> {
        parse_object(body.as_bytes()).and_then(Form::check).map_err(|error| error.code)
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
        assert_eq!((errors.len(), errors[0].field.len()), (MOST_UNASKED, LONGEST_UNASKED));
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
