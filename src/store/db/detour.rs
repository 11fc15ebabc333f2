//! A detour to one address of a server, for where its name leads to several and the first swallows
//! what is sent to it.
//!
//! sqlx connects to a name's addresses in turn and gives each as long as the kernel does, which is
//! minutes. Given the address in place of the name, it would not check the certificate's name, nor
//! tell it to a provider that routes by it. So it is given the name, and a socket of ours that
//! leads to the address: bytes pass as they are, encrypted or not. It costs a copy of each, where
//! without it there is no connection.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::AbortHandle;
use uuid::Uuid;

/// The pause after a connection that could not be accepted: mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Leads to one address for as long as this lives; connections that were made outlive it.
#[derive(Clone, Debug)]
pub(super) struct Detour(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Open to this user alone: whoever else could listen there would be told the password.
    folder: PathBuf,
    accepting: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Detour {
    pub fn open(address: SocketAddr, port: u16) -> io::Result<Self> {
        let name = format!("doorward-{}", Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(name);
        // Fails where there is one of that name.
        DirBuilder::new().mode(0o700).create(&folder)?;
        // The name that sqlx makes of a folder.
        let listener = UnixListener::bind(folder.join(format!(".s.PGSQL.{port}")))?;
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((near, _)) => drop(tokio::spawn(carry(near, address))),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        Ok(Self(Arc::new(Shared { folder, accepting: accepting.abort_handle() })))
    }

    pub fn through(&self, options: PgConnectOptions) -> PgConnectOptions {
        options.socket(&self.0.folder)
    }
}

/// Whatever fails ends the connection, which its user notices.
async fn carry(mut near: UnixStream, address: SocketAddr) -> io::Result<()> {
    let mut far = TcpStream::connect(address).await?;
    far.set_nodelay(true)?;
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
