//! The real binary on a real port, with a real database and a real mail server: start, work, end.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::app::PUBLIC_URL;
use crate::harness::cluster::{cluster, empty_database, new_database};
use crate::harness::home::Home;
use crate::harness::machine::free_port;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::smtp_sink::{Received, SmtpSink};
use crate::harness::tcp_proxy::TcpProxy;
use crate::harness::wait::eventually;

/// The path and query of the link in a letter, which stands in both of its parts.
fn link_in(letter: &Received) -> String {
    let text = letter.text();
    let link = text.split_whitespace().find(|word| word.starts_with(PUBLIC_URL)).unwrap();
    assert!(letter.html().contains(&format!("\"{link}\"")), "{}", letter.html());
    link[PUBLIC_URL.len()..].to_owned()
}

#[tokio::test]
async fn the_whole_way_over_real_sockets() {
    let sink = SmtpSink::start().await;
    let mail = [("SMTP_URL", &*sink.url()), ("MAIL_FROM", "Doorward <no-reply@example.com>")];
    let (home, _) = Home::with_database(&mail).await;
    let service = home.start().await;

    home.register("ada").send().await.expect(201);
    let letters = sink.wait_for(1).await;
    assert_eq!(letters[0].from, "no-reply@example.com");
    assert_eq!(letters[0].to, ["ada@example.com"]);
    let id = letters[0].headers("message-id").concat();
    let uuid = id.strip_prefix('<').and_then(|id| id.strip_suffix("@auth.example.com>"));
    assert!(uuid.is_some_and(|uuid| uuid.parse::<uuid::Uuid>().is_ok()), "{id}");
    let link = link_in(&letters[0]);
    assert!(link.starts_with("/api/v1/confirm?token="), "{link}");
    assert_eq!(home.post(&link).send().await.expect(200)["email_verified"], true);

    let first = home.log_in("ada").send().await.expect(200);
    let me = home.get("/api/v1/users/me").by(&first).send().await.expect(200);
    assert_eq!(me["user"]["email_verified"], true);
    let refresh = |pair: &Value| {
        home.post("/api/v1/refresh")
            .header("x-refresh-token", pair["refresh_token"].as_str().unwrap())
    };
    let second = refresh(&first).send().await.expect(200);
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    home.post("/api/v1/logout").by(&second).send().await.expect(200);
    let ended = home.get("/api/v1/users/me").by(&second).send().await.expect(401);
    assert_eq!(ended["code"], "session_ended");
    refresh(&second).send().await.expect(401);

    assert_eq!(sink.received().len(), 1);
    let log = service.log();
    let token = second["token"].as_str().unwrap();
    for secret in [PASSWORD, "ada@", &link, token, "confirm?"] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
    service.stop().await;
}

#[tokio::test]
async fn the_port_answers_before_the_database_is_up_and_while_it_is_away() {
    let (database, port) = (new_database().await, free_port());
    let mut home = Home::on(&database, &[]).await;
    home.set(
        "DATABASE_URL",
        &format!("postgres://doorward@127.0.0.1:{port}/{database}?sslmode=disable"),
    );
    let mut service = home.spawn("serve");
    eventually("the port answers", async || home.get("/healthz").try_send().await.is_ok()).await;
    home.get("/healthz").send().await.expect(200);
    let away = async || {
        let (ready, log_in) = tokio::join!(home.get("/readyz").send(), home.log_in("ada").send());
        assert_eq!(ready.expect(503)["code"], "database_unavailable");
        assert_eq!(log_in.expect(503)["code"], "database_unavailable");
    };
    away().await;
    service.wait_for_log("waiting for the database").await;

    let proxy = TcpProxy::open(port).await;
    home.ready(&mut service).await;
    home.newcomer("ada").await;

    drop(proxy);
    away().await;
    home.get("/healthz").send().await.expect(200);

    let _gate = TcpProxy::open(port).await;
    home.ready(&mut service).await;
    home.log_in("ada").send().await.expect(200);
    service.stop().await;
}

#[tokio::test]
async fn sigterm_leaves_no_request_unanswered() {
    let (home, _) = Home::with_database(&[]).await;
    let mut service = home.start().await;
    home.register("ada").send().await.expect(201);
    let answered = tokio::sync::Notify::new();
    let log_ins = join_all((0..20).map(async |_| {
        let answer = home.log_in("ada").send().await;
        answered.notify_one();
        answer.expect(200)
    }));
    let terminate = async {
        // Hashing takes its time: with the first answer here, the others are in hand.
        answered.notified().await;
        service.terminate();
        service.end().await
    };
    let (answers, status) = tokio::join!(log_ins, terminate);
    assert_eq!(answers.len(), 20);
    assert_eq!(status.code(), Some(0), "{}", service.log());
    assert!(service.log().contains("stopping: finishing the requests in flight"));
    assert!(home.get("/healthz").try_send().await.is_err());
}

