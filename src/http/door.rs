//! The door: every request comes in and every answer goes out through here.
//!
//! It gives the request an id, writes the body of errors, adds the headers that every answer has, counts it, and logs one
//! line (at the level `debug` for a GET that went well): the route's pattern and never the URL, because links carry
//! tokens. Behind it stands the gate, which decides whether a request is let in at all and for how long.
//!
//! Both are services of their own around the whole router, and no middleware of axum's: that would box a copy of all
//! that lies within for each request, twice, which cost a tenth of the fastest answer.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::{Service, ServiceExt};
use tracing::field::display;
use uuid::Uuid;

use crate::http::client::{Peer, client_address};
use crate::http::error::{ApiError, Code, ErrorBody};
use crate::state::AppState;
#[cfg(feature = "otlp")]
use crate::telemetry::otlp::RequestSpan;
use crate::telemetry::{self, Caller, TraceContext};
use crate::traffic::method_name;

/// How long a client may take to send the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a handler may take once the body is there, so that an answer comes within 10 seconds whatever hangs.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(9);

/// Longest path and query.
const MAX_URL_BYTES: usize = 8 * 1024;

/// What is answered on the connections beyond the cap: a full house is to be seen from outside.
const ANSWERED_IN_A_CROWD: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// An answer that is no page may load and do nothing at all.
const DEFAULT_CSP: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

type Answering = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

#[derive(Clone)]
pub struct Door<S> {
    state: AppState,
    inner: S,
}

impl<S> Door<S> {
    pub fn new(state: AppState, inner: S) -> Self {
        Self { state, inner }
    }
}

