//! The port: accepts connections, gives each its limits, and drains them at the end.

mod drain_body;
mod head_timer;
mod place;
mod refusal;
mod stream;

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
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
use tokio::sync::watch;
use tower::Service as _;

use self::head_timer::HeadTimer;
use self::place::{Permit, Place, Places};
use self::refusal::Refusals;
use self::stream::Stream;
use crate::http::admission::MAX_HEAD_BYTES;
use crate::http::client::ConnectionInfo;
use crate::http::middleware::ResponseFuture;
use crate::router::App;
use crate::state::AppState;

/// Largest head of a request that is read, in bytes, so that one above `MAX_HEAD_BYTES` of
/// `http/admission.rs` gets an answer of ours.
const MAX_READ_HEAD_BYTES: usize = MAX_HEAD_BYTES + MAX_HEAD_BYTES / 2;
/// Most fields of a head. The server keeps room for as many on its stack, for more on the heap.
const MAX_HEADER_FIELDS: usize = 100;
/// Connections open at once.
const MAX_CONNECTIONS: u16 = 4096;
/// This many more are accepted, for health and metrics alone: a full service is not a dead one.
const HEALTH_CONNECTIONS: usize = 64;
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
    socket.listen(MAX_CONNECTIONS.into())
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
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: some in use have to come back first.
                tracing::warn!(%error, "listener: a connection could not be accepted");
                connections.places.make_room();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        tokio::select! {
            permit = connections.places.take(address.ip()) => {
                connections.serve(stream, address, permit);
            }
            () = &mut end => {
                connections.squeeze_in(stream, address);
                break;
            }
        }
    }
    connections.drain(listener).await;
}

/// The open connections.
struct Connections {
    app: App,
    state: AppState,
    http: http1::Builder,
    places: Arc<Places>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(app: App, state: AppState) -> Self {
        let mut http = http1::Builder::new();
        http.header_read_timeout(state.config.keep_alive)
            .max_buf_size(MAX_READ_HEAD_BYTES)
            .max_headers(MAX_HEADER_FIELDS)
            // Answers are small: to copy one behind its head costs less than a vectored write.
            // Large ones come in small frames.
            .writev(false);
        let places = Places::new(MAX_CONNECTIONS.into(), HEALTH_CONNECTIONS);
        Self { app, state, http, places, graceful: GracefulShutdown::new() }
    }

    /// Serves the connection in a task of its own.
    fn serve(&self, stream: TcpStream, address: SocketAddr, permit: Permit) {
        let place = Arc::clone(&permit.place);
        if place.is_over_cap {
            self.state.metrics.over_cap.add(1);
        }
        // Boxed: each future that waits for one which it was given has room for it twice.
        let connection = Box::pin(self.graceful.watch(self.connection(stream, address, place)));
        let state = self.state.clone();
        self.places.run(permit, async move {
            let _present = state.metrics.connections.enter();
            // A client that hangs up or breaks the protocol is its own trouble.
            let _ = connection.await;
        });
    }

    /// Serves it without a place.
    fn squeeze_in(&self, stream: TcpStream, address: SocketAddr) {
        self.serve(stream, address, self.places.squeeze_in(address.ip()));
    }

    fn connection(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: Arc<Place>,
    ) -> http1::Connection<TokioIo<Stream>, Peered> {
        // Answers are small: waiting to fill a packet only costs time.
        let _ = stream.set_nodelay(true);
        let mut http = self.http.clone();
        http.timer(HeadTimer::new(Arc::clone(&place), self.state.config.keep_alive));
        let refusals = Refusals(self.state.clone());
        let stream = Stream::new(stream, Arc::clone(&place), refusals);
        let peer = ConnectionInfo { is_over_cap: place.is_over_cap, ..address.into() };
        let peered = Peered { app: RefCell::new(self.app.clone()), peer, place };
        http.serve_connection(TokioIo::new(stream), peered)
    }

    /// Closes the port and finishes the requests in flight.
    async fn drain(self, listener: TcpListener) {
        // Closing the port resets connections in the backlog, whose clients have sent their
        // requests.
        if let Ok(port) = listener.into_std() {
            while let Ok((stream, address)) = port.accept() {
                if let Ok(stream) = nonblocking(stream) {
                    self.squeeze_in(stream, address);
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

/// The service as one connection sees it, which sends one request after the other: adds the
/// [`ConnectionInfo`] to each.
struct Peered {
    app: RefCell<App>,
    peer: ConnectionInfo,
    place: Arc<Place>,
}

impl Service<Request<Incoming>> for Peered {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, mut request: Request<Incoming>) -> ResponseFuture {
        if !self.place.work() {
            // It was to be closed just before its request came: as if that had come too late.
            return Box::pin(std::future::pending());
        }
        let is_ambiguous = is_ambiguous(request.version(), request.headers());
        let peer = ConnectionInfo { is_ambiguous, ..self.peer };
        if peer.ends_with_answer() {
            self.place.linger();
        }
        request.extensions_mut().insert(peer);
        // Always ready, as everything in it is.
        let mut app = self.app.borrow_mut();
        if request.body().is_end_stream() {
            return app.call(request.map(Body::new));
        }
        let expects_continue = request.headers().contains_key(header::EXPECT);
        let (request, unread) = drain_body::track(request, Arc::clone(&self.place));
        let (answering, place) = (app.call(request), Arc::clone(&self.place));
        Box::pin(drain_body::answer_first(answering, unread, expects_continue, place))
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
