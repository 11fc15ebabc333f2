//! A way to the tests' PostgreSQL that can be lost.

use std::path::PathBuf;

use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::support::cluster;

/// A port that leads to the tests' cluster for as long as this lives: a database that comes and goes.
pub struct Gate {
    forwarding: AbortHandle,
    swallows: watch::Sender<bool>,
}

impl Gate {
    pub async fn open(port: u16) -> Self {
        let options = cluster().await.connect_options("postgres");
        let socket: PathBuf = options.get_socket().unwrap().join(".s.PGSQL.5432");
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (swallows, swallowed) = watch::channel(false);
        let forwarding = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut server = UnixStream::connect(&socket).await.unwrap();
                let mut swallowed = swallowed.clone();
                connections.spawn(async move {
                    let is_over = tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => true,
                        _ = swallowed.wait_for(|is_so| *is_so) => false,
                    };
                    if !is_over {
                        // With both ends open.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { forwarding: forwarding.abort_handle(), swallows }
    }

    /// From now on passes nothing on, but keeps every connection: what a router does that has forgotten them. Those of
    /// this time stay dead once it is over.
    pub fn swallow(&self, is_so: bool) {
        self.swallows.send(is_so).unwrap();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}
