//! A way to a PostgreSQL that can be lost, slow, or lead elsewhere.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::cluster::cluster;

/// A port that leads to a server for as long as this lives: a database that comes and goes.
pub struct TcpProxy {
    forwarding: AbortHandle,
    way: watch::Sender<Way>,
}

#[derive(Clone)]
struct Way {
    to: Upstream,
    swallows: bool,
    /// How long whatever passes is held up, in each direction.
    delay: Duration,
}

/// Where a proxy leads to.
#[derive(Clone, PartialEq)]
pub enum Upstream {
    Socket(PathBuf),
    Port(u16),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl TcpProxy {
    /// To the tests' cluster.
    pub async fn open(port: u16) -> Self {
        let options = cluster().await.connect_options("postgres");
        Self::open_to(port, Upstream::Socket(options.get_socket().unwrap().join(".s.PGSQL.5432")))
            .await
    }

    pub async fn open_to(port: u16, to: Upstream) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (way, ways) = watch::channel(Way { to, swallows: false, delay: Duration::ZERO });
        let forwarding = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(forward(client, ways.clone()));
            }
        });
        Self { forwarding: forwarding.abort_handle(), way }
    }

    /// From now on passes nothing on, but keeps every connection: what a router does that has
    /// forgotten them. Those of this time stay dead once it is over.
    pub fn swallow(&self, is_so: bool) {
        self.way.send_modify(|way| way.swallows = is_so);
    }

    /// From now on holds up whatever passes.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }

    /// From now on leads elsewhere; the connections to where it led before are cut.
    pub fn lead_to(&self, server: Upstream) {
        self.way.send_modify(|way| way.to = server);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

async fn forward(mut client: TcpStream, mut ways: watch::Receiver<Way>) {
    let to = ways.borrow().to.clone();
    // A server that is not there is a connection that ends at once.
    let Ok(mut server) = connect(&to).await else { return };
    let delays = ways.clone();
    let is_over = tokio::select! {
        () = pass_on(&mut client, &mut *server, &delays) => true,
        way = ways.wait_for(|way| way.swallows || way.to != to) => way.is_ok_and(|way| way.to != to),
    };
    if !is_over {
        // With both ends open.
        std::future::pending::<()>().await;
    }
}

async fn connect(to: &Upstream) -> io::Result<Box<dyn Stream>> {
    Ok(match to {
        Upstream::Socket(path) => Box::new(UnixStream::connect(path).await?),
        Upstream::Port(port) => Box::new(TcpStream::connect(("127.0.0.1", *port)).await?),
    })
}

/// Both ways, until one end closes.
async fn pass_on(client: &mut TcpStream, server: &mut dyn Stream, ways: &watch::Receiver<Way>) {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = tokio::io::split(server);
    tokio::select! {
        _ = copy(from_client, to_server, ways) => {}
        _ = copy(from_server, to_client, ways) => {}
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    ways: &watch::Receiver<Way>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let delay = ways.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[tokio::test]
async fn a_proxy_holds_up_what_passes_and_leads_elsewhere_once_told() {
    let (first, second, port) = (greeter(1).await, greeter(2).await, super::machine::free_port());
    let proxy = TcpProxy::open_to(port, Upstream::Port(first)).await;
    let connect = || TcpStream::connect(("127.0.0.1", port));
    assert_eq!(connect().await.unwrap().read_u8().await.unwrap(), 1);

    let delay = Duration::from_millis(100);
    proxy.delay(delay);
    let start = std::time::Instant::now();
    let mut open = connect().await.unwrap();
    assert_eq!(open.read_u8().await.unwrap(), 1);
    assert!(start.elapsed() >= delay);

    proxy.lead_to(Upstream::Port(second));
    assert!(open.read_u8().await.is_err(), "the connection to the first one is cut");
    assert_eq!(connect().await.unwrap().read_u8().await.unwrap(), 2);
}

/// A server that says this one byte to each client, and keeps the connection.
async fn greeter(byte: u8) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut clients = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            client.write_all(&[byte]).await.unwrap();
            clients.push(client);
        }
    });
    port
}
