//! Somebody who uses the service, holding what a client holds: names, passwords that may be the
//! right ones, tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::person::{PASSWORD, email_of};
use crate::history::{Invariant, Outcome};
use crate::load::{Answer, Load, Pair};

const ME: &str = "/api/v1/users/me";
/// Between two calls.
const PACE: Duration = Duration::from_millis(120);
/// How often the telephone asks for new tokens, which is less often than the limit.
const PHONE: Duration = Duration::from_millis(2500);

/// One account, as its owner knows it.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    pub email: String,
    /// More than one where a change of it was not answered.
    pub passwords: Vec<String>,
    /// More than one where a change of it was not answered; empty while none was made.
    pub first_names: Vec<String>,
    /// Whether a change of its password was answered.
    pub has_new_password: bool,
}

/// A login that was answered.
#[derive(Clone, Debug)]
pub struct Held {
    pub name: String,
    pub pair: Pair,
    /// The refresh token that was replaced two refreshes ago.
    pub stale: Option<String>,
    previous: Option<String>,
}

pub struct VirtualUser {
    load: Arc<Load>,
    number: usize,
    pub accounts: Vec<Account>,
    /// The addresses with which somebody was refused.
    pub refused: Vec<String>,
    /// Sessions that were ended for certain.
    pub ended: Vec<Pair>,
    /// A session that lasts as long as the load does.
    pub phone: Option<Held>,
}

impl VirtualUser {
    pub fn new(load: &Arc<Load>, number: usize) -> Self {
        let load = Arc::clone(load);
        let (accounts, refused, ended) = (Vec::new(), Vec::new(), Vec::new());
        Self { load, number, accounts, refused, ended, phone: None }
    }

    fn by(&self, method: Method, path: &str, pair: &Pair) -> RequestBuilder {
        self.load.request(method, path).header("x-access-token", &pair.access)
    }

    fn broken(&self, invariant: Invariant, what: &str, answer: &Answer) {
        let said = format!("person {}: {what}: {} {}", self.number, answer.status, answer.json);
        self.load.broken(invariant, said);
    }

    /// Uses the service until the load is over.
    pub async fn live(mut self) -> Self {
        let mut phoned = Instant::now();
        for round in 0.. {
            if self.load.is_over() {
                break;
            }
            self.one_round(round).await;
            if phoned.elapsed() > PHONE {
                phoned = Instant::now();
                if let Some(phone) = self.phone.take() {
                    self.phone = self.use_and_refresh(phone).await;
                }
            }
        }
        self
    }

    /// Registers, logs in once, and keeps that session until the load is over.
    pub async fn keep_a_session(mut self) -> Self {
        if let Some(index) = self.register(0).await {
            self.phone = self.log_in(index).await;
        }
        while !self.load.is_over() {
            tokio::time::sleep(PHONE).await;
            if let Some(phone) = self.phone.take() {
                self.phone = self.use_and_refresh(phone).await;
            }
        }
        self
    }

    async fn one_round(&mut self, round: usize) -> Option<()> {
        let index = self.register(round).await?;
        let held = self.log_in(index).await?;
        if self.phone.is_none() && round == 0 {
            self.phone = self.log_in(index).await;
        }
        let held = self.use_and_refresh(held).await?;
        self.rename(index, &held, round).await?;
        match round % 3 {
            0 => self.register_with_a_taken_name(index).await?,
            1 => self.change_password(index, &held).await?,
            _ => self.register_twice_at_once(round).await?,
        }
        let held = self.refresh_in_two_tabs(held).await?;
        if round.is_multiple_of(2) {
            self.log_out(held).await?;
        }
        Some(())
    }

    /// Whether there is time for the next call.
    async fn pace(&self) -> Option<()> {
        tokio::time::sleep(PACE).await;
        (!self.load.is_over()).then_some(())
    }

    async fn register(&mut self, round: usize) -> Option<usize> {
        self.pace().await?;
        let name = format!("p{}-{round}", self.number);
        let account = Account {
            email: email_of(&name),
            name,
            passwords: vec![PASSWORD.to_owned()],
            first_names: Vec::new(),
            has_new_password: false,
        };
        let request = || registration(&self.load, &account.name, &account.email);
        let (answer, was_tried) = self.load.insist("register", request).await?;
        match answer.status {
            201 => {}
            // The answer to a try before was lost, and the try was not.
            409 if was_tried => {}
            _ => {
                self.broken(Invariant::OnlyUnavailable, "a new name is refused", &answer);
                return None;
            }
        }
        self.accounts.push(account);
        Some(self.accounts.len() - 1)
    }

