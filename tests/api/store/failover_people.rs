//! The people who work while the primary dies, and what they have seen.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::harness::balancer::Balancer;
use crate::harness::http_call::HttpCall;
use crate::harness::person::{PASSWORD, email_of};

/// Each person makes a call in this time: 120 a second in all, a third of them writes.
const PACE: Duration = Duration::from_millis(100);
/// Registrations cost a hash each.
const REGISTER_PACE: Duration = Duration::from_millis(250);

/// One call, as its caller saw it.
pub struct Record {
    pub is_write: bool,
    pub start: Instant,
    pub end: Instant,
    /// `None`: cut off.
    pub status: Option<u16>,
}

impl Record {
    pub fn is_ok(&self) -> bool {
        self.status.is_some_and(|status| status < 300)
    }
}

/// The way in, and what all who came have seen.
pub struct Door<'a> {
    balancer: &'a Balancer,
    client: Client,
    pub records: Mutex<Vec<Record>>,
}

impl<'a> Door<'a> {
    pub fn new(balancer: &'a Balancer) -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        Self { balancer, client, records: Mutex::default() }
    }

    fn call(&self, method: Method, path: &str) -> HttpCall {
        self.client.request(method, self.balancer.url(path)).into()
    }

    /// `None` where it was not done, or nobody can tell.
    async fn send(&self, is_write: bool, call: HttpCall) -> Option<Value> {
        let start = Instant::now();
        let answer = call.try_send().await;
        let (end, status) = (Instant::now(), answer.as_ref().ok().map(|answer| answer.status));
        let record = Record { is_write, start, end, status };
        let is_ok = record.is_ok();
        self.records.lock().unwrap().push(record);
        answer.ok().filter(|_| is_ok).map(|answer| answer.json)
    }

    async fn register(&self, name: &str) -> bool {
        let body = json!({ "username": name, "email": email_of(name), "password": PASSWORD });
        self.send(true, self.call(Method::POST, "/api/v1/users/").json(&body)).await.is_some()
    }

    pub async fn log_in(&self, name: &str) -> Option<Value> {
        let request = self.client.post(self.balancer.url("/api/v1/login"));
        self.send(true, request.basic_auth(name, Some(PASSWORD)).into()).await
    }

    async fn refresh(&self, pair: &Value) -> Option<Value> {
        let token = pair["refresh_token"].as_str().unwrap();
        let call = self.call(Method::POST, "/api/v1/refresh").header("x-refresh-token", token);
        self.send(true, call).await
    }
}

/// Somebody who remembers what they were told, and what they asked for without an answer.
pub struct Witness {
    name: String,
    pair: Value,
    first_name: String,
    perhaps: Vec<String>,
}

impl Witness {
    pub async fn new(door: &Door<'_>, number: usize) -> Self {
        let name = format!("person{number}");
        assert!(door.register(&name).await);
        let pair = door.log_in(&name).await.unwrap();
        Self { name, pair, first_name: String::new(), perhaps: Vec::new() }
    }

    pub async fn work(&mut self, door: &Door<'_>, enough: &AtomicBool) {
        let mut pace = steps(PACE);
        for round in 0.. {
            pace.tick().await;
            if enough.load(Ordering::SeqCst) {
                return;
            }
            match round % 6 {
                2 => {
                    if let Some(pair) = door.refresh(&self.pair).await {
                        self.pair = pair;
                    }
                }
                5 => {
                    let name = format!("Round {round}");
                    let change = json!({ "first_name": name });
                    let call = door.call(Method::PUT, "/api/v1/users/me").by(&self.pair);
                    if door.send(true, call.json(&change)).await.is_some() {
                        (self.first_name, self.perhaps) = (name, Vec::new());
                    } else {
                        self.perhaps.push(name);
                    }
                }
                _ => {
                    let call = door.call(Method::GET, "/api/v1/users/me").by(&self.pair);
                    door.send(false, call).await;
                }
            }
        }
    }

    /// What of theirs is lost; empty if nothing is.
    pub async fn losses(&self, door: &Door<'_>) -> Vec<String> {
        let Some(pair) = door.refresh(&self.pair).await else {
            return vec![format!("{}: the session", self.name)];
        };
        let call = door.call(Method::GET, "/api/v1/users/me").by(&pair);
        let me = door.send(false, call).await.unwrap_or_default();
        let shown = me["user"]["first_name"].as_str().unwrap_or("nothing").to_owned();
        if shown == self.first_name || self.perhaps.contains(&shown) {
            return Vec::new();
        }
        vec![format!("{}: {shown} instead of {} or {:?}", self.name, self.first_name, self.perhaps)]
    }
}

/// Newcomers, one after the other; the names of those who were told that they are in.
pub async fn come(door: &Door<'_>, enough: &AtomicBool) -> Vec<String> {
    let (mut pace, mut names) = (steps(REGISTER_PACE), Vec::new());
    for number in 0.. {
        pace.tick().await;
        if enough.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("newcomer{number}");
        if door.register(&name).await {
            names.push(name);
        }
    }
    names
}

pub async fn list(door: &Door<'_>, boss: &Value, enough: &AtomicBool) {
    let mut pace = steps(PACE);
    while !enough.load(Ordering::SeqCst) {
        pace.tick().await;
        let call = door.call(Method::GET, "/api/v1/users/?limit=10&sort=-created_at").by(boss);
        door.send(false, call).await;
    }
}

/// Whoever was kept waiting does not make up for it.
fn steps(pace: Duration) -> tokio::time::Interval {
    let mut steps = tokio::time::interval(pace);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    steps
}
