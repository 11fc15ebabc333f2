//! Letters over SMTP: which steps a conversation has, how long each may take, and which connection
//! it is held on.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::commands::{self, Data, Quit, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use secrecy::ExposeSecret;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use super::conversation::Conversation;
use super::mime::Mail;
use super::refusal::{Failure, NO_UTF8, OUTCOME_UNKNOWN, Stage, TOO_SLOW, judge};
use super::stream::Replies;
use super::tls::Tls;
use super::{Letter, Security, SendError, SmtpSettings};

/// How long a connection may be idle before a server is likely to have closed it.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// How many idle connections are kept at most.
const MAX_IDLE_CONNECTIONS: usize = 4;

/// A mail server, and the connections to it that wait for the next letter.
pub struct Smtp {
    settings: SmtpSettings,
    from: Mailbox,
    tls: Tls,
    hello: ClientId,
    idle: Mutex<Vec<(Conversation, Instant)>>,
}

impl Smtp {
    pub(super) fn new(
        settings: SmtpSettings,
        from: Mailbox,
        extra_roots: Option<&Path>,
    ) -> Result<Self, String> {
        let tls = Tls::new(&settings.host, extra_roots)?;
        let hello = hello(&settings.hello);
        Ok(Self { settings, from, tls, hello, idle: Mutex::default() })
    }

    pub fn settings(&self) -> &SmtpSettings {
        &self.settings
    }

    /// A letter given up half-way takes its connection with it: dropping this future closes it.
    pub(super) async fn send(&self, letter: &Letter) -> Result<(), SendError> {
        let mail = Mail::new(letter, &self.from)?;
        let (limit, command) = (self.settings.deadlines.letter, self.settings.deadlines.command);
        let until = Instant::now() + limit;
        // The one answer that gets all the time there is, and a command's at the least: a server that
        // scans the letter is slow, and to leave before it answers means to send the letter again.
        let begin_until = until - command;
        let announced = timeout_at(begin_until, self.announce(&mail)).await;
        let late = || SendError::Transient(TOO_SLOW.to_owned());
        let mut conversation = announced.unwrap_or_else(|_| Err(late()))?;
        if Instant::now() > begin_until {
            // The process was stopped for a while, and the answer was there before the timer.
            return Err(late());
        }
        let answer = timeout_at(until, conversation.letter(&mail.content)).await;
        let answer = answer
            .unwrap_or_else(|_| Err(Failure::Other(format!("no answer to it within {limit:?}"))));
        match answer {
            Ok(()) => {
                self.keep(conversation);
                Ok(())
            }
            Err(failure @ Failure::Refused { .. }) => Err(judge(Stage::Content, failure)),
            Err(failure) => {
                let why = judge(Stage::Content, failure);
                Err(SendError::Transient(format!("{why}; {OUTCOME_UNKNOWN}")))
            }
        }
    }

    /// Everything but a recipient and a letter, each step within `patience`.
    pub(super) async fn check(&self, patience: Duration) -> Result<(), SendError> {
        let mut hasty = Self {
            settings: self.settings.clone(),
            from: self.from.clone(),
            tls: self.tls.clone(),
            hello: self.hello.clone(),
            idle: Mutex::default(),
        };
        hasty.settings.deadlines.command = patience;
        hasty.introduce().await
    }

    async fn introduce(&self) -> Result<(), SendError> {
        let mut conversation = self.connect().await?;
        let from = commands::Mail::new(Some(self.from.email.clone()), Vec::new());
        self.within(Stage::Sender, conversation.command(from, 2)).await?;
        // Good manners; a server that does not answer them has shown all that was asked.
        let _ = self.within(Stage::Sender, conversation.command(Rset, 2)).await;
        let _ = self.within(Stage::Sender, conversation.command(Quit, 2)).await;
        Ok(())
    }

    /// A connection that awaits the letter itself.
    async fn announce(&self, mail: &Mail) -> Result<Conversation, SendError> {
        let mut conversation = self.with_sender(mail).await?;
        let to = Rcpt::new(mail.to.clone(), Vec::new());
        self.within(Stage::Recipient, conversation.command(to, 2)).await?;
        self.within(Stage::Content, conversation.command(Data, 3)).await?;
        Ok(conversation)
    }

