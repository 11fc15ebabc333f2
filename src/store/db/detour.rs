//! A detour to one address of a server, for where its name leads to several and the first swallows
//! what is sent to it.
//!
//! sqlx connects to a name's addresses in turn and gives each as long as the kernel does, which is
//! minutes. Given the address in place of the name, it would not check the certificate's name, nor
//! tell it to a provider that routes by it. So it is given the name, and a socket of ours that
//! leads to the address: bytes pass as they are, encrypted or not. It costs a copy of each, where
//! without it there is no connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use uuid::Uuid;

/// Leads to one address for as long as this lives; connections that were made outlive it.
#[derive(Clone, Debug)]
pub(super) struct Detour {
    /// Of Linux's abstract namespace: no file, and gone with the process.
    folder: String,
    _accepting: Arc<Abort>,
}

#[derive(Debug)]
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Detour {
    pub fn open(address: SocketAddr, port: u16) -> io::Result<Self> {
        let folder = format!("\0doorward-{}", Uuid::now_v7().simple());
        // The name that sqlx makes of a folder.
        let listener = UnixListener::bind(format!("{folder}/.s.PGSQL.{port}"))?;
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, address));
            }
        });
        Ok(Self { folder, _accepting: Arc::new(Abort(accepting.abort_handle())) })
    }

    pub fn through(&self, options: PgConnectOptions) -> PgConnectOptions {
        options.socket(&self.folder)
    }
}

/// Whatever fails ends the connection, which its user notices.
async fn carry(mut near: UnixStream, address: SocketAddr) -> io::Result<()> {
    let mut far = TcpStream::connect(address).await?;
    far.set_nodelay(true)?;
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
