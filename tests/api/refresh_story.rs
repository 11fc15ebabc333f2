//! Stories about one session, made by chance: tabs, lost answers, a thief. Every answer in them is held against the
//! automaton, and what the contract promises against what happens.

use std::collections::BTreeMap;

use axum::http::Method;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use crate::binary::note;
use crate::dice::Dice;
use crate::forge;
use crate::refresh_automaton::{Call, Reply, Session, Token, explain};
use crate::support::{Answer, PASSWORD, TestApp};

/// For this long a tab may go on with the pair before the newest, as the contract has it.
const GRACE: TimeDelta = TimeDelta::seconds(20);

/// What was said how often.
pub type Tally = BTreeMap<String, u64>;

#[derive(Clone)]
struct Pair {
    access: String,
    access_until: Token,
    refresh: String,
    refresh_until: Token,
}

impl Pair {
    fn read(answer: &Answer, now: DateTime<Utc>) -> Self {
        let text = |field: &str| answer.json[field].as_str().unwrap().to_owned();
        let refresh = text("refresh_token");
        let claims = forge::read(&refresh).1;
        let number = |claim: &str| claims[claim].as_i64().unwrap();
        let refresh_until = Token { counter: number("counter"), exp: number("exp") };
        let exp = (now + TimeDelta::minutes(30)).timestamp();
        let access_until = Token { counter: refresh_until.counter, exp };
        Self { access: text("token"), access_until, refresh, refresh_until }
    }

    fn counter(&self) -> i64 {
        self.refresh_until.counter
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Owner,
    Thief,
}

/// One call that somebody makes.
#[derive(Clone)]
struct Act {
    who: Who,
    call: Call,
    pair: Pair,
    /// The answer never arrives.
    is_lost: bool,
}

impl Act {
    fn refresh(who: Who, pair: &Pair, is_lost: bool) -> Self {
        Self { who, call: Call::Refresh(pair.refresh_until), pair: pair.clone(), is_lost }
    }

    fn use_of(who: Who, pair: &Pair) -> Self {
        Self { who, call: Call::Use(pair.access_until), pair: pair.clone(), is_lost: false }
    }

    async fn send(&self, app: &TestApp) -> Answer {
        let (method, path, header, token) = match self.call {
            Call::Refresh(_) => {
                (Method::POST, "/api/v1/refresh", "x-refresh-token", &self.pair.refresh)
            }
            Call::Use(_) => (Method::GET, "/api/v1/users/me", "x-access-token", &self.pair.access),
        };
        app.anonymous().call(method, path).header(header, token).send().await
    }
}

struct Story<'a> {
    app: &'a TestApp,
    dice: Dice,
    /// What the automaton may have come to by now.
    states: Vec<Session>,
    has_ended: bool,
    /// The one refresh token of each counter.
    lineage: Vec<String>,
    /// What the tabs have received, the newest last, and when that was.
    owned: Vec<Pair>,
    arrived_at: DateTime<Utc>,
    tabs: u64,
    /// So many tabs have not seen the newest pair yet.
    tabs_behind: u64,
    has_thief: bool,
    /// What the thief holds: one pair that was the owner's, and what has come of it.
    stolen: Vec<Pair>,
    thief_has_acted: bool,
    steps: Vec<String>,
    tally: Tally,
}

impl<'a> Story<'a> {
    async fn begin(app: &'a TestApp, seed: u64, has_thief: bool) -> Self {
        let now = app.clock.now();
        let answer = app.anonymous().log_in("ada", PASSWORD).await;
        let pair = Pair::read(&answer, now);
        let mut dice = Dice(seed);
        Self {
            app,
            states: vec![Session::begin(now)],
            has_ended: false,
            lineage: vec![pair.refresh.clone()],
            owned: vec![pair],
            arrived_at: now,
            tabs: 1 + dice.roll(4),
            tabs_behind: 0,
            has_thief,
            stolen: Vec::new(),
            thief_has_acted: false,
            steps: vec![format!("TABS_SEED={seed}")],
            tally: Tally::new(),
            dice,
        }
    }

    fn newest(&self, who: Who) -> &Pair {
        match who {
            Who::Owner => self.owned.last().unwrap(),
            Who::Thief => self.stolen.last().unwrap(),
        }
    }