    /// A connection on which the server has taken the sender. An idle one may have died in the
    /// meantime: that shows here, before anything was promised, and a new one is made.
    async fn with_sender(&self, mail: &Mail) -> Result<Conversation, SendError> {
        if let Some(mut idle) = self.take_idle() {
            let from = mail_command(&idle, mail)?;
            if self.within(Stage::Sender, idle.command(from, 2)).await.is_ok() {
                return Ok(idle);
            }
        }
        let mut fresh = self.connect().await?;
        let from = mail_command(&fresh, mail)?;
        self.within(Stage::Sender, fresh.command(from, 2)).await?;
        Ok(fresh)
    }

    /// Connected, encrypted as the settings demand, and signed in.
    async fn connect(&self) -> Result<Conversation, SendError> {
        let mut conversation = self.begin().await?;
        if self.settings.security == Security::StartTls {
            let replies = self.within(Stage::StartTls, conversation.start_tls(&self.tls)).await?;
            let again = Conversation::begin(replies, &self.hello);
            conversation = self.within(Stage::StartTls, again).await?;
        }
        if let Some((user, password)) = &self.settings.login {
            let password = password.expose_secret().to_owned();
            let credentials = Credentials::new(user.clone(), password);
            let signing_in = conversation.sign_in(&credentials, &self.hello);
            self.within(Stage::SigningIn, signing_in).await?;
        }
        Ok(conversation)
    }

    async fn begin(&self) -> Result<Conversation, SendError> {
        let replies = self.greeting().await?;
        match self.limited(Conversation::begin(replies, &self.hello)).await {
            Err(Failure::Refused { code: 500 | 502, .. }) => {
                // RFC 5321, 3.2: it is older than EHLO, or what stands before it is. Lettre has left
                // that connection.
                let replies = self.greeting().await?.for_old_server();
                let hello = Conversation::begin(replies, &self.hello);
                self.within(Stage::Connecting, hello).await
            }
            begun => begun.map_err(|failure| judge(Stage::Connecting, failure)),
        }
    }

    /// A connection whose greeting has come: it and the answer to ours have a step's time each.
    async fn greeting(&self) -> Result<Replies, SendError> {
        let stream = self.within(Stage::Connecting, self.reach()).await?;
        let mut replies = if self.settings.security == Security::Tls {
            let tls = async { Ok(self.tls.over(stream).await?) };
            Replies::new(self.within(Stage::Connecting, tls).await?)
        } else {
            Replies::new(stream)
        };
        self.within(Stage::Connecting, async { Ok(replies.come().await?) }).await?;
        Ok(replies)
    }

    /// A host may have several addresses, and the first may lead nowhere: each gets its share of the
    /// time, no more.
    async fn reach(&self) -> Result<TcpStream, Failure> {
        let SmtpSettings { host, port, deadlines, .. } = &self.settings;
        let mut last = Failure::Other("the name of the host has no address".to_owned());
        for address in lookup_host((host.as_str(), *port)).await? {
            match timeout(deadlines.command / 3, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = Failure::Other("its address does not answer".to_owned()),
            }
        }
        Err(last)
    }

    async fn within<T>(
        &self,
        stage: Stage,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, SendError> {
        self.limited(answer).await.map_err(|failure| judge(stage, failure))
    }

    async fn limited<T>(
        &self,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = self.settings.deadlines.command;
        let late = |_| Err(Failure::Other(format!("no answer within {limit:?}")));
        timeout(limit, answer).await.unwrap_or_else(late)
    }

    /// Keeps a connection for the next letter. Only one whose last letter was taken in full gets
    /// here.
    fn keep(&self, conversation: Conversation) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        if idle.len() < MAX_IDLE_CONNECTIONS {
            idle.push((conversation, Instant::now()));
        }
    }

    fn take_idle(&self) -> Option<Conversation> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        idle.pop().map(|(conversation, _)| conversation)
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

/// MAIL FROM, with what this letter asks of the server: SMTPUTF8 for an address outside ASCII (RFC
/// 6531).
fn mail_command(conversation: &Conversation, mail: &Mail) -> Result<commands::Mail, SendError> {
    let mut parameters = Vec::new();
    let (from, to): (&str, &str) = (mail.from.as_ref(), mail.to.as_ref());
    if !(from.is_ascii() && to.is_ascii()) {
        if !conversation.offers(Extension::SmtpUtfEight) {
            // Another sender can be set; another recipient cannot.
            return Err(if from.is_ascii() {
                SendError::Permanent(format!("{}: {NO_UTF8}", Stage::Recipient))
            } else {
                SendError::Transient(format!("{}: {NO_UTF8}", Stage::Sender))
            });
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !mail.content.is_ascii() && conversation.offers(Extension::EightBitMime) {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    Ok(commands::Mail::new(Some(mail.from.clone()), parameters))
}