#[tokio::test]
async fn whoever_connects_while_it_ends_is_answered_or_not_let_in() {
    let (home, _) = Home::with_database(&[]).await;
    let mut cut_off = Vec::new();
    for _ in 0..3 {
        let mut service = home.start().await;
        let calls = join_all((0..16).map(async |_| {
            loop {
                if let Err(error) = home.get("/healthz").try_send().await {
                    return error;
                }
            }
        }));
        let terminate = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            service.terminate();
            service.end().await
        };
        let (errors, status) = tokio::join!(calls, terminate);
        assert_eq!(status.code(), Some(0), "{}", service.log());
        // Refused a connection, a client knows that nothing was done; cut off, it does not.
        cut_off.extend(errors.into_iter().filter(|error| !error.is_connect()));
    }
    // The system may let one in between the last look for it and the end of the port: a few
    // microseconds.
    assert!(cut_off.len() <= 1, "{cut_off:?}");
}

#[tokio::test]
async fn another_sigterm_changes_nothing_and_a_second_interrupt_ends_at_once() {
    let (home, _) = Home::with_database(&[]).await;
    let mut service = home.start().await;
    // A body that does not come keeps the service waiting for far longer than this test does.
    let mut client = TcpStream::connect(home.url("").trim_start_matches("http://")).await.unwrap();
    let head = "POST /api/v1/users HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    client.write_all(head.as_bytes()).await.unwrap();
    // Connections are taken one after the other: with this answered, the first one is in hand.
    home.get("/healthz").send().await.expect(200);
    service.terminate();
    service.wait_for_log("stopping: finishing the requests in flight").await;
    // Platforms send it to a whole process group, or again and again, and requests are in progress.
    service.terminate();
    service.terminate();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(service.is_running(), "{}", service.log());
    let start = Instant::now();
    service.interrupt();
    assert_eq!(service.end().await.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn production_says_all_that_is_missing_at_once_and_does_not_start() {
    let database = cluster().await.url("postgres");
    let home = Home::new(&[("DATABASE_URL", &*database), ("WORKER", "perhaps")]);
    for command in ["serve", "worker", "migrate"] {
        let said = home.fails(&[command], "").await;
        for name in ["SECRET_KEY", "PUBLIC_URL", "WORKER"] {
            assert_eq!(said.matches(&format!("- {name} ")).count(), 1, "{said}");
        }
    }
    let home = Home::new(&[("DATABASE_URL", &*database), ("SECRET_KEY", "too short to be a key")]);
    let said = home.fails(&["serve"], "").await;
    assert!(said.contains("SECRET_KEY is too weak") && !said.contains("too short to"), "{said}");
    assert!(!home.folder().join(".doorward").exists());
}

#[tokio::test]
async fn production_without_a_mail_server_starts_and_letters_wait() {
    let (home, database) = Home::with_database(&[]).await;
    let service = home.start().await;
    service.wait_for_log("no mail server is set: letters wait in the outbox").await;
    home.register("ada").send().await.expect(201);
    home.get("/dev/mailbox").send().await.expect(404);
    service.stop().await;

    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    let waiting = "select count(*) from outbox where attempts = 0 and sent_at is null";
    let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap();
    assert_eq!(waiting, 1);

    // They leave as soon as there is one.
    let (sink, mut home) = (SmtpSink::start().await, home);
    home.set("SMTP_URL", &sink.url());
    home.set("MAIL_FROM", "no-reply@example.com");
    let service = home.start().await;
    assert_eq!(sink.wait_for(1).await[0].to, [email_of("ada")]);
    service.stop().await;
}

#[tokio::test]
async fn two_instances_starting_at_once_on_an_empty_database_both_become_ready() {
    let database = empty_database().await;
    let homes = [Home::on(&database, &[]).await, Home::on(&database, &[]).await];
    let [one, other] = &homes;
    let (first, second) = tokio::join!(one.start(), other.start());
    let pair = one.newcomer("ada").await;
    let me = other.get("/api/v1/users/me").by(&pair).send().await.expect(200);
    assert_eq!(me["user"]["username"], json!("ada"));
    first.stop().await;
    second.stop().await;
}
