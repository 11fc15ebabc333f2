//! Lists page by page: the order, the limit, and the cursor that leads from one page to the next.

use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::fields::FieldError;
use crate::store::keyset::{Position, SortColumn};

/// Reads how many rows a page has.
pub fn parse_limit(raw: &str, max: i64) -> Result<i64, FieldError> {
    raw.parse().ok().filter(|limit| (1..=max).contains(limit)).ok_or_else(|| {
        FieldError::new("out_of_range", format!("Use a whole number from 1 to {max}."))
    })
}

/// Reads an order, one of `names`; with `-` before it, descending.
pub fn parse_sort<S: Copy>(raw: &str, names: &[(&str, S)]) -> Result<(S, bool), FieldError> {
    let (name, descending) = raw.strip_prefix('-').map_or((raw, false), |name| (name, true));
    let found = names.iter().find(|(known, _)| *known == name);
    found.map(|(_, sort_by)| (*sort_by, descending)).ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(|(known, _)| *known).collect();
        let (last, others) = known.split_last().expect("a list has an order");
        let text = format!("Use {} or {last}, with - for descending.", others.join(", "));
        FieldError::new("invalid_choice", text)
    })
}

/// An order as [`parse_sort`] reads it.
pub fn sort_name<S: PartialEq>((sort_by, descending): (S, bool), names: &[(&str, S)]) -> String {
    let name = names.iter().find(|(_, known)| *known == sort_by).map_or("", |(name, _)| name);
    format!("{}{name}", if descending { "-" } else { "" })
}

/// The cursor of the page after `last`, in the order of that name.
pub fn encode(sort_name: &str, last: &Position) -> String {
    let parts = (sort_name, &last.value, last.id);
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&parts).expect("strings and a UUID are JSON"))
}

/// Reads a cursor. It is valid only for its own order.
pub fn decode(raw: &str, sort_name: &str, column: SortColumn) -> Result<Position, FieldError> {
    let json = URL_SAFE_NO_PAD.decode(raw).ok();
    json.and_then(|json| serde_json::from_slice::<(String, String, Uuid)>(&json).ok())
        .map(|(name, value, id)| (name, Position { value, id }))
        .filter(|(name, position)| name == sort_name && column.fits(position))
        .map(|(_, position)| position)
        .ok_or_else(other_cursor)
}

fn other_cursor() -> FieldError {
    FieldError::new("invalid_cursor", "Use the next of the page before, with the same sort.")
}

/// The cursor after a row whose number decides alone, in the order of that name.
pub fn encode_number(sort_name: &str, last: i64) -> String {
    let parts = (sort_name, last);
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&parts).expect("a string and a number are JSON"))
}

/// Reads a cursor of [`encode_number`].
pub fn decode_number(raw: &str, sort_name: &str) -> Result<i64, FieldError> {
    let json = URL_SAFE_NO_PAD.decode(raw).ok();
    json.and_then(|json| serde_json::from_slice::<(String, i64)>(&json).ok())
        .filter(|(name, _)| name == sort_name)
        .map(|(_, number)| number)
        .ok_or_else(other_cursor)
}

/// Cuts a page, of which one row more than `limit` was read, down to it; the last row that is left
/// if another page follows.
pub fn cut<T>(rows: &mut Vec<T>, limit: i64) -> Option<&T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if rows.len() <= limit {
        return None;
    }
    rows.truncate(limit);
    rows.last()
}

/// The `link` header to the next page (RFC 8288): `given` is the query that led to this one,
/// without its cursor.
pub fn link(url: &str, given: &[(&str, String)], next: &str) -> Option<HeaderValue> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(given).append_pair("after", next);
    HeaderValue::from_str(&format!("<{url}?{}>; rel=\"next\"", query.finish())).ok()
}
