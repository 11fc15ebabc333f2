//! As many connections as the real binary takes, and those that come after them.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::machine::note;
use crate::http::siege::{descriptors, memory, raise_descriptor_limit};

const CAP: usize = 4096;
const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
const INDEX: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

async fn connect(home: &Home, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Ports run out before connections do.
    socket.bind((from, 0).into()).unwrap();
    socket.connect(([127, 0, 0, 1], home.port()).into()).await.unwrap()
}

/// The status of the answer to one more request, and how long it took.
async fn ask(stream: &mut TcpStream, request: &str) -> (String, Duration) {
    let start = Instant::now();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    let reading = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut answer));
    reading.await.expect("no answer").unwrap();
    // The rest is short, and comes with it.
    let mut rest = [0; 4096];
    let _ = stream.try_read(&mut rest);
    (String::from_utf8(answer).unwrap(), start.elapsed())
}

/// Fills the house from one address by connections that send this and no more, and goes on for as
/// long as others ask.
async fn besieged_by(beginning: &str) {
    raise_descriptor_limit();
    let (home, _) = Home::with_database(&[("KEEP_ALIVE_SECONDS", "120")]).await;
    let service = home.start().await;
    let mut neighbour = connect(&home, [127, 0, 0, 2]).await;
    assert_eq!(ask(&mut neighbour, INDEX).await.0, "HTTP/1.1 200");
    let mut inside = Vec::new();
    let mut slowest = Duration::ZERO;
    for number in 0..CAP + 1_000 {
        let mut stream = connect(&home, [127, 0, 0, 1]).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        inside.push(stream);
        if number > CAP && number % 50 == 0 {
            // From the same address, too, each on a connection of its own.
            for (from, request) in [(1, HEALTH), (1, INDEX), (3, INDEX)] {
                let mut newcomer = connect(&home, [127, 0, 0, from]).await;
                let (status, took) = ask(&mut newcomer, request).await;
                assert_eq!(status, "HTTP/1.1 200", "{request}");
                slowest = slowest.max(took);
            }
        }
    }
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let open = descriptors(&service);
    // Some bodies may be given up by now.
    assert!((CAP / 2..CAP + 100).contains(&open), "{open}");
    note(&format!("{} connections that send {beginning:?}: {slowest:?} at the most", inside.len()));
    // The one that was there first is of an address that has no other.
    assert_eq!(ask(&mut neighbour, INDEX).await.0, "HTTP/1.1 200");
    service.stop().await;
}

#[tokio::test]
async fn one_address_that_says_nothing_keeps_nobody_out() {
    besieged_by("").await;
}

#[tokio::test]
async fn half_a_head_keeps_no_place_from_others() {
    besieged_by("GET /healthz HTTP/1.1\r\nhost: x\r\n").await;
}

#[tokio::test]
async fn a_body_that_does_not_come_keeps_no_place_from_others() {
    let head = "POST /api/v1/users/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    besieged_by(&format!("{head}content-length: 9\r\n\r\n{{")).await;
}

/// How many connections of the service hold something that it has not read.
fn unread(home: &Home) -> usize {
    let port = format!(":{:04X}", home.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Local address, remote one, state, and what waits to be sent and to be read.
    let own = lines.filter(|line| line[1].ends_with(&port) && line[3] == "01");
    own.filter(|line| !line[4].ends_with(":00000000")).count()
}

/// What two newcomers are told while every place is taken by a request that waits for the database:
/// for the index and for health. Then how many of those were answered. `None` if that took so long
/// that the first were.
async fn all_busy() -> Option<(String, String, usize)> {
    // Waiting for a connection to the database ends after 3 s.
    const LONGEST: Duration = Duration::from_millis(2500);
    let settings = [("KEEP_ALIVE_SECONDS", "120"), ("SESSION_CACHE", "off")];
    let (home, database) = Home::with_database(&settings).await;
    let service = home.start().await;
    let ada = home.newcomer("ada").await;
    let mut inside = Vec::new();
    for _ in 0..CAP {
        inside.push(connect(&home, [127, 0, 0, 1]).await);
    }
    while descriptors(&service) < CAP {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("lock table sessions").execute(&mut *lock).await.unwrap();
    let start = Instant::now();
    let token = ada["token"].as_str().unwrap();
    let request =
        format!("GET /api/v1/users/me HTTP/1.1\r\nhost: x\r\nx-access-token: {token}\r\n\r\n");
    for stream in &mut inside {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    // One that is not read yet could still be closed: it waits, as far as the service knows.
    while unread(&home) > 0 && start.elapsed() < LONGEST {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Beyond the cap the silent give way to those who ask.
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(connect(&home, [127, 0, 0, 1]).await);
    }
    let (index, _) = ask(&mut connect(&home, [127, 0, 0, 1]).await, INDEX).await;
    let (health, _) = ask(&mut connect(&home, [127, 0, 0, 1]).await, HEALTH).await;
    let in_time = start.elapsed() < LONGEST;
    let mut answered = 0;
    for mut stream in inside {
        let mut answer = [0; 12];
        answered += usize::from(stream.read_exact(&mut answer).await.is_ok());
    }
    drop(lock);
    service.stop().await;
    in_time.then_some((index, health, answered))
}

#[tokio::test]
async fn a_request_that_has_come_is_answered_however_many_come_after_it() {
    raise_descriptor_limit();
    for _ in 0..5 {
        let Some((index, health, answered)) = all_busy().await else { continue };
        assert_eq!((&*index, &*health), ("HTTP/1.1 503", "HTTP/1.1 200"));
        assert_eq!(answered, CAP);
        return;
    }
    panic!("the machine is too slow to tell");
}

#[tokio::test]
async fn four_thousand_unfinished_bodies_take_less_than_64_megabytes() {
    const BODY_BYTES: usize = 16 * 1024;
    raise_descriptor_limit();
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let before = memory(&service, "VmRSS:");
    let head = "POST /api/v1/users/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let all_but_its_end = " ".repeat(BODY_BYTES - 1);
    let mut clients = Vec::new();
    for number in 0..4_000 {
        let more = match number % 2 {
            0 => format!("content-length: {BODY_BYTES}\r\n\r\n"),
            _ => format!("transfer-encoding: chunked\r\n\r\n{BODY_BYTES:x}\r\n"),
        };
        let mut stream = connect(&home, [127, 0, 0, 1]).await;
        let sent = format!("{head}{more}{all_but_its_end}");
        stream.write_all(sent.as_bytes()).await.unwrap();
        clients.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, took) = ask(&mut connect(&home, [127, 0, 0, 1]).await, HEALTH).await;
    let grown = memory(&service, "VmHWM:") - before;
    note(&format!("4,000 unfinished bodies: {grown} MiB more; health in {took:?}"));
    assert!(grown < 64, "{grown} MiB");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Small ones do not wait for the end of the large ones.
    home.register("ada").send().await.expect(201);
    service.stop().await;
}
