//! Somebody who makes calls, with the tokens they hold.
//!
//! Every answer that passes through here is held against the OpenAPI document and the contract's
//! conventions, so that each test checks them by the way.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorward::http::client::ConnectionInfo;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::answer::Answer;
use super::app::TestApp;

/// Everybody's password, unless a test says otherwise.
pub const PASSWORD: &str = "correct horse battery";

pub fn email_of(name: &str) -> String {
    format!("{name}@example.com")
}

/// Somebody who makes calls, with the tokens they hold.
#[derive(Clone)]
pub struct Person {
    pub app: TestApp,
    pub access: Option<String>,
    pub refresh: Option<String>,
    /// As the login showed them.
    pub user: Value,
}

impl Person {
    pub fn id(&self) -> &str {
        self.user["public_id"].as_str().unwrap()
    }

    pub fn access_token(&self) -> &str {
        self.access.as_deref().unwrap()
    }

    pub fn refresh_token(&self) -> &str {
        self.refresh.as_deref().unwrap()
    }

    /// As a program asks: it names JSON, and so a link that it gets confirms.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).header("accept", "application/json").send().await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path).json(body).send().await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path).json(body).send().await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path).json(body).send().await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    pub async fn log_in(&self, login: &str, password: &str) -> Answer {
        let value = format!("Basic {}", STANDARD.encode(format!("{login}:{password}")));
        let call = self.app.anonymous().call(Method::POST, "/api/v1/login");
        call.header("authorization", &value).send().await
    }

    /// Refreshes with the token held, and holds the new pair if there is one.
    pub async fn refresh(&mut self) -> Answer {
        let answer = self.refresh_with(self.refresh_token()).await;
        if answer.status == StatusCode::OK {
            self.access = Some(answer.json["token"].as_str().unwrap().to_owned());
            self.refresh = Some(answer.json["refresh_token"].as_str().unwrap().to_owned());
        }
        answer
    }

    /// Refreshes with any token, and keeps what is held.
    pub async fn refresh_with(&self, token: &str) -> Answer {
        let call = self.app.anonymous().call(Method::POST, "/api/v1/refresh");
        call.header("x-refresh-token", token).send().await
    }

    /// A call to be completed by hand; the access token is in it already, if there is one.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(access) = &self.access {
            request = request.header("x-access-token", access);
        }
        let peer = ConnectionInfo::from(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        Call { app: self.app.clone(), request: request.extension(peer), body: Vec::new() }
    }
}

pub struct Call {
    app: TestApp,
    request: axum::http::request::Builder,
    body: Vec<u8>,
}

impl Call {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// A header value that need not be text.
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// From another address.
    pub fn from(mut self, ip: &str) -> Self {
        let peer = ConnectionInfo::from(SocketAddr::from((ip.parse::<IpAddr>().unwrap(), 40_000)));
        self.request = self.request.extension(peer);
        self
    }

    /// On one of the connections beyond the cap.
    pub fn crowded(mut self) -> Self {
        let peer = ConnectionInfo::from(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        self.request = self.request.extension(ConnectionInfo { is_over_cap: true, ..peer });
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The answer's body, to be read bit by bit.
    pub async fn begin(self) -> Body {
        let request = self.request.body(Body::from(self.body)).unwrap();
        self.app.next_instance().oneshot(request).await.unwrap().into_body()
    }

    pub async fn send(self) -> Answer {
        let request = self.request.body(Body::from(self.body)).unwrap();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (parts, body) = self.app.next_instance().oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            bytes: bytes.into(),
            text,
            json,
        };
        answer.check_conventions(&method, &path);
        answer.check_document(&self.app.document, &method, &path);
        answer
    }
}
