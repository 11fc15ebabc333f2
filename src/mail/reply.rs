//! A mail server's replies (RFC 5321, 4.2), read as they come and not only as they should be.
//!
//! A reply that cannot be read counts as none, and a letter without a reply is sent again. So
//! whatever says its code is understood: a code alone, any line end, any character set.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// More than any server says: what is longer is no reply.
const MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// From 200 to 599.
    pub(super) code: u16,
    /// What stands after the code, line by line.
    pub(super) lines: Vec<String>,
}

/// Why a step of the conversation did not come to what it was for.
#[derive(Debug)]
pub(super) enum Failure {
    /// The reply is another than the step is for: with 4 and 5 at its beginning a refusal.
    Refused(Reply),
    /// The server closed the connection where its reply should have been.
    Closed,
    /// What came is no reply.
    NotSmtp,
    Io(io::Error),
    /// Ours, before anything was said.
    Unfit(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Of TLS without its farewell, of TCP with a reset.
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl Reply {
    pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Self, Failure> {
        let mut stream = stream.take(MAX_BYTES);
        let mut reply = Self { code: 0, lines: Vec::new() };
        loop {
            let mut line = Vec::new();
            stream.read_until(b'\n', &mut line).await?;
            match Line::parse(&line) {
                Some(Line { code, is_last, text }) => {
                    // The last line's counts, where they differ.
                    reply.code = code;
                    reply.lines.push(text);
                    if is_last {
                        return Ok(reply);
                    }
                }
                None if stream.limit() == 0 => return Err(Failure::NotSmtp),
                None if !line.ends_with(b"\n") => return Err(Failure::Closed),
                // A text that was broken without its code.
                None if !reply.lines.is_empty() => {}
                None => return Err(Failure::NotSmtp),
            }
        }
    }

    pub(super) fn text(&self) -> String {
        self.lines.join(" ")
    }
}

struct Line {
    code: u16,
    is_last: bool,
    text: String,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let (code, rest) = line.trim_ascii_end().split_at_checked(3)?;
        if !matches!(code, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'])
            || rest.first().is_some_and(u8::is_ascii_digit)
        {
            return None;
        }
        let code = code.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
        let is_last = rest.first() != Some(&b'-');
        let text = rest.strip_prefix(b"-").unwrap_or(rest).trim_ascii();
        Some(Self { code, is_last, text: String::from_utf8_lossy(text).into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(mut raw: &[u8]) -> Result<(u16, String), Failure> {
        Reply::read(&mut raw).await.map(|reply| (reply.code, reply.text()))
    }

    #[tokio::test]
    async fn every_spelling_of_a_reply_is_understood() {
        for (raw, code, text) in [
            (&b"250 2.0.0 Ok: queued\r\n"[..], 250, "2.0.0 Ok: queued"),
            (b"250\r\n", 250, ""),
            (b"250 \r\n", 250, ""),
            (b"250\n", 250, ""),
            (b"250 Ok\n", 250, "Ok"),
            (b"250 Ok\r\r\n", 250, "Ok"),
            (b"250\tOk\r\n", 250, "Ok"),
            (b"250OK\r\n", 250, "OK"),
            (b"354\r\n", 354, ""),
            (b"220\r\n", 220, ""),
            (b"250-\r\n250-a\r\n250\r\n", 250, " a "),
            (b"250-a\r\n250 b\r\n", 250, "a b"),
            (b"250-a\nno code\n250 b\n", 250, "a b"),
            (b"250-a\r\n251 b\r\n", 251, "a b"),
            (b"250 gr\xfc\xdfe\r\n", 250, "gr\u{fffd}\u{fffd}e"),
            // The connection ended where the line should have.
            (b"250 Ok", 250, "Ok"),
            (b"250", 250, ""),
        ] {
            let raw_text = String::from_utf8_lossy(raw);
            assert_eq!(read(raw).await.expect(&raw_text), (code, text.to_owned()), "{raw_text:?}");
        }
        let long = format!("250 {}\r\n", "x".repeat(60_000));
        assert_eq!(read(long.as_bytes()).await.expect("long").0, 250);
    }

    #[tokio::test]
    async fn what_is_no_reply_is_none() {
        for raw in ["", "2", "25", "250-", "250-a\r\n", "250-a\r\n25"] {
            assert!(matches!(read(raw.as_bytes()).await, Err(Failure::Closed)), "{raw:?}");
        }
        let endless = "250-a\r\n".repeat(10_000);
        for raw in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n250 a\r\n",
            "2506 a\r\n",
            "150 a\r\n",
            "600\r\n",
            &endless,
        ] {
            assert!(matches!(read(raw.as_bytes()).await, Err(Failure::NotSmtp)), "{raw:.20?}");
        }
    }

    #[tokio::test]
    async fn the_next_reply_is_left_where_it_is() {
        let mut both = &b"250\r\n354 go on\r\n"[..];
        assert_eq!(Reply::read(&mut both).await.expect("the first").code, 250);
        assert_eq!(Reply::read(&mut both).await.expect("the second").code, 354);
    }
}
