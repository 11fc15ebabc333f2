//! One connection to a mail server: SMTP (RFC 5321) with STARTTLS (RFC 3207) and AUTH (RFC 4954).
//!
//! No time limit is kept here: whoever waits for a step sets it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::refusal::{LOGIN_AFTER_TLS, NO_KNOWN_LOGIN, NO_LOGIN, NO_STARTTLS};
use super::reply::{Failure, Reply};
use super::tls::Tls;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(super) struct Conversation {
    stream: BufReader<Box<dyn Stream>>,
    offers: Offers,
}

/// What the server says it can do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Offers {
    start_tls: bool,
    pub(super) eight_bit_mime: bool,
    pub(super) smtp_utf8: bool,
    /// The mechanisms of AUTH, in capitals.
    logins: Vec<String>,
}

impl Offers {
    /// The reply's first line is the server's name. Keywords are in any case, and some servers write
    /// `AUTH=LOGIN`, beside the line with a blank or in its place.
    fn of(reply: &Reply) -> Self {
        let mut offers = Self::default();
        for line in reply.lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("STARTTLS") => offers.start_tls = true,
                Some("8BITMIME") => offers.eight_bit_mime = true,
                Some("SMTPUTF8") => offers.smtp_utf8 = true,
                Some("AUTH") => offers.logins.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        offers
    }

    fn has_login(&self, mechanism: &str) -> bool {
        self.logins.iter().any(|offered| offered == mechanism)
    }

    /// Why we cannot sign in with any of these.
    fn no_login(&self) -> String {
        // They go to a log: a server's own words do not.
        let is_name = |name: &&str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            name.len() <= 20 && name.bytes().all(good)
        };
        let names: Vec<&str> = self.logins.iter().map(String::as_str).filter(is_name).collect();
        match (self.logins.is_empty(), self.start_tls) {
            (true, true) => LOGIN_AFTER_TLS.to_owned(),
            (true, false) => NO_LOGIN.to_owned(),
            (false, _) => format!("{NO_KNOWN_LOGIN}, but {}", names.join(", ")),
        }
    }
}

impl Conversation {
    pub(super) fn new(stream: impl Stream + 'static) -> Self {
        let stream: Box<dyn Stream> = Box::new(stream);
        Self { stream: BufReader::new(stream), offers: Offers::default() }
    }

    pub(super) fn offers(&self) -> &Offers {
        &self.offers
    }

    pub(super) async fn greeting(&mut self) -> Result<(), Failure> {
        self.reply(2).await?;
        Ok(())
    }

    pub(super) async fn hello(&mut self, name: &str) -> Result<(), Failure> {
        let answer = self.command(&format!("EHLO {name}"), 2).await;
        if let Err(Failure::Refused(Reply { code: 500 | 502, .. })) = answer {
            // RFC 5321, 3.2: it is older than EHLO, or what stands before it is.
            self.command(&format!("HELO {name}"), 2).await?;
            self.offers = Offers::default();
        } else {
            self.offers = Offers::of(&answer?);
        }
        Ok(())
    }

    /// The same conversation under TLS; the greeting is not repeated, hello has to be.
    pub(super) async fn start_tls(mut self, tls: &Tls) -> Result<Self, Failure> {
        if !self.offers.start_tls {
            return Err(Failure::Unfit(NO_STARTTLS.to_owned()));
        }
        self.command("STARTTLS", 2).await?;
        if !self.stream.buffer().is_empty() {
            // Whoever put it there wants it to be taken for what TLS protects (CVE-2011-0411).
            return Err(Failure::NotSmtp);
        }
        Ok(Self::new(tls.over(self.stream.into_inner()).await?))
    }

    pub(super) async fn sign_in(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        if self.offers.has_login("PLAIN") {
            let response = BASE64.encode(format!("\0{user}\0{password}"));
            let reply = self.say(&format!("AUTH PLAIN {response}")).await?;
            match reply.code {
                // It did not take what came with the command.
                334 => self.command(&response, 2).await?,
                _ => expect(reply, 2)?,
            };
        } else if self.offers.has_login("LOGIN") {
            self.command("AUTH LOGIN", 3).await?;
            self.command(&BASE64.encode(user), 3).await?;
            self.command(&BASE64.encode(password), 2).await?;
        } else {
            return Err(Failure::Unfit(self.offers.no_login()));
        }
        Ok(())
    }

