//! Lists that a streaming standby answers, and the primary where it cannot: real processes, nothing
//! stale.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::http_call::HttpCall;
use crate::harness::machine::free_port;
use crate::harness::person::PASSWORD;
use crate::harness::postgres::Postgres;
use crate::harness::process::Process;
use crate::harness::tcp_proxy::{TcpProxy, Upstream};
use crate::harness::wait::eventually;
use crate::process::doctor::{Report, good};

const LOST: &str = "the standby cannot be used";
const BACK: &str = "the standby can be used again";
/// The statement of a list, in PostgreSQL's log.
const LIST: &str = "from users u where true";
const LOGGED: &str = "log_statement=all";

/// A service on a primary and its standby, and its admin.
struct Site {
    primary: Postgres,
    standby: Postgres,
    home: Home,
    service: Process,
    boss: Value,
}

impl Site {
    async fn start(standby_settings: &[&str]) -> Self {
        let primary = Postgres::primary(&[LOGGED]).await;
        let standby = primary.standby(standby_settings).await;
        let url = standby.url("doorward");
        let mut home = Home::on("unused", &[("DATABASE_READ_URL", &url)]).await;
        home.set("DATABASE_URL", &primary.url("doorward"));
        let flags = ["create-admin", "--email", "boss@example.com", "--password-stdin"];
        home.succeeds(&flags, PASSWORD).await;
        let service = home.start().await;
        let boss = home.log_in("boss").send().await.expect(200);
        Self { primary, standby, home, service, boss }
    }

    fn list(&self, query: &str) -> HttpCall {
        self.home.get(&format!("/api/v1/users/?count=true{query}")).by(&self.boss)
    }

    fn stream(&self) -> HttpCall {
        self.home.get("/api/v1/users/").by(&self.boss).header("accept", "application/x-ndjson")
    }

    /// Changes the first name of the admin, which every list has to show at once.
    async fn shows_what_was_just_written(&self, name: &str) {
        let change = json!({ "first_name": name });
        let call = self.home.put("/api/v1/users/me").by(&self.boss).json(&change);
        call.send().await.expect(200);
        let list = self.list("").send().await.expect(200);
        assert_eq!(list["users"][0]["first_name"], name);
        let stream = self.stream().send().await;
        assert!(stream.text.contains(&format!("\"first_name\":\"{name}\"")), "{}", stream.text);
    }

    async fn until_the_standby_is_back(&self) {
        eventually("the standby is used again", async || {
            self.list("").send().await.expect(200);
            self.said(BACK) > 0
        })
        .await;
    }

    fn said(&self, words: &str) -> usize {
        self.service.log().matches(words).count()
    }
}

#[tokio::test]
async fn no_list_shows_less_than_what_was_written_before_whether_the_standby_follows_lags_or_is_promoted()
 {
    let site = Site::start(&[LOGGED]).await;
    for round in 0..20 {
        site.shows_what_was_just_written(&format!("Round {round}")).await;
        let role = if round % 2 == 0 { "Staff" } else { "User" };
        let name = format!("user{round}");
        let registered = site.home.register(&name).send().await.expect(201);
        let count = site.list("&limit=1").send().await.expect(200);
        assert_eq!(count["count"], round + 2);
        // What is refused was looked up, too: nobody's address is verified.
        let path = format!("/api/v1/users/{}", registered["user"]["public_id"].as_str().unwrap());
        let promote = site.home.put(&format!("{path}?role={role}")).by(&site.boss);
        promote.send().await;
        assert_eq!(site.home.get(&path).by(&site.boss).send().await.status, 200);
    }
    let (primary, standby) = (site.primary.log(), site.standby.log());
    assert_eq!(primary.matches(LIST).count(), 0, "{}", site.service.log());
    // A page with its count, twice, and a stream, in each round.
    assert_eq!(standby.matches(LIST).count(), 20 * 5);
    assert!(!standby.contains("from sessions"), "{standby}");
    assert_eq!(site.said(LOST), 0);

    site.standby.execute("doorward", "select pg_wal_replay_pause()").await;
    let start = Instant::now();
    for round in 0..5 {
        site.shows_what_was_just_written(&format!("Paused {round}")).await;
    }
    assert_eq!(site.said(LOST), 1, "{}", site.service.log());
    // One of them has waited for it.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    site.standby.execute("doorward", "select pg_wal_replay_resume()").await;
    site.until_the_standby_is_back().await;
    site.shows_what_was_just_written("Resumed").await;
    assert_eq!(site.said(LOST), 1);

    site.standby.promote().await;
    site.standby.execute("doorward", "update users set first_name = 'From elsewhere'").await;
    for name in ["One", "Two"] {
        site.shows_what_was_just_written(name).await;
    }
    assert_eq!(site.said("it is not a standby"), 1, "{}", site.service.log());
    site.service.stop().await;
}

