//! The requests of a slice, as `requests.lua` reads them.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use doorward::clock::Clock;
use doorward::fields::Role;
use doorward::security::token::{AccessClaims, RefreshClaims};
use serde_json::json;
use uuid::Uuid;

use crate::scenarios::{Requests, Target};
use crate::stage::{Failure, PASSWORD, Stage};

/// Users who ask for themselves: each often enough to be known still, even where only a thousand a
/// second are asked.
const CALLERS: u64 = 100;
/// Users who log in.
const PEOPLE: u64 = 1_000;
/// More than are made in a second: each token and each name is good for one request.
const REFRESHES_A_SECOND: u64 = 25_000;
const REGISTRATIONS_A_SECOND: u64 = 1_000;
/// The size of a page, and the number of the one far down.
const PAGE: u64 = 20;
const FAR: u64 = 5_000;

/// What has been used up so far.
#[derive(Debug, Default)]
pub struct Used {
    names: u64,
    /// Of Doorward, of the floor.
    refreshes: [u64; 2],
}

pub struct Slice {
    pub lines: String,
    /// More requests than this would repeat themselves.
    pub at_most: Option<u64>,
}

pub fn user_id(number: u64) -> Uuid {
    Uuid::from_u64_pair(0x7000, 0x8000_0000_0000_0000 | number)
}

pub fn session_id(number: u64) -> Uuid {
    Uuid::from_u64_pair(0x0001_7000, 0x8000_0000_0000_0000 | number)
}

/// What is asked of `target` for so many seconds.
pub async fn slice(
    stage: &Stage,
    used: &Used,
    target: Target,
    requests: Requests,
    seconds: u64,
) -> Result<Slice, Failure> {
    let is_floor = target == Target::Floor;
    let mut lines = String::new();
    let mut line = |call: &str, header: &str, value: &str, body: &str| {
        let call = call.replace(' ', "\t");
        let _ = writeln!(lines, "{call}\t{header}\t{value}\t{body}");
    };
    let mut at_most = None;
    match requests {
        Requests::Hello => line("GET /hello", "", "", ""),
        Requests::HelloWithToken => {
            for number in 1..=CALLERS {
                line("GET /hello", "x-access-token", &access_token(stage, number), "");
            }
        }
        Requests::Me => {
            let call = if is_floor { "GET /me" } else { "GET /api/v1/users/me" };
            for number in 1..=CALLERS {
                line(call, "x-access-token", &access_token(stage, number), "");
            }
        }
        Requests::Login | Requests::LoginWrong | Requests::LoginCrowd => {
            let end = if requests == Requests::LoginWrong { ", no" } else { "" };
            let call = if is_floor { "POST /login" } else { "POST /api/v1/login" };
            for number in 1..=PEOPLE.min(stage.users) {
                let credentials = STANDARD.encode(format!("user{number:07}:{PASSWORD}{end}"));
                line(call, "authorization", &format!("Basic {credentials}"), "");
            }
        }
        Requests::Refresh => {
            let call = if is_floor { "POST /refresh" } else { "POST /api/v1/refresh" };
            let first = used.refreshes[usize::from(is_floor)];
            let count = (seconds * REFRESHES_A_SECOND).min(stage.sessions);
            for number in first..first + count {
                line(call, "x-refresh-token", &refresh_token(stage, is_floor, number)?, "");
            }
            at_most = Some(count);
        }
        Requests::Register => {
            let call = if is_floor { "POST /register" } else { "POST /api/v1/users/" };
            let count = seconds * REGISTRATIONS_A_SECOND;
            for number in used.names..used.names + count {
                let (username, email) =
                    (format!("new{number}"), format!("new{number}@example.com"));
                let body = json!({ "username": username, "email": email, "password": PASSWORD });
                line(call, "content-type", "application/json", &body.to_string());
            }
            at_most = Some(count);
        }
        Requests::List | Requests::ListFar => {
            let mut call = if is_floor {
                format!("GET /list?limit={PAGE}")
            } else {
                format!("GET /api/v1/users/?limit={PAGE}")
            };
            if requests == Requests::ListFar {
                let last = PAGE * (FAR.min(stage.users / PAGE) - 1);
                let (id, micros) =
                    (user_id(last), created_at(stage, last).await?.timestamp_micros());
                let cursor = if is_floor {
                    format!("{micros},{id}")
                } else {
                    URL_SAFE_NO_PAD
                        .encode(json!(["created_at", micros.to_string(), id]).to_string())
                };
                let _ = write!(call, "&after={cursor}");
            }
            // The first user is the admin.
            line(&call, "x-access-token", &access_token(stage, 1), "");
        }
    }
    Ok(Slice { lines, at_most })
}

impl Used {
    pub fn note(&mut self, target: Target, requests: Requests, made: u64) {
        match requests {
            Requests::Refresh => self.refreshes[usize::from(target == Target::Floor)] += made,
            Requests::Register => self.names += made,
            _ => {}
        }
    }
}

async fn created_at(stage: &Stage, number: u64) -> Result<DateTime<Utc>, Failure> {
    let query = sqlx::query_scalar("select created_at from users where id = $1");
    Ok(query.bind(user_id(number)).fetch_one(&stage.pool).await?)
}

/// Of the session with this number, which the user with the same number has.
fn access_token(stage: &Stage, number: u64) -> String {
    let now = Clock::system().now();
    let id = user_id(number);
    let role = if number == 1 { Role::Admin } else { Role::User };
    let claims = AccessClaims {
        sub: id,
        public_id: id,
        sid: session_id(number),
        jti: Uuid::now_v7().to_string(),
        generation: None,
        amr: vec!["pwd".to_owned()],
        auth_time: Some(1_750_000_000),
        username: format!("user{number:07}"),
        email: format!("user{number:07}@example.com"),
        email_verified: true,
        first_name: format!("First{number:07}"),
        last_name: format!("Last{number:07}"),
        role,
        is_staff: role.is_staff(),
        is_admin: role.is_admin(),
    };
    stage.keys.issue_access(&claims, now, now + TimeDelta::minutes(30))
}

/// The sessions by turns; in the second turn they have the counter that the first one left, or are
/// behind it, which is as good.
fn refresh_token(stage: &Stage, is_floor: bool, number: u64) -> Result<String, Failure> {
    let (turn, session) = (number / stage.sessions, 1 + number % stage.sessions);
    let (sid, counter) = (session_id(session), i64::try_from(turn)?);
    if is_floor {
        let claims = json!({ "sid": sid, "counter": counter, "exp": 4_000_000_000_u64 });
        let key = jsonwebtoken::EncodingKey::from_secret(&[7; 32]);
        return Ok(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?);
    }
    let now = Clock::system().now();
    let claims = RefreshClaims { sub: user_id(1 + (session - 1) % stage.users), sid, counter };
    Ok(stage.keys.issue_refresh(&claims, now, now + TimeDelta::days(30)))
}
