//! By which paths `/metrics` is reached, as a proxy's rule has to cover them all: the rules in the
//! README do.

use axum::http::Method;

use crate::harness::app::TestApp;
use crate::harness::markdown::{readme, section};

const TOKEN: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";

/// Those that lead to it, and those that lead nowhere.
const LEADING: [&str; 6] =
    ["/metrics", "/metrics/", "/metrics//", "//metrics", "///metrics//", "/metrics?x=/dev"];
const LOST: [&str; 8] = [
    "/METRICS",
    "/Metrics/",
    "/metrics/x",
    "/metrics;x",
    "/%6detrics",
    "/./metrics",
    "/x/../metrics",
    "/api/v1/metrics",
];

#[tokio::test]
async fn slashes_around_it_lead_to_the_metrics_and_no_other_spelling_does() {
    let app = TestApp::with(&[("METRICS_TOKEN", TOKEN)]).await;
    let status = async |path: &str| {
        let call = app.anonymous().call(Method::GET, path);
        call.header("authorization", &format!("Bearer {TOKEN}")).send().await.status.as_u16()
    };
    for path in LEADING {
        assert_eq!(status(path).await, 200, "{path}");
    }
    for path in LOST {
        assert_eq!(status(path).await, 404, "{path}");
    }
}

#[test]
fn the_rules_for_proxies_cover_every_spelling_that_leads_there() {
    let readme = readme();
    let deploying = section(&readme, "Deploying");
    let rule = "^/+(metrics|dev)(/|$)";
    for proxy in ["nginx", "caddy", "haproxy"] {
        let block = deploying.split_once(&format!("```{proxy}\n")).unwrap().1;
        let block = block.split_once("```").unwrap().0;
        assert!(block.contains(rule), "{proxy}: {block}");
    }
    // What the rule says, by hand.
    let is_covered = |path: &str| {
        let path = path.split('?').next().unwrap();
        let rest = path.trim_start_matches('/');
        let word = rest.split('/').next().unwrap();
        path.starts_with('/') && ["metrics", "dev"].contains(&word)
    };
    for path in LEADING.iter().chain(&["/dev/mailbox", "//dev/mailbox/"]) {
        assert!(is_covered(path), "{path}");
    }
    assert!(!is_covered("/api/v1/metrics") && !is_covered("/developers"));
}
