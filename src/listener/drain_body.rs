//! A request's body on its way, and what is left of it once the request is answered.
//!
//! Many answers need none of it: an expired token, an unknown path. They go out at once. The rest is
//! read and discarded meanwhile, so that the connection can go on, unless it is too long or too
//! late: then the connection is closed, in stages (`stream.rs`).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::place::Place;
use crate::http::middleware::KEEP_ALIVE;

/// What is read of an unwanted body for the connection to go on, and how long it may take.
pub const MAX_DRAINED_BYTES: usize = 64 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What is left of a body, or `None` where it broke off.
type Unread = Option<Incoming>;

/// A body that is handed back, unless read to its end.
struct TrackedBody {
    body: Option<Incoming>,
    is_broken: bool,
    back: Option<oneshot::Sender<Unread>>,
    place: Arc<Place>,
}

/// The request to hand on, and what comes back of its body.
pub fn track(
    request: Request<Incoming>,
    place: Arc<Place>,
) -> (Request<Body>, oneshot::Receiver<Unread>) {
    let (back, unread) = oneshot::channel();
    let track = |body| {
        Body::new(TrackedBody { body: Some(body), is_broken: false, back: Some(back), place })
    };
    (request.map(track), unread)
}

/// The answer. It closes the connection where the rest of the body cannot be told from the next
/// request, or is not worth the wait.
pub async fn answer_first(
    answering: impl Future<Output = Result<Response<Body>, Infallible>>,
    mut unread: oneshot::Receiver<Unread>,
    expects_continue: bool,
    place: Arc<Place>,
) -> Result<Response<Body>, Infallible> {
    let mut response = answering.await?;
    let Ok(rest) = unread.try_recv() else { return Ok(response) };
    match rest {
        Some(rest)
            // RFC 9110, 10.1.1: who was not told to continue may leave the body out.
            if !expects_continue
                && rest.size_hint().lower() <= MAX_DRAINED_BYTES as u64
                && !response.headers().contains_key(header::CONNECTION) =>
        {
            tokio::spawn(drain(rest, place));
        }
        _ => {
            place.linger();
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            response.headers_mut().remove(&KEEP_ALIVE);
        }
    }
    Ok(response)
}

/// Reads the rest. The server closes the connection once it is dropped before its end.
async fn drain(rest: Incoming, place: Arc<Place>) {
    let mut rest = Limited::new(rest, MAX_DRAINED_BYTES);
    let reading = async {
        while let Some(frame) = rest.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    if !timeout(DRAIN_TIMEOUT, reading).await.unwrap_or(false) {
        place.linger();
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
            self.place.wait(Instant::now());
            return Poll::Pending;
        };
        // Until all of it is there the connection waits for its client, drop by drop.
        if !matches!(&frame, Some(Ok(_))) && !self.place.work() {
            return Poll::Pending;
        }
        match &frame {
            None => self.body = None,
            Some(Ok(_)) => {}
            Some(Err(_)) => self.is_broken = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        // Where it is being closed the next thing to happen is that all of it is dropped.
        self.place.work();
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // No receiver is left where the connection is gone.
            let _ = back.send(Some(body).filter(|_| !self.is_broken));
        }
    }
}
