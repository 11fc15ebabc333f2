//! A mail server for tests: real SMTP on a loopback port, which takes letters in and shows them.
//!
//! How it behaves can be changed while it runs ([`SmtpSink::behave`]); it certifies itself for `localhost`.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use mail_parser::MessageParser;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// What the server is; fixed when it starts.
#[derive(Clone, Default)]
pub struct Kind {
    pub tls: Encryption,
    /// User and password that MAIL FROM needs.
    pub login: Option<(&'static str, &'static str)>,
    /// Offers AUTH LOGIN alone, not PLAIN.
    pub old_login: bool,
    /// Offers neither 8BITMIME nor SMTPUTF8.
    pub ascii_only: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Encryption {
    #[default]
    None,
    StartTls,
    Implicit,
}

/// What the server does with a letter; can be changed at any time.
#[derive(Clone, Copy, Default)]
pub enum Mode {
    #[default]
    Accept,
    /// Answers MAIL FROM with this reply.
    RefuseSender(&'static str),
    /// Answers RCPT TO with this reply.
    RefuseRecipient(&'static str),
    /// Answers the finished letter with this reply.
    RefuseContent(&'static str),
    /// Refuses each recipient the first time, for now.
    Greylist,
    /// Keeps the connection open and says nothing more.
    Hang,
    /// Says nothing more once the letter has arrived; the letter counts as received.
    HangAfterData,
    /// Waits before each reply.
    Slow(Duration),
    /// Closes the connection where the answer to the letter should be; the letter counts as received.
    CutAfterData,
    /// Closes every connection at once.
    Down,
}

/// A letter as it arrived.
#[derive(Clone)]
pub struct Received {
    pub from: String,
    pub to: Vec<String>,
    pub data: Vec<u8>,
}

impl Received {
    /// The text part, decoded, with `\n` for line ends.
    pub fn text(&self) -> String {
        self.parsed(|mail| mail.body_text(0).map(|text| text.replace("\r\n", "\n")))
    }

    /// The HTML part, decoded, with `\n` for line ends.
    pub fn html(&self) -> String {
        self.parsed(|mail| mail.body_html(0).map(|html| html.replace("\r\n", "\n")))
    }

    pub fn subject(&self) -> String {
        self.parsed(|mail| mail.subject().map(str::to_owned))
    }

    /// Every value of a header as it stands in the letter.
    pub fn headers(&self, name: &str) -> Vec<String> {
        self.parsed(|mail| {
            let all = mail.headers_raw().filter(|(each, _)| each.eq_ignore_ascii_case(name));
            Some(all.map(|(_, value)| value.trim().to_owned()).collect())
        })
    }

    fn parsed<T>(&self, read: impl FnOnce(&mail_parser::Message) -> Option<T>) -> T {
        let mail = MessageParser::default().parse(&self.data).expect("the letter is a mail");
        read(&mail).expect("the letter has that part")
    }
}

/// The running server; dropping it stops it.
pub struct SmtpSink {
    pub port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
    folder: TempDir,
}

struct Shared {
    kind: Kind,
    acceptor: TlsAcceptor,
    state: Mutex<State>,
    hang_ups: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    mode: Mode,
    connections: usize,
    commands: Vec<String>,
    received: Vec<Received>,
    greylisted: HashSet<String>,
}

impl SmtpSink {
    /// A server without TLS and login.
    pub async fn start() -> Self {
        Self::of(Kind::default()).await
    }

    pub async fn of(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the certificate");
        let acceptor = certify(&folder.path().join("certificate.pem"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (hang_ups, _) = watch::channel(());
        let state = Mutex::default();
        let shared = Arc::new(Shared { kind, acceptor, state, hang_ups });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { port, shared, accepting, folder }
    }

    /// The `SMTP_URL` of this server, with its login.
    pub fn url(&self) -> String {
        let Kind { tls, login, .. } = self.shared.kind;
        let login = login.map(|(user, password)| format!("{user}:{password}@")).unwrap_or_default();
        let port = self.port;
        match tls {
            Encryption::None => format!("smtp://{login}localhost:{port}"),
            Encryption::StartTls => format!("smtp://{login}localhost:{port}?tls=required"),
            Encryption::Implicit => format!("smtps://{login}localhost:{port}"),
        }
    }

    /// A PEM file with the server's certificate: its own authority.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    pub fn behave(&self, mode: Mode) {
        self.shared.state().mode = mode;
    }

    /// Closes every open connection, as a server does with idle ones.
    pub fn hang_up(&self) {
        self.shared.hang_ups.send_replace(());
    }

    /// Every letter so far, oldest first.
    pub fn received(&self) -> Vec<Received> {
        self.shared.state().received.clone()
    }

    /// Waits until `count` letters are there, at most ten seconds.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        for _ in 0..500 {
            if self.received().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let received = self.received();
        assert!(received.len() >= count, "{} of {count} letters came", received.len());
        received
    }

    /// Every command so far, without what follows AUTH's mechanism.
    pub fn commands(&self) -> Vec<String> {
        self.shared.state().commands.clone()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        self.accepting.abort();
        self.hang_up();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mode(&self) -> Mode {
        self.state().mode
    }
}

fn certify(file: &Path) -> TlsAcceptor {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = rcgen::generate_simple_self_signed(names).expect("the names are valid");
    std::fs::write(file, own.cert.pem()).expect("the folder is ours");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a PKCS#8 key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.into()], key)
        .expect("the key fits the certificate");
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.state().connections += 1;
        let shared = Arc::clone(&shared);
        let mut hang_ups = shared.hang_ups.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = serve(&shared, stream) => {}
                _ = hang_ups.changed() => {}
            }
        });
    }
}

async fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    if shared.kind.tls == Encryption::Implicit {
        let stream = shared.acceptor.accept(stream).await?;
        Conversation::new(shared, stream, true).run().await?;
        return Ok(());
    }
    let mut plain = Conversation::new(shared, stream, false);
    if plain.run().await? == End::StartTls {
        let stream = shared.acceptor.accept(plain.stream.into_inner()).await?;
        Conversation::new(shared, stream, true).commands().await?;
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum End {
    Closed,
    StartTls,
}

struct Conversation<'a, S> {
    shared: &'a Shared,
    stream: BufStream<S>,
    encrypted: bool,
    signed_in: bool,
    from: String,
    to: Vec<String>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Conversation<'a, S> {
    fn new(shared: &'a Shared, stream: S, encrypted: bool) -> Self {
        let stream = BufStream::new(stream);
        let (from, to) = (String::new(), Vec::new());
        Self { shared, stream, encrypted, signed_in: false, from, to }
    }

    async fn run(&mut self) -> io::Result<End> {
        if matches!(self.shared.mode(), Mode::Down) {
            return Ok(End::Closed);
        }
        self.reply("220 sink.example ESMTP").await?;
        self.commands().await
    }

    async fn commands(&mut self) -> io::Result<End> {
        loop {
            let line = self.line().await?;
            let mode = self.shared.mode();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            self.note(&verb, &line);
            match (verb.as_str(), mode) {
                (_, Mode::Down) => return Ok(End::Closed),
                ("EHLO", _) => self.greet().await?,
                ("STARTTLS", _) if self.can_start_tls() => {
                    self.reply("220 2.0.0 go ahead").await?;
                    return Ok(End::StartTls);
                }
                ("AUTH", _) => self.sign_in(&line).await?,
                ("MAIL", _) if self.shared.kind.login.is_some() && !self.signed_in => {
                    self.reply("530 5.7.0 Authentication required").await?;
                }
                ("MAIL", Mode::RefuseSender(refusal))
                | ("RCPT", Mode::RefuseRecipient(refusal)) => {
                    self.reply(refusal).await?;
                }
                ("MAIL", _) => {
                    self.from = address(&line);
                    self.to.clear();
                    self.reply("250 2.1.0 Ok").await?;
                }
                ("RCPT", Mode::Greylist)
                    if self.shared.state().greylisted.insert(address(&line)) =>
                {
                    self.reply("451 4.7.1 Greylisted, try again later").await?;
                }
                ("RCPT", _) => {
                    self.to.push(address(&line));
                    self.reply("250 2.1.5 Ok").await?;
                }
                ("DATA", _) if self.to.is_empty() => self.reply("503 5.5.1 no recipient").await?,
                ("DATA", _) => {
                    if self.letter().await?.is_none() {
                        return Ok(End::Closed);
                    }
                }
                ("NOOP" | "RSET", _) => self.reply("250 2.0.0 Ok").await?,
                ("QUIT", _) => {
                    self.reply("221 2.0.0 Bye").await?;
                    return Ok(End::Closed);
                }
                _ => self.reply("500 5.5.2 unknown").await?,
            }
        }
    }

    /// Takes a letter in; `None` where the answer to it is to be lost.
    async fn letter(&mut self) -> io::Result<Option<()>> {
        self.reply("354 End with a dot").await?;
        let data = self.data().await?;
        let mode = self.shared.mode();
        if let Mode::RefuseContent(refusal) = mode {
            self.reply(refusal).await?;
            return Ok(Some(()));
        }
        let (from, to) = (self.from.clone(), self.to.clone());
        self.shared.state().received.push(Received { from, to, data });
        match mode {
            Mode::CutAfterData => return Ok(None),
            Mode::HangAfterData => std::future::pending().await,
            _ => self.reply("250 2.0.0 Ok: queued").await?,
        }
        Ok(Some(()))
    }

    fn can_start_tls(&self) -> bool {
        self.shared.kind.tls == Encryption::StartTls && !self.encrypted
    }

    async fn greet(&mut self) -> io::Result<()> {
        let kind = &self.shared.kind;
        let mut lines = vec!["sink.example", "ENHANCEDSTATUSCODES"];
        if !kind.ascii_only {
            lines.extend(["8BITMIME", "SMTPUTF8"]);
        }
        if self.can_start_tls() {
            lines.push("STARTTLS");
        } else if kind.login.is_some() {
            lines.push(if kind.old_login { "AUTH LOGIN" } else { "AUTH PLAIN LOGIN" });
        }
        let last = lines.len() - 1;
        let lines = lines.iter().enumerate();
        let reply: Vec<_> = lines
            .map(|(i, line)| format!("250{}{line}", if i == last { ' ' } else { '-' }))
            .collect();
        self.reply(&reply.join("\r\n")).await
    }

    async fn sign_in(&mut self, line: &str) -> io::Result<()> {
        let mut words = line.split(' ').skip(1);
        let given = match (words.next(), words.next()) {
            (Some("PLAIN"), Some(response)) => decode(response).replacen('\0', "", 1),
            (Some("LOGIN"), None) => {
                self.reply(&format!("334 {}", BASE64.encode("Username:"))).await?;
                let user = decode(&self.line().await?);
                self.reply(&format!("334 {}", BASE64.encode("Password:"))).await?;
                format!("{user}\0{}", decode(&self.line().await?))
            }
            _ => return self.reply("504 5.5.4 mechanism not known").await,
        };
        let wanted = self.shared.kind.login.map(|(user, password)| format!("{user}\0{password}"));
        self.signed_in = wanted.is_some_and(|wanted| wanted == given);
        self.reply(if self.signed_in {
            "235 2.7.0 Accepted"
        } else {
            "535-5.7.8 Username and Password not accepted.\r\n535 5.7.8 Learn more at https://sink.example"
        })
        .await
    }

    /// Reads up to the lone dot and takes the doubled ones away (RFC 5321, 4.5.2).
    async fn data(&mut self) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let mut line = Vec::new();
            if self.stream.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == b".\r\n" {
                return Ok(data);
            }
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }

    fn note(&self, verb: &str, line: &str) {
        let command = match verb {
            "AUTH" => line.split(' ').take(2).collect::<Vec<_>>().join(" "),
            _ => line.to_owned(),
        };
        self.shared.state().commands.push(command);
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    async fn reply(&mut self, reply: &str) -> io::Result<()> {
        match self.shared.mode() {
            Mode::Hang => std::future::pending().await,
            Mode::Slow(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        self.stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        self.stream.flush().await
    }
}

fn address(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map(|(address, _)| address.to_owned()).unwrap_or_default()
}

fn decode(base64: &str) -> String {
    let bytes = BASE64.decode(base64).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
