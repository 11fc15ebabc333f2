//! The door: every request comes in and every answer goes out through here.
//!
//! It gives the request an id, writes the body of errors, adds the headers that every answer has,
//! counts it, and logs one line (at the level `debug` for a GET that went well): the route's
//! pattern and never the URL, because links carry tokens. Behind it stands the gate, which decides
//! whether a request is let in at all and for how long.
//!
//! Both are tower services around the whole router, not axum middleware: that would box a clone of
//! everything inside, twice per request, which cost a tenth of the fastest answer.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::response::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret;
use tower::Service;
use tracing::field::display;
use uuid::Uuid;

use crate::context::{self, RequestContext, TraceContext, TraceId};
use crate::http::client::{ConnectionInfo, client_address, user_agent};
use crate::http::cors::RefusedOrigins;
use crate::http::error::{ApiError, Code, ErrorBody};
use crate::http::html::{self, vary_by_accept};
use crate::http::request_span::RequestSpan;
use crate::http::small_frames::small_frames;
use crate::http::static_file;
use crate::metrics::{RouteId, method_name};
use crate::state::AppState;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// An answer that is not a page may load and do nothing.
const DEFAULT_CSP: &str =
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

#[derive(Clone)]
pub struct Middleware<S> {
    state: AppState,
    refused_origins: Arc<RefusedOrigins>,
    inner: S,
    /// How long a connection is kept for its next request.
    keep_alive: HeaderValue,
}

impl<S> Middleware<S> {
    pub fn new(state: AppState, inner: S) -> Self {
        // A second less than it is, for what is on its way.
        let seconds = state.config.keep_alive.as_secs().saturating_sub(1).max(1);
        // Static: a shared value is counted at each answer, in memory that all threads write.
        let keep_alive = HeaderValue::from_static(format!("timeout={seconds}").leak());
        Self { state, refused_origins: Arc::default(), inner, keep_alive }
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
        let (exchange, ip, trace) = Exchange::begin(&self.state, &request);
        if let Some(origin) = request.headers().get(header::ORIGIN)
            && !static_file::is_for_every_origin(request.uri().path())
        {
            self.refused_origins.note(&self.state, origin, request.headers());
        }
        let state = self.state.clone();
        let pattern = state.metrics.route(exchange.route).known_pattern();
        let span = RequestSpan::begin(exchange.method_name, pattern, trace);
        let trace_id = span.as_ref().map(RequestSpan::trace_id);
        let trace_id = trace_id.or(trace.map(|trace| trace.trace_id));
        let request_id = Some(exchange.request_id.clone());
        let user_agent = user_agent(request.headers());
        let context = RequestContext { request_id, ip, user_agent, trace_id };
        let keep_alive = self.keep_alive.clone();
        let answering = self.inner.call(request);
        Box::pin(async move {
            let in_flight = state.metrics.begin();
            let Ok(mut response) = context::scope(context, answering).await;
            let error = response.extensions_mut().remove::<ApiError>();
            if let Some(error) = &error {
                response = exchange.explain(&state, response, error, trace_id);
            }
            let took = exchange.started.elapsed();
            in_flight.answered(exchange.route, &exchange.method, response.status(), took);
            let code = error.map(|error| error.code.as_str());
            exchange.log(&state, response.status(), code, took, trace_id);
            if let Some(span) = span {
                span.answered(response.status().as_u16(), code);
            }
            add_headers(&mut response, &exchange.request_id, state.config.is_https());
            exchange.end_or_keep(&state, &mut response, keep_alive);
            Ok(response.map(small_frames))
        })
    }
}

/// A request and its answer, as far as they are counted and logged.
struct Exchange {
    started: Instant,
    request_id: String,
    method: Method,
    method_name: &'static str,
    route: RouteId,
    has_body: bool,
    must_close: bool,
    may_keep: bool,
    /// Whether an error is told on a page; `None` where it never is.
    is_for_people: Option<bool>,
}

impl Exchange {
    fn begin(state: &AppState, request: &Request) -> (Self, Option<IpAddr>, Option<TraceContext>) {
        let connection = request.extensions().get::<ConnectionInfo>();
        let route = state.metrics.find(request.uri().path());
        let pattern = state.metrics.route(route).known_pattern();
        let exchange = Self {
            started: Instant::now(),
            request_id: request_id(request),
            method: request.method().clone(),
            method_name: method_name(request.method()),
            route,
            is_for_people: html::tells_errors(pattern).then(|| html::wants_page(request.headers())),
            has_body: !request.body().is_end_stream(),
            must_close: connection.is_some_and(ConnectionInfo::ends_with_answer),
            may_keep: request.version() == Version::HTTP_11 && !asks_to_close(request.headers()),
        };
        let hops = state.config.trusted_proxy_hops;
        let ip = client_address(request.headers(), connection, hops);
        (exchange, ip, trace_context(request))
    }

