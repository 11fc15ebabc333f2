//! What the service answered, held against the contract's conventions and the OpenAPI document.

use axum::http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
    /// Where the body is not UTF-8, with marks in place of what is not.
    pub text: String,
    /// Null where the body is not JSON.
    pub json: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Fails unless this is the error with that status and code.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.text);
    }

    /// Fails unless this is a `validation_failed` about exactly these fields and codes.
    #[track_caller]
    pub fn assert_fields(&self, expected: &[(&str, &str)]) {
        self.assert_error(422, "validation_failed");
        let errors = self.json["errors"].as_array().unwrap();
        let found: Vec<_> = errors
            .iter()
            .map(|error| (error["field"].as_str().unwrap(), error["code"].as_str().unwrap()))
            .collect();
        assert_eq!(found, expected, "{}", self.text);
    }

    /// Fails unless this is a success with that status; the body.
    #[track_caller]
    pub fn assert_ok(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.json["success"], true, "{}", self.text);
        &self.json
    }

    #[track_caller]
    pub fn check_conventions(&self, method: &Method, path: &str) {
        let id = self.header("x-request-id").expect("every answer has an id");
        self.check_caching(path);
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(self.header("referrer-policy"), Some("no-referrer"));
        assert!(self.headers.contains_key(header::CONTENT_SECURITY_POLICY));
        let status = self.status.as_u16();
        assert_eq!(status == 405, self.headers.contains_key(header::ALLOW), "{}", self.text);
        assert_eq!(status == 401, self.headers.contains_key(header::WWW_AUTHENTICATE));
        assert_eq!([429, 503].contains(&status), self.headers.contains_key(header::RETRY_AFTER));
        assert_ne!(status, 500, "{}", self.text);
        let is_json = self.header("content-type") == Some("application/json");
        if status >= 400 && is_json && method != Method::HEAD {
            assert_eq!(self.json["success"], false, "{}", self.text);
            assert_eq!(self.json["request_id"], id);
            assert!(!self.json["message"].as_str().unwrap().is_empty());
            assert_eq!(self.json.get("expired").is_some(), self.code() == "token_expired");
        }
    }

    /// Nothing is kept by caches or compressed but what is the same for all.
    #[track_caller]
    fn check_caching(&self, path: &str) {
        let path = path.trim_end_matches('/');
        let is_public = path.starts_with("/.well-known/") || path == "/openapi.json";
        let caching = self.header("cache-control").expect("every answer says it");
        if is_public && [200, 304].contains(&self.status.as_u16()) {
            assert_eq!(caching, "public, max-age=300");
            assert!(self.headers.contains_key(header::ETAG));
            let origins: Vec<_> =
                self.headers.get_all("access-control-allow-origin").iter().collect();
            assert_eq!(origins, ["*"]);
        } else if !(path.starts_with("/docs/") && caching == "public, max-age=31536000, immutable")
        {
            assert_eq!(caching, "no-store", "{path}");
            assert_eq!(self.header("content-encoding"), None, "{path}");
            assert_eq!(self.header("etag"), None, "{path}");
            return;
        }
        assert_eq!(self.headers.get_all("vary").iter().next().unwrap(), "accept-encoding");
    }

    /// Fails if the OpenAPI document does not know this answer.
    #[track_caller]
    pub fn check_document(&self, document: &Value, method: &Method, path: &str) {
        if [Method::OPTIONS, Method::HEAD].contains(method) || self.json.is_null() {
            return;
        }
        let segments = |path: &str| -> Vec<String> {
            path.trim_end_matches('/').split('/').map(str::to_owned).collect()
        };
        let asked = segments(path);
        let templates = document["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let template = segments(template);
            let is_same = |(one, other): (&String, &String)| one == other || one.starts_with('{');
            template.len() == asked.len() && template.iter().zip(&asked).all(is_same)
        };
        // `/users/me` fits `/users/{public_id}` too: the template with the fewest braces is the
        // one.
        let found = templates
            .keys()
            .filter(|template| fits(template))
            .min_by_key(|t| t.matches('{').count());
        let Some(template) = found else { return };
        let operation = &templates[template][method.as_str().to_ascii_lowercase()];
        if operation.is_null() {
            return self.assert_error(405, "method_not_allowed");
        }
        let response = &operation["responses"][self.status.as_str()];
        assert!(
            !response.is_null(),
            "undocumented: {method} {template} {} {}",
            self.status,
            self.text
        );
        if self.status.as_u16() >= 400 {
            let schema = &response["content"]["application/json"]["schema"]["allOf"][1];
            let codes = schema["properties"]["code"]["enum"].as_array().unwrap();
            let known = codes.iter().any(|code| code == self.code());
            assert!(known, "undocumented: {method} {template} {} {}", self.status, self.code());
        }
    }
}

/// Of calls at once one has succeeded, and every other one was refused like this; the answer to the
/// one.
#[track_caller]
pub fn only_winner<'a>(answers: &'a [Answer], status: u16, code: &str) -> &'a Answer {
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status.is_success());
    assert_eq!(won.len(), 1, "exactly one wins");
    for answer in lost {
        answer.assert_error(status, code);
    }
    won[0]
}