    /// Makes these calls at once.
    async fn act(&mut self, acts: &[Act]) {
        let now = self.app.clock.now();
        let answers = join_all(acts.iter().map(|act| act.send(self.app))).await;
        let replies = answers.iter().map(|answer| match answer.status.as_u16() {
            200 if answer.json["token"].is_string() => {
                Reply::Pair(Pair::read(answer, now).refresh_until)
            }
            200 => Reply::Served,
            _ => Reply::Refused(answer.code().to_owned()),
        });
        let calls: Vec<_> = acts.iter().map(|act| act.call).zip(replies).collect();
        for (act, (call, reply)) in acts.iter().zip(&calls) {
            let lost = if act.is_lost { ", lost" } else { "" };
            self.steps.push(format!("{now} {:?}: {call:?} -> {reply:?}{lost}", act.who));
        }
        self.steps.push(String::new());
        self.states = explain(&self.states, &calls, now);
        assert!(!self.states.is_empty(), "the automaton answers otherwise, in whatever order");
        for ((act, answer), (_, reply)) in acts.iter().zip(&answers).zip(&calls) {
            self.thief_has_acted |= act.who == Who::Thief;
            self.settle(act, reply, answer, now);
        }
        if !self.thief_has_acted {
            for (act, (_, reply)) in acts.iter().zip(&calls) {
                self.hold_promise(act, reply, now);
            }
        }
    }

    fn settle(&mut self, act: &Act, reply: &Reply, answer: &Answer, now: DateTime<Utc>) {
        let said = match reply {
            Reply::Served => "served",
            Reply::Refused(code) => code,
            Reply::Pair(token) => {
                let pair = Pair::read(answer, now);
                let place = usize::try_from(token.counter).unwrap();
                let is_new = place == self.lineage.len();
                if is_new {
                    self.lineage.push(pair.refresh.clone());
                }
                assert_eq!(self.lineage[place], pair.refresh, "one lineage, one token a counter");
                if !act.is_lost {
                    self.keep(act.who, pair);
                } else if self.has_thief && self.stolen.is_empty() && self.dice.chance(20) {
                    // Lost on the way, and not to nobody.
                    self.stolen.push(pair);
                }
                if is_new { "next pair" } else { "same pair again" }
            }
        };
        *self.tally.entry(said.to_owned()).or_default() += 1;
        self.has_ended |= said == "refresh_token_reused";
    }

    fn keep(&mut self, who: Who, pair: Pair) {
        if pair.counter() <= self.newest(who).counter() {
            return;
        }
        if who == Who::Thief {
            return self.stolen.push(pair);
        }
        self.owned.push(pair);
        self.arrived_at = self.app.clock.now();
        self.tabs_behind = self.dice.roll(self.tabs);
    }

    /// While nobody else has done anything, the owner's tabs are refused nothing before its time.
    fn hold_promise(&self, act: &Act, reply: &Reply, now: DateTime<Utc>) {
        let is_living = now.timestamp() < self.newest(Who::Owner).refresh_until.exp;
        match act.call {
            Call::Refresh(token) if now.timestamp() < token.exp => {
                assert!(matches!(reply, Reply::Pair(_)), "the owner is logged out");
            }
            Call::Use(token) if now.timestamp() < token.exp && is_living => {
                assert_eq!(*reply, Reply::Served, "the owner is logged out");
            }
            _ => {}
        }
    }

    /// Some tabs find that they need a new pair. Within the contract's bounds: a tab goes on with what it has for less
    /// than 20 seconds after another one has received the next pair, and no tab refreshes that one before.
    fn tabs_refresh(&mut self) -> Vec<Act> {
        let grace_is_over = self.app.clock.now() >= self.arrived_at + GRACE;
        let (pair, tabs) = if self.tabs_behind > 0 && !grace_is_over && self.dice.chance(70) {
            (self.owned[self.owned.len() - 2].clone(), self.tabs_behind)
        } else {
            self.tabs_behind = 0;
            (self.newest(Who::Owner).clone(), self.tabs)
        };
        // A lost request is one that is not made at all.
        let calls = self.dice.roll(1 + tabs.min(3));
        (0..calls).map(|_| Act::refresh(Who::Owner, &pair, self.dice.chance(40))).collect()
    }

    /// A tab goes on with the access token that it has in memory, of whichever generation.
    fn tab_browses(&mut self) -> Act {
        let back = [0, 0, 0, 1, 2][usize::try_from(self.dice.roll(5)).unwrap()];
        let place = self.owned.len().saturating_sub(1 + back);
        Act::use_of(Who::Owner, &self.owned[place])
    }

    /// The thief copies one pair that the owner has or had, unless he has done so before.
    fn steal(&mut self) {
        if self.stolen.is_empty() {
            let newest = self.newest(Who::Owner).clone();
            let copied =
                if self.dice.chance(70) { newest } else { self.dice.pick(&self.owned).clone() };
            self.stolen.push(copied);
        }
    }

