//! The OpenAPI document as tools read it, and the page to try it.

use std::collections::BTreeSet;
use std::slice;

use doorward::http::error::Code;
use doorward::router::openapi_document;
use serde_json::{Value, json};

use crate::harness::app::{PUBLIC_URL, TestApp};
use crate::harness::machine::root;
use crate::harness::person::PASSWORD;

/// The contract's table; POST on the link is the button of its page.
const CALLS: [&str; 50] = [
    "delete /api/v1/admin/invitations/{public_id}",
    "delete /api/v1/users/me",
    "delete /api/v1/users/me/sessions",
    "delete /api/v1/users/me/sessions/{session_id}",
    "delete /api/v1/users/{public_id}",
    "delete /api/v1/users/{public_id}/ban",
    "delete /api/v1/users/{public_id}/sessions",
    "delete /api/v1/users/{public_id}/sessions/{session_id}",
    "get /",
    "get /.well-known/jwks.json",
    "get /api/v1/admin/audit",
    "get /api/v1/admin/invitations",
    "get /api/v1/admin/mails",
    "get /api/v1/confirm",
    "get /api/v1/invitations",
    "get /api/v1/not_me",
    "get /api/v1/password/reset",
    "get /api/v1/restore",
    "get /api/v1/users",
    "get /api/v1/users/me",
    "get /api/v1/users/me/activity",
    "get /api/v1/users/me/export",
    "get /api/v1/users/me/sessions",
    "get /api/v1/users/{public_id}",
    "get /api/v1/users/{public_id}/sessions",
    "get /healthz",
    "get /readyz",
    "patch /api/v1/users/me",
    "patch /api/v1/users/{public_id}",
    "post /api/v1/admin/bulk",
    "post /api/v1/admin/invitations",
    "post /api/v1/admin/mails/{public_id}/retry",
    "post /api/v1/confirm",
    "post /api/v1/invitations/accept",
    "post /api/v1/login",
    "post /api/v1/logout",
    "post /api/v1/not_me",
    "post /api/v1/password/forgot",
    "post /api/v1/password/reset",
    "post /api/v1/refresh",
    "post /api/v1/restore",
    "post /api/v1/step_up",
    "post /api/v1/users",
    "post /api/v1/users/me",
    "post /api/v1/users/me/verify_email",
    "post /api/v1/users/{public_id}/send",
    "put /api/v1/users/me",
    "put /api/v1/users/me/change_password",
    "put /api/v1/users/{public_id}",
    "put /api/v1/users/{public_id}/ban",
];