impl<S> Service<Request> for Door<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Answering {
        let started = Instant::now();
        let state = self.state.clone();
        let request_id = request_id(&request);
        let method = request.method().clone();
        let method_name = method_name(&method);
        let route = state.traffic.find(request.uri().path());
        let peer = request.extensions().get::<Peer>();
        let has_to_go = peer.is_some_and(|peer| peer.is_ambiguous || peer.is_crowded);
        let ip = client_address(request.headers(), peer, state.config.trusted_proxy_hops);
        let trace = trace_context(&request);
        let trace_id = trace.map(|trace| trace.trace_id);
        #[cfg(feature = "otlp")]
        let pattern = state.traffic.route(route).known_pattern();
        #[cfg(feature = "otlp")]
        let span = RequestSpan::begin(method_name, pattern, trace);
        #[cfg(feature = "otlp")]
        let trace_id = span.as_ref().map(RequestSpan::trace_id).or(trace_id);
        let caller = Caller { request_id: Some(request_id.clone()), ip, trace_id };
        let answering = telemetry::on_behalf_of(caller, self.inner.call(request));
        Box::pin(async move {
            let in_hand = state.traffic.begin();
            let Ok(mut response) = answering.await;
            let pattern = state.traffic.route(route).pattern();
            let mut code = None;
            if let Some(error) = response.extensions_mut().remove::<ApiError>() {
                code = Some(error.code.as_str());
                state.traffic.errors.add(error.code.as_str());
                if let Some(cause) = &error.cause {
                    // JSON leaves DEL and the control characters from U+0080 on as they are, and terminals obey them.
                    let cause = cause.replace(char::is_control, " ");
                    let code = error.code.as_str();
                    let trace_id = trace_id.map(display);
                    tracing::error!(%request_id, trace_id, method = method_name, route = pattern, code, cause, "request failed");
                }
                response = with_body(response, &error, &request_id, &method);
            }
            let took = started.elapsed();
            in_hand.answered(route, &method, response.status(), took);
            let (status, milliseconds) = (response.status().as_u16(), took.as_secs_f64() * 1e3);
            if method.is_safe() && status < 400 {
                tracing::debug!(%request_id, trace_id = trace_id.map(display), method = method_name, route = pattern, status, milliseconds, "request");
            } else {
                tracing::info!(%request_id, trace_id = trace_id.map(display), method = method_name, route = pattern, status, code, milliseconds, "request");
            }
            #[cfg(feature = "otlp")]
            if let Some(span) = span {
                span.answered(status, code);
            }
            add_headers(&mut response, &request_id, state.config.is_https());
            if state.readiness.is_draining() || has_to_go {
                // The client comes back on another connection, perhaps to another instance.
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

/// Refuses what is not to be let in, and ends what takes too long or panics. It stands inside of CORS, so that a
/// frontend may read these answers too.
#[derive(Clone)]
pub struct Gate {
    state: AppState,
    router: Router,
}

impl Gate {
    pub fn new(state: AppState, router: Router) -> Self {
        Self { state, router }
    }
}

impl Service<Request> for Gate {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Answering {
        if let Some(refusal) = refusal(&self.state, &request) {
            return Box::pin(std::future::ready(Ok(refusal.into_response())));
        }
        let (request, body) = noting_arrival(request);
        let answering = self.router.clone().oneshot(request);
        // Nothing is shared that a panic could leave half done: every lock here is taken as it was left.
        let answering = AssertUnwindSafe(answering).catch_unwind();
        Box::pin(async move {
            Ok(tokio::select! {
                biased;
                answered = answering => match answered {
                    Ok(Ok(response)) => response,
                    Err(panic) => panicked(panic.as_ref()).into_response(),
                },
                refusal = too_late(body) => refusal.into_response(),
            })
        })
    }
}

/// Ends with what to say when a request has taken too long. What a handler does before it wants the body, and once it has
/// it, is its own time; the body's way is the client's.
async fn too_late(body: Option<Arrival>) -> ApiError {
    let hanging = || ApiError { cause: Some("handler timed out".into()), ..Code::Busy.into() };
    if let Some(body) = body {
        if timeout(HANDLER_TIMEOUT, body.wanted).await.is_err() {
            return hanging();
        }
        if timeout(BODY_TIMEOUT, body.arrived).await.is_err() {
            return ApiError::malformed("The body did not arrive in time.");
        }
    }
    tokio::time::sleep(HANDLER_TIMEOUT).await;
    hanging()
}

/// A body that tells when somebody wants it, and by its end that it has been read or is not wanted any more.
struct Arriving {
    body: Body,
    wanted: Option<oneshot::Sender<Infallible>>,
    _until: oneshot::Sender<Infallible>,
}

/// What comes of a body: each ends when it has happened.
struct Arrival {
    wanted: oneshot::Receiver<Infallible>,
    arrived: oneshot::Receiver<Infallible>,
}

/// The request, and what comes of its body if it has one.
fn noting_arrival(request: Request) -> (Request, Option<Arrival>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let ((want, wanted), (until, arrived)) = (oneshot::channel(), oneshot::channel());
    let arriving = |body| Body::new(Arriving { body, wanted: Some(want), _until: until });
    (request.map(arriving), Some(Arrival { wanted, arrived }))
}

impl HttpBody for Arriving {
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
    let peer = request.extensions().get::<Peer>();
    if peer.is_some_and(|peer| peer.is_ambiguous) {
        return Some(ApiError::malformed("The request can be read in two ways."));
    }
    if peer.is_some_and(|peer| peer.is_crowded) && !ANSWERED_IN_A_CROWD.contains(&path) {
        return Some(Code::Busy.into());
    }
    if path.starts_with("/api/") && !state.readiness.has_started() {
        return Some(Code::DatabaseUnavailable.into());
    }
    let url = request.uri().path_and_query().map_or(0, |url| url.as_str().len());
    (url > MAX_URL_BYTES).then(|| ApiError::malformed("The URL is too long."))
}

/// The caller's own id if it is short and plain, else a new one.
fn request_id(request: &Request) -> String {
    let is_sane = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+/=:".contains(&b))
    };
    let mut given = request.headers().get_all(&REQUEST_ID).iter();
    match (given.next().and_then(|id| id.to_str().ok()).filter(is_sane), given.next()) {
        (Some(id), None) => id.to_owned(),
        _ => Uuid::now_v7().to_string(),
    }
}

/// Where the caller's own trace goes on, if it says so in one header that can be read.
fn trace_context(request: &Request) -> Option<TraceContext> {
    let mut given = request.headers().get_all(&TRACEPARENT).iter();
    let (first, second) = (given.next()?, given.next());
    TraceContext::parse(first.as_bytes()).filter(|_| second.is_none())
}

fn with_body(bare: Response, error: &ApiError, request_id: &str, method: &Method) -> Response {
    let body = ErrorBody {
        success: false,
        code: error.code.as_str(),
        message: error.message(),
        expired: error.code == Code::TokenExpired,
        limit: error.limit,
        errors: &error.errors,
        request_id,
    };
    let (mut parts, _) = bare.into_parts();
    let body = serde_json::to_vec(&body).expect("a struct of strings is JSON");
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    // RFC 9110, 9.3.2: the head of what GET would be answered.
    let body = if method == Method::HEAD { Body::empty() } else { body.into() };
    Response::from_parts(parts, body)
}

fn add_headers(response: &mut Response, request_id: &str, is_https: bool) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID.clone(), id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(DEFAULT_CSP));
    if is_https {
        let a_year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, a_year);
    }
}