    /// Logs in with each password that may be the right one.
    pub async fn log_in(&mut self, index: usize) -> Option<Held> {
        let account = self.accounts[index].clone();
        for password in &account.passwords {
            let request = || {
                let request = self.load.request(Method::POST, "/api/v1/login");
                request.basic_auth(&account.name, Some(password))
            };
            let (answer, _) = self.load.insist("log in", request).await?;
            if answer.status == 200 {
                self.accounts[index].passwords = vec![password.clone()];
                let pair = answer.pair();
                return Some(Held { name: account.name, pair, stale: None, previous: None });
            }
        }
        let said = format!("{} was registered and cannot log in", account.name);
        self.load.broken(Invariant::Registrations, said);
        None
    }

    /// Asks who they are, refreshes, and asks again.
    pub async fn use_and_refresh(&mut self, held: Held) -> Option<Held> {
        let held = self.ask(held).await?;
        let held = self.refresh(held).await?;
        self.ask(held).await
    }

    /// Asks who they are; with an access token that is over its time, as soon as it is replaced.
    async fn ask(&mut self, held: Held) -> Option<Held> {
        let request = || self.by(Method::GET, ME, &held.pair);
        let (answer, _) = self.load.insist("me", request).await?;
        match (answer.status, answer.code()) {
            (200, _) if answer.json["user"]["username"] == *held.name => Some(held),
            (401, "token_expired") => self.refresh(held).await,
            _ => {
                self.broken(Invariant::Lineage, "who has a session is turned away", &answer);
                None
            }
        }
    }

    async fn refresh(&self, held: Held) -> Option<Held> {
        let request = || refreshing(&self.load, &held.pair.refresh);
        let (answer, _) = self.load.insist("refresh", request).await?;
        self.refreshed(held, &answer)
    }

    fn refreshed(&self, held: Held, answer: &Answer) -> Option<Held> {
        if answer.status != 200 {
            self.broken(Invariant::Lineage, "a session cannot be refreshed", answer);
            return None;
        }
        let Held { name, pair, previous, .. } = held;
        Some(Held { name, pair: answer.pair(), stale: previous, previous: Some(pair.refresh) })
    }

    /// Two tabs with one token: the same successor for both, be it signed with another key.
    async fn refresh_in_two_tabs(&self, held: Held) -> Option<Held> {
        self.pace().await?;
        let tab =
            || self.load.call("refresh, two tabs", refreshing(&self.load, &held.pair.refresh));
        let (one, other) = tokio::join!(tab(), tab());
        let done: Vec<_> =
            [one, other].into_iter().filter(|tab| tab.outcome == Outcome::Done).collect();
        if let [one, other] = &done[..]
            && one.pair().generation() != other.pair().generation()
        {
            self.broken(Invariant::Lineage, "two tabs have two successors", other);
        }
        // Whoever got no answer asks again.
        match done.first() {
            Some(answer) => self.refreshed(held, answer),
            None => self.refresh(held).await,
        }
    }

    async fn rename(&mut self, index: usize, held: &Held, round: usize) -> Option<()> {
        self.pace().await?;
        let first_name = format!("Round {round}");
        self.accounts[index].first_names.push(first_name.clone());
        let body = json!({ "first_name": first_name });
        let request = || self.by(Method::PUT, ME, &held.pair).json(&body);
        let (answer, _) = self.load.insist("rename", request).await?;
        match (answer.status, answer.code()) {
            (200, _) => self.accounts[index].first_names = vec![first_name],
            (401, "token_expired") => {}
            _ => self.broken(Invariant::Lineage, "who has a session is turned away", &answer),
        }
        Some(())
    }

    async fn change_password(&mut self, index: usize, held: &Held) -> Option<()> {
        self.pace().await?;
        let tablet = self.log_in(index).await;
        let account = self.accounts[index].clone();
        let new = format!("another one of {}!", account.name);
        self.accounts[index].passwords.push(new.clone());
        let body = json!({ "old_password": account.passwords[0], "new_password": new });
        let path = format!("{ME}/change_password");
        let request = || self.by(Method::PUT, &path, &held.pair).json(&body);
        let (answer, was_tried) = self.load.insist("change password", request).await?;
        match (answer.status, answer.code()) {
            (200, _) => {}
            // The answer to a try before was lost, and the try was not.
            (403, "wrong_password") if was_tried => {}
            (401, "token_expired") => return Some(()),
            _ => {
                self.broken(Invariant::Lineage, "a password cannot be changed", &answer);
                return Some(());
            }
        }
        self.accounts[index].passwords = vec![new];
        self.accounts[index].has_new_password = true;
        // Every other session of the account has ended.
        self.ended.extend(tablet.map(|tablet| tablet.pair));
        Some(())
    }

    /// Somebody else, who must not get in.
    async fn register_with_a_taken_name(&mut self, index: usize) -> Option<()> {
        self.pace().await?;
        let name = &self.accounts[index].name;
        let email = email_of(&format!("other-{name}"));
        let request = || registration(&self.load, name, &email);
        let (answer, _) = self.load.insist("register, taken", request).await?;
        if answer.status != 409 || answer.code() != "username_taken" {
            self.broken(Invariant::Unique, "a name that is taken is given out", &answer);
        }
        self.refused.push(email);
        Some(())
    }

