//! `POST /admin/bulk`: what an admin does to one user, done to many.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::act::Act;
use super::ban::{self, BanRequest};
use super::send::{self, LetterName};
use super::users;
use crate::account::client::ClientInfo;
use crate::account::session_ends;
use crate::context::{self, run_to_completion};
use crate::fields::{BanReason, FieldError, Instant, Role, RoleName};
use crate::http::error::{ApiError, Code, InvalidField};
use crate::http::input::Input;
use crate::http::ndjson::{self, Line, NdjsonBody};
use crate::http::session::{AdminUser, CurrentUser, Fresh};
use crate::state::AppState;

/// One line of the body.
#[derive(ToSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
#[expect(dead_code, reason = "read field by field")]
pub enum BulkLine {
    Ban { public_id: Uuid, reason: BanReason, until: Option<Instant> },
    Unban { public_id: Uuid },
    Role { public_id: Uuid, role: RoleName },
    EndSessions { public_id: Uuid },
    Send { public_id: Uuid, letter: LetterName },
    Delete { public_id: Uuid },
}

/// What became of a line.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkResult {
    /// From 1, empty ones included.
    line: usize,
    success: bool,
    /// Of what stood in the way: as the call for one user has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    code: Option<&'static str>,
    /// With `validation_failed` and with what is taken only.
    #[serde(skip_serializing_if = "<[InvalidField]>::is_empty")]
    #[schema(required = false)]
    errors: Vec<InvalidField>,
    /// Whom it is about, where that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    public_id: Option<Uuid>,
}

/// What is to be done to a user.
enum Op {
    Ban(BanRequest),
    Unban,
    Role(Role),
    EndSessions,
    Send(LetterName),
    Delete,
}

/// Does to many users what the calls for one do, a line each, at most 500.
///
/// Each line is a transaction of its own, one after the other, and is answered by a line as soon as
/// it is done: one that fails stands in the way of no other. Whether the caller still is an admin is
/// asked on each. Where the client hangs up, the line that is being done is done, and no later one.
#[utoipa::path(
    post, path = "/api/v1/admin/bulk", operation_id = "bulk", tag = "admin",
    security(("access_token" = []), ("bearer" = [])),
    request_body(content = BulkLine, content_type = "application/x-ndjson"),
    responses((status = 200, description = "What became of each line.",
        content((BulkResult = "application/x-ndjson")))),
    extensions(("x-codes" = json!([Code::StepUpRequired, Code::Forbidden]))),
)]
pub async fn bulk(
    Fresh(AdminUser(caller)): Fresh<AdminUser>,
    State(state): State<AppState>,
    client: ClientInfo,
    NdjsonBody(lines): NdjsonBody,
) -> Response {
    let (caller, request) = (Arc::new(caller), context::current());
    let results = stream::iter(lines).then(move |line| {
        let (state, caller, client) = (state.clone(), Arc::clone(&caller), client.clone());
        let work = run_to_completion(async move { answer(&state, &caller, &client, line).await });
        context::scope(request.clone(), work)
    });
    ndjson::stream(results.map(Ok::<_, Infallible>))
}

/// Does what a line asks for, and says what became of it.
async fn answer(
    state: &AppState,
    caller: &CurrentUser,
    client: &ClientInfo,
    Line { number, form }: Line,
) -> Bytes {
    let (public_id, op) = match form {
        Ok(form) => parse(form),
        Err(error) => (None, Err(error)),
    };
    let done = match op {
        Ok((id, op)) => apply(&Act::new(state, caller, client), id, op).await,
        Err(error) => Err(error),
    };
    let error = done.err();
    if let Some(ApiError { code, cause: Some(cause), .. }) = &error {
        let cause = cause.replace(char::is_control, " ");
        tracing::error!(code = code.as_str(), cause, "bulk: a line failed");
    }
    let result = BulkResult {
        line: number,
        success: error.is_none(),
        code: error.as_ref().map(|error| error.code.as_str()),
        errors: error.map(|error| error.errors).unwrap_or_default(),
        public_id,
    };
    let mut line = serde_json::to_vec(&result).expect("a struct of strings is JSON");
    line.push(b'\n');
    line.into()
}

/// Whom a line is about, as far as it says, and what it asks for.
fn parse(mut form: Input) -> (Option<Uuid>, Result<(Uuid, Op), ApiError>) {
    // Anything but a UUID is no user's, as in a path.
    let id = form.required("public_id", |raw| Ok(Uuid::try_parse(raw).ok()));
    let op = form.required("op", |raw| Ok(raw.to_owned()));
    let op = match op.as_deref() {
        None => None,
        Some("ban") => BanRequest::read(&mut form).map(Op::Ban),
        Some("unban") => Some(Op::Unban),
        Some("role") => form.required("role", RoleName::parse).map(|RoleName(role)| Op::Role(role)),
        Some("end_sessions") => Some(Op::EndSessions),
        Some("send") => form.required("letter", LetterName::parse).map(Op::Send),
        Some("delete") => Some(Op::Delete),
        Some(_) => {
            let message = "Use ban, unban, role, end_sessions, send or delete.";
            form.refuse("op", FieldError::new("invalid_choice", message));
            None
        }
    };
    let parsed = form.finish(|| Some((id?, op?)));
    let asked = parsed.and_then(|(id, op)| Ok((id.ok_or(Code::UserNotFound)?, op)));
    (id.flatten(), asked)
}

async fn apply(act: &Act<'_>, id: Uuid, op: Op) -> Result<(), ApiError> {
    match op {
        Op::Ban(terms) => ban::set(act, id, &terms).await.map(drop),
        Op::Unban => ban::lift(act, id).await.map(drop),
        Op::Role(role) => users::give_role(act, id, role).await.map(drop),
        Op::EndSessions => end_sessions(act, id).await,
        Op::Send(letter) => send::queue(act, id, letter).await.map(drop),
        Op::Delete => users::remove(act, id).await,
    }
}

async fn end_sessions(act: &Act<'_>, id: Uuid) -> Result<(), ApiError> {
    let (mut tx, _) = act.begin_on_present(id).await?;
    let actor = act.caller.actor(act.client);
    session_ends::end_all(act.state, &mut tx, actor, id, act.now).await?;
    act.state.commit(tx, id).await?;
    Ok(())
}
