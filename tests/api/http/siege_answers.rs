//! Answers that are large, or that nobody reads, against the real binary: it keeps no memory for
//! them.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::home::Home;
use crate::harness::machine::note;
use crate::harness::process::Process;
use crate::http::siege::memory;

/// The largest answer.
const BUNDLE: &str = "/docs/swagger-ui-bundle.js";

/// What the process may have grown by, in MiB.
const MOST_GROWTH: usize = 20;

/// What the process holds, in MiB: no more than `enough` as soon as the allocator, asked for
/// something again and again, has given back what it has too much of.
async fn resident(home: &Home, service: &Process, enough: usize) -> usize {
    let start = Instant::now();
    loop {
        join_all((0..20).map(|_| home.get("/healthz").send())).await;
        let resident = memory(service, "VmRSS:");
        if resident <= enough || start.elapsed() > Duration::from_secs(5) {
            return resident;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The length of the body that came for one GET; the connection stays.
async fn fetch(stream: &mut TcpStream, path: &str) -> usize {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let head = loop {
        assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "cut off");
        if let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let said = String::from_utf8(answer[..head].to_vec()).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    let length = said.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("the length is told").parse().unwrap();
    let mut rest = vec![0; length - (answer.len() - head)];
    stream.read_exact(&mut rest).await.unwrap();
    length
}

#[tokio::test]
async fn a_connection_keeps_no_memory_for_the_large_answer_that_it_carried() {
    let (home, _) = Home::with_database(&[("KEEP_ALIVE_SECONDS", "60")]).await;
    let service = home.start().await;
    home.get(BUNDLE).send().await.expect(200);
    let before = resident(&home, &service, usize::MAX).await;
    let mut connections = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        let length = fetch(&mut stream, BUNDLE).await;
        assert!(length > 1_000_000, "{length}");
        connections.push(stream);
    }
    let after = resident(&home, &service, before + MOST_GROWTH).await;
    note(&format!("{before} MiB before, {after} MiB with {} connections", connections.len()));
    assert!(after <= before + MOST_GROWTH, "{before} MiB before, {after} MiB after");
    for stream in &mut connections {
        // They were there all the time.
        fetch(stream, "/healthz").await;
    }
    service.stop().await;
}

/// Sends the same again and again without reading, for as long as it is taken; then what was
/// answered, up to the end of the connection.
async fn pour(home: &Home, request: &str, patience: Duration) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
    let many = request.repeat(100);
    let pouring = async { while stream.write_all(many.as_bytes()).await.is_ok() {} };
    let _ = tokio::time::timeout(patience, pouring).await;
    let mut answers = Vec::new();
    // With a reset, if the server had more to read.
    let _ = tokio::time::timeout(patience, stream.read_to_end(&mut answers)).await;
    String::from_utf8(answers).unwrap()
}

/// The server reads these bodies after it has answered, and nothing holds back an answer that has
/// none itself.
#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let head = |more| format!("HEAD /healthz HTTP/1.1\r\nhost: x\r\n{more}\r\n");
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let before = resident(&home, &service, usize::MAX).await;
    for request in [
        head("expect: 100-continue\r\ncontent-length: 1\r\n") + "x",
        head("expect: 100-continue\r\ntransfer-encoding: chunked\r\n") + "1\r\nx\r\n0\r\n\r\n",
        head("transfer-encoding: chunked\r\n") + "1\r\nx\r\n0\r\n\r\n",
        head("content-length: 1\r\n") + "x",
    ] {
        let answers = pour(&home, &request, Duration::from_secs(1)).await;
        let after = memory(&service, "VmRSS:");
        note(&format!("{before} MiB before, {after} MiB after {request:?}: {answers:.300}"));
        assert!(after <= before + MOST_GROWTH, "{before} MiB before, {after} MiB after");
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 1, "{answers:.2000}");
        assert!(answers.contains("\r\nconnection: close\r\n"), "{answers}");
    }
    // Where nothing is left to be read the connection stays.
    let answers = pour(&home, &head(""), Duration::from_secs(1)).await;
    assert!(answers.matches("HTTP/1.1 200 OK\r\n").count() > 1, "{answers:.2000}");
    assert!(!answers.contains("\r\nconnection: close\r\n"), "{answers:.2000}");
    service.stop().await;
}
