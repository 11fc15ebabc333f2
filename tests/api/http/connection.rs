//! What becomes of a connection whose request was answered before all of it had come.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::home::Home;
use crate::harness::machine::note;
use crate::http::siege::memory;

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

async fn connect(home: &Home) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What is answered within a moment after nothing more came: head and body.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut some = [0; 4096];
    let mut patience = Duration::from_secs(15);
    while let Ok(Ok(read @ 1..)) = tokio::time::timeout(patience, stream.read(&mut some)).await {
        answer.extend_from_slice(&some[..read]);
        patience = Duration::from_millis(100);
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_body_that_comes_after_its_answer_was_known_leaves_the_connection_as_it_was() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let json = "content-type: application/json\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let chunks = "5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n";
    for (line, headers, body, status) in [
        ("PUT /api/v1/users/me", format!("{json}content-length: 2\r\n"), "{}", 401),
        ("PUT /api/v1/users/me", format!("{json}{chunked}"), chunks, 401),
        ("POST /nowhere", "content-length: 2\r\n".to_owned(), "{}", 404),
        ("POST /healthz", "content-length: 2\r\n".to_owned(), "{}", 405),
        ("POST /api/v1/users/", "content-length: 2\r\n".to_owned(), "{}", 415),
    ] {
        let mut stream = connect(&home).await;
        for _ in 0..3 {
            let head = format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            // Nothing of the body has to come for it.
            let answer = answer(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
            assert!(!answer.contains("\r\nconnection:"), "{line}: {answer}");
            stream.write_all(body.as_bytes()).await.unwrap();
        }
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "), "{line}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_body_that_is_long_or_not_asked_for_ends_the_connection_and_the_answer_says_so() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    for headers in ["content-length: 65537\r\n", "expect: 100-continue\r\ncontent-length: 2\r\n"] {
        let mut stream = connect(&home).await;
        let head = format!("PUT /api/v1/users/me HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let started = Instant::now();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "{headers}: {:?}", started.elapsed());
        assert!(answer.starts_with("HTTP/1.1 401 "), "{headers}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{headers}: {answer}");
        assert!(!answer.contains("keep-alive"), "{headers}: {answer}");
    }
    // Nor is there a next request where nobody can tell how far the body goes.
    let mut stream = connect(&home).await;
    let broken = "POST /api/v1/users/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\nno number\r\n";
    stream.write_all(broken.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    service.stop().await;
}

#[tokio::test]
async fn a_body_that_is_late_has_its_answer_and_a_moment_more() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    for headers in ["content-length: 2\r\n", "transfer-encoding: chunked\r\n"] {
        let mut stream = connect(&home).await;
        let head = format!("PUT /api/v1/users/me HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let started = Instant::now();
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 401 "), "{headers}");
        assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "{headers}");
        let took = started.elapsed().as_secs_f64();
        assert!((0.9..3.0).contains(&took), "{headers}: {took}");
    }
    service.stop().await;
}

#[tokio::test]
async fn an_answer_that_keeps_the_connection_says_for_how_long() {
    let (home, _) = Home::with_database(&[("KEEP_ALIVE_SECONDS", "75")]).await;
    let service = home.start().await;
    for (request, keeps) in [
        ("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", true),
        ("POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}", true),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: x, Close\r\n\r\n", false),
        ("GET /healthz HTTP/1.0\r\nhost: x\r\n\r\n", false),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", false),
        ("HEAD /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}", false),
    ] {
        let mut stream = connect(&home).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1."), "{request}");
        assert_eq!(answer.contains("\r\nkeep-alive: timeout=74\r\n"), keeps, "{request}{answer}");
        assert_eq!(answer.contains("keep-alive"), keeps, "{request}{answer}");
    }
    service.stop().await;
}

/// What every answer has, where the server itself refused: it asks no service.
#[tokio::test]
async fn what_is_no_request_is_answered_like_one() {
    let (home, _) = Home::with_database(&[("CORS_ORIGINS", "https://app.example.com")]).await;
    let service = home.start().await;
    let fields = "x: y\r\n".repeat(101);
    let origin = "origin: https://app.example.com\r\n";
    for (request, status, code) in [
        ("GET / HTTP/9\r\n\r\n".to_owned(), 400, "malformed_request"),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_owned(), 400, "malformed_request"),
        ("POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(), 400, "malformed_request"),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{fields}\r\n"), 431, "headers_too_large"),
        (
            format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(30_000)),
            431,
            "headers_too_large",
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: x\r\n{origin}cookie: {}\r\n\r\n", "x".repeat(17_000)),
            431,
            "headers_too_large",
        ),
    ] {
        let mut stream = connect(&home).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["success"], &body["code"]), (&json!(false), &json!(code)));
        let length = format!("content-length: {}", body.to_string().len());
        let id = format!("x-request-id: {}", body["request_id"].as_str().unwrap());
        for line in [
            &*id,
            &length,
            "content-type: application/json",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.lines().any(|own| own == line), "{line}: {answer}");
        }
        assert!(head.contains("content-security-policy: ") && head.contains("date: "), "{answer}");
        // A frontend may read what it is told about its cookies.
        let may_be_read = head.contains("access-control-allow-origin: https://app.example.com");
        assert_eq!(may_be_read, request.contains(origin), "{answer}");
        assert_eq!(head.contains("connection: close"), !may_be_read, "{answer}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_body_that_is_packed_for_the_way_is_not_guessed_at() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    for coding in ["gzip, chunked", "chunked, chunked", "identity, chunked"] {
        let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        let head = format!(
            "POST /api/v1/users/me HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {coding}\r\n\r\n0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{coding}: {answer}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_body_in_crumbs_takes_no_more_memory_than_it_has_bytes() {
    const CONNECTIONS: usize = 12;
    const MOST_GROWTH: usize = 3;
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let head = "POST /api/v1/users/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n";
    let crumbs = "1\r\n \r\n".repeat(15_000);
    // The program's own pages, which are read in when they are first used, are no memory of bodies.
    let end = "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
    for _ in 0..2 {
        let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        stream.write_all(format!("{head}1\r\n \r\n{end}").as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 422 "));
    }
    // What the start took for a moment is none either: from here on the peak counts anew (proc(5)).
    std::fs::write(format!("/proc/{}/clear_refs", service.id()), "5").unwrap();
    let before = memory(&service, "VmRSS:");
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(crumbs.as_bytes()).await.unwrap();
        clients.push(stream);
    }
    // All of them have come where what follows is answered, and the memory of one is not given back
    // before its end.
    for mut stream in clients {
        stream.write_all(end.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 422 "));
    }
    let grown = memory(&service, "VmHWM:").saturating_sub(before);
    note(&format!("{CONNECTIONS} bodies of 15,000 crumbs: {grown} MiB more at the most"));
    assert!(grown <= MOST_GROWTH, "{grown} MiB");
    service.stop().await;
}
