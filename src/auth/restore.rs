//! `/restore`: the deletion of an account, taken back.
//!
//! By the link in the letter that tells of the deletion, or by the token that a login gets. A GET
//! uses nothing up: mail scanners and previews follow links.

mod page;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::link;
use crate::account::client::ClientInfo;
use crate::account::deletion::{self, Refused};
use crate::clock;
use crate::http::answer::Message;
use crate::http::body::{OptionalFormBody, is_form};
use crate::http::error::{ApiError, Code};
use crate::http::html::{vary_by_accept, wants_page};
use crate::http::input::Input;
use crate::security::token::TokenError;
use crate::state::AppState;
use crate::store::challenges::Open;

#[derive(ToSchema)]
pub struct RestoreRequest {
    /// From the answer of a login, or from the link in the letter.
    restore_token: String,
}

#[derive(Serialize, ToSchema)]
pub struct RestoreIsOpen {
    success: bool,
    /// Until then the deletion can be taken back.
    #[serde(serialize_with = "clock::rfc3339")]
    restore_until: DateTime<Utc>,
}

impl RestoreRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        let restore_token = form.required("restore_token", |raw| Ok(raw.to_owned()));
        form.finish(|| Some(Self { restore_token: restore_token? }))
    }
}

/// Shows the page behind the link of a letter, or whether the link is good.
#[utoipa::path(
    get, path = "/api/v1/restore", operation_id = "show_restore", tag = "auth",
    params(("token" = String, Query, description = "From the link in the letter.")),
    responses((status = 200, description = "The link is good.",
        content((RestoreIsOpen = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::LinkExpired, Code::DatabaseUnavailable,
    ]))),
)]
pub async fn show(State(state): State<AppState>, uri: Uri, headers: HeaderMap) -> Response {
    let looking = async {
        let token = link::token(&uri)?;
        let open = deletion::find(&state, &token, state.clock.now()).await.map_err(of_link)?;
        Ok((token, open))
    };
    let found: Result<(String, Open), ApiError> = looking.await;
    if wants_page(&headers) {
        return page::show(&state, found);
    }
    let told = found
        .map(|(_, open)| Json(RestoreIsOpen { success: true, restore_until: open.expires_at }));
    vary_by_accept(told.into_response())
}

/// Takes the deletion of an account back: all is there again but its sessions.
///
/// It logs nobody in. Each deletion has its own handle, which is good once; not while the account is
/// banned, or is to be let in by a new password alone.
#[utoipa::path(
    post, path = "/api/v1/restore", operation_id = "restore", tag = "auth",
    request_body(content(
        (RestoreRequest = "application/json"),
        (RestoreRequest = "application/x-www-form-urlencoded"),
    )),
    responses((status = 200, description = "The account is restored.",
        content((Message = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::Forbidden, Code::Banned, Code::ResetRequired, Code::ChallengeExpired,
    ]))),
)]
pub async fn restore(
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
    body: Result<OptionalFormBody, ApiError>,
) -> Response {
    let restoring = async {
        link::check_form(&state.config, &headers)?;
        let OptionalFormBody(form) = body?;
        let RestoreRequest { restore_token } = RestoreRequest::parse(form)?;
        Ok(deletion::restore(&state, &restore_token, &client).await?)
    };
    let outcome: Result<(), ApiError> = restoring.await;
    if is_form(&headers) {
        return page::end(&state, outcome);
    }
    let done = Message::new("The account is restored. Log in: its sessions have ended.");
    vary_by_accept(outcome.map(|()| Json(done)).into_response())
}

/// The error of a link that is opened.
fn of_link(refused: Refused) -> ApiError {
    match refused {
        Refused::Handle(TokenError::Expired) => Code::LinkExpired.into(),
        Refused::Handle(TokenError::Invalid) => Code::LinkInvalid.into(),
        Refused::Account(error) => error.into(),
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Handle(_) => Code::ChallengeExpired.into(),
            Refused::Account(error) => error.into(),
        }
    }
}
