//! What tabs and thieves hold of a session, and the calls that they make with it.

use std::pin::pin;
use std::task::Poll;

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};

use crate::auth::refresh_automaton::{Call, Reply, Token};
use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::forge;

#[derive(Clone)]
pub struct Pair {
    access: String,
    access_until: Token,
    pub refresh: String,
    pub refresh_until: Token,
}

impl Pair {
    pub fn read(answer: &Answer, now: DateTime<Utc>) -> Self {
        let text = |field: &str| answer.json[field].as_str().unwrap().to_owned();
        let refresh = text("refresh_token");
        let claims = forge::read(&refresh).1;
        let number = |claim: &str| claims[claim].as_i64().unwrap();
        let refresh_until = Token { counter: number("counter"), exp: number("exp") };
        let exp = (now + TimeDelta::minutes(30)).timestamp();
        let access_until = Token { counter: refresh_until.counter, exp };
        Self { access: text("token"), access_until, refresh, refresh_until }
    }

    pub fn counter(&self) -> i64 {
        self.refresh_until.counter
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Owner,
    Thief,
}

/// What the network makes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// It is carried out, and the answer never arrives.
    AnswerLost,
    /// The connection breaks, unless the service is done within so many turns: nobody knows what
    /// came of it.
    CutOff(u64),
}

/// One call that somebody makes.
#[derive(Clone)]
pub struct Act {
    pub who: Who,
    pub call: Call,
    pub fate: Fate,
    token: String,
}

impl Act {
    pub fn refresh(who: Who, pair: &Pair, fate: Fate) -> Self {
        Self { who, call: Call::Refresh(pair.refresh_until), fate, token: pair.refresh.clone() }
    }

    pub fn use_of(who: Who, pair: &Pair, fate: Fate) -> Self {
        Self { who, call: Call::Use(pair.access_until), fate, token: pair.access.clone() }
    }

    /// What was answered, whether or not that arrives; `None` where the call was cut off before.
    pub async fn send(&self, app: &TestApp) -> Option<Outcome> {
        let now = app.clock.now();
        let (method, path, header) = match self.call {
            Call::Refresh(_) => (Method::POST, "/api/v1/refresh", "x-refresh-token"),
            Call::Use(_) => (Method::GET, "/api/v1/users/me", "x-access-token"),
        };
        let sending = app.anonymous().call(method, path).header(header, &self.token).send();
        let answer = match self.fate {
            Fate::CutOff(turns) => cut_off(sending, turns).await?,
            Fate::Answered | Fate::AnswerLost => sending.await,
        };
        let is_pair = answer.json["token"].is_string();
        let pair = is_pair.then(|| Pair::read(&answer, now));
        let reply = match &pair {
            Some(pair) => Reply::Pair(pair.refresh_until),
            None if answer.status == 200 => Reply::Served,
            None => Reply::Refused(answer.code().to_owned()),
        };
        Some(Outcome { reply, pair })
    }
}

pub struct Outcome {
    pub reply: Reply,
    pub pair: Option<Pair>,
}

/// Drops a call that has not come to its end when it has been polled so many times.
async fn cut_off<T>(call: impl Future<Output = T>, mut turns: u64) -> Option<T> {
    let mut call = pin!(call);
    std::future::poll_fn(|context| {
        if turns == 0 {
            return Poll::Ready(None);
        }
        turns -= 1;
        call.as_mut().poll(context).map(Some)
    })
    .await
}
