//! The port: accepts connections, gives each its limits, and drains them at the end.

mod drain_body;
mod head_timer;

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tower::Service as _;

use self::head_timer::HeadTimer;
use crate::http::client::ConnectionInfo;
use crate::http::middleware::ResponseFuture;
use crate::router::App;
use crate::state::AppState;

/// How long a client may read nothing of an answer that waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest head of a request in bytes, and the most fields in it.
const MAX_HEADER_BYTES: usize = 16 * 1024;
const MAX_HEADER_FIELDS: usize = 100;
/// Connections open at once.
const MAX_CONNECTIONS: u32 = 4096;
/// This many more are accepted, for health and metrics alone: a full service is not a dead one.
const HEALTH_CONNECTIONS: usize = 64;
/// Clients that come while fewer connections than this are left may stay silent only so long: whoever fills the service
/// in silence makes room for others.
const FEW_CONNECTIONS: usize = MAX_CONNECTIONS as usize / 4;
const SHORT_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request may still take to arrive on an open connection once the port closes.
const LAST_CALL: Duration = Duration::from_millis(250);
/// How long requests in hand may take once the service was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Opens the port, with a backlog as long as the connection cap: a client that finds the backlog full has to try again
/// after a second, or takes itself for connected while nobody knows of it.
pub fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A port that a previous process has just left can be bound at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(MAX_CONNECTIONS)
}

/// Serves until `stop` is set, and for `SHUTDOWN_DELAY_SECONDS` more, in which balancers notice that the service is not
/// ready, and each answer closes its connection; then finishes the requests in flight.
pub async fn serve(
    listener: TcpListener,
    app: App,
    mut stop: watch::Receiver<bool>,
    state: AppState,
) {
    let mut http = http1::Builder::new();
    http.header_read_timeout(state.config.keep_alive)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADER_FIELDS)
        // Answers are small: to copy one behind its head costs less than a vectored write. The large ones come in
        // slices.
        .writev(false);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let health_permits = Arc::new(Semaphore::new(HEALTH_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let end = async {
        // A sender that was dropped can send nothing any more: that ends the service, too.
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(state.config.shutdown_delay).await;
    };
    tokio::pin!(end);
    let mut hurried = http.clone();
    hurried.header_read_timeout(state.config.keep_alive.min(SHORT_HEAD_TIMEOUT));
    let take = |stream, peer: ConnectionInfo, permit: Option<OwnedSemaphorePermit>| {
        let is_short_lived = permits.available_permits() < FEW_CONNECTIONS;
        let http = if is_short_lived { &hurried } else { &http };
        let peer = ConnectionInfo { is_short_lived, ..peer };
        let connection = graceful.watch(connection(http, stream, app.clone(), peer));
        let state = state.clone();
        tokio::spawn(async move {
            let _present = state.metrics.connections.enter();
            // A client that hangs up or breaks the protocol is its own trouble.
            let _ = connection.await;
            drop(permit);
        });
    };
    loop {
        let accepted = async {
            // When all are taken, new clients wait in the backlog for the first that is given back.
            let (permit, is_over_cap) = tokio::select! {
                biased;
                permit = Arc::clone(&permits).acquire_owned() => (permit, false),
                permit = Arc::clone(&health_permits).acquire_owned() => (permit, true),
            };
            (listener.accept().await, permit, is_over_cap)
        };
        let (accepted, mut permit, mut is_over_cap) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut end => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: the ones in use have to come back first.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        if is_over_cap && let Ok(room) = Arc::clone(&permits).try_acquire_owned() {
            // A connection was given back while nobody came.
            (permit, is_over_cap) = (Ok(room), false);
        }
        if is_over_cap {
            state.metrics.over_cap.add(1);
        }
        take(stream, ConnectionInfo { is_over_cap, ..peer.into() }, permit.ok());
    }
    // Closing the port resets connections in the backlog, whose clients have sent their requests.
    if let Ok(port) = listener.into_std() {
        while let Ok((stream, peer)) = port.accept() {
            if let Ok(stream) = nonblocking(stream) {
                take(stream, peer.into(), None);
            }
        }
    }
    // A connection on which nothing has arrived yet is closed by what follows.
    if graceful.count() > 0 {
        tokio::time::sleep(LAST_CALL).await;
    }
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests took too long to finish");
    }
}

fn nonblocking(stream: std::net::TcpStream) -> std::io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn connection(
    http: &http1::Builder,
    stream: TcpStream,
    app: App,
    peer: ConnectionInfo,
) -> http1::Connection<TokioIo<Pin<Box<TimeoutStream<TcpStream>>>>, Peered> {
    // Answers are small: waiting to fill a packet only costs time.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut http = http.clone();
    http.timer(HeadTimer::new());
    let peered = Peered { app: RefCell::new(app), peer };
    http.serve_connection(TokioIo::new(Box::pin(stream)), peered)
}

/// The service as one connection sees it, which sends one request after the other: adds the [`ConnectionInfo`] to each.
struct Peered {
    app: RefCell<App>,
    peer: ConnectionInfo,
}

impl Service<Request<Incoming>> for Peered {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, mut request: Request<Incoming>) -> ResponseFuture {
        let is_ambiguous = is_ambiguous(request.version(), request.headers());
        request.extensions_mut().insert(ConnectionInfo { is_ambiguous, ..self.peer });
        // Always ready, as everything in it is.
        let mut app = self.app.borrow_mut();
        if request.body().is_end_stream() {
            return app.call(request.map(Body::new));
        }
        let may_wait = !request.headers().contains_key(header::EXPECT);
        let (request, unread) = drain_body::track(request);
        let answering = app.call(request);
        Box::pin(drain_body::drain_before(answering, unread, may_wait))
    }
}

/// RFC 9112, 3.2, 6.1 and 6.3: one `host`, and one way to tell where the body ends, which we understand. The server below
/// reads on where two are given; a proxy before us may have chosen the other one, and take the rest of the body for a
/// request of its own. Of `content-length` beside `transfer-encoding` it drops the former, and the connection ends with
/// the answer, as 6.3 asks for.
fn is_ambiguous(version: Version, headers: &HeaderMap) -> bool {
    let count = |name| headers.get_all(name).iter().count();
    let hosts = count(header::HOST);
    let coding = headers.get(header::TRANSFER_ENCODING).map(HeaderValue::as_bytes);
    hosts > 1
        || (version == Version::HTTP_11 && hosts == 0)
        || coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
        || (coding.is_some() && version < Version::HTTP_11)
        || count(header::CONTENT_LENGTH) > 1
        || count(header::TRANSFER_ENCODING) > 1
}