#[tokio::test]
async fn a_standby_that_ends_a_list_for_its_recovery_or_is_gone_is_left_alone_with_one_line_in_the_log()
 {
    let mut site = Site::start(&["max_standby_streaming_delay=0"]).await;
    let sql = "insert into users (id, username, email, password_hash, created_at, modified_at)
               select gen_random_uuid(), 'user' || n, 'user' || n || '@example.com', '', now(), now() from generate_series(1, 20000) n";
    site.primary.execute("doorward", sql).await;
    let enough = AtomicBool::new(false);
    let lock = async {
        // Who replays it ends all that reads the table.
        while !enough.load(Ordering::SeqCst) {
            site.primary
                .execute("doorward", "begin; lock table users in access exclusive mode; commit")
                .await;
        }
    };
    let reads = async {
        let start = Instant::now();
        while site.said("conflict with recovery") == 0 {
            assert!(start.elapsed() < Duration::from_mins(1), "{}", site.service.log());
            let lists = (0..4).map(|_| site.list("&q=user&limit=1").send());
            for list in join_all(lists).await {
                assert_eq!(list.expect(200)["count"], 20_000);
            }
        }
        enough.store(true, Ordering::SeqCst);
    };
    tokio::join!(lock, reads);
    // Whoever was let in before, and read to the end, does not undo it.
    assert_eq!((site.said(LOST), site.said(BACK)), (1, 0), "{}", site.service.log());
    site.primary.execute("doorward", "delete from users where role = 'user'").await;
    site.until_the_standby_is_back().await;

    site.standby.kill_9();
    for round in 0..5 {
        let start = Instant::now();
        site.shows_what_was_just_written(&format!("Killed {round}")).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        site.home.get("/readyz").send().await.expect(200);
    }
    assert_eq!((site.said(LOST), site.said(BACK)), (2, 1), "{}", site.service.log());
    let log = site.service.stop().await;
    assert!(!log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn doctor_looks_at_the_standby() {
    let (mut home, _, _sink) = good().await;
    let primary = Postgres::primary(&[]).await;
    let mut standby = primary.standby(&[]).await;
    home.set("DATABASE_URL", &primary.url("doorward"));
    let look = async |home: &mut Home, url: &str, expected: &[(&str, &str, &str)]| {
        home.set("DATABASE_READ_URL", url);
        let report = Report::of(&format!("{expected:?}"), home, &[]).await;
        report.assert_troubles(expected);
        report.text
    };
    let said = look(&mut home, &standby.url("doorward"), &[]).await;
    assert!(said.contains("as far as the primary"), "{said}");
    let promoted = [("warn", "standby", "takes writes")];
    look(&mut home, &primary.url("doorward"), &promoted).await;
    let stranger = [("fail", "standby", "another database's server")];
    look(&mut home, &cluster().await.url("postgres"), &stranger).await;
    let nowhere = format!("postgres://doorward@127.0.0.1:{}/doorward", free_port());
    look(&mut home, &nowhere, &[("warn", "standby", "leads nowhere")]).await;
    standby.execute("doorward", "select pg_wal_replay_pause()").await;
    primary.execute("doorward", "create table more ()").await;
    let lags = [("warn", "standby", "lags by more than a second")];
    look(&mut home, &standby.url("doorward"), &lags).await;
    standby.kill_9();
    look(&mut home, &standby.url("doorward"), &[("warn", "standby", "leads nowhere")]).await;
}

/// Clients may still reach a primary that was demoted. The first of its tables that a call asks for
/// may be an unlogged one, which it refuses with another code than what would be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_put_off_by_a_primary_that_was_demoted() {
    let primary = Postgres::primary(&[]).await;
    let standby = primary.standby(&[]).await;
    let port = free_port();
    let proxy = TcpProxy::open_to(port, Upstream::Port(primary.port)).await;
    let mut home = Home::on("unused", &[("RATE_LIMITS", "on"), ("TRUSTED_PROXY_HOPS", "1")]).await;
    home.set(
        "DATABASE_URL",
        &primary.url("doorward").replace(&primary.port.to_string(), &port.to_string()),
    );
    let service = home.start().await;
    let client = |call: HttpCall| call.header("x-forwarded-for", "10.0.0.7");
    client(home.register("ann")).send().await.expect(201);
    let ann = client(home.log_in("ann")).send().await.expect(200);
    let position: String = primary.ask("select pg_current_wal_lsn()::text").await;
    eventually("the standby has it", async || {
        standby.ask::<String>("select pg_last_wal_replay_lsn()::text").await >= position
    })
    .await;

    proxy.lead_to(Upstream::Port(standby.port));
    let refresh = ann["refresh_token"].as_str().unwrap();
    let passwords = json!({ "old_password": PASSWORD, "new_password": "quite another one" });
    let calls = || {
        [
            home.register("ben"),
            home.log_in("ann"),
            home.log_in_with("ann", "not the right one"),
            home.post("/api/v1/refresh").header("x-refresh-token", refresh),
            home.put("/api/v1/users/me").by(&ann).json(&json!({ "first_name": "Ann" })),
            home.put("/api/v1/users/me/change_password").by(&ann).json(&passwords),
            home.post("/api/v1/users/me/verify_email").by(&ann),
            home.post("/api/v1/logout").by(&ann),
        ]
    };
    for _ in 0..2 {
        for call in calls() {
            let error = client(call).send().await.expect(503);
            assert_eq!(error["code"], "database_unavailable");
        }
    }
    assert!(!service.log().contains(r#""code":"internal""#), "{}", service.log());

    proxy.lead_to(Upstream::Port(primary.port));
    eventually("it goes on", async || {
        let call = home.post("/api/v1/refresh").header("x-refresh-token", refresh);
        client(call).send().await.status == 200
    })
    .await;
}