    fn thief_plays(&mut self) -> Act {
        self.steal();
        let newest = self.newest(Who::Thief).clone();
        let pair = if self.dice.chance(80) { newest } else { self.dice.pick(&self.stolen).clone() };
        if self.dice.chance(60) {
            Act::refresh(Who::Thief, &pair, self.dice.chance(20))
        } else {
            Act::use_of(Who::Thief, &pair)
        }
    }

    async fn step(&mut self) {
        self.pause();
        let mut acts = Vec::new();
        if self.dice.chance(60) {
            acts.extend(self.tabs_refresh());
        }
        if self.dice.chance(50) {
            acts.push(self.tab_browses());
        }
        if self.has_thief && self.dice.chance(40) {
            acts.push(self.thief_plays());
        }
        self.act(&acts).await;
    }

    fn pause(&mut self) {
        let seconds = |count: u64| TimeDelta::seconds(count.try_into().unwrap());
        let pause = match self.dice.roll(10) {
            0..3 => TimeDelta::zero(),
            3..5 => seconds(self.dice.roll(20)),
            // On both sides of the end of the grace.
            5 => GRACE + TimeDelta::milliseconds(1) * [-1, 0, 1][self.dice.roll(3) as usize],
            6 => seconds(self.dice.roll(60)),
            7 => seconds(60 * self.dice.roll(60)),
            8 => seconds(3600 * self.dice.roll(48)),
            _ => seconds(86_400 * self.dice.roll(30)),
        };
        // Whoever stays away until the time of the pair is over is logged out, as promised: seldom of interest.
        let then = (self.app.clock.now() + pause).timestamp();
        if then < self.newest(Who::Owner).refresh_until.exp || self.dice.chance(5) {
            self.app.clock.advance(pause);
        }
    }

    /// However it went: the owner goes on with the newest pair.
    async fn owner_goes_on(&mut self) {
        self.act(&[Act::refresh(Who::Owner, self.newest(Who::Owner), false)]).await;
        self.act(&[Act::use_of(Who::Owner, self.newest(Who::Owner))]).await;
    }

    /// Owner and thief go on by turns, each using the new pair for longer than the grace: one of them is left behind,
    /// and with that one's next refresh, the third in all at the latest, the session ends.
    async fn both_go_on(&mut self) {
        let latest = (self.app.clock.now() + TimeDelta::minutes(2)).timestamp();
        if [Who::Owner, Who::Thief].iter().any(|who| self.newest(*who).refresh_until.exp <= latest)
        {
            return;
        }
        let mut turns = [Who::Owner, Who::Thief, Who::Owner, Who::Thief];
        turns.rotate_left(self.dice.roll(2) as usize);
        for who in &turns[..3] {
            self.act(&[Act::refresh(*who, self.newest(*who), false)]).await;
            if self.has_ended {
                return;
            }
            self.act(&[Act::use_of(*who, self.newest(*who))]).await;
            self.app.clock.advance(GRACE);
        }
        panic!("two people go on with one session");
    }

    /// A session that has ended is good for nobody, now or later, whatever they hold of it.
    async fn nothing_is_good_any_more(&mut self) {
        let thiefs = self.stolen.iter().rev().take(2).map(|pair| (Who::Thief, pair));
        let everything: Vec<_> = thiefs
            .chain([(Who::Owner, self.newest(Who::Owner))])
            .map(|(who, pair)| [Act::refresh(who, pair, false), Act::use_of(who, pair)])
            .collect();
        let good = |tally: &Tally| {
            ["served", "next pair", "same pair again"].map(|said| tally.get(said).copied())
        };
        let before = good(&self.tally);
        for acts in &everything {
            self.act(acts).await;
        }
        self.pause();
        self.act(&everything[0]).await;
        assert_eq!(good(&self.tally), before, "a session lives on");
    }
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            note(&self.steps.join("\n"));
        }
    }
}

pub async fn one_story(app: &TestApp, seed: u64, has_thief: bool) -> Tally {
    let mut story = Story::begin(app, seed, has_thief).await;
    for _ in 0..10 {
        if !story.has_ended {
            story.step().await;
        }
    }
    if has_thief {
        story.steal();
        if !story.has_ended {
            story.both_go_on().await;
        }
        if story.has_ended {
            story.nothing_is_good_any_more().await;
        }
    } else {
        story.owner_goes_on().await;
    }
    std::mem::take(&mut story.tally)
}
