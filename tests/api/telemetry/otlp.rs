//! Traces by OTLP, to a collector of our own. Without the feature there is one test, of what is
//! said then; the others: `cargo test --features otlp --test api otlp`.

use crate::harness::home::Home;

#[cfg(not(feature = "otlp"))]
#[tokio::test]
async fn a_binary_that_sends_no_traces_says_so_where_they_are_asked_for() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    let (home, _) = Home::with_database(&[endpoint]).await;
    let service = home.start().await;
    let log = service.stop().await;
    let warnings = log.lines().filter(|line| line.contains("build with --features otlp"));
    assert_eq!(warnings.count(), 1, "{log}");
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    assert!(!service.stop().await.contains("OTEL_"));

    let (mut home, _, _sink) = crate::process::doctor::good().await;
    home.set(endpoint.0, endpoint.1);
    let report = crate::process::doctor::Report::of("traces without the feature", &home, &[]).await;
    report.assert_troubles(&[("warn", "traces", "--features otlp")]);
}

#[cfg(feature = "otlp")]
mod collector {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use axum::Router;
    use axum::body::Bytes;
    use axum::extract::Request;
    use axum::http::header;
    use axum::routing::post;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::Home;
    use crate::harness::person::{PASSWORD, email_of};

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    /// What it is sent, as bytes: in protobuf a text stands as it is, and an id as its bytes.
    #[derive(Clone, Default)]
    struct Collector(Arc<Mutex<Vec<Bytes>>>);

    impl Collector {
        /// Its endpoint. One that is slow never answers.
        async fn start(&self, is_slow: bool) -> String {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let own = self.clone();
            let take = move |request: Request| async move {
                let content_type = request.headers()[header::CONTENT_TYPE].clone();
                assert_eq!(content_type, "application/x-protobuf");
                let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                own.0.lock().unwrap().push(body);
                if is_slow {
                    std::future::pending::<()>().await;
                }
            };
            let app = Router::new().route("/v1/traces", post(take));
            tokio::spawn(async move { axum::serve(listener, app).await });
            url
        }

        fn received(&self) -> Vec<u8> {
            self.0.lock().unwrap().concat()
        }
    }

    fn count(bytes: &[u8], part: &[u8]) -> usize {
        bytes.windows(part.len()).filter(|window| *window == part).count()
    }

    fn bytes_of(hexadecimal: &str) -> Vec<u8> {
        let digits = hexadecimal.as_bytes().chunks(2);
        let pairs = digits.map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    #[tokio::test]
    async fn a_request_is_a_step_of_its_callers_trace_and_tells_no_secret() {
        let collector = Collector::default();
        let endpoint = collector.start(false).await;
        let settings =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_SERVICE_NAME", "front-door")];
        let (home, _) = Home::with_database(&settings).await;
        let service = home.start().await;
        let pair = home.newcomer("zq-ada").await;
        let traceparent = format!("00-{TRACE}-{PARENT}-01");
        let me = home.get("/api/v1/users/me?zq-query=1").by(&pair);
        me.header("traceparent", &traceparent).send().await.expect(200);
        // Its caller has decided that nobody looks.
        let unsampled = format!("00-{}-{PARENT}-00", "a".repeat(32));
        let me = home.get("/api/v1/users/me").by(&pair);
        me.header("traceparent", &unsampled).send().await.expect(200);
        home.get("/zq-path").send().await.expect(404);
        let wrong = json!({ "old_password": "zq-wrong", "new_password": "zq-other-word" });
        let path = "/api/v1/users/me/change_password";
        home.put(path).by(&pair).json(&wrong).send().await.expect(403);
        let log = service.stop().await;

        let spans = collector.received();
        assert_eq!(count(&spans, &bytes_of(TRACE)), 1, "{log}");
        assert_eq!(count(&spans, &bytes_of(PARENT)), 1);
        assert_eq!(count(&spans, &[0xaa; 16]), 0, "sampled or not is the caller's to say");
        for text in [
            "front-door",
            "GET /api/v1/users/me",
            "POST /api/v1/login",
            "http.response.status_code",
            "not_found",
            "wrong_password",
        ] {
            assert!(count(&spans, text.as_bytes()) > 0, "{text}");
        }
        let token = |name: &str| pair[name].as_str().unwrap().to_owned();
        let email = email_of("zq-ada");
        for secret in
            ["zq-", PASSWORD, &email, "127.0.0.1", &token("token"), &token("refresh_token")]
        {
            assert_eq!(count(&spans, secret.as_bytes()), 0, "{secret}");
        }
        // What has no caller has a trace of its own, and the log names it.
        let lines: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let refused = lines.iter().find(|line| line["code"] == "wrong_password").unwrap();
        let own = bytes_of(refused["trace_id"].as_str().unwrap());
        assert_eq!(count(&spans, &own), 1, "{refused}");
    }

    #[tokio::test]
    async fn a_collector_that_hangs_or_is_gone_keeps_nobody_waiting() {
        let collector = Collector::default();
        for endpoint in [collector.start(true).await, "http://127.0.0.1:9".to_owned()] {
            let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint);
            let (home, _) = Home::with_database(&[endpoint]).await;
            let service = home.start().await;
            let started = Instant::now();
            let pair = home.newcomer("ada").await;
            for _ in 0..20 {
                home.get("/api/v1/users/me").by(&pair).send().await.expect(200);
            }
            service.stop().await;
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
        assert!(!collector.received().is_empty());
    }
}
