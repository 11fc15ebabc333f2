//! `traceparent` (W3C Trace Context): the caller's trace id stands in what is logged about their
//! request.

use serde_json::Value;

use crate::harness::home::Home;
use crate::harness::http_call::HttpCall;
use crate::telemetry::forged_lines::requests_in;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A call that is logged in any case, for it is refused, and as a security event beside its own
/// line.
fn refused(home: &Home) -> HttpCall {
    home.log_in_with("nobody", "not it")
}

#[tokio::test]
async fn the_callers_trace_stands_in_every_line_about_their_request() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    service.forget_log();
    refused(&home).header("traceparent", GOOD).send().await.expect(401);
    let log = service.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["target"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["security", "doorward::http::middleware"], "{log}");
    for line in &lines {
        assert_eq!(line["trace_id"], TRACE, "{log}");
    }

    // What was committed is logged by a task of its own.
    service.forget_log();
    home.register("ada").header("traceparent", GOOD).send().await.expect(201);
    service.wait_for_log("\"request\"").await;
    let log = service.log();
    let event = log.lines().find(|line| line.contains("registered")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(event).unwrap()["trace_id"], TRACE, "{log}");
    service.stop().await;
}

#[tokio::test]
async fn a_trace_that_is_none_leaves_no_trace() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    service.forget_log();
    let zero = "0".repeat(32);
    let bad = [
        String::new(),
        "forged\", \"event\": \"login\"".to_owned(),
        GOOD.to_uppercase(),
        format!("{GOOD}-more"),
        GOOD.replacen("00-", "ff-", 1),
        GOOD.replacen(TRACE, &zero, 1),
        format!("{GOOD},{GOOD}"),
        GOOD[..54].to_owned(),
    ];
    for traceparent in &bad {
        refused(&home).header("traceparent", traceparent).send().await.expect(401);
    }
    // Two of them: whichever is meant, nobody knows.
    let call = refused(&home).header("traceparent", GOOD).header("traceparent", GOOD);
    call.send().await.expect(401);
    refused(&home).send().await.expect(401);
    let log = service.stop().await;
    assert_eq!(requests_in(&log).len(), bad.len() + 2, "{log}");
    for part in ["trace_id", "forged", &TRACE[..8]] {
        assert!(!log.to_lowercase().contains(part), "{part}: {log}");
    }
}
