//! The session cache against a model: many people at three instances, each of whom does one thing
//! after the other, so that of each it is known what was true when.
//!
//! `DOORWARD_CACHE_OPERATIONS` is the number of things done (5,000 unless set),
//! `DOORWARD_CACHE_SEED` which ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::session_cache::MAX_STALENESS;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::dice::{Dice, number};
use crate::harness::forge;
use crate::harness::machine::note;
use crate::harness::person::{PASSWORD, Person};
use crate::process::instances::{at, path_of, set_role};
use crate::session_cache::cut::{MARGIN, cut_one};
use crate::session_cache::follower::{Follower, ME};

const INSTANCES: usize = 3;
const PEOPLE: u64 = 16;

/// A user from their registration to some time after their deletion.
struct Life {
    name: String,
    /// From the oldest on; each change makes a new one.
    states: Vec<State>,
    sessions: Vec<Session>,
    tokens: Vec<Token>,
}

struct State {
    /// As they are shown; `None` once they are deleted.
    user: Option<Value>,
    /// When it was known that the next one has taken its place.
    replaced_at: Option<Instant>,
}

struct Session {
    /// With the newest pair.
    holder: Person,
    /// The first state in which it has ended.
    ended_in: Option<usize>,
}

struct Token {
    access: String,
    session: usize,
    /// What is shown at each instance is never older than this state: what was shown there before,
    /// or changed there.
    floors: [usize; INSTANCES],
}

#[derive(Default)]
struct Tally {
    looks: u64,
    changes: u64,
    lives: u64,
    /// Looks that showed what was no longer true.
    stale: u64,
    stalest: Duration,
}

struct Town {
    apps: [TestApp; INSTANCES],
    boss: Person,
}

/// The number of an instance.
fn somewhere(dice: &mut Dice) -> usize {
    usize::try_from(dice.roll(INSTANCES as u64)).unwrap()
}

impl Town {
    async fn by_hand(&self, sql: String) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.apps[0].pool).await.unwrap();
    }

    async fn begin_life(&self, name: String, dice: &mut Dice) -> Life {
        let here = &self.apps[somewhere(dice)];
        let email = format!("{name}@example.com");
        let form = json!({ "username": name, "email": email, "password": PASSWORD });
        here.anonymous().post("/api/v1/users/", &form).await.assert_ok(201);
        // Nobody else's letters are in the way like this; only who is verified gets a role.
        let sql = format!("update users set email_verified_at = now() where username = '{name}'");
        self.by_hand(sql).await;
        let mut life = Life { name, states: Vec::new(), sessions: Vec::new(), tokens: Vec::new() };
        let holder = here.log_in(&life.name, PASSWORD).await;
        life.states.push(State { user: Some(holder.user.clone()), replaced_at: None });
        life.begin_session(holder);
        life
    }

    /// Does one of the things that a living user does, or that is done to them.
    async fn change(&self, life: &mut Life, dice: &mut Dice) {
        let (place, now) = (somewhere(dice), life.newest());
        let here = &self.apps[place];
        let living: Vec<usize> = (0..life.sessions.len())
            .filter(|&session| life.sessions[session].ended_in.is_none())
            .collect();
        if living.is_empty() {
            return life.begin_session(here.log_in(&life.name, PASSWORD).await);
        }
        let session = *dice.pick(&living);
        let person = at(here, &life.sessions[session].holder);
        let (id, fresh_name) = (person.id().to_owned(), format!("Name {now}"));
        let mut user = life.user().clone();
        match dice.roll(100) {
            0..30 => {
                let names = json!({ "first_name": fresh_name, "last_name": fresh_name });
                let answer = person.put(ME, &names).await;
                life.set_user(Some(place), Some(answer.assert_ok(200)["user"].clone()));
            }
            30..50 => {
                self.by_hand(format!(
                    "update users set first_name = '{fresh_name}', last_name = '{fresh_name}' where id = '{id}'"
                ))
                .await;
                for field in ["first_name", "last_name"] {
                    user[field] = json!(fresh_name);
                }
                life.set_user(None, Some(user));
            }
            50..65 => {
                if living.len() < 4 {
                    let holder = here.log_in(&life.name, PASSWORD).await;
                    assert_eq!(holder.user, user);
                    life.begin_session(holder);
                }
            }
            65..73 => {
                person.post("/api/v1/logout", &json!({})).await.assert_ok(200);
                life.end_session(Some(place), session);
            }
            73..80 => {
                let sid = forge::read(person.access_token()).1["sid"].clone();
                let how = dice.pick(&[
                    "update sessions set ended_at = now()",
                    "update sessions set expires_at = now() - interval '1 s'",
                    "delete from sessions",
                ]);
                self.by_hand(format!("{how} where id = '{}'", sid.as_str().unwrap())).await;
                life.end_session(None, session);
            }
            80..88 => {
                let mut person = person;
                person.refresh().await.assert_ok(200);
                life.give_token(session, person.access_token());
                life.sessions[session].holder = person;
            }
            88..95 => {
                let role = if user["role"] == "user" { "staff" } else { "user" };
                let answer = set_role(&at(here, &self.boss), &person, role).await;
                let mut user = answer.assert_ok(200)["user"].clone();
                // What only staff and admins see.
                for member in ["banned", "reset_required", "deleted_at"] {
                    user.as_object_mut().unwrap().remove(member);
                }
                life.set_user(Some(place), Some(user));
            }
            95..98 => {
                at(here, &self.boss).delete(&path_of(&person)).await.assert_ok(200);
                life.set_user(Some(place), None);
            }
            _ => {
                self.by_hand(format!("delete from users where id = '{id}'")).await;
                life.set_user(None, None);
            }
        }
    }

    /// Somebody looks at themselves, which has to show what is true, or was a moment ago elsewhere.
    async fn look(&self, life: &mut Life, dice: &mut Dice, tally: &mut Tally) {
        let place = somewhere(dice);
        let token = usize::try_from(dice.roll(life.tokens.len() as u64)).unwrap();
        let mut person = self.apps[place].anonymous();
        person.access = Some(life.tokens[token].access.clone());
        let asked_at = Instant::now();
        let answer = person.get(ME).await;
        if answer.status != 200 {
            answer.assert_error(401, "session_ended");
        }
        let Token { session, floors, .. } = &life.tokens[token];
        let shown = answer.json.get("user");
        let states = floors[place]..=life.newest();
        let Some(state) = states.clone().rev().find(|&state| life.shows(*session, state) == shown)
        else {
            let right = life.shows(*session, life.newest());
            panic!("{}: wrong at {place}: {} instead of {right:?}", life.name, answer.text)
        };
        if let Some(replaced_at) = life.states[state].replaced_at {
            let age = asked_at.saturating_duration_since(replaced_at);
            assert!(age < MAX_STALENESS + MARGIN, "{age:?} old at {place}: {}", answer.text);
            tally.stale += 1;
            tally.stalest = tally.stalest.max(age);
        }
        tally.looks += 1;
        life.tokens[token].floors[place] = state;
    }
}

