//! A list as a stream: one JSON object a line.

use axum::BoxError;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::stream;
use serde::Serialize;

use crate::http::html::accepts_by_name;
use crate::http::ndjson;
use crate::http::session::StaffUser;
use crate::state::AppState;

/// Whether the client wants all of a list, one JSON object a line.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    accepts_by_name(headers, ndjson::MEDIA_TYPE)
}

/// Every row of a list. `read` gives a batch, and what the next one is asked for by if there is
/// one. Each batch is a query of its own, so that a slow reader holds neither memory nor a
/// connection; before each it is checked that the caller still may read it.
pub(super) fn lines<R, T, F>(
    state: AppState,
    caller: StaffUser,
    request: R,
    read: impl Fn(AppState, R) -> F + Send + 'static,
) -> Response
where
    R: Send + 'static,
    T: Serialize,
    F: Future<Output = sqlx::Result<(Vec<T>, Option<R>)>> + Send,
{
    let start = Some((state, caller, request, read));
    let batches = stream::try_unfold(start, async |position| {
        let Some((state, caller, request, read)) = position else { return Ok(None) };
        if !caller.is_still_staff(&state).await? {
            return Err(BoxError::from("the reader is neither staff nor an admin any more"));
        }
        let (batch, next) = read(state.clone(), request).await?;
        let mut lines = Vec::new();
        for row in batch {
            serde_json::to_writer(&mut lines, &row)?;
            lines.push(b'\n');
        }
        Ok(Some((Bytes::from(lines), next.map(|next| (state, caller, next, read)))))
    });
    ndjson::stream(batches)
}
