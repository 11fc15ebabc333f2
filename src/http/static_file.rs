//! What is the same for all: files of the binary, the public keys, the OpenAPI document.
//!
//! These answers and no others may be kept by caches and are compressed. An answer that holds
//! data of one user is neither: its length, compressed, would tell of its content to a page that can
//! make a browser ask for it (BREACH).

use std::io::Write;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::OnceCell;

use crate::http::html::is_refusal;
use crate::security::sha256;
use crate::state::AppState;

/// For what changes, though seldom: keys, the document.
const FOR_MINUTES: &str = "public, max-age=300";
/// For a file whose content is named by its address.
const FOR_GOOD: &str = "public, max-age=31536000, immutable";

/// Fewer bytes fit in one packet as they are.
const MIN_COMPRESSED: usize = 1_400;

/// A file whose bytes are shared by all answers, however many clients read it and however slowly.
#[derive(Clone, Debug)]
pub struct StaticFile(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    content_type: HeaderValue,
    policy: Option<HeaderValue>,
    bytes: Bytes,
    /// Made when first asked for.
    compressed: OnceCell<Bytes>,
    /// Names the content.
    version: String,
}

impl StaticFile {
    pub fn new(content_type: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self::with_policy(content_type, None, bytes.into())
    }

    /// A page, with its own content security policy in place of the one that allows nothing.
    pub fn page(html: impl Into<Bytes>, policy: &'static str) -> Self {
        let html_type = HeaderValue::from_static("text/html; charset=utf-8");
        Self::with_policy(html_type, Some(HeaderValue::from_static(policy)), html.into())
    }

    pub fn json(json: impl Into<Bytes>) -> Self {
        Self::new(HeaderValue::from_static("application/json"), json)
    }

    fn with_policy(content_type: HeaderValue, policy: Option<HeaderValue>, bytes: Bytes) -> Self {
        let version = version_of([&bytes[..]]);
        Self(Arc::new(Kept { content_type, policy, bytes, compressed: OnceCell::new(), version }))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The handler of its path: no cache keeps the answer.
    pub fn get(self) -> MethodRouter<AppState> {
        get(async move || self.answer(StatusCode::OK, self.0.bytes.clone()))
    }

    /// The handler of its path, for caches to keep for some minutes and for pages of every origin
    /// to read.
    pub fn get_public(self) -> MethodRouter<AppState> {
        get(async move |headers: HeaderMap| self.public(&headers).await)
    }

    /// The handler of its path with `?v=VERSION`, for caches to keep for good. With another version
    /// (a page of another release asks) no cache keeps it.
    pub fn get_versioned(self, version: &str) -> MethodRouter<AppState> {
        let query = format!("v={version}");
        get(async move |RawQuery(asked): RawQuery, headers: HeaderMap| {
            if asked.as_deref() == Some(&query) {
                self.compressible(&headers, FOR_GOOD).await
            } else {
                self.answer(StatusCode::OK, self.0.bytes.clone())
            }
        })
    }

    /// The answer for caches to keep for some minutes and for pages of every origin to read.
    pub async fn public(&self, asked: &HeaderMap) -> Response {
        // Weak: the same for the compressed bytes (RFC 9110, 8.8.1).
        let etag = format!("W/\"{}\"", self.0.version);
        let mut response = if is_known(asked, &etag) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            may_be_kept(response.headers_mut(), FOR_MINUTES);
            response
        } else {
            self.compressible(asked, FOR_MINUTES).await
        };
        if let Ok(etag) = HeaderValue::try_from(etag) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        response
    }

    async fn compressible(&self, asked: &HeaderMap, caching: &'static str) -> Response {
        let is_worth_it = self.0.bytes.len() >= MIN_COMPRESSED;
        let bytes = if is_worth_it && accepts_gzip(asked) { self.compressed().await } else { None };
        let is_compressed = bytes.is_some();
        let bytes = bytes.unwrap_or_else(|| self.0.bytes.clone());
        let mut response = self.answer(StatusCode::OK, bytes);
        may_be_kept(response.headers_mut(), caching);
        if is_compressed {
            let gzip = HeaderValue::from_static("gzip");
            response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
        }
        response
    }