    /// Says a line; its reply has to begin with this digit.
    pub(super) async fn command(&mut self, line: &str, digit: u16) -> Result<Reply, Failure> {
        expect(self.say(line).await?, digit)
    }

    /// Hands over the letter, after DATA. `Ok` means that the server has taken it.
    pub(super) async fn letter(&mut self, content: &[u8]) -> Result<(), Failure> {
        self.write(&on_the_wire(content)).await?;
        self.reply(2).await?;
        Ok(())
    }

    /// Whether nothing has come that was not asked for: the next reply would be taken for another's.
    pub(super) fn is_in_step(&self) -> bool {
        self.stream.buffer().is_empty()
    }

    async fn say(&mut self, line: &str) -> Result<Reply, Failure> {
        self.write(format!("{line}\r\n").as_bytes()).await?;
        Reply::read(&mut self.stream).await
    }

    async fn reply(&mut self, digit: u16) -> Result<Reply, Failure> {
        expect(Reply::read(&mut self.stream).await?, digit)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let stream = self.stream.get_mut();
        let written = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        let Err(error) = written.await else { return Ok(()) };
        // A server that closes says why before that: 421, or what is wrong with the letter.
        match Reply::read(&mut self.stream).await {
            Ok(reply) => Err(Failure::Refused(reply)),
            Err(_) => Err(error.into()),
        }
    }
}

fn expect(reply: Reply, digit: u16) -> Result<Reply, Failure> {
    if reply.code / 100 == digit { Ok(reply) } else { Err(Failure::Refused(reply)) }
}

/// RFC 5321, 4.5.2: a dot at the beginning of a line is doubled, and one alone ends the letter. Each
/// line ends with CR and LF, as servers refuse a bare LF.
fn on_the_wire(content: &[u8]) -> Vec<u8> {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    let mut wire = Vec::with_capacity(content.len() + 64);
    for line in content.split(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(lines: &[&str]) -> Offers {
        let lines = lines.iter().map(|&line| line.to_owned()).collect();
        Offers::of(&Reply { code: 250, lines })
    }

    #[test]
    fn keywords_are_read_in_any_case_and_form() {
        let all = Offers {
            start_tls: true,
            eight_bit_mime: true,
            smtp_utf8: true,
            logins: vec!["PLAIN".to_owned(), "LOGIN".to_owned()],
        };
        assert_eq!(
            offers(&["mx", "STARTTLS", "8BITMIME", "SMTPUTF8", "AUTH PLAIN LOGIN", "SIZE 1"]),
            all
        );
        assert_eq!(offers(&["mx", "starttls", "8bitmime", "SmtpUtf8", "auth  plain login"]), all);
        assert_eq!(offers(&["auth login"]), Offers::default(), "the name of the server");
        for line in ["AUTH=LOGIN", "AUTH =LOGIN", "auth=login", "AUTH LOGIN"] {
            assert!(offers(&["mx", line]).has_login("LOGIN"), "{line}");
        }
        assert!(offers(&["mx", "AUTH=LOGIN", "AUTH PLAIN"]).has_login("PLAIN"));
        assert!(!offers(&["mx", "AUTHX PLAIN"]).has_login("PLAIN"));
    }

    #[test]
    fn what_is_offered_in_place_of_a_login_that_we_know_is_named() {
        let why = |line| offers(&["mx", line]).no_login();
        assert_eq!(
            why("AUTH cram-md5 XOAUTH2"),
            format!("{NO_KNOWN_LOGIN}, but CRAM-MD5, XOAUTH2")
        );
        assert_eq!(why("AUTH NTLM you@example.com"), format!("{NO_KNOWN_LOGIN}, but NTLM"));
        assert_eq!(why("STARTTLS"), LOGIN_AFTER_TLS);
        assert_eq!(why("SIZE"), NO_LOGIN);
    }

    #[test]
    fn dots_are_doubled_and_every_line_ends_as_it_must() {
        for (content, wire) in [
            ("a\r\n.\r\n..b\r\n", "a\r\n..\r\n...b\r\n.\r\n"),
            ("a\n.b\nc", "a\r\n..b\r\nc\r\n.\r\n"),
            ("a\r\n\r\n", "a\r\n\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&on_the_wire(content.as_bytes())), wire);
        }
    }
}
