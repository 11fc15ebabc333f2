//! The refresh automaton, written down from the contract: what each call is answered, and what it
//! leaves behind.

use chrono::{DateTime, TimeDelta, Utc};

const GRACE: TimeDelta = TimeDelta::seconds(20);
const UNSEEN: TimeDelta = TimeDelta::minutes(10);
const IDLE: TimeDelta = TimeDelta::days(30);
const IN_ALL: TimeDelta = TimeDelta::days(90);

/// As much of a token as the rules speak of: which pair of its session it belongs to, and its
/// `exp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub counter: i64,
    pub exp: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `POST /refresh` with this refresh token.
    Refresh(Token),
    /// Any other call with this access token.
    Use(Token),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The pair with this refresh token.
    Pair(Token),
    Served,
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The counter of the living pair.
    current: i64,
    /// Nobody has been seen with that pair yet.
    is_unused: bool,
    rotated_at: DateTime<Utc>,
    /// Until when each counter before it was good: until it was replaced, or gave out an unused
    /// pair once more.
    good_until: Vec<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    has_ended: bool,
}

impl Session {
    pub fn begin(at: DateTime<Utc>) -> Self {
        Self {
            current: 0,
            is_unused: true,
            rotated_at: at,
            good_until: Vec::new(),
            expires_at: at + IDLE,
            ends_at: at + IN_ALL,
            has_ended: false,
        }
    }

    fn answer(&mut self, call: Call, now: DateTime<Utc>) -> Reply {
        let refused = |code: &str| Reply::Refused(code.to_owned());
        match call {
            Call::Refresh(token) if now.timestamp() >= token.exp => {
                refused("refresh_token_expired")
            }
            Call::Use(token) if now.timestamp() >= token.exp => refused("token_expired"),
            _ if self.has_ended || now >= self.expires_at => refused("session_ended"),
            Call::Use(token) => {
                self.is_unused &= token.counter != self.current;
                Reply::Served
            }
            Call::Refresh(token) if token.counter == self.current => {
                self.current += 1;
                self.is_unused = true;
                self.rotated_at = now;
                self.good_until.push(now);
                self.expires_at = self.ends_at.min(now + IDLE);
                self.pair()
            }
            Call::Refresh(token) => {
                let good_until = self.good_until[usize::try_from(token.counter).unwrap()];
                let is_unseen = self.is_unused && now < self.rotated_at + UNSEEN;
                let is_previous = token.counter == self.current - 1;
                if (is_previous && is_unseen) || now < good_until + GRACE {
                    if is_unseen {
                        *self.good_until.last_mut().unwrap() = now;
                    }
                    return self.pair();
                }
                self.has_ended = true;
                refused("refresh_token_reused")
            }
        }
    }

    fn pair(&self) -> Reply {
        Reply::Pair(Token { counter: self.current, exp: self.expires_at.timestamp() })
    }
}

/// In which states a session may be after calls made at once were answered like this, whichever of
/// them came first; one without an answer was carried out or was not. None: no order explains these
/// answers.
pub fn explain(
    states: &[Session],
    calls: &[(Call, Option<Reply>)],
    now: DateTime<Utc>,
) -> Vec<Session> {
    if calls.is_empty() || states.is_empty() {
        return states.to_vec();
    }
    let mut reached = Vec::new();
    for first in 0..calls.len() {
        let mut rest = calls.to_vec();
        let (call, reply) = rest.remove(first);
        let mut after = if reply.is_none() { states.to_vec() } else { Vec::new() };
        for mut state in states.iter().cloned() {
            let expected = state.answer(call, now);
            if reply.as_ref().is_none_or(|reply| *reply == expected) {
                after.push(state);
            }
        }
        for state in explain(&after, &rest, now) {
            if !reached.contains(&state) {
                reached.push(state);
            }
        }
    }
    reached
}
