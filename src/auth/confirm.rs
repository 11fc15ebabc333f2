//! `/confirm`: the link in the mail.
//!
//! Mail scanners follow links, so a browser's GET shows a page whose button POSTs; a client that
//! asks for no page confirms by the GET itself. Neither logs anyone in.

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use crate::account::client::ClientInfo;
use crate::http::body::QueryString;
use crate::http::error::{ApiError, Code};
use crate::http::html::{self, wants_page};
use crate::http::input::Input;
use crate::security::token::{LinkClaims, LinkPurpose, TokenError};
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::users::{self, User};

#[derive(Serialize, ToSchema)]
pub struct ConfirmResponse {
    success: bool,
    message: &'static str,
    email_verified: bool,
}

#[derive(Template)]
#[template(path = "auth/confirm.html", config = ".askama.toml")]
struct ConfirmPage<'a> {
    style: &'a str,
    title: &'a str,
    message: &'a str,
    /// The address to be confirmed, where there is still something to confirm.
    email: Option<&'a str>,
}

/// Shows a browser the page with the button; confirms for any other client. HEAD changes nothing.
#[utoipa::path(
    get, path = "/api/v1/confirm", operation_id = "confirm", tag = "auth",
    params(("token" = String, Query, description = "From the link in the mail.")),
    responses((status = 200, description = "Confirmed; or, for `accept: text/html`, a page with a button.",
        content((ConfirmResponse = "application/json"), (String = "text/html")))),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::LinkExpired, Code::EmailTaken,
    ]))),
)]
pub async fn show(
    State(state): State<AppState>,
    client: ClientInfo,
    method: Method,
    headers: HeaderMap,
    QueryString(query): QueryString,
) -> Response {
    let is_page = wants_page(&headers);
    if !is_page && method != Method::HEAD {
        return confirm(State(state), client, headers, QueryString(query)).await;
    }
    match claims(&state, query) {
        Ok(_) if !is_page => StatusCode::OK.into_response(),
        Ok(claims) => answer(
            &state,
            StatusCode::OK,
            &ConfirmPage {
                style: html::STYLE,
                title: "Confirm your e-mail address",
                message: "Is this your address? Press the button to confirm it.",
                email: Some(&claims.email),
            },
        ),
        Err(error) if !is_page => error.into_response(),
        Err(error) => refusal_page(&state, error),
    }
}

/// Confirms the address. Repeating it is the same success.
#[utoipa::path(
    post, path = "/api/v1/confirm", operation_id = "confirm_by_post", tag = "auth",
    params(("token" = String, Query, description = "From the link in the mail.")),
    responses(
        (status = 200, description = "Confirmed.",
            content((ConfirmResponse = "application/json"), (String = "text/html"))),
        (status = 303,
            description = "Confirmed; a browser goes on to `CONFIRM_REDIRECT_URL`, where that is set."),
    ),
    extensions(("x-codes" = json!([
        Code::MalformedRequest, Code::LinkInvalid, Code::LinkExpired, Code::EmailTaken,
    ]))),
)]
pub async fn confirm(
    State(state): State<AppState>,
    client: ClientInfo,
    headers: HeaderMap,
    QueryString(query): QueryString,
) -> Response {
    let outcome = match claims(&state, query) {
        Ok(claims) => set_verified(&state, &claims, &client).await,
        Err(error) => Err(error),
    };
    match (outcome, wants_page(&headers)) {
        (Ok(()), true) => {
            if let Some(url) = &state.config.confirm_redirect_url {
                (StatusCode::SEE_OTHER, [(header::LOCATION, url.as_str())]).into_response()
            } else {
                let message = "Thank you. You can close this page now.";
                let page = ConfirmPage {
                    style: html::STYLE,
                    title: "E-mail address confirmed",
                    message,
                    email: None,
                };
                answer(&state, StatusCode::OK, &page)
            }
        }
        (Ok(()), false) => {
            let message = "The e-mail address is confirmed.";
            Json(ConfirmResponse { success: true, message, email_verified: true }).into_response()
        }
        (Err(error), true) => refusal_page(&state, error),
        (Err(error), false) => error.into_response(),
    }
}

fn claims(state: &AppState, mut query: Input) -> Result<LinkClaims, ApiError> {
    let token = query.optional("token", |token| Ok(token.to_owned())).ok_or(Code::LinkInvalid)?;
    let claims = state.keys.open_link(&token, state.clock.now()).map_err(|error| match error {
        TokenError::Expired => Code::LinkExpired,
        TokenError::Invalid => Code::LinkInvalid,
    })?;
    match claims.purpose {
        LinkPurpose::ConfirmEmail => Ok(claims),
    }
}

/// Marks the address that the link is bound to as verified, if it still is the user's.
async fn set_verified(
    state: &AppState,
    claims: &LinkClaims,
    client: &ClientInfo,
) -> Result<(), ApiError> {
    let now = state.clock.now();
    // First without a lock: a link that is followed again once it has done its work makes no other
    // call wait.
    let found = state.db.read(|db| Box::pin(users::find(db, claims.sub))).await?;
    let user = found.ok_or(Code::LinkExpired)?;
    let is_done = |user: &User| {
        let is_own = user.email.eq_ignore_ascii_case(&claims.email);
        user.is_email_verified() && is_own && user.pending_email.is_none()
    };
    if is_done(&user) {
        return Ok(());
    }
    let mut tx = state.db.begin_for(claims.sub).await?;
    let mut user = users::find_for_update(&mut tx, claims.sub).await?.ok_or(Code::LinkExpired)?;
    let is = |address: &str| address.eq_ignore_ascii_case(&claims.email);
    let kind = match &user {
        User { pending_email: Some(pending), .. } if is(pending) => {
            user.email = user.pending_email.take().unwrap_or_default();
            EventKind::EmailChanged
        }
        User { email, email_verified_at: Some(_), .. } if is(email) => return Ok(()),
        User { email, email_verified_at: None, .. } if is(email) => EventKind::EmailVerified,
        // The account has another address by now: this link speaks of one that it no longer has.
        _ => return Err(Code::LinkExpired.into()),
    };
    user.email_verified_at = Some(now);
    user.modified_at = now;
    users::update_profile(&mut tx, &user, None).await?;
    let event = Event::new(kind).by_oneself(user.id).from(client.ip);
    state.record(&mut tx, event, now).await?;
    state.commit(tx, user.id).await?;
    Ok(())
}

fn refusal_page(state: &AppState, error: ApiError) -> Response {
    let page = ConfirmPage {
        style: html::STYLE,
        title: "This did not work",
        message: error.message(),
        email: None,
    };
    let mut response = answer(state, error.code.status(), &page);
    // The headers that another client would get, and the error itself, for the log.
    let (bare, _) = error.into_response().into_parts();
    response.headers_mut().extend(bare.headers);
    response.extensions_mut().extend(bare.extensions);
    response
}

fn answer(state: &AppState, status: StatusCode, page: &ConfirmPage<'_>) -> Response {
    // Browsers hold form-action against each redirect that follows the form as well, and the
    // frontend may redirect to another origin. So wide a policy rests on the page's escaping; only
    // the page with the form has it.
    let redirect = state.config.confirm_redirect_url.as_ref().filter(|_| page.email.is_some());
    let policy = match redirect.map(Url::scheme) {
        None => "form-action 'self'",
        Some("https") => "form-action 'self' https:",
        Some(_) => "form-action 'self' https: http:",
    };
    let mut response = html::answer(status, page, policy);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}
