//! Answers that were given before all of the request had come: none of them is lost.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::balancer::Balancer;
use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::nginx::Nginx;

/// Requests whose answer needs nothing, or not all, of their body.
const EARLY: [(&str, u16); 7] = [
    ("PUT /api/v1/users/me", 401),
    ("POST /api/v1/logout", 401),
    ("POST /api/v1/refresh", 401),
    ("POST /api/v1/users/", 413),
    ("POST /nowhere", 404),
    ("POST /healthz", 405),
    ("DELETE /", 405),
];

fn head(line: &str, more: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}\r\n")
}

/// All that is answered, up to the end of the connection, to a client that first sends everything.
async fn answer(port: u16, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in body.chunks(64 * 1024) {
        stream.write_all(part).await.unwrap_or_else(|error| panic!("{head}: {error}"));
    }
    // By now a reset would have come, after which nothing can be read.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap_or_else(|error| panic!("{head}: {error}"));
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_client_that_reads_once_it_has_sent_everything_gets_its_answer() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let too_long = format!("x: {}\r\n", "x".repeat(40_000));
    let mut calls = Vec::new();
    for size in [70_000, 300_000, 1_900_000] {
        let length = format!("content-length: {size}\r\n");
        for (line, status) in EARLY {
            calls.push((head(line, &length), size, status));
        }
        let me = "PUT /api/v1/users/me";
        calls.push((head(me, &format!("host: y\r\n{length}")), size, 400));
        calls.push((head(me, &format!("expect: 100-continue\r\n{length}")), size, 401));
        calls.push((head(me, &format!("transfer-encoding: gzip\r\n{length}")), size, 400));
        // The server's own.
        calls.push((head(me, &format!("{too_long}{length}")), size, 431));
        calls.push((head("PUT  /api/v1/users/me", &length), size, 400));
    }
    for (head, size, status) in calls {
        let answer = answer(home.port(), &head, &vec![b' '; size]).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.200}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 4").count(), 1, "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    // Chunks say nothing of how many there will be, so the answer may not know that it is the last.
    let mut chunks = format!("{:x}\r\n{}\r\n", 4096, " ".repeat(4096)).repeat(100);
    chunks.push_str("0\r\n\r\n");
    for (line, status) in EARLY {
        let head = head(line, "transfer-encoding: chunked\r\n");
        let answer = answer(home.port(), &head, chunks.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    service.stop().await;
}

#[tokio::test]
async fn of_a_body_that_goes_on_and_on_two_mebibytes_are_read_for_five_seconds_at_most() {
    const ALL_THAT_THE_SYSTEM_BUFFERS: usize = 16 * 1024 * 1024;
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let chunks = format!("{:x}\r\n{}\r\n", 4096, " ".repeat(4096)).repeat(16);
    for more in ["content-length: 1000000000\r\n", "transfer-encoding: chunked\r\n"] {
        let stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let (start, mut sent) = (Instant::now(), 0);
        let sending = async {
            to.write_all(head("PUT /api/v1/users/me", more).as_bytes()).await.unwrap();
            while to.write_all(chunks.as_bytes()).await.is_ok() {
                sent += chunks.len();
            }
            start.elapsed().as_secs_f64()
        };
        let reading = async {
            let (mut answer, mut end) = ([0; 12], Vec::new());
            from.read_exact(&mut answer).await.unwrap();
            let answered = start.elapsed();
            // The end of what is sent comes early, and the end of what is read late.
            from.read_to_end(&mut end).await.unwrap();
            (answer, answered, start.elapsed())
        };
        let (cut_off, (answer, answered, ended)) = tokio::join!(sending, reading);
        assert_eq!(&answer, b"HTTP/1.1 401", "{more}");
        assert!(answered < Duration::from_secs(1), "{more}: {answered:?}");
        assert!(ended < Duration::from_secs(3), "{more}: {ended:?}");
        assert!((3.5..7.0).contains(&cut_off), "{more}: {cut_off}");
        assert!(sent < 2 * 1024 * 1024 + ALL_THAT_THE_SYSTEM_BUFFERS, "{more}: {sent}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_connection_that_closes_ends_as_soon_as_its_client_has_closed_too() {
    let (home, _) = Home::with_database(&[("METRICS_TOKEN", "kfw8-2Hs.91xLq_7z")]).await;
    let service = home.start().await;
    let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
    let head = head("PUT /api/v1/users/me", "content-length: 1000000\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let open = async || {
        let call = home.get("/metrics").header("authorization", "Bearer kfw8-2Hs.91xLq_7z");
        let page = call.send().await.text;
        let line = page.lines().find_map(|line| line.strip_prefix("doorward_connections_open "));
        line.unwrap().parse::<f64>().unwrap()
    };
    let before = open().await;
    drop(stream);
    let start = Instant::now();
    while open().await >= before {
        assert!(start.elapsed() < Duration::from_secs(2), "it is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn an_answer_that_the_database_kept_waiting_for_arrives_while_the_body_still_comes() {
    let (home, database) = Home::with_database(&[("SESSION_CACHE", "off")]).await;
    let service = home.start().await;
    let ada = home.newcomer("ada").await;
    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("lock table sessions").execute(&mut *lock).await.unwrap();
    let token = format!("x-access-token: {}\r\n", ada["token"].as_str().unwrap());
    let head = head("PUT /api/v1/users/me", &format!("{token}content-length: 300000\r\n"));
    let answer = answer(home.port(), &head, &vec![b' '; 300_000]).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("database_unavailable"), "{answer}");
    drop(lock);
    service.stop().await;
}

#[tokio::test]
async fn while_the_service_stops_no_early_answer_is_lost_either() {
    let (home, _) = Home::with_database(&[("SHUTDOWN_DELAY_SECONDS", "1")]).await;
    let service = home.start().await;
    let start = Instant::now();
    service.terminate();
    let body = vec![b' '; 300_000];
    let head = head("PUT /api/v1/users/me", "content-length: 300000\r\n");
    let mut answered = 0;
    while start.elapsed() < Duration::from_millis(800) {
        let answer = answer(home.port(), &head, &body).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        answered += 1;
    }
    assert!(answered > 5, "{answered}");
    service.stop().await;
}

/// Two hundred early answers through a proxy, and what others are answered meanwhile.
async fn two_hundred_through(port: u16) {
    let sizes = [1_000, 20_000, 70_000, 300_000, 1_000_000, 5_000_000];
    let calls: Vec<_> =
        (0..200).map(|n| (EARLY[n % EARLY.len()], sizes[n % sizes.len()])).collect();
    let early = async |((line, status), size): ((&str, u16), usize)| {
        // What is read in full is judged for what it is.
        let status = if status == 413 && size < 16_000 { 400 } else { status };
        let head = head(line, &format!("connection: close\r\ncontent-length: {size}\r\n"));
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let body = vec![b' '; size];
        let sending = async {
            to.write_all(head.as_bytes()).await.unwrap();
            // The proxy may know the answer by then, and close.
            let _ = to.write_all(&body).await;
        };
        let mut answer = Vec::new();
        let ((), read) = tokio::join!(sending, from.read_to_end(&mut answer));
        let answer = String::from_utf8(answer).unwrap();
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{line} {size} {read:?}: {answer}");
    };
    let others = async {
        for _ in 0..100 {
            let answer =
                answer(port, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"");
            assert!(answer.await.starts_with("HTTP/1.1 200 "));
        }
    };
    let mut calls = calls.chunks(8);
    let all = async {
        for some in &mut calls {
            join_all(some.iter().map(|&call| early(call))).await;
        }
    };
    tokio::join!(all, others);
}

/// Of two servers each that sends a reset is left alone for ten seconds.
#[tokio::test]
async fn behind_nginx_early_answers_arrive_and_no_server_is_given_up() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let Some(nginx) = Nginx::start(&[home.port(), home.port()]).await else { return };
    two_hundred_through(nginx.port()).await;
    service.stop().await;
}

#[tokio::test]
async fn behind_haproxy_early_answers_arrive() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let homes = [home];
    let Some(haproxy) = Balancer::start(&homes).await else { return };
    two_hundred_through(haproxy.port()).await;
    service.stop().await;
}
