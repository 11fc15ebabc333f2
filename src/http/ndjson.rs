//! Lines, each of which is a JSON object: as a body, and as an answer.

use axum::BoxError;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::TryStream;

use crate::http::body::{is_text_of, parse_object, read_body};
use crate::http::error::{ApiError, Code};
use crate::http::input::Input;

pub const MEDIA_TYPE: &str = "application/x-ndjson";
/// Largest body in bytes, and in lines.
const MAX_BODY_BYTES: usize = 64 * 1024;
pub const MAX_LINES: usize = 500;

/// A line of a body: its number, from 1, and what it holds. One that is no JSON object stands in
/// the way of no other.
pub struct Line {
    pub number: usize,
    pub form: Result<Input, ApiError>,
}

/// A body of lines. Empty ones are left out, and counted.
pub struct NdjsonBody(pub Vec<Line>);

impl<S: Sync> FromRequest<S> for NdjsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if !is_text_of(request.headers(), |essence| essence.eq_ignore_ascii_case(MEDIA_TYPE)) {
            let message = format!("Send the body as {MEDIA_TYPE}, in UTF-8, and not compressed.");
            return Err(ApiError { message: Some(message), ..Code::UnsupportedMediaType.into() });
        }
        let bytes = read_body(request.into_body(), MAX_BODY_BYTES).await?;
        parse(&bytes).map(Self)
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Line>, ApiError> {
    // The last line may end like the others.
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|byte| *byte == b'\n');
    if lines.clone().count() > MAX_LINES {
        let message = format!("A body has at most {MAX_LINES} lines here.");
        return Err(ApiError { message: Some(message), ..Code::PayloadTooLarge.into() });
    }
    let given = lines.zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
    Ok(given.map(|(line, number)| Line { number, form: parse_object(line) }).collect())
}

/// The answer of lines as they come.
pub fn stream<S>(lines: S) -> Response
where
    S: TryStream<Ok = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    ([(header::CONTENT_TYPE, media_type)], Body::from_stream(lines)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(body: &str) -> Vec<(usize, bool)> {
        let lines = parse(body.as_bytes()).expect("few lines");
        lines.into_iter().map(|line| (line.number, line.form.is_ok())).collect()
    }

    #[test]
    fn lines_are_counted_whatever_is_in_them() {
        assert_eq!(numbers(""), []);
        assert_eq!(numbers("\n \r\n\n"), []);
        assert_eq!(numbers("{}"), [(1, true)]);
        assert_eq!(
            numbers("\u{feff}{}\r\n\n{\n[]\n{}{}\n{}\n"),
            [(1, true), (3, false), (4, false), (5, false), (6, true)]
        );
        // What is no UTF-8 is a line like others.
        let lines = parse(b"{\"a\": \"\xe9\"}\n{}").expect("few lines");
        assert!(lines[0].form.is_err() && lines[1].form.is_ok());
    }

    #[test]
    fn beyond_500_lines_nothing_is_taken_in() {
        let body = |lines: usize| "\n".repeat(lines - 1) + "{}";
        assert_eq!(numbers(&body(500)), [(500, true)]);
        assert_eq!(numbers(&(body(500) + "\n")), [(500, true)]);
        let refused = parse(body(501).as_bytes()).err().expect("refused");
        assert_eq!(refused.code, Code::PayloadTooLarge);
    }
}
