//! Shows that the checks see what they are there to see: each kind of damage is done by hand, and
//! has to be found.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::check;
use crate::history::{History, INVARIANTS, Invariant};
use crate::load::Load;
use crate::report::Report;
use crate::run;
use crate::world::{Setup, World};

pub const NAME: &str = "self-check";

/// Damage, and the invariant that it breaks.
const DAMAGE: [(Invariant, &str); 10] = [
    (
        Invariant::Audit,
        "delete from audit_log where event = 'registered' and user_id = (select id from users where username = 'p0-0')",
    ),
    (Invariant::Audit, "delete from audit_log where event = 'login'"),
    (Invariant::Letters, "delete from outbox where recipient = 'p0-0@example.com'"),
    (
        Invariant::Letters,
        "update outbox set id = gen_random_uuid() where recipient = 'p1-0@example.com'",
    ),
    (
        Invariant::Letters,
        "update outbox set failed_at = now() where recipient = 'p2-0@example.com'",
    ),
    (Invariant::Lineage, "update sessions set counter = counter + 1"),
    (
        Invariant::Lineage,
        "insert into audit_log (at, event) values (now(), 'refresh_token_reused')",
    ),
    (
        Invariant::Registrations,
        "update users set email = 'other-p0-0@example.com' where username = 'p0-0'",
    ),
    (
        Invariant::Unique,
        "alter table users drop constraint users_username_key; update users set username = 'P0-0' where username = 'p1-0'",
    ),
    (Invariant::Admin, "update users set role = 'user'"),
];

pub async fn run() -> Report {
    let mut world = World::build(&Setup::PLAIN).await;
    world.start(&Setup::PLAIN).await;
    let load = world.load(Duration::ZERO);
    let people = World::people(&load, 0);
    sleep(Duration::from_secs(3)).await;
    load.end();
    let mut people: Vec<_> = people.join_all().await.into_iter().flatten().collect();
    run::prove(&world, &load, &mut people).await;
    // Nothing was broken, so far.
    let mut broken = load.history.all_broken();

    let mut missed = Vec::new();
    let pool = world.pool().await;
    for (invariant, sql) in DAMAGE {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        let history = History::new();
        check::database(&pool, &people, &history).await;
        check::letters(&pool, &world.sink, &history).await;
        if !history.all_broken().contains_key(&invariant) {
            missed.push((invariant, sql));
        }
    }
    pool.close().await;
    for (invariant, answer) in [
        (
            Invariant::OnlyUnavailable,
            "HTTP/1.1 500 X\r\nx-request-id: x\r\ncontent-length: 0\r\n\r\n",
        ),
        (Invariant::NoHang, ""),
    ] {
        let history = answered_with(answer).await;
        if !history.history.all_broken().contains_key(&invariant) {
            missed.push((invariant, answer));
        }
    }
    if !missed.is_empty() {
        let said = missed.iter().map(|missed| format!("not seen: {missed:?}")).collect();
        broken.insert(INVARIANTS[0].0, said);
    }
    Report { broken, ..Report::default() }
}

/// What is recorded of one call that is answered like this, a second later than it may be.
async fn answered_with(answer: &'static str) -> Load {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = format!("http://{}", listener.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        sleep(Duration::from_secs(1)).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    });
    let load = Load::new(vec![door], Duration::from_millis(500));
    load.call("a call", load.request(reqwest::Method::GET, "/")).await;
    answering.await.unwrap();
    load
}
