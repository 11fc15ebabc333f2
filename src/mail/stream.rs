//! The stream below lettre's connection: it gets the server's replies one by one, in its own spelling.

use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::{reply, tls};

pub(super) trait Stream: AsyncRead + AsyncWrite + Debug + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Debug + Send + Sync + Unpin> Stream for S {}

/// A connection to a mail server, of which lettre reads one reply at a time. While a reply is
/// unread nothing can be said: it would be taken for the answer to that.
#[derive(Debug)]
pub(super) struct Replies {
    stream: Box<dyn Stream>,
    /// As it came.
    raw: Vec<u8>,
    /// The reply to be read.
    reply: Vec<u8>,
    /// Says HELO in place of EHLO.
    is_old: bool,
    lender: Option<oneshot::Sender<Box<dyn Stream>>>,
}

impl Replies {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        let stream = Box::new(stream);
        Self { stream, raw: Vec::new(), reply: Vec::new(), is_old: false, lender: None }
    }

    /// After STARTTLS no greeting comes, and lettre waits for one.
    pub(super) fn greeted(stream: impl Stream + 'static) -> Self {
        let mut replies = Self::new(stream);
        replies.raw.extend_from_slice(b"220\r\n");
        replies
    }

    /// For a server that is older than EHLO, which is all that lettre says.
    pub(super) fn for_old_server(mut self) -> Self {
        self.is_old = true;
        self
    }

    /// Waits for the reply that is read next.
    pub(super) async fn come(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_reply(context)).await
    }

    /// Gets the stream when this is dropped, unless something came that was not asked for: after
    /// STARTTLS it would be taken for what TLS protects (CVE-2011-0411).
    pub(super) fn lent(&mut self) -> oneshot::Receiver<Box<dyn Stream>> {
        let (lender, back) = oneshot::channel();
        self.lender = Some(lender);
        back
    }

    fn is_in_step(&self) -> bool {
        self.raw.is_empty() && self.reply.is_empty()
    }

    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut is_closed = false;
        while self.reply.is_empty() {
            if let Some((reply, end)) = reply::first(&self.raw, is_closed)? {
                self.reply = reply.into_bytes();
                self.raw.drain(..end);
                break;
            }
            let mut chunk = [0; 1024];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut chunk))?;
            is_closed = chunk.filled().is_empty();
            self.raw.extend_from_slice(chunk.filled());
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if let Some(lender) = self.lender.take().filter(|_| self.is_in_step()) {
            // Whoever lent it may not want it any more.
            let _ = lender.send(mem::replace(&mut self.stream, Box::new(tokio::io::empty())));
        }
    }
}

impl AsyncRead for Replies {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_reply(context))?;
        let amount = self.reply.len().min(into.remaining());
        into.put_slice(&self.reply[..amount]);
        self.reply.drain(..amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replies {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_in_step() {
            return Poll::Ready(Err(reply::no_smtp()));
        }
        let hello = bytes.strip_prefix(b"EHLO ").filter(|_| self.is_old);
        let hello = hello.map(|name| [b"HELO ", name].concat());
        let bytes = hello.as_deref().unwrap_or(bytes);
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(unless_closed(written, bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        Poll::Ready(unless_closed(flushed, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncTokioStream for Replies {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A server that closes says why before that: 421, or what is wrong with the letter. It is read only
/// if the writing does not fail.
fn unless_closed<T>(result: io::Result<T>, done: T) -> io::Result<T> {
    result.or_else(|error| if tls::is_closed(&error) { Ok(done) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pair() -> (Replies, DuplexStream) {
        let (ours, theirs) = duplex(1024);
        (Replies::new(ours), theirs)
    }

    #[tokio::test]
    async fn one_reply_is_read_at_a_time_and_nothing_said_before_the_last() {
        let (mut replies, mut server) = pair();
        server.write_all(b"250\r\n354 go on\r\n").await.expect("there is room");
        let mut bytes = [0; 100];
        for reply in ["250 -\r\n", "354 go on\r\n"] {
            let error = match reply {
                "354 go on\r\n" => replies.write(b"DATA\r\n").await.err(),
                _ => None,
            };
            assert_eq!(error.is_some(), reply.starts_with("354"));
            let length = replies.read(&mut bytes).await.expect(reply);
            assert_eq!(&bytes[..length], reply.as_bytes());
        }
        replies.write_all(b"EHLO a\r\n").await.expect("both are read");
        let mut replies = replies.for_old_server();
        replies.write_all(b"EHLO a\r\n").await.expect("a server that is old");
        let length = server.read(&mut bytes).await.expect("both commands");
        assert_eq!(&bytes[..length], b"EHLO a\r\nHELO a\r\n");
    }

    #[tokio::test]
    async fn what_a_server_says_before_it_closes_is_read() {
        let (mut replies, mut server) = pair();
        server.write_all(b"421 4.3.2 Closing\r\n").await.expect("there is room");
        drop(server);
        replies.write_all(b"NOOP\r\n").await.expect("it is for the reading to fail");
        let mut reply = [0; 100];
        let length = replies.read(&mut reply).await.expect("why");
        assert_eq!(&reply[..length], b"421 4.3.2 Closing\r\n");
        assert!(tls::is_closed(&replies.read(&mut reply).await.expect_err("closed")));
    }

    #[tokio::test]
    async fn a_stream_is_given_back_unless_the_server_said_too_much() {
        for (said, is_back) in [("220 go\r\n", true), ("220 go\r\n250 injected\r\n", false)] {
            let (mut replies, mut server) = pair();
            let mut back = replies.lent();
            server.write_all(said.as_bytes()).await.expect("there is room");
            let length = replies.read(&mut [0; 100]).await.expect("the first reply");
            assert_eq!(length, 8);
            drop(replies);
            assert_eq!(back.try_recv().is_ok(), is_back, "{said}");
        }
    }

    #[tokio::test]
    async fn after_starttls_the_greeting_is_ours() {
        let (ours, _theirs) = duplex(1024);
        let mut reply = [0; 100];
        let length = Replies::greeted(ours).read(&mut reply).await.expect("a greeting");
        assert_eq!(&reply[..length], b"220 \r\n");
    }
}
