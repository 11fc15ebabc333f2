//! The real binary without `DATABASE_URL`: it brings its own PostgreSQL, keeps what it was told,
//! and mends itself.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::home::{Home, postgres_of};
use crate::harness::machine::{is_alive, kill_9};
use crate::harness::wait::eventually;

/// Every process that has the home's folder in its command line.
fn processes_in(home: &Home) -> Vec<String> {
    let folder = home.folder().to_str().unwrap();
    let lines = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|process| {
        let line = fs::read_to_string(process.path().join("cmdline")).ok()?.replace('\0', " ");
        line.contains(folder).then_some(line)
    });
    lines.collect()
}

async fn letters(home: &Home) -> Vec<Value> {
    let mailbox = home.get("/dev/mailbox").send().await.expect(200);
    mailbox["letters"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_empty_folder_is_enough_and_a_restart_loses_nothing() {
    let home = Home::new(&[]);
    let service = home.start().await;
    let postgres = postgres_of(&home);
    if cfg!(target_os = "linux") {
        assert!(!processes_in(&home).is_empty());
    }

    let pair = home.newcomer("ada").await;
    eventually("the letter is kept", async || letters(&home).await.len() == 1).await;
    let letter = &letters(&home).await[0];
    assert_eq!(letter["to"], "ada@example.com");
    // Not for those whom a proxy on this machine lets in, nor for a page whose own name leads here.
    let headers =
        ["x-forwarded-for", "x-forwarded-host", "forwarded", "via", "x-real-ip", "fly-client-ip"];
    for header in headers.iter().chain(&["true-client-ip", "x-client-ip", "cf-connecting-ip"]) {
        home.get("/dev/mailbox").header(header, "for=127.0.0.1").send().await.expect(404);
    }
    for (host, status) in [
        ("localhost:8000", 200),
        ("127.9.9.9", 200),
        ("[::1]:80", 200),
        ("auth.example.com", 404),
        ("127.0.0.1.example.com:8000", 404),
        ("192.168.1.7", 404),
    ] {
        home.get("/dev/mailbox").header("host", host).send().await.expect(status);
    }
    let link = letter["links"][0].as_str().unwrap();
    assert!(link.starts_with(&home.url("/api/v1/confirm?token=")), "{link}");
    service.wait_for_log(link).await;
    // For a browser a page, in which the letter has a frame without scripts, and the link is short.
    let page = home.get("/dev/mailbox").header("accept", "text/html").send().await.text;
    let frame = r#" sandbox="allow-popups allow-popups-to-escape-sandbox" "#;
    assert_eq!(page.matches("<iframe").count(), 1);
    assert!(page.contains(frame) && page.contains(r#"srcdoc="&#60;!doctype html"#), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let short = format!(">{}…</a>", &link[..60]);
    assert!(page.contains(&short) && page.contains("<summary>The whole link</summary>"), "{page}");
    let confirmed = home.post(&link[home.url("").len()..]).send().await.expect(200);
    assert_eq!(confirmed["email_verified"], true);

    service.stop().await;
    assert!(!is_alive(postgres));
    assert_eq!(processes_in(&home), [""; 0]);

    let service = home.start().await;
    let me = home.get("/api/v1/users/me").by(&pair).send().await.expect(200);
    assert_eq!(me["user"]["email_verified"], true);
    let refresh = pair["refresh_token"].as_str().unwrap();
    home.post("/api/v1/refresh").header("x-refresh-token", refresh).send().await.expect(200);
    home.log_in("ada").send().await.expect(200);
    assert_eq!(letters(&home).await.len(), 1);
    service.stop().await;
    assert_eq!(processes_in(&home), [""; 0]);
}

#[tokio::test]
async fn a_killed_service_starts_again_and_a_killed_postgres_is_started_again() {
    let home = Home::new(&[]);
    let service = home.start().await;
    let pair = home.newcomer("ada").await;
    service.kill_9();

    // At once, while the PostgreSQL of the one before is still going down.
    let service = home.start().await;
    let me = async || home.get("/api/v1/users/me").by(&pair).send().await;
    me().await.expect(200);

    let postgres = postgres_of(&home);
    kill_9(postgres);
    let start = Instant::now();
    // A call waits for the database for a while: it is answered late, or told to come again, but
    // never a 500.
    eventually("it is answered again", async || {
        let (me, log_in) = tokio::join!(me(), home.log_in("ada").send());
        for reply in [&me, &log_in] {
            assert!([200, 503].contains(&reply.status), "{reply:?}");
            assert!(reply.status == 200 || reply.json["code"] == "database_unavailable");
        }
        !is_alive(postgres) && me.status == 200 && log_in.status == 200
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_ne!(postgres_of(&home), postgres);
    home.register("bob").send().await.expect(201);
    service.stop().await;
    assert_eq!(processes_in(&home), [""; 0]);
}

#[tokio::test]
async fn the_mailbox_is_closed_where_the_public_url_is_not_this_machine() {
    let home = Home::new(&[("PUBLIC_URL", "https://desk.tunnel.example")]);
    let service = home.start().await;
    home.register("ada").send().await.expect(201);
    service.wait_for_log("a letter is in").await;
    for host in ["127.0.0.1", "localhost", "desk.tunnel.example"] {
        home.get("/dev/mailbox").header("host", host).send().await.expect(404);
    }
    let page = home.get("/").header("accept", "text/html").send().await.text;
    assert!(!page.contains("mailbox"), "{page}");
    let log = service.stop().await;
    assert!(log.contains("letters are kept in .doorward/mailbox, and not shown"), "{log}");
}
