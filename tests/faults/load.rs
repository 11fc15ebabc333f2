//! Calls as clients make them, from many addresses, and how they are answered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use uuid::Uuid;

use crate::history::{History, Invariant, Operation, Outcome};

/// How long a client waits. Longer than it ever should have to, so that how long can be told.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long to wait after having been put off.
const PAUSE: Duration = Duration::from_millis(500);
/// How long everybody goes on trying at the end, when all is well again.
const LAST_TRIES: Duration = Duration::from_secs(20);

/// Where the clients call, and what becomes of it.
pub struct Load {
    /// One that is a balancer, or every instance.
    doors: Vec<String>,
    client: Client,
    calls: AtomicUsize,
    is_over: AtomicBool,
    pub history: History,
    /// No answer may take longer.
    pub bound: Duration,
}

pub struct Answer {
    pub outcome: Outcome,
    /// 0 where there was none.
    pub status: u16,
    pub json: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    /// The pair of tokens that a login or a refresh gave.
    pub fn pair(&self) -> Pair {
        let text = |field: &str| self.json[field].as_str().unwrap_or_default().to_owned();
        Pair { access: text("token"), refresh: text("refresh_token") }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub access: String,
    pub refresh: String,
}

impl Pair {
    /// The session, and how often it has been refreshed, as the refresh token has them.
    pub fn generation(&self) -> (Uuid, i64) {
        let payload = self.refresh.split('.').nth(1).unwrap_or_default();
        let payload = URL_SAFE_NO_PAD.decode(payload).unwrap();
        let claims: Value = serde_json::from_slice(&payload).unwrap();
        (claims["sid"].as_str().unwrap().parse().unwrap(), claims["counter"].as_i64().unwrap())
    }
}

impl Load {
    pub fn new(doors: Vec<String>, bound: Duration) -> Self {
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let (calls, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { doors, client, calls, is_over, history: History::new(), bound }
    }

    /// From now on nobody begins anything new.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// A call through the next door, from an address that nobody else has.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let door = &self.doors[number % self.doors.len()];
        let address = format!("10.{}.{}.7", number / 256 % 256, number % 256);
        self.client.request(method, format!("{door}{path}")).header("x-forwarded-for", address)
    }

    /// Makes a call, once, and records what came of it.
    pub async fn call(&self, what: &'static str, request: RequestBuilder) -> Answer {
        let start = Instant::now();
        let answer = Self::send(request).await;
        let operation = Operation { what, start, end: Instant::now(), outcome: answer.outcome };
        if operation.took() > self.bound {
            let said = format!("{what} took {:.1?} ({})", operation.took(), answer.status);
            self.history.broken(Invariant::NoHang, said);
        }
        if answer.status >= 500 && answer.status != 503 {
            let said = format!("{what}: {} {}", answer.status, answer.json);
            self.history.broken(Invariant::OnlyUnavailable, said);
        }
        self.history.record(operation);
        answer
    }

    async fn send(request: RequestBuilder) -> Answer {
        let unknown = Answer { outcome: Outcome::Unknown, status: 0, json: Value::Null };
        let Ok(response) = request.send().await else { return unknown };
        let status = response.status().as_u16();
        // A balancer that got no answer makes one up.
        let is_ours = response.headers().contains_key("x-request-id");
        let Ok(body) = response.bytes().await else { return unknown };
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if !is_ours {
            return unknown;
        }
        let outcome = match status {
            200..300 => Outcome::Done,
            400..500 => Outcome::Refused,
            503 => Outcome::PutOff,
            _ => Outcome::Unknown,
        };
        Answer { outcome, status, json }
    }

    /// Makes a call again and again until it is answered for good. Also whether a try before may
    /// have been heard. `None` where it was not answered before the end.
    pub async fn insist(
        &self,
        what: &'static str,
        request: impl Fn() -> RequestBuilder,
    ) -> Option<(Answer, bool)> {
        let (mut was_tried, mut over_since) = (false, None);
        loop {
            let answer = self.call(what, request()).await;
            let is_answered = matches!(answer.outcome, Outcome::Done | Outcome::Refused);
            if is_answered && answer.status != 429 {
                return Some((answer, was_tried));
            }
            was_tried |= answer.status != 429;
            if self.is_over() {
                let since = *over_since.get_or_insert_with(Instant::now);
                if since.elapsed() > LAST_TRIES {
                    let said =
                        format!("{what} is still put off: {} {}", answer.status, answer.json);
                    self.broken(Invariant::Recovery, said);
                    return None;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub fn broken(&self, invariant: Invariant, how: impl Into<String>) {
        self.history.broken(invariant, how);
    }
}
