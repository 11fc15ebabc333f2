//! `/not_me`: the link "this was not me" of letters that tell of a change.
//!
//! A GET shows a page with a button and changes nothing: mail scanners and previews follow links.

mod page;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use utoipa::ToSchema;

use super::link;
use crate::account::client::ClientInfo;
use crate::account::not_me;
use crate::account::recovery::Refused;
use crate::http::answer::Message;
use crate::http::body::{OptionalFormBody, is_form};
use crate::http::error::{ApiError, Code};
use crate::http::html::{vary_by_accept, wants_page};
use crate::http::input::Input;
use crate::state::AppState;
use crate::store::not_me::Notice;

#[derive(ToSchema)]
pub struct NotMeRequest {
    /// From the link in the letter.
    token: String,
}

impl NotMeRequest {
    fn parse(mut form: Input) -> Result<Self, ApiError> {
        let token = form.required("token", |raw| Ok(raw.to_owned()));
        form.finish(|| Some(Self { token: token? }))
    }
}

/// Shows the page behind the link "this was not me" of a letter, to browsers alone.
#[utoipa::path(
    get, path = "/api/v1/not_me", operation_id = "show_not_me", tag = "auth",
    params(("token" = String, Query, description = "From the link in the letter.")),
    responses((status = 200, description = "A page with one button.",
        content((String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::MethodNotAllowed, Code::LinkExpired,
    ]))),
)]
pub async fn show(State(state): State<AppState>, uri: Uri, headers: HeaderMap) -> Response {
    if !wants_page(&headers) {
        let mut response = ApiError::from(Code::MethodNotAllowed).into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return vary_by_accept(response);
    }
    let looking = async {
        let token = link::token(&uri)?;
        let notice = not_me::find(&state, &token, state.clock.now()).await.map_err(refused)?;
        Ok((token, notice))
    };
    let found: Result<(String, Notice), ApiError> = looking.await;
    page::show(&state, found)
}

/// Takes back what a letter tells of, for its reader, who did not do that.
///
/// Every session ends, the account gets the address back that the letter went to, one that waits to
/// be confirmed is dropped, and a letter to set a new password is sent: until that is done the
/// present one is 403 `reset_required`. A link is good for 7 days, also once the account has another
/// address. Used again it is the same success, and changes nothing.
#[utoipa::path(
    post, path = "/api/v1/not_me", operation_id = "not_me", tag = "auth",
    request_body(content(
        (NotMeRequest = "application/json"),
        (NotMeRequest = "application/x-www-form-urlencoded"),
    )),
    responses((status = 200, description = "It is taken back.",
        content((Message = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([Code::LinkInvalid, Code::LinkExpired, Code::Forbidden]))),
)]
pub async fn not_me(
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
    body: Result<OptionalFormBody, ApiError>,
) -> Response {
    let is_page = is_form(&headers);
    if let Err(error) = link::check_form(&state.config, &headers) {
        return page::end(&state, Err(error));
    }
    let taking_back = async {
        let OptionalFormBody(form) = body?;
        let NotMeRequest { token } = NotMeRequest::parse(form)?;
        not_me::take_back(&state, &token, &client).await.map_err(refused)
    };
    let outcome: Result<(), ApiError> = taking_back.await;
    if is_page {
        return page::end(&state, outcome);
    }
    let done = "Every session has ended, and a letter to set a new password is on its way.";
    vary_by_accept(outcome.map(|()| Json(Message::new(done))).into_response())
}

/// There is no new link to ask for: what else helps is said in its place.
fn refused(refused: Refused) -> ApiError {
    let error = ApiError::from(refused);
    let message = (error.code == Code::LinkExpired).then(|| {
        "This link is no longer valid. Is somebody else in your account? Ask for a new password: \
         that ends every session."
            .to_owned()
    });
    ApiError { message, ..error }
}
