//! Files of the binary.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::{MethodRouter, get};

use crate::state::AppState;

/// A file whose bytes are shared by all answers, however many clients read it and however slowly.
#[derive(Clone, Debug)]
pub struct StaticFile {
    content_type: HeaderValue,
    policy: Option<HeaderValue>,
    bytes: Bytes,
}

impl StaticFile {
    pub fn new(content_type: HeaderValue, bytes: impl Into<Bytes>) -> Self {
        Self { content_type, policy: None, bytes: bytes.into() }
    }

    /// A page, with its own content security policy in place of the one that allows nothing.
    pub fn page(html: &'static str, policy: &'static str) -> Self {
        let html_type = HeaderValue::from_static("text/html; charset=utf-8");
        Self { policy: Some(HeaderValue::from_static(policy)), ..Self::new(html_type, html) }
    }

    /// The handler of its path.
    pub fn get(self) -> MethodRouter<AppState> {
        get(async move || self.answer())
    }

    fn answer(&self) -> Response {
        let mut response = Response::new(Body::from(self.bytes.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        if let Some(policy) = &self.policy {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
        }
        response
    }
}
