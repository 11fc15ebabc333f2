//! Who asks, and for what.

use axum::http::HeaderMap;
use utoipa::ToSchema;

use crate::fields::FieldError;
use crate::http::error::ApiError;
use crate::http::html::{accepts_by_name, wants_page};
use crate::http::input::Input;

/// Of a link what the button says that was pressed; left out, the address is confirmed. Or
/// `challenge` and `code`, without the token of a link.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read field by field")]
pub struct ConfirmRequest {
    // A form cannot say null.
    #[schema(value_type = Action, required = false)]
    action: Option<Action>,
    /// From the answer to what caused the letter.
    #[schema(value_type = String, required = false)]
    challenge: Option<String>,
    /// The eight digits in the letter, however they are grouped.
    #[schema(value_type = String, required = false)]
    code: Option<String>,
}

/// What is asked for.
pub(super) enum Asked {
    Confirm,
    Disown,
    ConfirmByCode { challenge: String, code: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(as = ConfirmAction, rename_all = "snake_case")]
pub(super) enum Action {
    Confirm,
    NotMe,
}

impl ConfirmRequest {
    pub(super) fn parse(mut body: Input, has_token: bool) -> Result<Asked, ApiError> {
        let action = body.optional("action", |action| match action {
            "confirm" => Ok(Action::Confirm),
            "not_me" => Ok(Action::NotMe),
            _ => Err(FieldError::new("invalid_choice", "Use confirm or not_me.")),
        });
        let is_not_me = action == Some(Action::NotMe);
        let text = |raw: &str| Ok(raw.to_owned());
        let (challenge, code) = (body.optional("challenge", text), body.optional("code", text));
        let asked = match (challenge, code) {
            (None, None) => Ok(if is_not_me { Asked::Disown } else { Asked::Confirm }),
            _ if has_token => Err(("token", "not_allowed")),
            (Some(_), Some(_)) if is_not_me => Err(("action", "not_allowed")),
            (Some(challenge), Some(code)) => Ok(Asked::ConfirmByCode { challenge, code }),
            (Some(_), None) => Err(("code", "required")),
            (None, Some(_)) => Err(("challenge", "required")),
        };
        let message = "Send the token of a link, or challenge and code, which confirm alone.";
        let asked =
            asked.map_err(|(field, code)| body.refuse(field, FieldError::new(code, message)));
        body.finish(|| asked.ok())
    }
}

/// Whether the reader of a letter chose this GET to confirm, and not a program that follows
/// links: a mail scanner, a preview, a prefetch.
pub(super) fn is_chosen(headers: &HeaderMap) -> bool {
    match fetch_mode(headers) {
        Some(mode) => ["cors", "same-origin"].contains(&mode) && !is_prefetch(headers),
        None => accepts_by_name(headers, "application/json") && !wants_page(headers),
    }
}

/// Whether the answer to a POST is read by people: a form's is. A browser says by itself which it
/// is, where it is not too old for that.
pub(super) fn shows_pages(headers: &HeaderMap) -> bool {
    match fetch_mode(headers) {
        Some(mode) => mode == "navigate",
        None => wants_page(headers),
    }
}

/// No script can set it: browsers keep `sec-` to themselves.
fn fetch_mode(headers: &HeaderMap) -> Option<&str> {
    headers.get("sec-fetch-mode").map(|mode| mode.to_str().unwrap_or_default())
}

/// A browser that loads ahead what may be opened next (`<link rel="prefetch" crossorigin>` comes as
/// `cors`).
fn is_prefetch(headers: &HeaderMap) -> bool {
    headers.contains_key("sec-purpose") || headers.contains_key("purpose")
}
