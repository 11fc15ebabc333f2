//! A body of JSON, and the fields of somebody who registers.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use doorward::fields::{self, Email, FieldError, Name, PasswordContext, Username};
use doorward::http::body::JsonBody;
use doorward::http::error::{ApiError, Code};
use doorward::http::input::Input;
use futures_util::FutureExt;
use serde_json::{Map, Value};

use super::fields::{
    assert_email, assert_email_of, assert_name, assert_name_of, assert_username, bare,
};

/// As a body, and as a value in one.
pub fn check(data: &[u8]) {
    check_body(data);
    // As long as all of it stays below 16 KiB.
    let text: String = String::from_utf8_lossy(data).chars().take(800).collect();
    let body = serde_json::json!({ "username": text, "first_name": text, "email": text });
    check_body(body.to_string().as_bytes());
    // Of two readers one takes the first and one the last: also where the two keys are spelled
    // differently.
    if let Some(key) = text.chars().next() {
        let plain = Value::from(key.to_string());
        let mut units = [0; 2];
        let escaped = match key.encode_utf16(&mut units) {
            [unit] => format!("\\u{unit:04x}"),
            [high, low] => format!("\\u{high:04x}\\u{low:04X}"),
            _ => unreachable!("a character is one unit of UTF-16 or two"),
        };
        let body = format!(r#"{{"x": [{{{plain}: 1, "{escaped}": 1}}]}}"#);
        assert_eq!(refusal(body.as_bytes()), Some(Code::MalformedRequest), "{body}");
    }
}

fn check_body(body: &[u8]) {
    let shown = String::from_utf8_lossy(body);
    let unmarked = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let Ok(values) = serde_json::from_slice::<Map<String, Value>>(unmarked) else {
        return assert_eq!(refusal(body), Some(Code::MalformedRequest), "{shown}");
    };
    // serde_json's own map has each key once; in the text each entry has its colon.
    if colons(body) != entries(&values) {
        return assert_eq!(refusal(body), Some(Code::MalformedRequest), "{shown}");
    }
    if values.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)) {
        return assert_eq!(refusal(body), Some(Code::ValidationFailed), "{shown}");
    }
    assert_eq!(refusal(body), None, "{shown}");

    let text = |field: &str| values.get(field).filter(|value| !value.is_null());
    match register(form(body).expect("refused by nobody")) {
        Ok((username, email, name)) => {
            assert_username(&username);
            assert_email(&email);
            assert_eq!(text("username").and_then(Value::as_str).map(bare), Some(username.as_str()));
            assert_email_of(&email, text("email").and_then(Value::as_str).expect("a string"));
            assert_name(&name);
            let given = text("first_name").and_then(Value::as_str).unwrap_or_default();
            assert_name_of(&name, given);
        }
        Err(error) => assert_eq!(error.code, Code::ValidationFailed, "{shown}"),
    }
}

fn register(mut form: Input) -> Result<(Username, Email, Name), ApiError> {
    let username = form.required("username", Username::parse);
    let email = form.required("email", Email::parse);
    let name = form.optional("first_name", Name::parse).unwrap_or_default();
    form.optional("password", |raw| {
        let new = fields::NewPassword::parse(raw, 8, &PasswordContext::default())?;
        let password = fields::Password::from(new);
        let text = std::str::from_utf8(password.expose()).expect("a password is text");
        assert!((8..=256).contains(&text.chars().count()) && text.len() <= 1024, "{text:?}");
        Ok::<_, FieldError>(())
    });
    form.finish(|| Some((username?, email?, name)))
}

/// Why a body is refused that nobody asks anything of.
fn refusal(body: &[u8]) -> Option<Code> {
    form(body).and_then(Input::check).err().map(|error| error.code)
}

fn form(body: &[u8]) -> Result<Input, ApiError> {
    let request = Request::builder().header("content-type", "application/json");
    let request = request.body(Body::from(body.to_vec())).expect("a request");
    let read = <JsonBody>::from_request(request, &()).now_or_never().expect("all of it is there");
    read.map(|JsonBody(form)| form)
}

/// The colons of a JSON text that stand outside its strings.
fn colons(json: &[u8]) -> usize {
    let (mut count, mut is_string, mut is_escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_string = !is_string,
            b':' if !is_string => count += 1,
            _ => {}
        }
    }
    count
}

fn entries(values: &Map<String, Value>) -> usize {
    values.len() + values.values().map(entries_within).sum::<usize>()
}

fn entries_within(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(entries_within).sum(),
        Value::Object(values) => entries(values),
        _ => 0,
    }
}

fn holds_nul(value: &Value) -> bool {
    // Its own text shows U+0000 in one way only.
    let text = value.to_string().replace(r"\\", "");
    text.contains(r"\u0000")
}
