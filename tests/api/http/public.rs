//! What is the same for all: kept by caches, read by pages of every origin, compressed.

use std::io::Read;

use axum::http::Method;
use flate2::read::GzDecoder;

use crate::harness::answer::Answer;
use crate::harness::app::TestApp;
use crate::harness::home::Home;

const PUBLIC: [&str; 2] = ["/.well-known/jwks.json", "/openapi.json"];

async fn ask(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> Answer {
    let call = app.anonymous().call(Method::GET, path);
    headers.iter().fold(call, |call, (name, value)| call.header(name, value)).send().await
}

fn unpacked(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut bytes = Vec::new();
    GzDecoder::new(&*answer.bytes).read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn keys_and_document_may_be_kept_for_minutes_and_asked_for_again() {
    let app = TestApp::start().await;
    for path in PUBLIC {
        let answer = ask(&app, path, &[]).await;
        assert_eq!(answer.header("cache-control"), Some("public, max-age=300"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let etag = answer.header("etag").unwrap();
        assert!(etag.starts_with("W/\"") && etag.ends_with('"'), "{etag}");
        for known in [etag, &etag[2..], "*", &format!("\"x\", {etag}")] {
            let again = ask(&app, path, &[("if-none-match", known)]).await;
            assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{known}");
            assert_eq!(again.header("etag"), Some(etag));
        }
        let other = ask(&app, path, &[("if-none-match", "W/\"x\"")]).await;
        assert_eq!((other.status.as_u16(), &other.text), (200, &answer.text));
        let head = app.anonymous().call(Method::HEAD, path).send().await;
        assert_eq!((head.header("etag"), head.text.as_str()), (Some(etag), ""));
    }
    let other = TestApp::with(&[("SECRET_KEY", "one more secret of 32 bytes or more")]).await;
    let [one, two] = [&app, &other].map(|app| ask(app, PUBLIC[0], &[]));
    assert_ne!(one.await.header("etag"), two.await.header("etag"));
}

#[tokio::test]
async fn a_page_of_any_origin_reads_keys_and_document_whatever_cors_says() {
    for settings in [&[][..], &[("CORS_ORIGINS", "https://app.example.com")]] {
        let app = TestApp::with(settings).await;
        for path in PUBLIC {
            for origin in ["https://app.example.com", "https://stranger.example", "null"] {
                let answer = ask(&app, path, &[("origin", origin)]).await;
                let origins = answer.headers.get_all("access-control-allow-origin").iter();
                assert_eq!(origins.collect::<Vec<_>>(), ["*"], "{path} {origin}");
                // With it "*" would be refused by browsers.
                assert_eq!(answer.header("access-control-allow-credentials"), None);
                let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
                assert_eq!(vary, ["accept-encoding"]);
            }
        }
        // And nothing else.
        let other = ask(&app, "/api/v1/users/me", &[("origin", "https://stranger.example")]).await;
        assert_ne!(other.header("access-control-allow-origin"), Some("*"));
    }
}

#[tokio::test]
async fn what_is_the_same_for_all_is_compressed_when_asked_for() {
    let app = TestApp::start().await;
    let page = ask(&app, "/docs", &[]).await.text;
    let version = page.split_once("?v=").unwrap().1.split_once('"').unwrap().0;
    let bundle = format!("/docs/swagger-ui-bundle.js?v={version}");
    for path in ["/openapi.json", bundle.as_str()] {
        let plain = ask(&app, path, &[]).await;
        assert_eq!(plain.header("content-encoding"), None);
        for _ in 0..2 {
            let packed = ask(&app, path, &[("accept-encoding", "br, gzip;q=0.8")]).await;
            assert!(unpacked(&packed) == plain.bytes, "{path}");
            assert!(packed.bytes.len() * 2 < plain.bytes.len(), "{path}");
            let length = packed.bytes.len().to_string();
            assert_eq!(packed.header("content-length"), Some(&*length));
            assert_eq!(packed.header("etag"), plain.header("etag"));
        }
        for refusing in ["br", "identity", "gzip;q=0", "*;q=0"] {
            let plain_again = ask(&app, path, &[("accept-encoding", refusing)]).await;
            assert!(plain_again.bytes == plain.bytes, "{path} {refusing}");
        }
    }
}

#[tokio::test]
async fn what_is_somebodys_is_never_compressed_or_kept() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for path in
        ["/", "/docs", "/healthz", "/api/v1/users/me", "/api/v1/confirm?token=x", "/nowhere"]
    {
        for accept in ["application/json", "text/html"] {
            let call = ada.call(Method::GET, path).header("accept", accept);
            let call = call.header("accept-encoding", "gzip").header("if-none-match", "*");
            let answer = call.send().await;
            assert_ne!(answer.status, 304, "{path}");
            assert_eq!(answer.header("content-encoding"), None, "{path}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        }
    }
}

#[tokio::test]
async fn only_a_call_that_cors_stops_is_logged_as_such() {
    let (home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    let told = "a page of this origin may not call";
    for path in PUBLIC {
        home.get(path).header("origin", "https://reader.example").send().await.expect(200);
    }
    // As a browser sends the form of a page without a referrer.
    let press = home.post("/api/v1/confirm?token=x").header("origin", "null");
    press.header("sec-fetch-mode", "navigate").send().await.expect(400);
    home.get("/api/v1/users/me").header("origin", "https://caller.example").send().await;
    let log = service.stop().await;
    assert_eq!(log.matches(told).count(), 1, "{log}");
    assert!(log.contains("https://caller.example"), "{log}");
}
