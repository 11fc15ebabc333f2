//! Stories about one session, made by chance: tabs, lost answers, a thief. Every answer in them is
//! held against the automaton, and what the contract promises against what happens.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;

use crate::auth::refresh_automaton::{Call, Reply, Session, explain};
use crate::auth::refresh_calls::{Act, Fate, Outcome, Pair, Who};
use crate::harness::app::TestApp;
use crate::harness::dice::Dice;
use crate::harness::forge;
use crate::harness::machine::note;
use crate::harness::person::PASSWORD;

/// For this long a tab may go on with a pair that was replaced, as the contract has it.
const GRACE: TimeDelta = TimeDelta::seconds(20);
/// Within this time a lost answer has to be asked for again.
const UNSEEN: TimeDelta = TimeDelta::minutes(10);

/// What was said how often.
pub type Tally = BTreeMap<String, u64>;

struct Story<'a> {
    app: &'a TestApp,
    sid: String,
    dice: Dice,
    /// What the automaton may have come to by now.
    states: Vec<Session>,
    has_ended: bool,
    /// The one refresh token of each counter.
    lineage: Vec<String>,
    /// What the tabs have received, the newest last, and when each was.
    owned: Vec<Pair>,
    arrived_at: Vec<DateTime<Utc>>,
    tabs: u64,
    /// Since when an answer to a refresh is lost.
    lost_since: Option<DateTime<Utc>>,
    has_thief: bool,
    /// What the thief holds: one pair that was the owner's, and what has come of it.
    stolen: Vec<Pair>,
    thief_has_acted: bool,
    steps: Vec<String>,
    tally: Tally,
}

