//! A reader of the log that stalls, as a log driver in blocking mode does: the service goes on.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::home::Home;
use crate::harness::scrape::Scrape;
use crate::harness::wait::eventually;

const TOKEN: &str = "a token of the tests";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_log_that_stalls_stops_neither_calls_nor_the_end() {
    let (home, _) = Home::with_database(&[("METRICS_TOKEN", &TOKEN.replace(' ', "-"))]).await;
    let mut command: Command = home.command(&["serve"]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Nobody reads it.
    let mut log = child.stderr.take().unwrap();
    eventually("the service is ready", async || {
        home.get("/readyz").try_send().await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    // Each leaves a line: more than wait and than fit into a pipe.
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
    let calls = (0..4).map(|_| {
        let (client, url) = (client.clone(), home.url("/nowhere"));
        tokio::spawn(async move {
            for _ in 0..4_000 {
                assert_eq!(client.get(&url).send().await.unwrap().status(), 404);
            }
        })
    });
    for calls in calls.collect::<Vec<_>>() {
        calls.await.unwrap();
    }
    home.get("/healthz").send().await.expect(200);
    let bearer = format!("Bearer {}", TOKEN.replace(' ', "-"));
    let page = client.get(home.url("/metrics")).header("authorization", bearer).send().await;
    let page = Scrape::parse(&page.unwrap().text().await.unwrap());
    assert!(page.get("doorward_log_lines_dropped_total", &[]) > 1_000.0);
    // Read again, it goes on where it was; then nobody reads once more, and the end comes.
    let mut some = [0; 4096];
    assert!(log.read(&mut some).unwrap() > 0);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    eventually("it ends", async || child.try_wait().unwrap().is_some()).await;
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
