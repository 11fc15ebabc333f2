//! The door: every request comes in and every answer goes out through here.
//!
//! It gives the request an id, writes the body of errors, adds the headers that every answer has, counts it, and logs one
//! line (at the level `debug` for a GET that went well): the route's pattern and never the URL, because links carry
//! tokens. Behind it stands the gate, which decides whether a request is let in at all and for how long.
//!
//! Both are tower services around the whole router, not axum middleware: that would box a clone of everything inside,
//! twice per request, which cost a tenth of the fastest answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::Response;
use tower::Service;
use tracing::field::display;
use uuid::Uuid;

use crate::context::{self, RequestContext, TraceContext};
use crate::http::client::{ConnectionInfo, client_address};
use crate::http::error::{ApiError, Code, ErrorBody};
use crate::http::request_span::RequestSpan;
use crate::http::small_frames::small_frames;
use crate::metrics::method_name;
use crate::state::AppState;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// An answer that is not a page may load and do nothing.
const DEFAULT_CSP: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

#[derive(Clone)]
pub struct Middleware<S> {
    state: AppState,
    inner: S,
}

impl<S> Middleware<S> {
    pub fn new(state: AppState, inner: S) -> Self {
        Self { state, inner }
    }
}

impl<S> Service<Request> for Middleware<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> ResponseFuture {
        let started = Instant::now();
        let state = self.state.clone();
        let request_id = request_id(&request);
        let method = request.method().clone();
        let method_name = method_name(&method);
        let route = state.metrics.find(request.uri().path());
        let has_body = !request.body().is_end_stream();
        let peer = request.extensions().get::<ConnectionInfo>();
        let must_close =
            peer.is_some_and(|peer| peer.is_ambiguous || peer.is_over_cap || peer.is_short_lived);
        let ip = client_address(request.headers(), peer, state.config.trusted_proxy_hops);
        let trace = trace_context(&request);
        let pattern = state.metrics.route(route).known_pattern();
        let span = RequestSpan::begin(method_name, pattern, trace);
        let trace_id =
            span.as_ref().map(RequestSpan::trace_id).or(trace.map(|trace| trace.trace_id));
        let context = RequestContext { request_id: Some(request_id.clone()), ip, trace_id };
        let answering = self.inner.call(request);
        Box::pin(async move {
            let in_flight = state.metrics.begin();
            let Ok(mut response) = context::scope(context, answering).await;
            let pattern = state.metrics.route(route).pattern();
            let mut code = None;
            if let Some(error) = response.extensions_mut().remove::<ApiError>() {
                code = Some(error.code.as_str());
                state.metrics.errors.add(error.code.as_str());
                if let Some(cause) = &error.cause {
                    // JSON does not escape DEL and the control characters from U+0080 on, and terminals obey them.
                    let cause = cause.replace(char::is_control, " ");
                    let code = error.code.as_str();
                    let trace_id = trace_id.map(display);
                    tracing::error!(%request_id, trace_id, method = method_name, route = pattern, code, cause, "request failed");
                }
                // A page has a body of its own.
                if !response.headers().contains_key(header::CONTENT_TYPE) {
                    response = with_body(response, &error, &request_id, &method);
                }
            }
            let took = started.elapsed();
            in_flight.answered(route, &method, response.status(), took);
            let (status, milliseconds) = (response.status().as_u16(), took.as_secs_f64() * 1e3);
            if method.is_safe() && status < 400 {
                tracing::debug!(%request_id, trace_id = trace_id.map(display), method = method_name, route = pattern, status, milliseconds, "request");
            } else {
                tracing::info!(%request_id, trace_id = trace_id.map(display), method = method_name, route = pattern, status, code, milliseconds, "request");
            }
            if let Some(span) = span {
                span.answered(status, code);
            }
            add_headers(&mut response, &request_id, state.config.is_https());
            // The server reads the rest of an unwanted body, and then goes on to the next request even if this answer
            // is not yet written, unless the answer has a body: a client that sends and never reads would fill the
            // memory.
            let is_unthrottled =
                has_body && (method == Method::HEAD || response.body().is_end_stream());
            if state.readiness.is_draining() || must_close || is_unthrottled {
                // The client comes back on another connection, perhaps to another instance.
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(small_frames))
        })
    }
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
        _ => Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned(),
    }
}

/// The caller's trace context, if there is exactly one valid `traceparent`.
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
    // RFC 9110, 9.3.2: HEAD has the head of GET's answer.
    let body = if method == Method::HEAD { Body::empty() } else { body.into() };
    Response::from_parts(parts, body)
}

fn add_headers(response: &mut Response, request_id: &str, is_https: bool) {
    let headers = response.headers_mut();
    headers.reserve(8);
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
