//! Floods and slow clients against the real binary: the others do not notice, and it forgets them.
//!
//! `DOORWARD_SIEGE=full` is the siege in full, with its bounds on time, to be measured on an idle
//! machine with `DOORWARD_BINARY` naming a release build; without it the same happens for a shorter
//! time or with fewer clients, and its bounds are ones that a debug build among other tests keeps.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::home::Home;
use crate::harness::http_call::HttpCall;
use crate::harness::machine::note;
use crate::harness::person::PASSWORD;
use crate::harness::process::Process;

fn is_full() -> bool {
    std::env::var("DOORWARD_SIEGE").is_ok_and(|siege| siege == "full")
}

/// A client who comes from an address of their own.
fn client_at(address: [u8; 4]) -> Client {
    let address = IpAddr::from(Ipv4Addr::from(address));
    Client::builder().no_proxy().local_address(address).build().unwrap()
}

fn log_in(client: &Client, home: &Home, name: &str, password: &str) -> HttpCall {
    client.post(home.url("/api/v1/login")).basic_auth(name, Some(password)).into()
}

/// The latencies of somebody who asks who they are, again and again.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    async fn of(client: &Client, home: &Home, pair: &Value, until: impl Fn(usize) -> bool) -> Self {
        let (mut seen, mut pace) =
            (Self::default(), tokio::time::interval(Duration::from_millis(10)));
        while !until(seen.0.len()) {
            pace.tick().await;
            let start = Instant::now();
            let call = HttpCall::from(client.get(home.url("/api/v1/users/me")));
            call.by(pair).send().await.expect(200);
            seen.0.push(start.elapsed());
        }
        seen.0.sort();
        seen
    }

    fn percentile(&self, percent: usize) -> Duration {
        self.0[self.0.len() * percent / 100]
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p95, p99] = [50, 95, 99].map(|percent| self.percentile(percent));
        write!(f, "{} calls, p50 {p50:.1?}, p95 {p95:.1?}, p99 {p99:.1?}", self.0.len())
    }
}

/// A line of the process's status, in MiB.
pub fn memory(service: &Process, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().unwrap() / 1024
}

pub fn descriptors(service: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", service.id())).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_wrong_logins_a_second_disturb_nobody() {
    let (rate, seconds) = (300, if is_full() { 60 } else { 3 });
    let (mut home, _) = Home::with_database(&[]).await;
    home.set("RATE_LIMITS", "on");
    let service = home.start().await;
    let owner = client_at([127, 0, 0, 1]);
    home.register("victim").send().await.expect(201);
    let pair = log_in(&owner, &home, "victim", PASSWORD).send().await.expect(200);
    let idle = Latencies::of(&owner, &home, &pair, |calls| calls >= 300).await;
    let resident = memory(&service, "VmRSS:");

    let attackers: Vec<_> = (1..=40).map(|number| client_at([127, 0, number, 2])).collect();
    let (enough, start) = (AtomicBool::new(false), Instant::now());
    let attack = async {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut calls = JoinSet::new();
        for number in 0..rate * seconds {
            pace.tick().await;
            let number = number as usize;
            // Half of it at one person, by both spellings; half of it spread over many names.
            let name = match number % 4 {
                0 => "victim".to_owned(),
                2 => "VICTIM@example.com".to_owned(),
                _ => format!("user{}", number % 500),
            };
            let call = log_in(&attackers[number / 2 % 40], &home, &name, "not the password");
            let at_victim = number.is_multiple_of(2);
            calls.spawn(async move { (at_victim, call.send().await.status) });
        }
        let sent = start.elapsed();
        let answers = calls.join_all().await;
        enough.store(true, Ordering::SeqCst);
        (sent, answers)
    };
    let own_logins = async {
        let mut slowest = Duration::ZERO;
        while !enough.load(Ordering::SeqCst) {
            let start = Instant::now();
            log_in(&owner, &home, "victim", PASSWORD).send().await.expect(200);
            slowest = slowest.max(start.elapsed());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        slowest
    };
    let reads = Latencies::of(&owner, &home, &pair, |_| enough.load(Ordering::SeqCst));
    let ((sent, answers), slowest, reads) = tokio::join!(attack, own_logins, reads);

    let took = start.elapsed().as_secs_f64();
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer).or_insert(0_u32) += 1;
    }
    let peak = memory(&service, "VmHWM:");
    note(&format!(
        "{} wrong logins sent in {sent:.1?}, answered in {took:.1} s: (at the victim, status) {counts:?}",
        rate * seconds
    ));
    note(&format!(
        "the owner's slowest login {slowest:.1?}; /users/me idle {idle}; meanwhile {reads}"
    ));
    note(&format!("memory {resident} MiB idle, {peak} MiB at most"));
    let statuses = [401, 429, 503];
    assert!(counts.keys().all(|(_, status)| statuses.contains(status)), "{counts:?}");
    // An hour's budget is the most that ever gets through; the flood is shorter than that.
    let guessed = counts.get(&(true, 401)).copied().unwrap_or(0);
    assert!((1..=100).contains(&guessed), "{guessed} guesses at one account");
    // Each of the owner's calls had its 200: a login that waits for longer than 9 s gets a 503. The
    // other calls hash nothing, so they do not wait for the flood at all.
    let p99 = reads.percentile(99);
    if is_full() {
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        assert!(p99 < Duration::from_millis(50) && p99 < 3 * idle.percentile(99), "{p99:?}");
        assert!(peak < resident + 60, "{peak} MiB");
    } else {
        assert!(p99 < Duration::from_secs(1) + 3 * idle.percentile(99), "{p99:?}");
    }
    service.stop().await;
}