    /// Once, beside the threads that answer: the largest file, of 1.5 MB, takes 40 ms and becomes
    /// 0.4 MB; the OpenAPI document's 55 KB become 6.
    async fn compressed(&self) -> Option<Bytes> {
        let make = async || {
            let bytes = self.0.bytes.clone();
            tokio::task::spawn_blocking(move || gzip(&bytes)).await.ok().flatten().ok_or(())
        };
        self.0.compressed.get_or_try_init(make).await.ok().cloned()
    }

    fn answer(&self, status: StatusCode, bytes: Bytes) -> Response {
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.0.content_type.clone());
        if let Some(policy) = &self.0.policy {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        }
        response
    }
}

/// A name for the content of all these together.
pub fn version_of<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> String {
    let all: Vec<u8> =
        contents.into_iter().flat_map(|bytes| sha256(bytes).as_ref().to_vec()).collect();
    URL_SAFE_NO_PAD.encode(&sha256(&all).as_ref()[..12])
}

fn may_be_kept(headers: &mut HeaderMap, caching: &'static str) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
}

/// Whether pages of every origin may read what is at this path: that of [`StaticFile::public`].
pub(super) fn is_for_every_origin(path: &str) -> bool {
    path == "/openapi.json" || path.starts_with("/.well-known/")
}

/// Whether the handler has said that caches may keep the answer. One for all origins says so to
/// each, whatever CORS has said to the one that asked: a cache gives it to the next.
pub(super) fn settle_caching(headers: &mut HeaderMap) -> bool {
    let Some(caching) = headers.get(header::CACHE_CONTROL) else { return false };
    if caching == FOR_MINUTES {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    true
}

/// Whether `if-none-match` names this version (RFC 9110, 13.1.2: compared weakly).
fn is_known(asked: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let given = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok());
    let own = opaque(etag);
    given.flat_map(|tags| tags.split(',')).any(|tag| tag.trim() == "*" || opaque(tag) == own)
}

/// RFC 9110, 12.5.3: `gzip` by name counts, else `*`.
fn accepts_gzip(asked: &HeaderMap) -> bool {
    let mut any = false;
    for value in asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()) {
        for coding in value.split(',') {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let is_accepted = !parts.any(is_refusal);
            if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
                return is_accepted;
            }
            any |= name == "*" && is_accepted;
        }
    }
    any
}

fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    Some(encoder.finish().ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_what_a_client_says_that_it_reads() {
        for (accepted, expected) in [
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("*", true),
            ("identity", false),
            ("", false),
            ("br", false),
            ("gzip;q=0", false),
            ("*;q=1, gzip;q=0.0", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
        ] {
            let headers = asking(header::ACCEPT_ENCODING, accepted);
            assert_eq!(accepts_gzip(&headers), expected, "{accepted}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_version_that_is_known_is_found_in_a_list() {
        let own = "W/\"abc\"";
        for (given, expected) in [
            ("W/\"abc\"", true),
            ("\"abc\"", true),
            ("\"x\", W/\"abc\"", true),
            ("*", true),
            ("abc", false),
            ("\"ab\"", false),
            ("", false),
        ] {
            assert_eq!(is_known(&asking(header::IF_NONE_MATCH, given), own), expected, "{given}");
        }
    }

    #[test]
    fn another_content_is_another_version() {
        let versions = [vec![&b"a"[..], b"b"], vec![b"ab"], vec![b"b", b"a"]].map(version_of);
        assert!(versions[0] != versions[1] && versions[0] != versions[2]);
        assert_eq!(versions[0].len(), 16);
    }
}
