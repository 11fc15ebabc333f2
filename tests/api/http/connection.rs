//! What becomes of a connection whose request was answered before all of it had come.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::home::Home;
use crate::harness::machine::note;
use crate::http::siege::memory;

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

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
        ("POST /api/v1/users/", "content-length: 2\r\n".to_owned(), "{}", 415),
        ("POST /api/v1/login", format!("{json}{chunked}"), chunks, 401),
        ("POST /api/v1/users/", format!("{json}content-length: 2\r\n"), "{}", 422),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for _ in 0..3 {
            let head = format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            // As a client does that sends the two apart.
            tokio::time::sleep(Duration::from_millis(20)).await;
            stream.write_all(body.as_bytes()).await.unwrap();
            let answer = answer(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
            assert!(!answer.contains("\r\nconnection:"), "{line}: {answer}");
        }
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "), "{line}");
    }
    service.stop().await;
}

#[tokio::test]
async fn a_body_that_is_long_or_late_or_not_asked_for_ends_the_connection_and_the_answer_says_so() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    for headers in [
        "content-length: 2\r\n",
        "transfer-encoding: chunked\r\n",
        "content-length: 65537\r\n",
        "expect: 100-continue\r\ncontent-length: 2\r\n",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        let head = format!("PUT /api/v1/users/me HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        let started = Instant::now();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(3), "{headers}: {:?}", started.elapsed());
        assert!(answer.starts_with("HTTP/1.1 401 "), "{headers}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{headers}: {answer}");
    }
    // Nor is there a next request where nobody can tell how far the body goes.
    let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
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
    const CONNECTIONS: usize = 4;
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let head = "POST /api/v1/users/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n";
    let crumbs = "1\r\n \r\n".repeat(60_000);
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
    let end = "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
    for mut stream in clients {
        stream.write_all(end.as_bytes()).await.unwrap();
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 422 "));
    }
    let grown = memory(&service, "VmHWM:").saturating_sub(before);
    note(&format!("{CONNECTIONS} bodies of 60,000 crumbs: {grown} MiB more at the most"));
    assert!(grown <= CONNECTIONS, "{grown} MiB");
    service.stop().await;
}
