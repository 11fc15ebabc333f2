//! The socket of a connection, as the server reads and writes it.
//!
//! A client that reads nothing of an answer is given up after a while. And a connection on which
//! more is to come is closed in stages (RFC 9112, 9.6): a socket that is closed with bytes unread
//! sends a reset, upon which clients and proxies drop the answer that they have not read yet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::Buf as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::place::Place;
use super::refusal::Refusals;

/// How long a client may read nothing of an answer that waits for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may take to close, and how much of what still comes is read away. What
/// comes after that stays with the client's system, which holds it back.
const LINGER_TIMEOUT: Duration = Duration::from_secs(4);
const MAX_LINGER_BYTES: usize = 2 * 1024 * 1024 - super::drain_body::MAX_DRAINED_BYTES;
/// Bytes read at a time. The server makes room for twice as many, and for more only if that was
/// not enough: bodies are small, and thousands may be on their way.
const MAX_READ_BYTES: usize = 4 * 1024;

pub struct Stream {
    socket: Take<TcpStream>,
    place: Arc<Place>,
    refusals: Refusals,
    /// What is left to be written in place of the server's own refusal.
    refusal: Option<Bytes>,
    /// How long the client may be waited for, while it is.
    patience: Option<Pin<Box<Sleep>>>,
    /// What may still be read away, once the sending side is closed.
    closing: Option<usize>,
}

impl Stream {
    pub fn new(socket: TcpStream, place: Arc<Place>, refusals: Refusals) -> Self {
        let socket = socket.take(MAX_READ_BYTES as u64);
        Self { socket, place, refusals, refusal: None, patience: None, closing: None }
    }

    /// An error once the client has been waited for too long.
    fn wait(&mut self, limit: Duration, context: &mut Context<'_>) -> Poll<io::Error> {
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limit)));
        patience.as_mut().poll(context).map(|()| io::ErrorKind::TimedOut.into())
    }

    fn poll_write_to_socket(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.socket.get_mut()).poll_write(context, bytes);
        if written.is_pending() {
            return self.wait(WRITE_TIMEOUT, context).map(Err);
        }
        self.patience = None;
        written
    }

    /// Reads away what still comes, until the client closes its side.
    fn poll_linger(&mut self, left: usize, context: &mut Context<'_>) -> Poll<()> {
        let (mut left, mut waste) = (left, [0; MAX_READ_BYTES]);
        while left > 0 {
            let mut waste = ReadBuf::new(&mut waste);
            match Pin::new(self.socket.get_mut()).poll_read(context, &mut waste) {
                Poll::Ready(Ok(())) if !waste.filled().is_empty() => {
                    left = left.saturating_sub(waste.filled().len());
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        self.closing = Some(left);
        self.wait(LINGER_TIMEOUT, context).map(drop)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket.set_limit(MAX_READ_BYTES as u64);
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.refusal.is_none() {
            self.refusal = self.refusals.in_place_of(bytes);
        }
        let Some(mut refusal) = self.refusal.take() else {
            return self.poll_write_to_socket(context, bytes);
        };
        self.place.linger();
        while refusal.has_remaining() {
            match self.poll_write_to_socket(context, &refusal) {
                Poll::Ready(written) => refusal.advance(written?),
                Poll::Pending => {
                    self.refusal = Some(refusal);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket has no buffer of its own here.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(self.socket.get_mut()).poll_shutdown(context))?;
            if !self.place.must_linger() {
                return Poll::Ready(Ok(()));
            }
            self.place.wait(Instant::now());
        }
        let left = self.closing.unwrap_or(MAX_LINGER_BYTES);
        self.poll_linger(left, context).map(Ok)
    }
}
