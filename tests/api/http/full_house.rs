//! As many connections as the real binary takes, and those that come after them.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::home::Home;
use crate::harness::process::Process;
use crate::http::siege::{descriptors, raise_descriptor_limit};

/// Somebody who has asked for `/`, and may have to wait.
async fn visitor(home: &Home) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream
}

/// The status of the answer, if there is one in time: 503 on a connection that is kept for health
/// checks.
async fn status(stream: &mut TcpStream, patience: Duration) -> Option<String> {
    let mut answer = [0; 12];
    tokio::time::timeout(patience, stream.read_exact(&mut answer)).await.ok()?.unwrap();
    Some(String::from_utf8(answer[9..].to_vec()).unwrap())
}

const SENDING: &str = "POST /api/v1/users/ HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
    content-length: 9\r\n\r\n";

#[tokio::test]
async fn a_house_that_is_full_of_those_who_say_nothing_has_room_soon() {
    raise_descriptor_limit();
    let (home, _) = Home::with_database(&[("KEEP_ALIVE_SECONDS", "120")]).await;
    let service = home.start().await;
    let mut inside = Vec::new();
    for _ in 0..4096 + 64 + 200 {
        inside.push(TcpStream::connect(("127.0.0.1", home.port())).await.unwrap());
    }
    let mut newcomer = visitor(&home).await;
    let answered = status(&mut newcomer, Duration::from_secs(20)).await;
    assert_eq!(answered.as_deref(), Some("200"));
    drop(inside);
    service.stop().await;
}

/// What three visitors before a full house are answered: the first both before and after somebody
/// left, the second once the first was answered, the third both before and after a place for health
/// checks is free. `None` where that took so long that the house was full no more.
async fn three_wait(home: &Home, service: &Process) -> Option<[Option<String>; 5]> {
    const LONGEST: Duration = Duration::from_millis(1500);
    let (a_moment, patience) = (Duration::from_millis(100), Duration::from_secs(10));
    let before = descriptors(service);
    let mut inside = Vec::new();
    let mut last_came = Instant::now();
    for number in 0..4096 + 64 {
        // Who comes late may not say nothing for longer than 2 s, but a body may be on its way.
        last_came = if number <= 4096 { Instant::now() } else { last_came };
        let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
        if (3000..4096).contains(&number) {
            stream.write_all(SENDING.as_bytes()).await.unwrap();
        }
        inside.push(stream);
    }
    // Connected is not let in yet. The few that are missing are answered: they came while readiness
    // was asked for.
    let mut let_in = 0;
    while let_in < 4096 + 64 - 8 || descriptors(service) - before != let_in {
        let_in = descriptors(service) - before;
        tokio::time::sleep(Duration::from_millis(20)).await;
        if last_came.elapsed() > LONGEST {
            return None;
        }
    }
    let (mut first, mut second) = (visitor(home).await, visitor(home).await);
    let first_waits = status(&mut first, a_moment).await;
    drop(inside.remove(0));
    let first_is_in = status(&mut first, patience).await;
    // Its connection ends with the answer, so there is room again; the same goes for the one after
    // it.
    let second_is_in = status(&mut second, patience).await;
    let mut sending = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
    sending.write_all(SENDING.as_bytes()).await.unwrap();
    while descriptors(service) - before != let_in {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if last_came.elapsed() > LONGEST {
            return None;
        }
    }
    let mut third = visitor(home).await;
    let third_waits = status(&mut third, a_moment).await;
    // The last ones let in have the connections for health checks.
    drop(inside.pop());
    let third_is_in = status(&mut third, patience).await;
    let answers = [first_waits, first_is_in, second_is_in, third_waits, third_is_in];
    (last_came.elapsed() < LONGEST).then_some(answers)
}

#[tokio::test]
async fn whoever_waits_before_a_full_house_comes_in_for_the_first_who_leaves() {
    raise_descriptor_limit();
    for _ in 0..5 {
        let (home, _) = Home::with_database(&[("KEEP_ALIVE_SECONDS", "120")]).await;
        let service = home.start().await;
        let answers = three_wait(&home, &service).await;
        service.stop().await;
        let Some(answers) = answers else { continue };
        assert_eq!(
            answers.each_ref().map(Option::as_deref),
            [None, Some("200"), Some("200"), None, Some("503")]
        );
        return;
    }
    panic!("the machine is too slow to tell");
}

#[tokio::test]
async fn connections_that_come_while_few_are_left_end_with_their_answer_and_go_round() {
    raise_descriptor_limit();
    let (home, _) = Home::with_database(&[("KEEP_ALIVE_SECONDS", "120")]).await;
    let service = home.start().await;
    let ask = async || {
        let mut stream = visitor(&home).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    };
    let (_first, head) = ask().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("connection: close"), "{head}");
    let mut inside = Vec::new();
    for _ in 0..3_100 {
        inside.push(TcpStream::connect(("127.0.0.1", home.port())).await.unwrap());
    }
    // They are let in one after the other: this one after them.
    let (_last, head) = ask().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("connection: close\r\n"), "{head}");
    drop(inside);
    service.stop().await;
}
