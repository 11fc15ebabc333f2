//! Letters over SMTP (RFC 5321), with TLS (RFC 8314, 3207) and a login (RFC 4954).
//!
//! The conversation is led here, command by command, on lettre's connection. Lettre's own pooled
//! transport would be shorter, but its time limit ends with the TCP connection, it puts a
//! connection whose letter was abandoned half-way back into the pool (the next letter would read
//! the answer to this one), and its errors do not say which command was refused, so a wrong
//! password could not be told from a wrong recipient.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::commands;
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};

use super::mime::Mail;
use super::refusal::{Stage, judge};
use super::{Letter, Security, SendError, SmtpSettings};

/// How long a connection may be idle before a server is likely to have closed it.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// How many idle connections are kept at most.
const MAX_IDLE_CONNECTIONS: usize = 4;

/// A mail server, and the connections to it that wait for the next letter.
pub struct Smtp {
    settings: SmtpSettings,
    from: Mailbox,
    tls: TlsParameters,
    hello: ClientId,
    idle: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
}

impl Smtp {
    pub(super) fn new(
        settings: SmtpSettings,
        from: Mailbox,
        extra_roots: Option<&Path>,
    ) -> Result<Self, String> {
        let tls = tls_parameters(&settings.host, extra_roots)?;
        let hello = hello(&settings.hello);
        Ok(Self { settings, from, tls, hello, idle: Mutex::default() })
    }

    /// A letter given up half-way takes its connection with it: dropping this future closes it.
    pub(super) async fn send(&self, letter: &Letter) -> Result<(), SendError> {
        let mail = Mail::new(letter, &self.from)?;
        let limit = self.settings.deadlines.letter;
        timeout(limit, self.deliver(&mail)).await.unwrap_or_else(|_| {
            Err(SendError::Transient(format!("the letter was not taken within {limit:?}")))
        })
    }

    /// Everything but a letter.
    pub(super) async fn check(&self) -> Result<(), SendError> {
        let mut connection = self.connect().await?;
        self.within(Stage::Connecting, connection.command(commands::Noop)).await?;
        // Good manners; a server that does not answer them has shown all that was asked.
        let _ = self.within(Stage::Connecting, connection.quit()).await;
        Ok(())
    }

    async fn deliver(&self, mail: &Mail) -> Result<(), SendError> {
        let mut connection = self.announce(mail).await?;
        let to = commands::Rcpt::new(mail.to.clone(), Vec::new());
        self.within(Stage::Recipient, connection.command(to)).await?;
        self.within(Stage::Content, connection.command(commands::Data)).await?;
        // The one answer that has all the time there is: a server that scans the letter is slow,
        // and to leave before it answers means to send the letter again.
        let taken = connection.message(&mail.content).await;
        taken.map_err(|error| judge(Stage::Content, &error))?;
        self.keep(connection);
        Ok(())
    }

    /// A connection on which the server has taken the sender. An idle one may have died in the
    /// meantime: that shows here, before anything was promised, and a new one is made.
    async fn announce(&self, mail: &Mail) -> Result<AsyncSmtpConnection, SendError> {
        if let Some(mut idle) = self.take_idle() {
            let from = mail_command(&idle, mail)?;
            let taken = self.within(Stage::Sender, idle.command(from)).await;
            if taken.is_ok() {
                return Ok(idle);
            }
        }
        let mut fresh = self.connect().await?;
        let from = mail_command(&fresh, mail)?;
        self.within(Stage::Sender, fresh.command(from)).await?;
        Ok(fresh)
    }

