//! The server's own refusals: of what is no HTTP, and of a head with too many fields. It writes
//! them without asking for a service, and with nothing of what our answers have.

use std::fmt::Write as _;

use axum::body::Bytes;
use axum::http::StatusCode;

use crate::http::error::{ApiError, Code};
use crate::http::middleware;
use crate::state::AppState;

/// Longest refusal of the server's own, in bytes: a status, a length of 0, and a date.
const MAX_BARE_BYTES: usize = 200;

/// Puts answers of ours in their place.
#[derive(Clone)]
pub struct Refusals(pub AppState);

impl Refusals {
    /// What is to be written instead, if this is such a refusal: all answers of ours have an id.
    pub fn in_place_of(&self, bytes: &[u8]) -> Option<Bytes> {
        let is_bare = bytes.len() < MAX_BARE_BYTES
            && bytes.starts_with(b"HTTP/1.1 4")
            && !bytes.windows(12).any(|part| part == b"x-request-id");
        let status = is_bare.then(|| StatusCode::from_bytes(bytes.get(9..12)?).ok()).flatten()?;
        let error = match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Code::HeadersTooLarge.into(),
            _ => ApiError::malformed("This is not HTTP/1.1 as RFC 9112 has it."),
        };
        let (head, body) = middleware::refuse(&self.0, &error);
        let status = head.status;
        let bare = std::str::from_utf8(bytes).ok()?;
        let date = bare.lines().find(|line| line.starts_with("date:"))?;
        let mut text = format!("HTTP/1.1 {status}\r\n{date}\r\nconnection: close\r\n");
        for (name, value) in &head.headers {
            let _ = write!(text, "{name}: {}\r\n", value.to_str().unwrap_or_default());
        }
        let mut whole = (text + "\r\n").into_bytes();
        whole.extend_from_slice(&body);
        Some(whole.into())
    }
}
