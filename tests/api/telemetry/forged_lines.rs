//! A stranger writes nothing into the log but values: no line of their own, and nothing that moves
//! a terminal's cursor.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use doorward::clock::Clock;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::cluster::cluster;
use crate::harness::home::Home;

const FORGED: &str = "\r\n{\"level\":\"ERROR\",\"event\":\"forged\"}\r\n2026-01-02T03:04:05Z ERROR forged\u{1b}[2J\u{9b}31m\u{8}\u{7}";

/// The lines about requests in a log of production.
pub fn requests_in(log: &str) -> Vec<Value> {
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    lines.filter(|line| line["message"] == "request").collect()
}

/// Sends bytes as they are; the status line.
async fn send(home: &Home, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(home.url("").trim_start_matches("http://")).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // Cut off in the middle counts as an answer, too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

/// Requests that carry the forgery in one place each, and how many of them are answered by the
/// service itself.
async fn forge(home: &Home, database: &str) -> usize {
    let encoded = percent_encode(FORGED.as_bytes(), NON_ALPHANUMERIC).to_string();
    // What a header can hold: bytes from 0x80 on, among which is the control sequence introducer of
    // ISO 8859.
    let bytes = b"\x9b2J\x9b31m\xc2\x9b forged \t\xff";
    let basic = STANDARD.encode(format!("{FORGED}:{FORGED}"));
    let body = json!({ "username": FORGED, "email": FORGED, "password": FORGED, FORGED: FORGED })
        .to_string();
    let head =
        |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n").into_bytes();
    let mut requests = vec![
        [head(&format!("GET /{encoded}?{encoded}={encoded}")), b"\r\n".to_vec()].concat(),
        [head(&format!("GET /api/v1/confirm?token={encoded}")), b"\r\n".to_vec()].concat(),
        [head("POST /api/v1/login"), format!("authorization: Basic {basic}\r\n\r\n").into()]
            .concat(),
        [
            head("POST /api/v1/users"),
            format!(
                "content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .into(),
        ]
        .concat(),
    ];
    for name in [
        "user-agent",
        "x-request-id",
        "x-forwarded-for",
        "x-access-token",
        "cookie",
        "accept",
        "origin",
    ] {
        let header = [name.as_bytes(), b": ", bytes.as_slice(), b"\r\n\r\n"].concat();
        requests.push([head("GET /api/v1/users/me"), header].concat());
    }
    let mut answered = 0;
    for request in &requests {
        let status = send(home, request).await;
        assert!(status.starts_with("HTTP/1.1 4"), "{status}: {}", String::from_utf8_lossy(request));
        answered += 1;
    }
    // Whose bytes could end a line are no HTTP: the connection's affair, and no request.
    for bad in [&b"x-request-id: a\rb"[..], b"x-request-id: \x1b[2J", b"us\x1ber-agent: x"] {
        let request = [head("GET /healthz"), bad.to_vec(), b"\r\n\r\n".to_vec()].concat();
        let status = send(home, &request).await;
        assert!(status.is_empty() || status.starts_with("HTTP/1.1 400"), "{status}");
    }

    // The one text from outside that is logged: what the database says about its own failure.
    let pool = PgPool::connect_with(cluster().await.connect_options(database)).await.unwrap();
    let sql = "create function fail() returns trigger language plpgsql as $$ begin
                   raise exception E'half of a line\\r\\n2026-01-02T03:04:05Z ERROR forged \\x1b[2J \\xc2\\x9b31m'; end $$;
               create trigger fail before insert on users execute function fail();";
    sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    pool.close().await;
    home.register("ada").send().await.expect(500);
    answered + 1
}

#[tokio::test]
async fn in_production_each_line_is_json_and_as_many_as_there_were_requests() {
    let (home, database) =
        Home::with_database(&[("LOG", "trace"), ("TRUSTED_PROXY_HOPS", "1")]).await;
    let service = home.start().await;
    service.forget_log();
    let answered = forge(&home, &database).await;
    let log = service.stop().await;
    let requests = requests_in(&log);
    assert_eq!(requests.len(), answered, "{log}");
    for line in log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        assert_ne!(line["event"], "forged", "{line}");
        assert!(line["request_id"].as_str().is_none_or(|id| id.len() == 36), "{line}");
    }
    assert_eq!(log.matches("half of a line").count(), 1, "the failure is told");
    assert_no_control_characters(&log);
}

#[tokio::test]
async fn in_development_each_line_begins_with_its_time_and_moves_no_cursor() {
    let settings = [("LOG", "trace"), ("DOORWARD_ENV", "development")];
    let (home, database) = Home::with_database(&settings).await;
    let service = home.start().await;
    service.forget_log();
    let answered = forge(&home, &database).await;
    let log = service.stop().await;
    let (mut requests, year) = (0, Clock::system().now().format("%Y-").to_string());
    for line in log.lines() {
        assert!(line.starts_with(&year) && !line.starts_with("2026-01-02T03:04:05Z"), "{line}");
        requests += usize::from(line.contains(" request request_id="));
    }
    assert_eq!(requests, answered, "{log}");
    assert_eq!(log.matches("half of a line").count(), 1, "the failure is told");
    assert_no_control_characters(&log);
}

#[track_caller]
fn assert_no_control_characters(log: &str) {
    let found = log.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(found, None, "{log:?}");
}
