//! The OpenAPI document as tools read it, and the page to try it.

use std::collections::BTreeSet;

use doorward::router::openapi_document;
use serde_json::Value;

use crate::support::{PUBLIC_URL, TestApp};

fn operations(document: &Value) -> impl Iterator<Item = &Value> {
    let paths = document["paths"].as_object().unwrap().values();
    paths.flat_map(|operations| operations.as_object().unwrap().values())
}

/// What every `$ref` under `value` says.
fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_operation_has_an_id_of_its_own() {
    let document = openapi_document(PUBLIC_URL);
    let mut seen = BTreeSet::new();
    for operation in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(seen.insert(id), "two operations are called {id}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = openapi_document(PUBLIC_URL);
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/Error"), "{found:?}");
    for reference in found {
        let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
        assert!(target.is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn every_security_that_an_operation_asks_for_is_explained() {
    let document = openapi_document(PUBLIC_URL);
    let schemes = &document["components"]["securitySchemes"];
    let required = operations(&document).filter_map(|operation| operation["security"].as_array());
    let names: BTreeSet<_> =
        required.flatten().flat_map(|any| any.as_object().unwrap().keys()).collect();
    assert_eq!(names, schemes.as_object().unwrap().keys().collect());
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
    let attributes = page.text.split(['"']).skip(1).step_by(2);
    let files: Vec<_> = attributes.filter(|value| value.contains('/')).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        assert!(file.starts_with("/docs/"), "{file}");
    }
    for file in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-standalone-preset.js"] {
        let answer = app.anonymous().get(&format!("/docs/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
    }
    let start = app.anonymous().get("/docs/swagger-initializer.js").await.text;
    assert!(start.contains(r#""url": "/docs/openapi.json""#), "{start}");
    // A badge of somebody else's, which is told every document's address.
    assert!(start.contains(r#""validatorUrl": "none""#), "{start}");
    let here = app.anonymous().get("/docs/openapi.json").await.json;
    assert_eq!(here["servers"][0]["url"], "/");
    let published = app.anonymous().get("/openapi.json").await.json;
    assert_eq!(published["servers"][0]["url"], PUBLIC_URL);
    assert_eq!(here["paths"], published["paths"]);
}
