//! A request to the real binary, and its reply.

use reqwest::RequestBuilder;
use serde_json::Value;

use super::wait::PATIENCE;

/// A request on its way.
pub struct HttpCall(RequestBuilder);

impl From<RequestBuilder> for HttpCall {
    fn from(request: RequestBuilder) -> Self {
        Self(request)
    }
}

impl HttpCall {
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    pub fn basic_auth(self, username: &str, password: &str) -> Self {
        Self(self.0.basic_auth(username, Some(password)))
    }

    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// Something that says that it is JSON.
    pub fn body(self, body: impl Into<String>) -> Self {
        Self(self.0.header("content-type", "application/json").body(body.into()))
    }

    /// Lines, each of which says that it is JSON.
    pub fn lines(self, body: impl Into<String>) -> Self {
        Self(self.0.header("content-type", "application/x-ndjson").body(body.into()))
    }

    /// With the access token of a login's or a refresh's answer.
    pub fn by(self, pair: &Value) -> Self {
        self.header("x-access-token", pair["token"].as_str().unwrap())
    }

    pub async fn send(self) -> Reply {
        self.try_send().await.unwrap()
    }

    /// An error where the connection or the answer was cut off.
    pub async fn try_send(self) -> reqwest::Result<Reply> {
        let response = self.0.timeout(PATIENCE).send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Reply { status, text, json })
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub text: String,
    /// Null where the body is not JSON.
    pub json: Value,
}

impl Reply {
    /// Fails unless this is the status; the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json
    }
}
