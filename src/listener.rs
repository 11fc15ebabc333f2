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
/// Clients that come while fewer connections than this are left may stay silent only so long: a
/// client that fills the service in silence makes room for others.
const FEW_CONNECTIONS: usize = MAX_CONNECTIONS as usize / 4;
const SHORT_HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request may still take to arrive on an open connection once the port closes.
const LAST_CALL: Duration = Duration::from_millis(250);
/// How long requests in flight may take once the service was told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Opens the port, with a backlog as long as the connection cap: a client that finds the backlog
/// full has to try again after a second, or takes itself for connected while the service knows
/// nothing of it.
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

/// Serves until `stop` is set, and for `SHUTDOWN_DELAY_SECONDS` more, in which balancers notice
/// that the service is not ready, and each answer closes its connection; then finishes the requests
/// in flight.
pub async fn serve(
    listener: TcpListener,
    app: App,
    mut stop: watch::Receiver<bool>,
    state: AppState,
) {
    let connections = Connections::new(app, state.clone());
    let end = async {
        // A sender that was dropped can send nothing any more: that ends the service, too.
        let _ = stop.wait_for(|stop| *stop).await;
        tokio::time::sleep(state.config.shutdown_delay).await;
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            accepted = connections.accept(&listener) => match accepted {
                Ok(accepted) => connections.serve(accepted),
                Err(error) => {
                    // Out of descriptors, most likely: the ones in use have to come back first.
                    tracing::warn!(%error, "listener: a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            () = &mut end => break,
        }
    }
    connections.drain(listener).await;
}

/// A connection that was accepted, and its place among all.
struct Accepted {
    stream: TcpStream,
    info: ConnectionInfo,
    permit: Option<OwnedSemaphorePermit>,
}

/// The open connections.
struct Connections {
    app: App,
    state: AppState,
    http: http1::Builder,
    /// With a shorter time for heads: while few connections are left.
    hurried: http1::Builder,
    permits: Arc<Semaphore>,
    health_permits: Arc<Semaphore>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(app: App, state: AppState) -> Self {
        let mut http = http1::Builder::new();
        http.header_read_timeout(state.config.keep_alive)
            .max_buf_size(MAX_HEADER_BYTES)
            .max_headers(MAX_HEADER_FIELDS)
            // Answers are small: to copy one behind its head costs less than a vectored write.
            // Large ones come in small frames.
            .writev(false);
        let mut hurried = http.clone();
        hurried.header_read_timeout(state.config.keep_alive.min(SHORT_HEAD_TIMEOUT));
        Self {
            app,
            state,
            http,
            hurried,
            permits: Arc::new(Semaphore::new(MAX_CONNECTIONS as usize)),
            health_permits: Arc::new(Semaphore::new(HEALTH_CONNECTIONS)),
            graceful: GracefulShutdown::new(),
        }
    }

    /// The next connection. While all places are taken, new clients wait in the backlog for the
    /// first that is given back.
    async fn accept(&self, listener: &TcpListener) -> std::io::Result<Accepted> {
        let (mut permit, mut is_over_cap) = tokio::select! {
            biased;
            permit = Arc::clone(&self.permits).acquire_owned() => (permit.ok(), false),
            permit = Arc::clone(&self.health_permits).acquire_owned() => (permit.ok(), true),
        };
        let (stream, address) = listener.accept().await?;
        if is_over_cap && let Ok(place) = Arc::clone(&self.permits).try_acquire_owned() {
            // A place was given back while no client came.
            (permit, is_over_cap) = (Some(place), false);
        }
        if is_over_cap {
            self.state.metrics.over_cap.add(1);
        }
        let info = ConnectionInfo { is_over_cap, ..address.into() };
        Ok(Accepted { stream, info, permit })
    }

    /// Serves the connection in a task of its own.
    fn serve(&self, Accepted { stream, info, permit }: Accepted) {
        let is_short_lived = self.permits.available_permits() < FEW_CONNECTIONS;
        let http = if is_short_lived { &self.hurried } else { &self.http };
        let info = ConnectionInfo { is_short_lived, ..info };
        let connection = self.graceful.watch(connection(http, stream, self.app.clone(), info));
        let state = self.state.clone();
        tokio::spawn(async move {
            let _present = state.metrics.connections.enter();
            // A client that hangs up or breaks the protocol is its own trouble.
            let _ = connection.await;
            drop(permit);
        });
    }

    /// Closes the port and finishes the requests in flight.
    async fn drain(self, listener: TcpListener) {
        // Closing the port resets connections in the backlog, whose clients have sent their
        // requests.
        if let Ok(port) = listener.into_std() {
            while let Ok((stream, address)) = port.accept() {
                if let Ok(stream) = nonblocking(stream) {
                    self.serve(Accepted { stream, info: address.into(), permit: None });
                }
            }
        }
        // A connection on which nothing has arrived yet is closed by what follows.
        if self.graceful.count() > 0 {
            tokio::time::sleep(LAST_CALL).await;
        }
        if tokio::time::timeout(DRAIN_TIMEOUT, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("listener: some requests took too long to finish");
        }
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

/// The service as one connection sees it, which sends one request after the other: adds the
/// [`ConnectionInfo`] to each.
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

/// RFC 9112, 3.2, 6.1 and 6.3: one `host`, and one way to tell where the body ends, which we
/// understand. The server below reads on where two are given; a proxy before us may have chosen the
/// other one, and take the rest of the body for a request of its own. Of `content-length` beside
/// `transfer-encoding` it drops the former, and the connection ends with the answer, as 6.3 asks
/// for.
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
