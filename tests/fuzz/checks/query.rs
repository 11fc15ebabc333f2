//! The query of the list of users, and the cursor in it.

use std::collections::HashMap;

use axum::extract::FromRequestParts;
use axum::http::Request;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use doorward::admin::list::ListRequest;
use doorward::fields::{Role, Search, trimmed};
use doorward::http::body::QueryString;
use doorward::http::error::{ApiError, Code};
use doorward::store::keyset::Position;
use doorward::store::standing::Standing;
use doorward::store::user_list::SortBy;
use doorward::store::users::User;
use futures_util::FutureExt;
use uuid::Uuid;

const SORTS: [(&str, SortBy); 4] = [
    ("created_at", SortBy::CreatedAt),
    ("modified_at", SortBy::ModifiedAt),
    ("username", SortBy::Username),
    ("email", SortBy::Email),
];

const KNOWN: [&str; 10] = [
    "limit",
    "after",
    "q",
    "role",
    "email_verified",
    "banned",
    "email",
    "username",
    "sort",
    "count",
];

/// As a query, as a cursor, and as a user whose place becomes one.
pub fn check(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check_query(text);
        for (sort, _) in SORTS {
            check_query(&query(&[("sort", sort), ("after", text)]));
            let json = URL_SAFE_NO_PAD.encode(text);
            check_query(&query(&[("sort", sort), ("after", &json)]));
        }
    }
    check_cursor(&user(data), data.first().copied().unwrap_or_default());
}

fn check_query(query: &str) {
    let Some(outcome) = parse(query) else { return };
    let mut given = HashMap::new();
    let pairs = form_urlencoded::parse(query.as_bytes());
    let is_twice = pairs.into_owned().any(|(name, value)| given.insert(name, value).is_some());
    given.retain(|_, value| !trimmed(value).is_empty());
    let request = match outcome {
        Ok(request) => request,
        Err(error) => {
            let code = if is_twice { Code::MalformedRequest } else { Code::ValidationFailed };
            return assert_eq!(error.code, code, "{query}");
        }
    };
    assert!(!is_twice, "{query}");
    assert!(!given.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')));
    let value = |name: &str| given.get(name).map(String::as_str);
    let limit = value("limit").map_or(100, |limit| limit.parse().expect("a number"));
    assert!(request.limit == limit && (1..=500).contains(&limit), "{query}");
    assert!(given.keys().all(|name| KNOWN.contains(&name.as_str())), "{query}");
    let search = value("q").and_then(|raw| Search::parse(raw).expect("it was accepted"));
    assert_eq!(request.filter.search, search);
    assert_eq!(
        request.filter.role.map(Role::as_str),
        value("role").map(str::to_ascii_lowercase).as_deref()
    );
    let flag = |name| value(name).map(|flag| ["true", "1"].contains(&flag.to_lowercase().as_str()));
    assert_eq!(request.filter.email_verified, flag("email_verified"));
    assert_eq!(request.filter.banned, flag("banned"));
    let sort = value("sort").unwrap_or("created_at");
    let name = sort.trim_start_matches('-');
    let expected = SORTS.iter().find(|(known, _)| *known == name).expect("a known order").1;
    assert_eq!(request.sort, (expected, sort.starts_with('-')), "{query}");
    // A cursor that is accepted is one of this very order.
    let position = value("after").map(|after| {
        let json = URL_SAFE_NO_PAD.decode(after).expect("base64");
        let (order, value, id): (String, String, Uuid) =
            serde_json::from_slice(&json).expect("three of them");
        assert_eq!(order, sort, "{query}");
        Position { value, id }
    });
    assert_eq!(request.after, position, "{query}");
}

/// The place of a user in one of the orders is found again by its cursor, and in no other order.
fn check_cursor(user: &User, chosen: u8) {
    let orders: Vec<_> = SORTS
        .iter()
        .flat_map(|(name, by)| [((*name).to_owned(), by), (format!("-{name}"), by)])
        .collect();
    let (order, by) = &orders[usize::from(chosen) % orders.len()];
    let cursor = accepted(&[("sort", order)]).expect("an order").cursor(user);
    let position = by.position(user);
    for (other, _) in &orders {
        let request = accepted(&[("sort", other), ("after", &cursor)]);
        let found = request.and_then(|request| request.after);
        let expected = (order == other).then(|| position.clone());
        assert_eq!(found, expected, "{order} as {other}");
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn accepted(pairs: &[(&str, &str)]) -> Option<ListRequest> {
    parse(&query(pairs)).expect("an encoded query fits into a URL").ok()
}

/// `None` where it is nothing that could be sent.
fn parse(query: &str) -> Option<Result<ListRequest, ApiError>> {
    let request = Request::builder().uri(format!("/?{query}")).body(()).ok()?;
    // A fragment is never sent.
    if request.uri().query() != Some(query) {
        return None;
    }
    let (mut parts, ()) = request.into_parts();
    let form = QueryString::from_request_parts(&mut parts, &()).now_or_never();
    Some(form.expect("nothing to wait for").and_then(|QueryString(form)| ListRequest::parse(form)))
}

/// Any user that the service could have.
fn user(data: &[u8]) -> User {
    let (numbers, text) = data.split_at(data.len().min(16));
    let mut bytes = [0; 16];
    bytes[..numbers.len()].copy_from_slice(numbers);
    let id = Uuid::from_bytes(bytes);
    let (first, second) = id.as_u64_pair();
    // From the year 0 to 9999, to the microsecond.
    let instant = |number: u64| {
        let micros = number % 315_569_520_000_000_000;
        let micros = i64::try_from(micros).expect("small") - 62_167_219_200_000_000;
        DateTime::from_timestamp_micros(micros).expect("within what a clock shows")
    };
    let text = String::from_utf8_lossy(text).replace('\0', "");
    User {
        id,
        username: text.clone(),
        email: text,
        email_verified_at: None,
        pending_email: None,
        first_name: String::new(),
        last_name: String::new(),
        role: Role::User,
        password_hash: String::new().into(),
        created_at: instant(first),
        modified_at: instant(second),
        standing: Standing::default(),
    }
}
