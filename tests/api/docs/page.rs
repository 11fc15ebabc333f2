//! `/docs`: the page to read the document and to try it.

use serde_json::json;

use crate::harness::app::{PUBLIC_URL, TestApp};

/// The paths of the files that a page names, as a browser resolves them that has it from `at`.
fn files(page: &str, at: &str) -> Vec<String> {
    let base: url::Url = format!("{PUBLIC_URL}{at}").parse().unwrap();
    let names = page.split("src=\"").chain(page.split("href=\"")).skip(1);
    let names = names.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name);
    let names = names.filter(|name| name.contains("?v="));
    names.map(|name| base.join(name).unwrap().as_str()[PUBLIC_URL.len()..].to_owned()).collect()
}

#[tokio::test]
async fn the_page_loads_only_from_where_it_came_and_calls_only_there() {
    let app = TestApp::start().await;
    let page = app.anonymous().get("/docs").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"),
        "{policy}"
    );
    let start = app.anonymous().get("/docs/start.js").await.text;
    // A badge of somebody else's, which is told every document's address.
    assert!(start.contains(r#"validatorUrl: "none""#), "{start}");
    let here = app.anonymous().get("/docs/openapi.json").await.json;
    assert_eq!(here["servers"][0]["url"], json!(".."));
    let published = app.anonymous().get("/openapi.json").await.json;
    assert_eq!(published["servers"][0]["url"], PUBLIC_URL);
    assert_eq!(here["paths"], published["paths"]);
}

#[tokio::test]
async fn the_pages_files_are_found_with_and_without_a_slash_and_below_any_path() {
    let url = "https://example.com/docs";
    let app = TestApp::with(&[("PUBLIC_URL", url), ("APP_NAME", "A <b> & c")]).await;
    let page = app.anonymous().get("/docs").await.text;
    assert_eq!(app.anonymous().get("/docs/").await.text, page);
    assert!(page.contains("<title>API · A &#60;b&#62; &#38; c</title>"), "{page}");
    for (at, prefix) in
        [("/docs", ""), ("/docs/", ""), ("/docs/docs", "/docs"), ("/a/b/docs", "/a/b")]
    {
        let files = files(&page, at);
        assert_eq!(files.len(), 5, "{files:?}");
        for file in files {
            // What a proxy strips.
            let file = file.strip_prefix(prefix).unwrap();
            let answer = app.anonymous().get(file).await;
            assert_eq!(answer.status, 200, "{at} {file}");
            let kept = answer.header("cache-control");
            assert_eq!(kept, Some("public, max-age=31536000, immutable"), "{file}");
        }
    }
}

#[tokio::test]
async fn a_file_of_another_release_is_kept_by_no_cache() {
    let app = TestApp::start().await;
    let page = app.anonymous().get("/docs").await.text;
    let file = files(&page, "/docs").into_iter().find(|file| file.contains(".css")).unwrap();
    let (path, version) = file.split_once("?v=").unwrap();
    for other in [String::new(), "?v=".into(), "?v=x".into(), format!("?v={version}&v=x")] {
        let answer = app.anonymous().get(&format!("{path}{other}")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{other}");
    }
}
