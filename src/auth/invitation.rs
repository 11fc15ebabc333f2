//! `/invitations`: the link in the letter, and the account that is made by it.
//!
//! A GET uses nothing up: mail scanners and previews follow links.

mod page;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::link;
use crate::account::client::ClientInfo;
use crate::account::invitations::{self, NewAccount, Refused};
use crate::fields::{Name, NewPassword, PasswordContext, Username};
use crate::http::answer::UserAnswer;
use crate::http::body::{OptionalFormBody, is_form};
use crate::http::error::{ApiError, Code};
use crate::http::html::{vary_by_accept, wants_page};
use crate::http::input::Input;
use crate::security::token::TokenError;
use crate::state::AppState;
use crate::store::invitations::Invitation;
use crate::store::users::User;

#[derive(Serialize, ToSchema)]
pub struct InvitationIsGood {
    success: bool,
    /// The account's.
    email: String,
    /// The account's, unless others are sent.
    first_name: String,
    last_name: String,
    /// Seconds for which the link goes on being good.
    expires_in: i64,
}

/// Any other field is ignored: the address and the role are the invitation's.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read field by field")]
pub struct AcceptRequest {
    /// From the link in the letter.
    token: String,
    username: Username,
    password: NewPassword,
    first_name: Option<Name>,
    last_name: Option<Name>,
}

/// Shows the page behind the link of an invitation, or what it is for.
#[utoipa::path(
    get, path = "/api/v1/invitations", operation_id = "show_invitation", tag = "auth",
    params(("token" = String, Query, description = "From the link in the letter.")),
    responses((status = 200, description = "The link is good.",
        content((InvitationIsGood = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::LinkExpired, Code::DatabaseUnavailable,
    ]))),
)]
pub async fn show(State(state): State<AppState>, uri: Uri, headers: HeaderMap) -> Response {
    let now = state.clock.now();
    let looking = async {
        let token = link::token(&uri)?;
        let found = invitations::by_link(&state, &token, now).await?;
        Ok((token, found))
    };
    let found: Result<(String, Invitation), ApiError> = looking.await;
    if wants_page(&headers) {
        return page::show(&state, found);
    }
    let told = found.map(|(_, invitation)| {
        Json(InvitationIsGood {
            success: true,
            expires_in: (invitation.expires_at - now).num_seconds(),
            email: invitation.email,
            first_name: invitation.first_name,
            last_name: invitation.last_name,
        })
    });
    vary_by_accept(told.into_response())
}

/// Makes the account that the letter invites to, with its address, verified, and its role.
///
/// It logs nobody in. A link that was used, is void or ran out is 410 `link_expired`; a name that
/// is taken or a password that will not do leaves it good.
#[utoipa::path(
    post, path = "/api/v1/invitations/accept", operation_id = "accept_invitation", tag = "auth",
    request_body(content(
        (AcceptRequest = "application/json"),
        (AcceptRequest = "application/x-www-form-urlencoded"),
    )),
    responses((status = 201, description = "The account is made.",
        content((UserAnswer = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::LinkInvalid, Code::LinkExpired, Code::Forbidden, Code::UsernameTaken,
        Code::EmailTaken, Code::RateLimited,
    ]))),
)]
pub async fn accept(
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
    let accepting = async {
        let OptionalFormBody(mut form) = body?;
        let token = form.required("token", |raw| Ok(raw.to_owned()));
        let (token, form) = form.checked(token)?;
        let invitation = invitations::by_link(&state, &token, state.clock.now()).await?;
        typed = Some(page::Typed::read(token, &form, &invitation));
        let new = parse(form, state.config.min_password_length, &invitation)?;
        Ok(invitations::accept(&state, &invitation, new, &client).await?)
    };
    let outcome: Result<User, ApiError> = accepting.await;
    if is_page {
        return page::end(&state, outcome, typed.as_ref());
    }
    let made = outcome.map(|user| (StatusCode::CREATED, Json(UserAnswer::new(user))));
    vary_by_accept(made.into_response())
}

fn parse(
    mut form: Input,
    min_password_chars: usize,
    invitation: &Invitation,
) -> Result<NewAccount, ApiError> {
    let username = form.required("username", Username::parse);
    let name = |typed: Option<Name>, invited: &str| {
        typed.or_else(|| Name::parse(invited).ok()).unwrap_or_default()
    };
    let first_name = name(form.optional("first_name", Name::parse), &invitation.first_name);
    let last_name = name(form.optional("last_name", Name::parse), &invitation.last_name);
    let context = PasswordContext {
        username: username.as_ref().map_or("", Username::as_str),
        email: &invitation.email,
        first_name: first_name.as_str(),
        last_name: last_name.as_str(),
    };
    let password =
        form.required("password", |raw| NewPassword::parse(raw, min_password_chars, &context));
    form.finish(|| {
        let (username, password) = (username?, password?.into());
        Some(NewAccount { username, password, first_name, last_name })
    })
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Link(TokenError::Expired) => Code::LinkExpired.into(),
            Refused::Link(TokenError::Invalid) => Code::LinkInvalid.into(),
            Refused::Account(error) => error.into(),
        }
    }
}