    /// Two people with one name at once: one of them gets it.
    async fn register_twice_at_once(&mut self, round: usize) -> Option<()> {
        self.pace().await?;
        let name = format!("both{}-{round}", self.number);
        let emails = ["one", "other"].map(|which| email_of(&format!("{which}-{name}")));
        let [one, other] = &emails;
        let register =
            |email| self.load.call("register, both", registration(&self.load, &name, email));
        let (first, second) = tokio::join!(register(one), register(other));
        let done = |answer: &Answer| answer.outcome == Outcome::Done;
        if done(&first) && done(&second) {
            self.broken(Invariant::Unique, "two people have one name", &second);
        }
        for (answer, email) in [first, second].iter().zip(emails) {
            match answer.outcome {
                Outcome::Done => self.accounts.push(Account {
                    name: name.clone(),
                    email,
                    passwords: vec![PASSWORD.to_owned()],
                    first_names: Vec::new(),
                    has_new_password: false,
                }),
                Outcome::Refused => self.refused.push(email),
                Outcome::PutOff | Outcome::Unknown => {}
            }
        }
        Some(())
    }

    async fn log_out(&mut self, held: Held) -> Option<()> {
        self.pace().await?;
        let request = || self.by(Method::POST, "/api/v1/logout", &held.pair);
        let (answer, was_tried) = self.load.insist("log out", request).await?;
        match (answer.status, answer.code()) {
            (200, _) => {}
            (401, "session_ended") if was_tried => {}
            (401, "token_expired") => return Some(()),
            _ => self.broken(Invariant::Lineage, "who has a session cannot end it", &answer),
        }
        let request = || self.by(Method::GET, ME, &held.pair);
        let (answer, _) = self.load.insist("me, logged out", request).await?;
        if answer.status != 401 {
            self.broken(Invariant::Lineage, "a session that was ended goes on", &answer);
        }
        self.ended.push(held.pair);
        Some(())
    }

    /// When all is well again: everything that is held still works, and what must not does not.
    pub async fn go_on(&mut self) {
        for index in 0..self.accounts.len() {
            let Some(held) = self.log_in(index).await else { continue };
            let request = || self.by(Method::GET, ME, &held.pair);
            let Some((answer, _)) = self.load.insist("me", request).await else { continue };
            let account = &self.accounts[index];
            let shown = answer.json["user"]["first_name"].as_str().unwrap_or_default();
            let is_known = account.first_names.iter().any(|name| name == shown)
                || (shown.is_empty() && account.first_names.len() != 1);
            let is_theirs = answer.json["user"]["email"] == *account.email;
            if answer.status != 200 || !is_known || !is_theirs {
                let what = format!("{:?} is not as it was left", self.accounts[index]);
                self.broken(Invariant::Registrations, &what, &answer);
            }
        }
        if let Some(phone) = self.phone.take() {
            self.phone = self.use_and_refresh(phone).await;
        }
        for pair in &self.ended {
            let request = || refreshing(&self.load, &pair.refresh);
            let Some((answer, _)) = self.load.insist("refresh, ended", request).await else {
                continue;
            };
            if answer.code() != "session_ended" {
                self.broken(Invariant::Lineage, "a session that was ended goes on", &answer);
            }
        }
        for email in self.refused.iter().take(1) {
            let request = || {
                self.load.request(Method::POST, "/api/v1/login").basic_auth(email, Some(PASSWORD))
            };
            let Some((answer, _)) = self.load.insist("log in, refused", request).await else {
                continue;
            };
            if answer.status != 401 {
                self.broken(Invariant::Registrations, "who was refused logs in", &answer);
            }
        }
    }

    /// The last thing of all: whoever comes with a token from two refreshes ago is a thief, and
    /// ends the session.
    pub async fn steal(&mut self) {
        let Some(Held { stale: Some(stale), .. }) = self.phone.take() else { return };
        let request = || refreshing(&self.load, &stale);
        let Some((answer, _)) = self.load.insist("refresh, stolen", request).await else { return };
        if answer.code() != "refresh_token_reused" {
            self.broken(Invariant::Lineage, "a session has two lineages", &answer);
        }
    }
}

fn registration(load: &Load, name: &str, email: &str) -> RequestBuilder {
    let body = json!({ "username": name, "email": email, "password": PASSWORD });
    load.request(Method::POST, "/api/v1/users/").json(&body)
}

fn refreshing(load: &Load, token: &str) -> RequestBuilder {
    load.request(Method::POST, "/api/v1/refresh").header("x-refresh-token", token)
}
