//! The OpenAPI 3.1 document, made from the handlers.
//!
//! A handler names the codes that are its own (`x-codes`). What follows from its security and its
//! body is added here, and every code becomes an answer with the status that the one table of codes
//! gives it.

mod docs;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use utoipa::OpenApi;

pub use docs::routes;

use crate::http::error::{Code, ErrorBody};

#[derive(OpenApi)]
#[openapi(
    info(title = "Doorward", version = "1", description = "Sign-up, login, sessions, roles and \
        e-mail verification for frontend apps. Instants are RFC 3339 in UTC. Every path answers \
        with and without a slash at its end."),
    tags(
        (name = "auth", description = "Getting in and staying in"),
        (name = "users", description = "A person and their own account"),
        (name = "admin", description = "Admins acting on others"),
        (name = "service", description = "The service about itself"),
    ),
    components(schemas(ErrorBody)),
)]
struct Base;

pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// The document as it is published.
pub fn document(
    api: &utoipa::openapi::OpenApi,
    public_url: &str,
    min_password_length: usize,
) -> Value {
    let mut document = serde_json::to_value(api).expect("a document made of plain values is JSON");
    document["servers"] = json!([{ "url": public_url }]);
    document["components"]["securitySchemes"] = json!({
        "basic": {
            "type": "http",
            "scheme": "basic",
            "description": "Username or e-mail address, and password.",
        },
        "access_token": { "type": "apiKey", "in": "header", "name": "x-access-token" },
        "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT" },
        "refresh_token": { "type": "apiKey", "in": "header", "name": "x-refresh-token" },
    });
    document["components"]["schemas"]["NewPassword"]["minLength"] = min_password_length.into();
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for operation in
        paths.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten()).map(|(_, op)| op)
    {
        forbid_null_body(operation);
        add_errors(operation);
    }
    document
}

/// An optional body is an object if it is there: removes the `null` that utoipa adds for an
/// `Option`.
fn forbid_null_body(operation: &mut Value) {
    let contents = operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut);
    for content in contents.into_iter().flat_map(serde_json::Map::values_mut) {
        let mut choices = content["schema"]["oneOf"].as_array().into_iter().flatten();
        let object = choices.find(|choice| choice["type"] != "null").cloned();
        if let Some(object) = object {
            content["schema"] = object;
        }
    }
}

/// What a body may be refused for.
const BODY_CODES: [Code; 4] = [
    Code::MalformedRequest,
    Code::PayloadTooLarge,
    Code::UnsupportedMediaType,
    Code::ValidationFailed,
];
/// What an access token may be refused for.
const USER_CODES: [Code; 5] = [
    Code::MalformedRequest,
    Code::TokenMissing,
    Code::TokenInvalid,
    Code::TokenExpired,
    Code::SessionEnded,
];

fn add_errors(operation: &mut Value) {
    let own = operation.as_object_mut().and_then(|operation| operation.remove("x-codes"));
    let own: Vec<String> = own.and_then(|own| serde_json::from_value(own).ok()).unwrap_or_default();
    let mut codes = vec![Code::HeadersTooLarge, Code::Internal];
    let needs_user = operation["security"]
        .as_array()
        .is_some_and(|any| any.iter().any(|security| security.get("bearer").is_some()));
    if needs_user {
        codes.extend(USER_CODES);
    }
    if operation.get("requestBody").is_some() {
        codes.extend(BODY_CODES);
    }
    if operation["tags"] != json!(["service"]) {
        codes.extend([Code::Busy, Code::DatabaseUnavailable]);
    }
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for &code in Code::ALL {
        if codes.contains(&code) || own.iter().any(|own| own == code.as_str()) {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
    }
    let has_pages = ["200", "201"].iter().any(|status| {
        operation.pointer(&format!("/responses/{status}/content/text~1html")).is_some()
    });
    for (status, codes) in by_status {
        let mut response = error_response(&codes);
        if has_pages {
            response["content"]["text/html"] = json!({ "schema": { "type": "string" } });
        }
        operation["responses"][status.to_string()] = response;
    }
}

fn error_response(codes: &[Code]) -> Value {
    let lines: Vec<String> =
        codes.iter().map(|code| format!("- `{}`: {}", code.as_str(), code.message())).collect();
    let mut response = json!({
        "description": lines.join("\n"),
        "content": { "application/json": { "schema": {
            "allOf": [
                { "$ref": "#/components/schemas/Error" },
                { "type": "object", "properties": { "code": { "enum": codes } } },
            ],
        } } },
    });
    match codes.first().map(|code| code.status().as_u16()) {
        Some(401) => {
            response["headers"]["www-authenticate"] = json!({ "schema": { "type": "string" } });
        }
        Some(429 | 503) => {
            response["headers"]["retry-after"] =
                json!({ "description": "Seconds.", "schema": { "type": "integer" } });
        }
        _ => {}
    }
    response
}