/// How long the service kept a connection on which `drip` arrived every second.
async fn held(home: &Home, greeting: &str, drip: &str) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", home.port())).await.unwrap();
    // Whoever is cut off cannot write; that is what is waited for.
    let _ = stream.write_all(greeting.as_bytes()).await;
    let mut answer = [0; 1024];
    loop {
        match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut answer)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return start.elapsed(),
            Err(_) => {
                let _ = stream.write_all(drip.as_bytes()).await;
            }
        }
    }
}

/// A balancer that keeps idle connections for longer than the service would use one that is about
/// to close.
#[tokio::test]
async fn an_idle_connection_is_kept_for_as_long_as_is_set() {
    let kept = async |seconds: u64| {
        let (home, _) = Home::with_database(&[("KEEP_ALIVE_SECONDS", &seconds.to_string())]).await;
        let service = home.start().await;
        let asked = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        let times = tokio::join!(held(&home, "", ""), held(&home, asked, ""));
        service.stop().await;
        let seconds = Duration::from_secs(seconds);
        for took in [times.0, times.1] {
            assert!(took >= seconds && took < seconds + Duration::from_secs(2), "{took:?}");
        }
    };
    tokio::join!(kept(1), kept(3));
}

/// As many connections as the system lets this process have.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_idle_connections_end_in_time_and_leave_nothing_behind() {
    let (slow, idle) = if is_full() { (2_000, 1_000) } else { (100, 50) };
    raise_descriptor_limit();
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let client = client_at([127, 0, 0, 1]);
    let pair = home.newcomer("ada").await;
    let quiet = Latencies::of(&client, &home, &pair, |calls| calls >= 300).await;
    let before = (descriptors(&service), memory(&service, "VmRSS:"));

    let enough = AtomicBool::new(false);
    let siege = async {
        let head = "POST /api/v1/users/ HTTP/1.1\r\nhost: x\r\n";
        let dripping = (0..slow).map(|_| held(&home, head, "x-more: 1\r\n"));
        let idling = (0..idle).map(|_| held(&home, "", ""));
        let times = tokio::join!(join_all(dripping), join_all(idling));
        enough.store(true, Ordering::SeqCst);
        times
    };
    let most = async {
        let mut most = 0;
        while !enough.load(Ordering::SeqCst) {
            most = most.max(descriptors(&service));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        most
    };
    let reads = Latencies::of(&client, &home, &pair, |_| enough.load(Ordering::SeqCst));
    let ((dripping, idling), most, reads) = tokio::join!(siege, most, reads);

    let longest = dripping.iter().chain(&idling).max().unwrap();
    let shortest = dripping.iter().chain(&idling).min().unwrap();
    // The allocator gives back what it has too much of little by little, when it is asked for
    // something.
    let start = Instant::now();
    let after = loop {
        join_all((0..100).map(|_| home.get("/healthz").send())).await;
        let after = (descriptors(&service), memory(&service, "VmRSS:"));
        let is_back = after.0 <= before.0 + 5 && (after.1 <= before.1 + 10 || !is_full());
        if is_back || start.elapsed() > Duration::from_secs(30) {
            break after;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    note(&format!(
        "{slow} slow and {idle} idle connections ended after {shortest:.1?} to {longest:.1?}"
    ));
    note(&format!("/users/me quiet: {quiet}; meanwhile: {reads}"));
    note(&format!(
        "(descriptors, MiB) before {before:?}, {:.1?} after {after:?}; {most} descriptors at most",
        start.elapsed()
    ));
    assert!(most >= slow + idle, "{most}");
    assert!(*shortest > Duration::from_secs(5) && *longest < Duration::from_secs(20));
    assert!(after.0 <= before.0 + 5, "{after:?}");
    if is_full() {
        assert!(*longest < Duration::from_secs(12));
        assert!(reads.percentile(95) < 3 * quiet.percentile(95));
        assert!(after.1 <= before.1 + 10, "{after:?}");
    }
    service.stop().await;
}
