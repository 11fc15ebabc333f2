//! The OpenAPI 3.1 document, made from the handlers, and the page to read and try it.
//!
//! A handler names the codes that are its own (`x-codes`). What follows from its security and its body is added here,
//! and every code becomes an answer with the status that the one table of codes gives it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, Router, get};
use serde_json::{Value, json};
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use crate::http::error::{Code, ErrorBody};
use crate::state::AppState;

#[derive(OpenApi)]
#[openapi(
    info(title = "Doorward", version = "1", description = "Sign-up, login, sessions, roles and e-mail verification \
        for frontend apps. Instants are RFC 3339 in UTC. Every path answers with and without a slash at its end."),
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
        "basic": { "type": "http", "scheme": "basic", "description": "Username or e-mail address, and password." },
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

/// An optional body is an object if it is there: removes the `null` that utoipa adds for an `Option`.
fn forbid_null_body(operation: &mut Value) {
    let schema = operation.pointer_mut("/requestBody/content/application~1json/schema");
    let Some(schema) = schema else { return };
    let mut choices = schema["oneOf"].as_array().into_iter().flatten();
    let object = choices.find(|choice| choice["type"] != "null").cloned();
    if let Some(object) = object {
        *schema = object;
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
    let mut codes = vec![Code::Internal];
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
    let has_pages = operation.pointer("/responses/200/content/text~1html").is_some();
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

/// The paths of [`routes`].
pub fn paths() -> impl Iterator<Item = String> {
    let files = DOCS_FILES.iter().map(|name| format!("/docs/{name}"));
    ["/openapi.json", "/docs", "/docs/openapi.json"].map(str::to_owned).into_iter().chain(files)
}

/// `/openapi.json` and `/docs`: everything comes from the binary itself.
pub fn routes(document: &Value) -> Router<AppState> {
    // The page calls its own origin, which need not be PUBLIC_URL (localhost, a preview's host): its policy allows no
    // other.
    let mut for_page = document.clone();
    for_page["servers"] = json!([{ "url": "/" }]);
    Router::new()
        .route("/openapi.json", published(document))
        .route("/docs", get(docs))
        .route("/docs/openapi.json", published(&for_page))
        .merge(docs_files())
}

/// Written once, and shared by all who read it.
fn published(document: &Value) -> MethodRouter<AppState> {
    let text = Bytes::from(document.to_string());
    get(async move || ([(header::CONTENT_TYPE, "application/json")], text.clone()))
}

const DOCS: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Doorward API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/swagger-ui-standalone-preset.js"></script>
<script src="/docs/swagger-initializer.js"></script>
</body>
</html>
"#;

/// The page writes styles into elements, and loads nothing but what lies beside it.
const DOCS_CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

async fn docs() -> Response {
    ([(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(DOCS_CSP))], Html(DOCS))
        .into_response()
}

/// What the page loads: bytes of the binary, shared, however many ask and however slowly they read.
const DOCS_FILES: [&str; 5] = [
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
    "swagger-initializer.js",
    "favicon-32x32.png",
];

fn docs_files() -> Router<AppState> {
    let config = Config::from("/docs/openapi.json")
        .try_it_out_enabled(true)
        .persist_authorization(false)
        // Else the page sends the document's address to swagger.io, for a badge.
        .validator_url("none");
    let config = Arc::new(config);
    let found = DOCS_FILES.into_iter().filter_map(|name| {
        utoipa_swagger_ui::serve(name, Arc::clone(&config)).ok().flatten().map(|file| (name, file))
    });
    found.fold(Router::new(), |router, (name, file)| {
        let bytes = match file.bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let content_type = [(header::CONTENT_TYPE, file.content_type)];
        router.route(
            &format!("/docs/{name}"),
            get(async move || (content_type.clone(), bytes.clone())),
        )
    })
}
