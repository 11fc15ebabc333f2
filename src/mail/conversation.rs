//! One connection to a mail server, on which lettre speaks SMTP: with STARTTLS (RFC 3207) and AUTH
//! (RFC 4954) by its commands, as it would put TLS below what mends the replies.
//!
//! No time limit is kept here: whoever waits for a step sets it.

use std::fmt::Display;

use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Auth, Ehlo, Starttls};
use lettre::transport::smtp::extension::{ClientId, Extension};
use lettre::transport::smtp::response::Response;
use tokio::sync::oneshot;

use super::refusal::{Failure, LOGIN_AFTER_TLS, NO_KNOWN_LOGIN, NO_LOGIN, NO_SMTP, NO_STARTTLS};
use super::stream::{Replies, Stream};
use super::tls::Tls;

pub(super) struct Conversation {
    connection: AsyncSmtpConnection,
    stream: oneshot::Receiver<Box<dyn Stream>>,
}

impl Conversation {
    /// Reads the greeting and says EHLO.
    pub(super) async fn begin(mut replies: Replies, hello: &ClientId) -> Result<Self, Failure> {
        let stream = replies.lent();
        let replies = Box::new(replies);
        let connection = AsyncSmtpConnection::connect_with_transport(replies, hello).await?;
        Ok(Self { connection, stream })
    }

    pub(super) fn offers(&self, extension: Extension) -> bool {
        self.connection.server_info().supports_feature(extension)
    }

    /// The same conversation under TLS, which begins anew.
    pub(super) async fn start_tls(mut self, tls: &Tls) -> Result<Replies, Failure> {
        if !self.offers(Extension::StartTls) {
            return Err(Failure::Other(NO_STARTTLS.to_owned()));
        }
        self.command(Starttls, 2).await?;
        let Self { connection, mut stream } = self;
        drop(connection);
        let stream = stream.try_recv().map_err(|_| Failure::Other(NO_SMTP.to_owned()))?;
        Ok(Replies::greeted(tls.over(stream).await?))
    }

    /// Passes over the text of a challenge, in which lettre looks for one of a few words.
    pub(super) async fn sign_in(
        &mut self,
        credentials: &Credentials,
        hello: &ClientId,
    ) -> Result<(), Failure> {
        let server = self.connection.server_info();
        let Some(mechanism) = server.get_auth_mechanism(DEFAULT_MECHANISMS) else {
            return Err(self.no_login(hello).await);
        };
        let auth = |challenge: Option<&str>| {
            Auth::new(mechanism, credentials.clone(), challenge.map(str::to_owned))
        };
        if mechanism == Mechanism::Login {
            self.command(auth(None)?, 3).await?;
            self.command(auth(Some("Username"))?, 3).await?;
            self.command(auth(Some("Password"))?, 2).await?;
            return Ok(());
        }
        let command = auth(None)?.to_string();
        let reply = self.connection.command(&command).await?;
        if reply.has_code(334) {
            // It did not take what came with the command.
            self.command(command.trim_start_matches("AUTH PLAIN "), 2).await?;
            return Ok(());
        }
        expect(&reply, 2)
    }

    /// Why we cannot sign in: lettre does not keep what it does not know, so the server is asked anew.
    async fn no_login(&mut self, hello: &ClientId) -> Failure {
        let reply = match self.connection.command(Ehlo::new(hello.clone())).await {
            Ok(reply) => reply,
            Err(error) => return error.into(),
        };
        // They go to a log: a server's own words do not.
        let is_name = |name: &&str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            name.len() <= 20 && name.bytes().all(good)
        };
        let logins = reply.message().filter_map(|line| line.strip_prefix("AUTH "));
        let names: Vec<&str> = logins.flat_map(str::split_whitespace).filter(is_name).collect();
        Failure::Other(match (names.is_empty(), self.offers(Extension::StartTls)) {
            (true, true) => LOGIN_AFTER_TLS.to_owned(),
            (true, false) => NO_LOGIN.to_owned(),
            (false, _) => format!("{NO_KNOWN_LOGIN}, but {}", names.join(", ")),
        })
    }

    /// Says a command; its reply has to begin with this digit.
    pub(super) async fn command(
        &mut self,
        command: impl Display,
        digit: u16,
    ) -> Result<(), Failure> {
        expect(&self.connection.command(command).await?, digit)
    }

    /// Hands over the letter, after DATA. `Ok` means that the server has taken it.
    pub(super) async fn letter(&mut self, content: &[u8]) -> Result<(), Failure> {
        expect(&self.connection.message(content).await?, 2)
    }
}

fn expect(reply: &Response, digit: u16) -> Result<(), Failure> {
    match u16::from(reply.code()) {
        code if code / 100 == digit => Ok(()),
        code => Err(Failure::Refused { code, text: String::new() }),
    }
}
