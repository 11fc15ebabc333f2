//! Crashes while people register: what was acknowledged is kept, whole and once.
//!
//! `DOORWARD_CRASHES` is the number of crashes (2 unless set).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use doorward::local_postgres::{Durability, LocalPostgres};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::home::{Home, postgres_of};
use crate::harness::machine::{is_alive, kill_9, note};
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::process::Process;
use crate::harness::wait::eventually;

/// What the people who register at once have been told.
#[derive(Default)]
struct Told {
    /// The usernames that were acknowledged.
    registered: Vec<String>,
    /// The addresses that were refused.
    refused: Vec<String>,
    /// How many calls were cut off or put off.
    lost: usize,
}

struct Crowd {
    home: Home,
    acknowledged: AtomicUsize,
    enough: AtomicBool,
}

impl Crowd {
    /// Registers one after the other; whoever gets no answer asks again until there is one.
    async fn register(&self, number: usize) -> Told {
        let mut told = Told::default();
        for round in 0.. {
            if self.enough.load(Ordering::SeqCst) {
                break;
            }
            let username = format!("user{number}-{round}");
            let status = self.insist(&username, &email_of(&username), PASSWORD, &mut told).await;
            // 409: the answer to the first try was lost, and the try was not.
            assert!([201, 409].contains(&status), "{username}: {status}");
            told.registered.push(username.clone());
            self.acknowledged.fetch_add(1, Ordering::SeqCst);

            let other = email_of(&format!("other-{username}"));
            let (status, password) =
                if round % 2 == 0 { (409, PASSWORD) } else { (422, "12345678") };
            assert_eq!(self.insist(&username, &other, password, &mut told).await, status);
            told.refused.push(other);
        }
        told
    }

    async fn insist(&self, name: &str, email: &str, password: &str, told: &mut Told) -> u16 {
        let body = json!({ "username": name, "email": email, "password": password });
        loop {
            match self.home.post("/api/v1/users/").json(&body).try_send().await {
                Ok(reply) if reply.status != 503 => return reply.status,
                _ => told.lost += 1,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Crashes the service and PostgreSQL by turns, each while people register.
    async fn crash(&self, crashes: u32) -> Process {
        let mut service = self.home.start().await;
        for crash in 0..crashes {
            let before = self.acknowledged.load(Ordering::SeqCst);
            eventually("somebody registers", async || {
                self.acknowledged.load(Ordering::SeqCst) >= before + 5
            })
            .await;
            // Each time at another point of what is going on.
            tokio::time::sleep(Duration::from_millis(u64::from(crash * 37 % 100))).await;
            let start = Instant::now();
            if crash % 2 == 0 {
                service.kill_9();
                service = self.home.start().await;
                note(&format!("service killed, ready again after {:?}", start.elapsed()));
            } else {
                let postgres = postgres_of(&self.home);
                kill_9(postgres);
                eventually("PostgreSQL dies", async || !is_alive(postgres)).await;
                self.home.ready(&mut service).await;
                note(&format!("PostgreSQL killed, ready again after {:?}", start.elapsed()));
            }
        }
        let before = self.acknowledged.load(Ordering::SeqCst);
        eventually("somebody registers at the end", async || {
            self.acknowledged.load(Ordering::SeqCst) > before
        })
        .await;
        self.enough.store(true, Ordering::SeqCst);
        service
    }
}

/// The kept letters: the recipient's address and the `Message-ID`s of what came there.
fn kept_letters(home: &Home) -> BTreeMap<String, BTreeSet<String>> {
    let mut letters = BTreeMap::<_, BTreeSet<_>>::new();
    for file in fs::read_dir(home.folder().join(".doorward/mailbox")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|end| end == "json") {
            let letter: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            let text = |field: &str| letter[field].as_str().unwrap().to_owned();
            letters.entry(text("to")).or_default().insert(text("message_id"));
        }
    }
    letters
}

#[tokio::test]
async fn whoever_was_told_that_they_are_registered_is_there_after_every_crash() {
    let crashes = std::env::var("DOORWARD_CRASHES").map_or(2, |crashes| crashes.parse().unwrap());
    let home = Home::new(&[]);
    let (acknowledged, enough) = (AtomicUsize::new(0), AtomicBool::new(false));
    let crowd = Crowd { home, acknowledged, enough };
    let registering = join_all((0..4).map(|number| crowd.register(number)));
    let (told, service) = tokio::join!(registering, crowd.crash(crashes));
    let home = &crowd.home;
    let all = |part: fn(&Told) -> &Vec<String>| -> BTreeSet<String> {
        told.iter().flat_map(part).cloned().collect()
    };
    let (registered, refused) = (all(|told| &told.registered), all(|told| &told.refused));
    let lost: usize = told.iter().map(|told| told.lost).sum();
    note(&format!("{} registered, {} refused, {lost} calls lost", registered.len(), refused.len()));

    for name in &registered {
        home.log_in(name).send().await.expect(200);
    }

    // What no endpoint shows: joins the service's own PostgreSQL.
    let folder = home.folder().join(".doorward");
    let postgres = LocalPostgres::start(&folder, Durability::Durable).await.unwrap();
    let pool = PgPool::connect_with(postgres.connect_options("doorward")).await.unwrap();
    // A letter that was in hand at a crash has its next attempt a minute later.
    let due = "update outbox set next_attempt_at = now() where sent_at is null";
    sqlx::query(due).execute(&pool).await.unwrap();
    eventually("every letter is sent", async || {
        count(&pool, "select count(*) from outbox where sent_at is null").await == 0
    })
    .await;
    let sql = "select username, email, kind, failed_at is null
               from users left join outbox on users.id = user_id order by username";
    let rows: Vec<(String, String, Option<String>, Option<bool>)> =
        sqlx::query_as(sql).fetch_all(&pool).await.unwrap();
    let expected: Vec<_> = registered
        .iter()
        .map(|name| (name.clone(), email_of(name), Some("confirmation".to_owned()), Some(true)))
        .collect();
    assert_eq!(rows, expected, "each has exactly one letter");

    // A letter may have gone out twice, but then as one and the same; and none to whom was refused.
    let kept = kept_letters(home);
    let addresses: BTreeSet<_> = registered.iter().map(|name| email_of(name)).collect();
    for (address, ids) in &kept {
        assert!(addresses.contains(address) && !refused.contains(address), "{address}");
        assert_eq!(ids.len(), 1, "{address}");
    }
    let sent = count(&pool, "select count(*) from outbox where sent_at is not null").await;
    note(&format!("{} letters kept, {sent} known to be sent", kept.len()));
    assert!(kept.len() >= usize::try_from(sent).unwrap());
    pool.close().await;
    service.stop().await;
    postgres.stop().await;
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}
