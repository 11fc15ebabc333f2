//! `/confirm`: the link in the mail, or its code.
//!
//! Mail scanners and link previews follow links, so a GET shows a page, whose buttons POST; only a
//! client that plainly chose to confirms by a GET. Neither logs anyone in.

mod account;
mod code;
mod page;
mod request;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::auth::link;
use crate::http::body::OptionalFormBody;
use crate::http::error::{ApiError, Code};
use crate::http::html::vary_by_accept;
use crate::state::AppState;
use account::{Finding, Seen};
use request::{Asked, ConfirmRequest};

#[derive(Serialize, ToSchema)]
pub struct ConfirmResponse {
    success: bool,
    message: &'static str,
    /// Whether the address of the link is confirmed now.
    email_verified: bool,
}

/// Shows the page behind a letter's link; confirms for a client that plainly chose to.
///
/// Such a client names `application/json` in `accept` (and not `text/html`), or is a script in a
/// browser (`sec-fetch-mode` of `cors` or `same-origin`). Any other gets the page, which changes
/// nothing until its button is pressed.
#[utoipa::path(
    get, path = "/api/v1/confirm", operation_id = "confirm", tag = "auth",
    params(("token" = String, Query, description = "From the link in the mail.")),
    responses((status = 200, description = "Confirmed; or, for most clients, a page with a button.",
        content((ConfirmResponse = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::LinkExpired, Code::EmailTaken,
    ]))),
)]
pub async fn show(
    State(state): State<AppState>,
    client: ClientInfo,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let is_chosen = request::is_chosen(&headers);
    if is_chosen && method != Method::HEAD {
        return for_program(&account::confirm(&state, &uri, &client).await);
    }
    let seen = account::look(&state, &uri).await;
    if is_chosen { for_program(&seen) } else { page::show(&state, &seen) }
}

/// Confirms the address by the link of a letter or by its code, or disowns it by the link.
///
/// Repeating a link is the same success. A code is good once: one that is wrong, used, void or out
/// of time is 400 `code_invalid`, and after five wrong ones every one is.
///
/// With `action=not_me` the address's owner says that they did not sign up: an account that never
/// confirmed an address is deleted, one that did keeps the address that it has.
#[utoipa::path(
    post, path = "/api/v1/confirm", operation_id = "confirm_by_post", tag = "auth",
    params(("token" = inline(Option<String>), Query,
        description = "From the link in the mail; left out beside a code.")),
    request_body(content(
        (Option<ConfirmRequest> = "application/json"),
        (Option<ConfirmRequest> = "application/x-www-form-urlencoded"),
    )),
    responses(
        (status = 200, description = "Confirmed, or given up.",
            content((ConfirmResponse = "application/json"), (String = "text/html"))),
        (status = 303, content_type = "text/html", body = String, description = "A browser goes on to `CONFIRM_REDIRECT_URL`, where that is set, with \
            `confirmed=true` (`false` after `not_me`) or `error` and the code in its query."),
    ),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::LinkExpired, Code::EmailTaken,
        Code::EmailAlreadyVerified, Code::CodeInvalid, Code::RateLimited,
    ]))),
)]
pub async fn confirm(
    State(state): State<AppState>,
    client: ClientInfo,
    uri: Uri,
    headers: HeaderMap,
    body: Result<OptionalFormBody, ApiError>,
) -> Response {
    let is_link = link::is_one(&uri);
    let asked = body.and_then(|OptionalFormBody(body)| ConfirmRequest::parse(body, is_link));
    let seen = match asked {
        Ok(Asked::ConfirmByCode { challenge, code }) => {
            let confirming = code::confirm(&state, &challenge, &code, &client);
            return answer(confirming.await.and_then(|finding| finding.told()));
        }
        Ok(Asked::Disown) => account::disown(&state, &uri, &client).await,
        Ok(Asked::Confirm) => account::confirm(&state, &uri, &client).await,
        Err(error) => error.into(),
    };
    if request::shows_pages(&headers) { page::end(&state, &seen) } else { for_program(&seen) }
}

fn for_program(seen: &Seen) -> Response {
    answer(seen.finding.told())
}

fn answer(told: Result<ConfirmResponse, ApiError>) -> Response {
    vary_by_accept(told.map(Json).into_response())
}

impl Finding {
    /// What a program is told.
    fn told(&self) -> Result<ConfirmResponse, ApiError> {
        let done = |message, email_verified| {
            Ok(ConfirmResponse { success: true, message, email_verified })
        };
        let refused = |code: Code, message: &str| {
            Err(ApiError { message: Some(message.to_owned()), ..code.into() })
        };
        match self {
            // The first two only where nothing is done: HEAD has the head of what GET would get.
            Self::New | Self::Pending | Self::Confirmed => {
                done("The e-mail address is confirmed.", true)
            }
            Self::Deleted => done("The account is deleted.", false),
            Self::Dropped => done("The account does not get this e-mail address.", false),
            Self::NothingLeft => done("The account does not have this e-mail address.", false),
            Self::NotDisowned => refused(
                Code::EmailAlreadyVerified,
                "The e-mail address is verified already: nothing was changed.",
            ),
            Self::Taken => Err(Code::EmailTaken.into()),
            Self::MovedOn => refused(
                Code::LinkExpired,
                "The account has another e-mail address by now: ask for a new link.",
            ),
            Self::Gone => refused(Code::LinkExpired, "The account does not exist any more."),
            Self::Expired => Err(Code::LinkExpired.into()),
            Self::Trouble(error) => Err(error.clone()),
        }
    }
}