    /// Counts the error, logs its cause, and writes its body unless the answer is a page with a
    /// body of its own.
    fn explain(
        &self,
        state: &AppState,
        response: Response,
        error: &ApiError,
        trace_id: Option<TraceId>,
    ) -> Response {
        let Self { request_id, method_name: method, .. } = self;
        let code = error.code.as_str();
        state.metrics.errors.add(code);
        if let Some(cause) = &error.cause {
            // JSON does not escape DEL and the control characters from U+0080 on, and terminals
            // obey them.
            let cause = cause.replace(char::is_control, " ");
            let (trace_id, route) = (trace_id.map(display), self.pattern(state));
            tracing::error!(%request_id, trace_id, method, route, code, cause, "request failed");
        }
        if response.headers().contains_key(header::CONTENT_TYPE) {
            return response;
        }
        let body = match self.is_for_people {
            Some(true) => html::error_page(&state.config, error, request_id),
            Some(false) => vary_by_accept(json_body(error, request_id)),
            None => json_body(error, request_id),
        };
        with_body(response, body, &self.method)
    }

    fn log(
        &self,
        state: &AppState,
        status: StatusCode,
        code: Option<&str>,
        took: Duration,
        trace_id: Option<TraceId>,
    ) {
        let Self { request_id, method_name: method, .. } = self;
        let (trace_id, route) = (trace_id.map(display), self.pattern(state));
        // To the microsecond: what comes after is noise, and up to 15 digits of it.
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let (status, milliseconds) = (status.as_u16(), f64::from(micros) / 1e3);
        if self.method.is_safe() && status < 400 {
            tracing::debug!(%request_id, trace_id, method, route, status, milliseconds, "request");
        } else {
            tracing::info!(%request_id, trace_id, method, route, status, code, milliseconds, "request");
        }
    }

    fn pattern<'a>(&self, state: &'a AppState) -> &'a str {
        state.metrics.route(self.route).pattern()
    }

    /// Ends the connection after this answer, so that the client comes back on another one, perhaps
    /// to another instance.
    ///
    /// The server reads the rest of an unwanted body and goes on to the next request even if this
    /// answer is not yet written, unless the answer has a body: a client that sends and never reads
    /// would fill the memory.
    fn end_or_keep(&self, state: &AppState, response: &mut Response, keep_alive: HeaderValue) {
        let has_no_answer = self.method == Method::HEAD || response.body().is_end_stream();
        let is_unthrottled = self.has_body && has_no_answer;
        if state.readiness.is_draining() || self.must_close || is_unthrottled {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if self.may_keep {
            response.headers_mut().insert(KEEP_ALIVE.clone(), keep_alive);
        }
    }
}

fn asks_to_close(headers: &HeaderMap) -> bool {
    let options = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii));
    options.into_iter().any(|option| option.eq_ignore_ascii_case(b"close"))
}

/// The answer to what was no request, and came to no service.
pub fn refuse(state: &AppState, error: &ApiError) -> (Parts, Vec<u8>) {
    let request_id = new_request_id();
    let code = error.code.as_str();
    state.metrics.errors.add(code);
    tracing::info!(request_id, status = error.code.status().as_u16(), code, "refused unread");
    let bare = error.code.status().into_response();
    let mut response = with_body(bare, json_body(error, &request_id), &Method::HEAD);
    add_headers(&mut response, &request_id, state.config.is_https());
    (response.into_parts().0, error_body(error, &request_id))
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
        _ => new_request_id(),
    }
}

fn new_request_id() -> String {
    Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

/// The caller's trace context, if there is exactly one valid `traceparent`.
fn trace_context(request: &Request) -> Option<TraceContext> {
    let mut given = request.headers().get_all(&TRACEPARENT).iter();
    let (first, second) = (given.next()?, given.next());
    TraceContext::parse(first.as_bytes()).filter(|_| second.is_none())
}

/// An error as the bytes of its body.
fn error_body(error: &ApiError, request_id: &str) -> Vec<u8> {
    let body = ErrorBody {
        success: false,
        code: error.code.as_str(),
        message: error.message(),
        expired: error.code == Code::TokenExpired,
        limit: error.limit,
        errors: &error.errors,
        methods: error.way_on.methods,
        until: error.way_on.until,
        restore_token: error.way_on.restore_token.as_ref().map(ExposeSecret::expose_secret),
        restore_until: error.way_on.restore_until,
        request_id,
    };
    serde_json::to_vec(&body).expect("a struct of strings is JSON")
}

fn json_body(error: &ApiError, request_id: &str) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], error_body(error, request_id)).into_response()
}

/// The status and the headers of the one, with the body and what describes it of the other.
fn with_body(bare: Response, body: Response, method: &Method) -> Response {
    let (mut parts, _) = bare.into_parts();
    let (mut described, body) = body.into_parts();
    // Beside what CORS has said of it.
    if let Some(vary) = described.headers.remove(header::VARY) {
        parts.headers.append(header::VARY, vary);
    }
    parts.headers.extend(described.headers);
    let length = body.size_hint().exact().unwrap_or_default();
    parts.headers.insert(header::CONTENT_LENGTH, length.into());
    // RFC 9110, 9.3.2: HEAD has the head of GET's answer.
    let body = if method == Method::HEAD { Body::empty() } else { body };
    Response::from_parts(parts, body)
}

fn add_headers(response: &mut Response, request_id: &str, is_https: bool) {
    let headers = response.headers_mut();
    headers.reserve(8);
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID.clone(), id);
    }
    if !static_file::settle_caching(headers) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(DEFAULT_CSP));
    if is_https {
        let a_year = HeaderValue::from_static("max-age=31536000");
        headers.insert(header::STRICT_TRANSPORT_SECURITY, a_year);
    }
}
