//! `/password/reset`: the link in the letter, or its code.
//!
//! A GET shows whether the link is good and uses nothing up: mail scanners and previews follow
//! links.

mod page;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::link;
use crate::account::client::ClientInfo;
use crate::account::recovery::{self, Proven, Refused};
use crate::fields::{FieldError, NewPassword, PasswordContext};
use crate::http::answer::Message;
use crate::http::body::{OptionalFormBody, is_form};
use crate::http::error::{ApiError, Code};
use crate::http::html::{vary_by_accept, wants_page};
use crate::http::input::Input;
use crate::security::token::TokenError;
use crate::state::AppState;

/// By the link of a letter, or by its code.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "read field by field")]
pub enum ResetRequest {
    ByLink {
        /// From the link in the letter.
        token: String,
        new_password: NewPassword,
    },
    ByCode {
        /// From the answer of `/password/forgot`.
        challenge: String,
        /// The eight digits in the letter, however they are grouped.
        code: String,
        new_password: NewPassword,
    },
}

#[derive(Serialize, ToSchema)]
pub struct LinkIsGood {
    success: bool,
    /// Seconds for which the link goes on being good.
    expires_in: i64,
}

/// What proves that the caller reads the address's letters.
enum Proof {
    Link(String),
    Code { challenge: String, code: String },
}

/// Shows the page behind the link of a letter, or whether the link is good.
#[utoipa::path(
    get, path = "/api/v1/password/reset", operation_id = "show_password_reset", tag = "auth",
    params(("token" = String, Query, description = "From the link in the letter.")),
    responses((status = 200, description = "The link is good.",
        content((LinkIsGood = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::LinkExpired, Code::DatabaseUnavailable,
    ]))),
)]
pub async fn show(State(state): State<AppState>, uri: Uri, headers: HeaderMap) -> Response {
    let now = state.clock.now();
    let looking = async {
        let token = link::token(&uri)?;
        let proven = recovery::by_link(&state, &token, now).await?;
        Ok((token, proven))
    };
    let found: Result<(String, Proven), ApiError> = looking.await;
    if wants_page(&headers) {
        return page::show(&state, found);
    }
    let told = found.map(|(_, proven)| {
        let expires_in = (proven.challenge.expires_at - now).num_seconds();
        Json(LinkIsGood { success: true, expires_in })
    });
    vary_by_accept(told.into_response())
}

/// Sets a new password by the link or the code of a letter, and ends every session.
///
/// It logs nobody in. The address counts as verified from then on, and every other letter of the
/// kind is void. A link that was used, or is void, is 410 `link_expired`; a code that is wrong,
/// used, void or out of time is 400 `code_invalid`, and after five wrong ones every one is.
#[utoipa::path(
    post, path = "/api/v1/password/reset", operation_id = "reset_password", tag = "auth",
    request_body(content(
        (ResetRequest = "application/json"),
        (ResetRequest = "application/x-www-form-urlencoded"),
    )),
    responses((status = 200, description = "The password is set.",
        content((Message = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::LinkInvalid, Code::LinkExpired, Code::CodeInvalid, Code::Forbidden, Code::RateLimited,
    ]))),
)]
pub async fn reset(
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
    body: Result<OptionalFormBody, ApiError>,
) -> Response {
    let is_page = is_form(&headers);
    if let Err(error) = link::check_form(&state.config, &headers) {
        return page::end(&state, Err(error), None);
    }
    let mut typed = None;
    let resetting = async {
        let OptionalFormBody(mut form) = body?;
        let username = form.optional("username", |raw| Ok(raw.to_owned())).unwrap_or_default();
        let (proof, form) = Proof::parse(form)?;
        if let Proof::Link(token) = &proof {
            typed = Some(page::Typed { token: token.clone(), username });
        }
        set(&state, proof, form, &client).await
    };
    let outcome = resetting.await;
    if is_page {
        return page::end(&state, outcome, typed.as_ref());
    }
    let done = Message::new("The password is set. Log in with it: every session has ended.");
    vary_by_accept(outcome.map(|()| Json(done)).into_response())
}

async fn set(
    state: &AppState,
    proof: Proof,
    form: Input,
    client: &ClientInfo,
) -> Result<(), ApiError> {
    let now = state.clock.now();
    let proven = match proof {
        Proof::Link(token) => recovery::by_link(state, &token, now).await?,
        Proof::Code { challenge, code } => recovery::by_code(state, &challenge, &code, now).await?,
    };
    match new_password(form, state.config.min_password_length, &proven) {
        Ok(new) => Ok(recovery::reset(state, proven, new.into(), client).await?),
        Err(error) => {
            proven.give_back(state).await?;
            Err(error)
        }
    }
}

impl Proof {
    /// What is left of the form holds the password, which is looked at afterwards.
    fn parse(mut form: Input) -> Result<(Self, Input), ApiError> {
        let text = |raw: &str| Ok(raw.to_owned());
        let token = form.optional("token", text);
        let challenge = form.optional("challenge", text);
        let code = form.optional("code", text);
        let proof = match (token, challenge, code) {
            (Some(token), None, None) => Some(Self::Link(token)),
            (None, Some(challenge), Some(code)) => Some(Self::Code { challenge, code }),
            (Some(_), ..) => {
                let message = "Send the token, or challenge and code.";
                form.refuse("token", FieldError::new("not_allowed", message));
                None
            }
            (None, challenge, code) => {
                let message = "Send the token, or challenge and code.";
                let missing = match (challenge, code) {
                    (Some(_), _) => "code",
                    (None, Some(_)) => "challenge",
                    (None, None) => "token",
                };
                form.refuse(missing, FieldError::new("required", message));
                None
            }
        };
        form.checked(proof)
    }
}

fn new_password(
    mut form: Input,
    min_password_chars: usize,
    proven: &Proven,
) -> Result<NewPassword, ApiError> {
    let user = &proven.challenge.user;
    let context = PasswordContext {
        username: &user.username,
        email: &user.email,
        first_name: &user.first_name,
        last_name: &user.last_name,
    };
    let parse = |raw: &str| NewPassword::parse(raw, min_password_chars, &context);
    let new = form.required("new_password", parse);
    form.finish(|| new)
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Link(TokenError::Expired) => Code::LinkExpired.into(),
            Refused::Link(TokenError::Invalid) => Code::LinkInvalid.into(),
            Refused::Code => Code::CodeInvalid.into(),
            Refused::Account(error) => error.into(),
        }
    }
}
