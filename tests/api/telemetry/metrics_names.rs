//! `GET /metrics`: the names of what it shows, in the README and on the dashboard, and no names of
//! people.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::json;

use crate::harness::app::TestApp;
use crate::harness::machine::root;
use crate::harness::markdown::{in_backticks, readme, rows, section};
use crate::harness::person::PASSWORD;
use crate::harness::scrape::Scrape;
use crate::telemetry::metrics::{ERRORS, TOKEN, ask, measured, scrape};

#[tokio::test]
async fn nothing_in_it_tells_of_a_person() {
    let app = TestApp::with(&[
        ("METRICS_TOKEN", TOKEN),
        ("RATE_LIMITS", "on"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await
    .alone();
    let ada = app.user("zq-ada").await;
    let tokens = [ada.access_token(), ada.refresh_token()];
    let mut secrets = vec!["zq-", "203.0.113.77", ada.id(), TOKEN, PASSWORD];
    secrets.extend(tokens.iter().flat_map(|token| token.split('.')));
    for _ in 0..7 {
        let login =
            ada.call(Method::POST, "/api/v1/login").header("x-forwarded-for", "203.0.113.77");
        login.header("authorization", "Basic enEtYWRhOm5vdCBpdA==").send().await;
    }
    for path in ["/zq-path", "/api/v1/users/zq-id", "/api/v1/confirm?token=zq-token"] {
        ada.call(Method::GET, path).header("x-request-id", "zq-request").send().await;
    }
    let page = ask(&app).await.text;
    Scrape::parse(&page).assert(ERRORS, &[("code", "rate_limited")], 2);
    for secret in secrets {
        assert!(!page.contains(secret), "{secret} is in {page}");
    }
}

/// Every metric, by the name of its family.
async fn exported() -> BTreeSet<String> {
    scrape(&measured().await).await.families.into_keys().collect()
}

#[tokio::test]
async fn the_readmes_table_names_every_metric_with_its_labels_and_no_other() {
    let readme = readme();
    let table = rows(section(&readme, "Metrics and traces"));
    let documented: Vec<&str> = table.iter().flat_map(|row| in_backticks(row[0])).collect();
    let names: BTreeSet<String> =
        documented.iter().map(|name| name.split('{').next().unwrap().to_owned()).collect();
    assert_eq!(names.len(), documented.len(), "each once");
    assert_eq!(names, exported().await);
    let app = measured().await;
    app.user("ada").await;
    let page = ask(&app).await.text;
    for name in documented {
        let Some((name, labels)) = name.split_once('{') else {
            assert!(!page.contains(&format!("\n{name}{{")), "{name} has labels");
            continue;
        };
        let sample = page.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?.trim_start_matches("_bucket");
            rest.strip_prefix('{')
        });
        let sample = sample.unwrap_or_else(|| panic!("{name} has no labels"));
        let own = sample.split("=\"").map(|part| part.rsplit([',', '{']).next().unwrap());
        let own: Vec<_> = own.take(sample.matches("=\"").count()).filter(|l| *l != "le").collect();
        assert_eq!(own, labels.trim_end_matches('}').split(',').collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn the_dashboard_asks_for_what_is_exported_and_leaves_out_nothing() {
    let file = std::fs::read_to_string(root().join("src/prometheus/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&file).unwrap();
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!(
        (&variable["type"], &variable["query"]),
        (&json!("datasource"), &json!("prometheus"))
    );
    let mut asked = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        if panel["type"] == "row" {
            continue;
        }
        let source = json!({ "type": "prometheus", "uid": "${datasource}" });
        assert_eq!(panel["datasource"], source, "{panel}");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && !panel["title"].as_str().unwrap().is_empty(), "{panel}");
        for target in targets {
            let expr = target["expr"].as_str().unwrap();
            let words = expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let names = words.filter(|w| w.starts_with("doorward_") || w.starts_with("process_"));
            asked.extend(names.map(|name| {
                let is_histogram = name.contains("_seconds_");
                let part = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
                part.filter(|_| is_histogram).unwrap_or(name).to_owned()
            }));
        }
    }
    assert_eq!(asked, exported().await);
}