impl<'a> Story<'a> {
    async fn begin(app: &'a TestApp, owner: &str, seed: u64, has_thief: bool) -> Self {
        let now = app.clock.now();
        let answer = app.anonymous().log_in(owner, PASSWORD).await;
        let pair = Pair::read(&answer, now);
        let mut dice = Dice(seed);
        Self {
            app,
            sid: forge::read(&pair.refresh).1["sid"].as_str().unwrap().to_owned(),
            states: vec![Session::begin(now)],
            has_ended: false,
            lineage: vec![pair.refresh.clone()],
            owned: vec![pair],
            arrived_at: vec![now],
            tabs: 1 + dice.roll(4),
            lost_since: None,
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
        let outcomes = join_all(acts.iter().map(|act| act.send(self.app))).await;
        if outcomes.iter().any(Option::is_none) {
            self.let_it_settle().await;
        }
        let reply = |outcome: &Option<Outcome>| outcome.as_ref().map(|it| it.reply.clone());
        let calls: Vec<_> =
            acts.iter().map(|act| act.call).zip(outcomes.iter().map(reply)).collect();
        for (act, (call, reply)) in acts.iter().zip(&calls) {
            self.steps.push(format!("{now} {:?}: {call:?}, {:?}: {reply:?}", act.who, act.fate));
        }
        self.steps.push(String::new());
        self.states = explain(&self.states, &calls, now);
        assert!(!self.states.is_empty(), "the automaton answers otherwise, in whatever order");
        let is_lost = |act: &Act| {
            act.who == Who::Owner
                && act.fate != Fate::Answered
                && matches!(act.call, Call::Refresh(_))
        };
        if acts.iter().any(is_lost) {
            self.lost_since.get_or_insert(now);
        }
        self.thief_has_acted |= acts.iter().any(|act| act.who == Who::Thief);
        for (act, outcome) in acts.iter().zip(outcomes) {
            match outcome {
                Some(outcome) => self.settle(act, outcome, now),
                None => self.count("cut off"),
            }
        }
    }

    /// Of a call that was cut off, the last thing that it said to the database may still be on its
    /// way. It holds the session's row from its first change to its end.
    async fn let_it_settle(&self) {
        let sql = "select from sessions where id = $1::text::uuid for update";
        sqlx::query(sql).bind(&self.sid).execute(&self.app.pool).await.unwrap();
    }

    fn settle(&mut self, act: &Act, Outcome { reply, pair }: Outcome, now: DateTime<Utc>) {
        if !self.thief_has_acted {
            self.hold_promise(act, &reply, now);
        }
        if let Some(pair) = pair {
            let place = usize::try_from(pair.counter()).unwrap();
            let is_new = place == self.lineage.len();
            if is_new {
                self.lineage.push(pair.refresh.clone());
            }
            assert_eq!(self.lineage[place], pair.refresh, "one lineage, one token a counter");
            if act.fate == Fate::Answered {
                self.keep(act.who, pair);
            } else if self.has_thief && self.stolen.is_empty() && self.dice.chance(20) {
                // Lost on the way, and not to nobody.
                self.stolen.push(pair);
            }
            self.count(if is_new { "next pair" } else { "same pair again" });
        } else if let Reply::Refused(code) = &reply {
            self.has_ended |= ["refresh_token_reused", "session_ended"].contains(&code.as_str());
            self.count(code);
        } else {
            self.count("served");
        }
    }

    fn count(&mut self, said: &str) {
        *self.tally.entry(said.to_owned()).or_default() += 1;
    }

    fn keep(&mut self, who: Who, pair: Pair) {
        if pair.counter() <= self.newest(who).counter() {
            return;
        }
        if who == Who::Thief {
            return self.stolen.push(pair);
        }
        self.owned.push(pair);
        self.arrived_at.push(self.app.clock.now());
        self.lost_since = None;
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

    /// Some tabs find that they need a new pair. Within the contract's bounds: a tab goes on with
    /// what it has for less than 20 seconds after another one has received the next pair, however
    /// often that one refreshes meanwhile.
    fn tabs_refresh(&mut self) -> Vec<Act> {
        let now = self.app.clock.now();
        let replaced = self.owned.len() - 1;
        let behind: Vec<usize> =
            (0..replaced).filter(|place| now < self.arrived_at[place + 1] + GRACE).collect();
        // A lost request is one that is not made at all.
        let calls = self.dice.roll(1 + self.tabs.min(3));
        let mut acts = Vec::new();
        for _ in 0..calls {
            let is_behind = !behind.is_empty() && self.dice.chance(60);
            let place = if is_behind { *self.dice.pick(&behind) } else { replaced };
            let fate = self.fate();
            acts.push(Act::refresh(Who::Owner, &self.owned[place], fate));
        }
        acts
    }

    fn fate(&mut self) -> Fate {
        match self.dice.roll(10) {
            0..6 => Fate::Answered,
            6..9 => Fate::AnswerLost,
            _ => Fate::CutOff(1 + self.dice.roll(4)),
        }
    }

    /// A tab goes on with the access token that it has in memory, of whichever generation.
    fn tab_browses(&mut self) -> Act {
        let back = self.dice.pick(&[0, 0, 0, 1, 2]);
        let place = self.owned.len().saturating_sub(1 + back);
        let fate = self.fate();
        Act::use_of(Who::Owner, &self.owned[place], fate)
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
            Act::refresh(Who::Thief, &pair, self.fate())
        } else {
            Act::use_of(Who::Thief, &pair, self.fate())
        }
    }

    async fn step(&mut self) {
        self.pause();
        let mut acts = Vec::new();
        if self.dice.chance(60) {
            acts.extend(self.tabs_refresh());
        }
        if self.dice.chance(60) {
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
            // The tabs that are behind follow soon, for the most part.
            0..6 if self.tabs > 1 && self.dice.chance(50) => seconds(self.dice.roll(10)),
            0..3 => TimeDelta::zero(),
            3..5 => seconds(self.dice.roll(20)),
            // On both sides of the end of the grace.
            5 => GRACE + TimeDelta::milliseconds(1) * *self.dice.pick(&[-1, 0, 1]),
            6 => seconds(self.dice.roll(60)),
            7 => seconds(60 * self.dice.roll(60)),
            8 => seconds(3600 * self.dice.roll(48)),
            _ => seconds(86_400 * self.dice.roll(30)),
        };
        // Where an answer was lost, a tab asks again in time.
        let now = self.app.clock.now();
        let latest = self.lost_since.map(|lost| lost + UNSEEN - TimeDelta::milliseconds(1) - now);
        let pause = latest.map_or(pause, |latest| pause.min(latest).max(TimeDelta::zero()));
        // Whoever stays away until the time of the pair is over is logged out, as promised: seldom
        // of interest.
        let then = (self.app.clock.now() + pause).timestamp();
        if then < self.newest(Who::Owner).refresh_until.exp || self.dice.chance(5) {
            self.app.clock.advance(pause);
        }
    }

    /// However it went: the owner goes on with the newest pair.
    async fn owner_goes_on(&mut self) {
        self.act(&[Act::refresh(Who::Owner, self.newest(Who::Owner), Fate::Answered)]).await;
        self.act(&[Act::use_of(Who::Owner, self.newest(Who::Owner), Fate::Answered)]).await;
    }

    /// Owner and thief go on by turns, each using the new pair for longer than the grace: one of
    /// them is left behind, and with that one's next refresh, the third in all at the latest, the
    /// session ends.
    async fn both_go_on(&mut self) {
        let latest = (self.app.clock.now() + TimeDelta::minutes(2)).timestamp();
        if [Who::Owner, Who::Thief].iter().any(|who| self.newest(*who).refresh_until.exp <= latest)
        {
            return;
        }
        let mut turns = [Who::Owner, Who::Thief, Who::Owner, Who::Thief];
        if self.dice.chance(50) {
            turns.reverse();
        }
        for who in &turns[..3] {
            self.act(&[Act::refresh(*who, self.newest(*who), Fate::Answered)]).await;
            if self.has_ended {
                return;
            }
            self.act(&[Act::use_of(*who, self.newest(*who), Fate::Answered)]).await;
            self.app.clock.advance(GRACE);
        }
        panic!("two people go on with one session");
    }

    /// A session that has ended is good for nobody, now or later, whatever they hold of it.
    async fn nothing_is_good_any_more(&mut self) {
        let thiefs = self.stolen.iter().rev().take(2).map(|pair| (Who::Thief, pair));
        let everything: Vec<_> = thiefs
            .chain([(Who::Owner, self.newest(Who::Owner))])
            .map(|(who, pair)| {
                [Act::refresh(who, pair, Fate::Answered), Act::use_of(who, pair, Fate::Answered)]
            })
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

pub async fn one_story(app: &TestApp, owner: &str, seed: u64, has_thief: bool) -> Tally {
    let mut story = Story::begin(app, owner, seed, has_thief).await;
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
