//! What is left of a request's body once the request is answered.
//!
//! Many answers need none of it: an expired token, an unknown path. But hyper closes a connection
//! on which the rest of a body is still to come, and a client that sends the head first finds its
//! next request broken. So the rest is read and discarded before the answer goes out, unless it is
//! too long or too late: then the answer says that the connection closes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::http::body::MAX_BODY_BYTES;

/// How long the rest of an unwanted body may take.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// What is left of a body, or `None` where it broke off.
type Unread = Option<Incoming>;

/// A body that is handed back, unless read to its end.
struct TrackedBody {
    body: Option<Incoming>,
    is_broken: bool,
    back: Option<oneshot::Sender<Unread>>,
}

/// The request to hand on, and what comes back of its body.
pub fn track(request: Request<Incoming>) -> (Request<Body>, oneshot::Receiver<Unread>) {
    let (back, unread) = oneshot::channel();
    let track =
        |body| Body::new(TrackedBody { body: Some(body), is_broken: false, back: Some(back) });
    (request.map(track), unread)
}

/// The answer, after the rest of the body was read: not if the client waits for `100 Continue`.
pub async fn drain_before(
    answering: impl Future<Output = Result<Response<Body>, Infallible>>,
    mut unread: oneshot::Receiver<Unread>,
    may_wait: bool,
) -> Result<Response<Body>, Infallible> {
    let mut response = answering.await?;
    if let Ok(rest) = unread.try_recv()
        && !response.headers().contains_key(header::CONNECTION)
        && !(may_wait && is_drained(rest).await)
    {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn is_drained(rest: Unread) -> bool {
    let Some(rest) = rest else { return false };
    if rest.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return false;
    }
    let mut rest = Limited::new(rest, MAX_BODY_BYTES);
    let reading = async {
        loop {
            match rest.frame().await {
                None => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
            }
        }
    };
    timeout(READ_TIMEOUT, reading).await.unwrap_or(false)
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
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
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // No receiver is left where the connection is gone.
            let _ = back.send(Some(body).filter(|_| !self.is_broken));
        }
    }
}