impl Life {
    fn newest(&self) -> usize {
        self.states.len() - 1
    }

    fn is_over(&self) -> bool {
        self.states[self.newest()].user.is_none()
    }

    fn user(&self) -> &Value {
        self.states[self.newest()].user.as_ref().unwrap()
    }

    /// What a token of the session shows in a state.
    fn shows(&self, session: usize, state: usize) -> Option<&Value> {
        let has_ended = self.sessions[session].ended_in.is_some_and(|ended_in| state >= ended_in);
        self.states[state].user.as_ref().filter(|_| !has_ended)
    }

    /// They have changed; by the instance at `place`, or by hand.
    fn set_user(&mut self, place: Option<usize>, user: Option<Value>) {
        let old = self.newest();
        self.states[old].replaced_at = Some(Instant::now());
        self.states.push(State { user, replaced_at: None });
        if let Some(place) = place {
            for token in &mut self.tokens {
                token.floors[place] = old + 1;
            }
        }
    }

    fn begin_session(&mut self, holder: Person) {
        let access = holder.access_token().to_owned();
        self.sessions.push(Session { holder, ended_in: None });
        self.give_token(self.sessions.len() - 1, &access);
    }

    fn end_session(&mut self, place: Option<usize>, session: usize) {
        self.set_user(place, Some(self.user().clone()));
        self.sessions[session].ended_in = Some(self.newest());
    }

    fn give_token(&mut self, session: usize, access: &str) {
        // Nobody has been shown anything for it yet.
        let floors = [self.newest(); INSTANCES];
        self.tokens.push(Token { access: access.to_owned(), session, floors });
        // The most recent ones are the most telling.
        if self.tokens.len() > 6 {
            self.tokens.remove(0);
        }
    }
}

/// One person after the other lives at the three instances.
async fn live(town: &Town, number: u64, operations: u64, mut dice: Dice) -> Tally {
    let mut tally = Tally::default();
    let mut life = town.begin_life(format!("user{number}-0"), &mut dice).await;
    for operation in 1..=operations {
        if life.is_over() && dice.chance(10) {
            life = town.begin_life(format!("user{number}-{operation}"), &mut dice).await;
            tally.lives += 1;
        } else if !life.is_over() && dice.chance(20) {
            town.change(&mut life, &mut dice).await;
            tally.changes += 1;
        } else {
            town.look(&mut life, &mut dice, &mut tally).await;
        }
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_instances_show_what_was_true_a_moment_ago() {
    let operations = number("DOORWARD_CACHE_OPERATIONS", 5000);
    let seed = number("DOORWARD_CACHE_SEED", 1);
    let database = new_database().await;
    let followers = [
        Follower::on(&database).await,
        Follower::on(&database).await,
        Follower::on(&database).await,
    ];
    let apps = followers.each_ref().map(|follower| follower.app.clone());
    let boss = apps[0].admin().await;
    let town = Arc::new(Town { apps, boss });
    let start = Instant::now();

    let mut people = JoinSet::new();
    for number in 0..PEOPLE {
        let town = Arc::clone(&town);
        let dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number));
        people.spawn(async move { live(&town, number, operations / PEOPLE, dice).await });
    }
    let mut cutting = JoinSet::new();
    let pool = town.apps[0].pool.clone();
    cutting.spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        loop {
            cut_one(&pool).await;
            // Whoever is cut off more often than that waits ever longer before it listens again.
            tokio::time::sleep(Duration::from_secs(35)).await;
        }
    });

    let mut all = Tally::default();
    for tally in people.join_all().await {
        all.looks += tally.looks;
        all.changes += tally.changes;
        all.lives += tally.lives;
        all.stale += tally.stale;
        all.stalest = all.stalest.max(tally.stalest);
    }
    let Tally { looks, changes, lives, stale, stalest } = all;
    let hits: u64 = town.apps.iter().map(|app| app.state.session_cache.hits.get()).sum();
    note(&format!(
        "{looks} looks, {hits} of them answered from memory, {changes} changes, {lives} more lives in {:?}: none wrong, \
         {stale} showed what had been true, the oldest {stalest:?} ago",
        start.elapsed()
    ));
    // Otherwise nothing was shown: people look four times out of five, and an entry is good until
    // the next change.
    assert!(looks > operations / 2, "{looks} looks");
    assert!(hits > looks / 20, "{hits} hits");
}