    /// Connected, encrypted as the settings demand, and signed in.
    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let SmtpSettings { host, port, security, login, deadlines, .. } = &self.settings;
        let wrapper = (*security == Security::Tls).then(|| self.tls.clone());
        // A host may have several addresses, and the first may lead nowhere: it gets its share of
        // the time, no more.
        let per_address = Some(deadlines.command / 2);
        let server = (host.as_str(), *port);
        let connecting =
            AsyncSmtpConnection::connect_tokio1(server, per_address, &self.hello, wrapper, None);
        let mut connection = limited(deadlines.command * 2, Stage::Connecting, connecting).await?;
        if *security == Security::StartTls {
            let upgrade = connection.starttls(self.tls.clone(), &self.hello);
            self.within(Stage::StartTls, upgrade).await?;
        }
        if let Some((user, password)) = login {
            let password = password.expose_secret().to_owned();
            let credentials = Credentials::new(user.clone(), password);
            let signing_in = connection.auth(DEFAULT_MECHANISMS, &credentials);
            self.within(Stage::SigningIn, signing_in).await?;
        }
        Ok(connection)
    }

    async fn within<T>(
        &self,
        stage: Stage,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, SendError> {
        limited(self.settings.deadlines.command, stage, answer).await
    }

    /// Keeps a connection for the next letter. Only one whose last letter was taken in full gets
    /// here.
    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push((connection, Instant::now()));
        }
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        idle.pop().map(|(connection, _)| connection)
    }
}

/// RFC 5321, 4.1.1.1 and 4.1.3: a domain or the literal of an address. The system's own name is
/// neither in a container, and strict servers refuse letters after it.
fn hello(host: &str) -> ClientId {
    let host = host.trim_end_matches('.');
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(ip)) => ClientId::Ipv4(ip),
        Ok(IpAddr::V6(ip)) => ClientId::Ipv6(ip),
        Err(_) if host.contains('.') => ClientId::Domain(host.to_owned()),
        Err(_) => ClientId::Ipv4(Ipv4Addr::LOCALHOST),
    }
}

async fn limited<T>(
    limit: Duration,
    stage: Stage,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, SendError> {
    match timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(judge(stage, &error)),
        Err(_) => Err(SendError::Transient(format!("{stage}: no answer within {limit:?}"))),
    }
}

/// MAIL FROM, with what this letter asks of the server: SMTPUTF8 for an address outside ASCII (RFC
/// 6531).
fn mail_command(
    connection: &AsyncSmtpConnection,
    mail: &Mail,
) -> Result<commands::Mail, SendError> {
    let server = connection.server_info();
    let mut parameters = Vec::new();
    let (from, to): (&str, &str) = (mail.from.as_ref(), mail.to.as_ref());
    if !(from.is_ascii() && to.is_ascii()) {
        if !server.supports_feature(Extension::SmtpUtfEight) {
            let why = "the mail server takes no address outside ASCII (SMTPUTF8)";
            // Another sender can be set; another recipient cannot.
            return Err(if from.is_ascii() {
                SendError::Permanent(why.to_owned())
            } else {
                SendError::Transient(format!("{}: {why}", Stage::Sender))
            });
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !mail.content.is_ascii() && server.supports_feature(Extension::EightBitMime) {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    Ok(commands::Mail::new(Some(mail.from.clone()), parameters))
}

/// Trusts the public authorities and those in the file.
fn tls_parameters(host: &str, extra_roots: Option<&Path>) -> Result<TlsParameters, String> {
    let mut builder =
        TlsParameters::builder(host.to_owned()).certificate_store(CertificateStore::WebpkiRoots);
    let mut from_where = String::new();
    if let Some(path) = extra_roots {
        from_where = format!(" from {}", path.display());
        let pem = std::fs::read(path)
            .map_err(|error| format!("the certificates{from_where} cannot be read: {error}"))?;
        let roots = Certificate::from_pem(&pem)
            .ok()
            .filter(|_| String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----"))
            .ok_or_else(|| format!("the certificates{from_where} are not in PEM form"))?;
        builder = builder.add_root_certificate(roots);
    }
    builder.build().map_err(|error| format!("the certificates{from_where} cannot be used: {error}"))
}