/// The operations, each called by its method and path.
fn calls(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().unwrap().iter();
        operations.map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

fn operations(document: &Value) -> impl Iterator<Item = &Value> {
    calls(document).map(|(_, operation)| operation)
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
fn the_document_has_every_call_of_the_contract_and_no_other() {
    let document = openapi_document(PUBLIC_URL, 8);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert_eq!(document["servers"][0]["url"], PUBLIC_URL);
    let calls: BTreeSet<String> = calls(&document).map(|(call, _)| call).collect();
    assert_eq!(calls, CALLS.map(str::to_owned).into());
}

/// How to write the document anew. Both settings stand in it.
const RENEW: &str = "PUBLIC_URL=https://auth.example.com MIN_PASSWORD_LENGTH=8 \
    cargo run -- openapi > docs/openapi.json";

#[test]
fn the_document_in_the_repository_is_the_one_that_the_program_makes() {
    let made = format!("{:#}\n", openapi_document(PUBLIC_URL, 8));
    let kept = std::fs::read_to_string(root().join("docs/openapi.json")).unwrap();
    let differs = made.lines().zip(kept.lines()).position(|(made, kept)| made != kept);
    let line = differs.unwrap_or(made.lines().count().min(kept.lines().count())) + 1;
    assert!(
        made == kept,
        "the contract is another one from line {line} of docs/openapi.json on. If that is meant: {RENEW}"
    );
}

#[test]
fn every_operation_has_a_tag_and_words_and_nothing_of_our_own() {
    let document = openapi_document(PUBLIC_URL, 8);
    let tags = document["tags"].as_array().unwrap();
    let tags: BTreeSet<&str> = tags.iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    for (call, operation) in calls(&document) {
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{call}");
        let [tag] = operation["tags"].as_array().unwrap().as_slice() else { panic!("{call}") };
        assert!(tags.contains(tag.as_str().unwrap()), "{call}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap().is_empty(), "{call} {status}");
        }
        assert!(operation.as_object().unwrap().keys().all(|key| !key.starts_with("x-")), "{call}");
    }
}

#[test]
fn every_operation_has_an_id_of_its_own() {
    let document = openapi_document(PUBLIC_URL, 8);
    let mut seen = BTreeSet::new();
    for operation in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(seen.insert(id), "two operations are called {id}");
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_referred_to() {
    let document = openapi_document(PUBLIC_URL, 8);
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/Error"), "{found:?}");
    for reference in &found {
        let target = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
        assert!(target.is_some(), "{reference} leads nowhere");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        let reference = format!("#/components/schemas/{name}");
        assert!(found.contains(reference.as_str()), "nobody refers to {name}");
    }
}

#[test]
fn new_passwords_are_as_long_as_the_settings_ask_for() {
    let document = openapi_document(PUBLIC_URL, 12);
    let schemas = &document["components"]["schemas"];
    for (schema, field, of_type, min_length) in [
        ("RegisterRequest", "password", "NewPassword", json!(12)),
        ("ChangePasswordRequest", "new_password", "NewPassword", json!(12)),
        ("ChangePasswordRequest", "old_password", "Password", json!(null)),
    ] {
        let reference = &schemas[schema]["properties"][field]["$ref"];
        assert_eq!(reference, &format!("#/components/schemas/{of_type}"), "{schema} {field}");
        let property = &schemas[of_type];
        assert_eq!(
            (&property["format"], &property["minLength"]),
            (&json!("password"), &min_length)
        );
    }
}

#[test]
fn what_may_be_a_page_is_one_where_it_is_refused_too() {
    let document = openapi_document(PUBLIC_URL, 8);
    for method in ["get", "post"] {
        let responses = &document["paths"]["/api/v1/confirm"][method]["responses"];
        for status in ["200", "400", "410", "503"] {
            let content = responses[status]["content"].as_object().unwrap();
            assert!(content.contains_key("text/html"), "{method} {status}");
            assert!(content.contains_key("application/json"), "{method} {status}");
        }
    }
    let login = &document["paths"]["/api/v1/login"]["post"]["responses"]["401"]["content"];
    assert!(login.get("text/html").is_none());
}

#[test]
fn every_security_that_an_operation_asks_for_is_explained() {
    let document = openapi_document(PUBLIC_URL, 8);
    let schemes = &document["components"]["securitySchemes"];
    let required = operations(&document).filter_map(|operation| operation["security"].as_array());
    let names: BTreeSet<_> =
        required.flatten().flat_map(|any| any.as_object().unwrap().keys()).collect();
    assert_eq!(names, schemes.as_object().unwrap().keys().collect());
}

#[test]
fn every_parameter_of_a_path_is_described() {
    let document = openapi_document(PUBLIC_URL, 8);
    for (call, operation) in calls(&document) {
        let in_path = call.split(['{', '}']).skip(1).step_by(2).map(str::to_owned);
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let described = parameters
            .filter(|parameter| parameter["in"] == "path")
            .inspect(|parameter| assert_eq!(parameter["required"], true, "{call}"))
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned());
        assert_eq!(described.collect::<Vec<_>>(), in_path.collect::<Vec<_>>(), "{call}");
    }
}

#[test]
fn an_error_has_the_status_that_the_table_of_codes_gives_it() {
    let document = openapi_document(PUBLIC_URL, 8);
    let mut met = 0;
    for (call, operation) in calls(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            if status.as_str() < "400" {
                continue;
            }
            let schema = &response["content"]["application/json"]["schema"];
            assert_eq!(schema["allOf"][0]["$ref"], "#/components/schemas/Error", "{call} {status}");
            let codes = schema["allOf"][1]["properties"]["code"]["enum"].as_array().unwrap();
            assert!(!codes.is_empty());
            for code in codes {
                let known = Code::ALL.iter().find(|known| known.as_str() == code);
                let known = known.unwrap_or_else(|| panic!("{call}: {code} is no code"));
                assert_eq!(known.status().as_str(), status, "{call} {code}");
                met += 1;
            }
        }
    }
    assert!(met > 100);
}

#[test]
fn a_body_is_an_object_even_where_it_may_be_left_out() {
    let document = openapi_document(PUBLIC_URL, 8);
    let mut optional = 0;
    for (call, operation) in calls(&document) {
        let Some(body) = operation.get("requestBody") else { continue };
        let (media_type, content) = body["content"].as_object().unwrap().iter().next().unwrap();
        assert!(media_type.starts_with("application/"), "{call}");
        let schema = &content["schema"];
        let name = schema["$ref"].as_str().unwrap_or_else(|| panic!("{call}: {schema}"));
        let target = document.pointer(&name[1..]).unwrap();
        // One object, or one of several.
        let choices = target["oneOf"].as_array().map_or(slice::from_ref(target), Vec::as_slice);
        assert!(choices.iter().all(|choice| choice["type"] == "object"), "{call}");
        optional += usize::from(body["required"] != true);
    }
    // The role's, a login's, a deletion's, and that of a link.
    assert_eq!(optional, 4);
}

#[tokio::test]
async fn an_answer_has_the_fields_of_its_schema_and_no_others() {
    let app = TestApp::start().await;
    let (boss, ada) = (app.admin().await, app.user("ada").await);
    let document = openapi_document(PUBLIC_URL, 8);
    let fields_of = |schema: &str| -> (BTreeSet<String>, BTreeSet<String>) {
        let schema = &document["components"]["schemas"][schema];
        let properties = schema["properties"].as_object().unwrap().keys().cloned().collect();
        let required = schema["required"].as_array().unwrap().iter();
        (properties, required.map(|name| name.as_str().unwrap().to_owned()).collect())
    };
    let nothing = ada.put("/api/v1/users/me", &json!({})).await;
    let found = nothing.assert_ok(200).as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields_of("UpdateResponse").1, found, "nothing is to be confirmed");
    let address = json!({ "email": "new@example.com", "password": PASSWORD });
    let mut answers = vec![
        ("UserAnswer", ada.get("/api/v1/users/me").await),
        ("UpdateResponse", ada.put("/api/v1/users/me", &address).await),
        ("ListResponse", boss.get("/api/v1/users?count=true").await),
        ("ManagedUserAnswer", boss.get(&format!("/api/v1/users/{}", ada.id())).await),
        (
            "UserMessage",
            boss.put(&format!("/api/v1/users/{}?role=staff", ada.id()), &json!({})).await,
        ),
        ("SessionResponse", boss.log_in("ada", PASSWORD).await),
        ("SessionResponse", ada.refresh_with(ada.refresh.as_deref().unwrap()).await),
        ("StatusResponse", boss.get("/healthz").await),
        ("Message", boss.delete(&format!("/api/v1/users/{}", ada.id())).await),
    ];
    for (schema, answer) in &answers {
        let (properties, _) = fields_of(schema);
        let found: BTreeSet<String> =
            answer.assert_ok(200).as_object().unwrap().keys().cloned().collect();
        assert_eq!(found, properties, "{schema}");
    }
    let user: BTreeSet<String> =
        answers[0].1.json["user"].as_object().unwrap().keys().cloned().collect();
    assert_eq!((user.clone(), user), fields_of("User"));
    let managed = answers[3].1.json["user"].as_object().unwrap().keys().cloned().collect();
    let schema = &document["components"]["schemas"]["ManagedUser"]["allOf"];
    let more = schema[1]["properties"].as_object().unwrap().keys().cloned();
    assert_eq!(schema[0]["$ref"], "#/components/schemas/User");
    assert_eq!(fields_of("User").0.into_iter().chain(more).collect::<BTreeSet<_>>(), managed);
    let (properties, required) = fields_of("Error");
    let gone = answers.pop().unwrap().1;
    assert!(!gone.json.as_object().unwrap().contains_key("code"));
    let error = ada.get("/nowhere").await.json;
    let found: BTreeSet<String> = error.as_object().unwrap().keys().cloned().collect();
    assert_eq!(found, required);
    let way_on = ["methods", "until", "restore_token", "restore_until"];
    let optional = ["errors", "expired", "limit"].into_iter().chain(way_on).map(str::to_owned);
    assert_eq!(properties, found.into_iter().chain(optional).collect());
}
