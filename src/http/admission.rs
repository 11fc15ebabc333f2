//! The gate, behind the door: whether a request is let in at all, and for how long. It stands
//! inside of CORS, so that a frontend may read its answers too.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tower::Service;

use crate::http::client::ConnectionInfo;
use crate::http::error::{ApiError, Code};
use crate::state::AppState;

/// How long a client may take to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a handler may take, apart from the time to receive the body, so that an answer comes
/// within 10 seconds.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(9);

/// Largest head of a request: method, URL and fields, each with what parts them.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Longest path and query.
const MAX_URL_BYTES: usize = 8 * 1024;

/// Answered on the connections beyond the cap, too, so that monitoring sees a full service.
const ANSWERED_OVER_CAP: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Refuses what is not to be let in, and ends what takes too long or panics.
#[derive(Clone)]
pub struct Admission {
    state: AppState,
    router: Router,
}

impl Admission {
    pub fn new(state: AppState, router: Router) -> Self {
        Self { state, router }
    }
}

impl Service<Request> for Admission {
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        if let Some(refusal) = refusal(&self.state, &request) {
            return ResponseFuture::Refused(Some(refusal.into_response()));
        }
        let (request, signals) = track_body(request);
        // No shared state is left half changed by a panic: poisoned locks are taken as they are.
        let handling = AssertUnwindSafe(self.router.call(request)).catch_unwind();
        ResponseFuture::Open { handling, signals, too_late: None }
    }
}

/// A request on its way through the gate. Nothing is boxed for a handler that never has to wait,
/// and no timer set: two boxes a request less, and a timer for most (f81d389).
#[expect(clippy::large_enum_variant, reason = "nearly all are open, and none is kept for long")]
pub enum ResponseFuture {
    Refused(Option<Response>),
    Open {
        handling: CatchUnwind<AssertUnwindSafe<RouteFuture<Infallible>>>,
        signals: Option<BodySignals>,
        /// The timeout; made when the handler first waits.
        too_late: Option<Pin<Box<dyn Future<Output = ApiError> + Send>>>,
    },
}

impl Future for ResponseFuture {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (handling, signals, too_late) = match self.get_mut() {
            Self::Refused(refusal) => {
                return Poll::Ready(Ok(refusal.take().expect("polled after it was done")));
            }
            Self::Open { handling, signals, too_late } => (handling, signals, too_late),
        };
        match Pin::new(handling).poll(context) {
            Poll::Ready(Ok(response)) => return Poll::Ready(response),
            Poll::Ready(Err(panic)) => {
                return Poll::Ready(Ok(panicked(panic.as_ref()).into_response()));
            }
            Poll::Pending => {}
        }
        let too_late = too_late.get_or_insert_with(|| Box::pin(end(signals.take())));
        too_late.as_mut().poll(context).map(|refusal| Ok(refusal.into_response()))
    }
}

/// Resolves to the error once a request has taken too long. The time until the handler wants the
/// body, and once it has it, is its own; the time to receive the body is the client's.
async fn end(body: Option<BodySignals>) -> ApiError {
    let hanging = || ApiError { cause: Some("handler timed out".into()), ..Code::Busy.into() };
    let (began, mut left) = (Instant::now(), HANDLER_TIMEOUT);
    if let Some(body) = body {
        if timeout(left, body.wanted).await.is_err() {
            return hanging();
        }
        left = left.saturating_sub(began.elapsed());
        if timeout(BODY_TIMEOUT, body.arrived).await.is_err() {
            return ApiError::malformed("The body did not arrive in time.");
        }
    }
    tokio::time::sleep(left).await;
    hanging()
}

/// A body that tells when it is first read and, by being dropped, that it is no longer needed.
struct TrackedBody {
    body: Body,
    wanted: Option<oneshot::Sender<Infallible>>,
    _until: oneshot::Sender<Infallible>,
}

/// Each channel closes when its event has happened.
pub struct BodySignals {
    wanted: oneshot::Receiver<Infallible>,
    arrived: oneshot::Receiver<Infallible>,
}

/// The request, and the signals of its body if it has one.
fn track_body(request: Request) -> (Request, Option<BodySignals>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let ((want, wanted), (until, arrived)) = (oneshot::channel(), oneshot::channel());
    let tracked = |body| Body::new(TrackedBody { body, wanted: Some(want), _until: until });
    (request.map(tracked), Some(BodySignals { wanted, arrived }))
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.wanted = None;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> ApiError {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    ApiError::internal(message)
}

/// Why a request is not let in, if it is not.
fn refusal(state: &AppState, request: &Request) -> Option<ApiError> {
    let path = request.uri().path();
    let peer = request.extensions().get::<ConnectionInfo>();
    if peer.is_some_and(|peer| peer.is_ambiguous) {
        return Some(ApiError::malformed("The request can be read in two ways."));
    }
    if peer.is_some_and(|peer| peer.is_over_cap) && !ANSWERED_OVER_CAP.contains(&path) {
        return Some(Code::Busy.into());
    }
    if path.starts_with("/api/") && !state.readiness.has_started() {
        return Some(Code::DatabaseUnavailable.into());
    }
    let url = request.uri().path_and_query().map_or(0, |url| url.as_str().len());
    let fields =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    if url + fields.sum::<usize>() > MAX_HEAD_BYTES {
        return Some(Code::HeadersTooLarge.into());
    }
    (url > MAX_URL_BYTES).then(|| ApiError::malformed("The URL is too long."))
}
