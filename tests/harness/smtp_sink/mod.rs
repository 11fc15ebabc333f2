//! A mail server for tests: real SMTP on a loopback port, which takes letters in and shows them.
//!
//! How it behaves can be changed while it runs ([`SmtpSink::behave`]); it certifies itself for
//! `localhost`.

mod conversation;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail_parser::MessageParser;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
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
    /// What the reply to EHLO says of that, in place of `AUTH PLAIN LOGIN`.
    pub offers: Option<&'static str>,
    /// Offers neither 8BITMIME nor SMTPUTF8.
    pub ascii_only: bool,
    pub spelling: Spelling,
    pub certificate: Certified,
}

/// How replies are written.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Spelling {
    #[default]
    Usual,
    /// Codes alone, but for the keywords of EHLO.
    CodesAlone,
    /// In several lines, the last of which has no text.
    SeveralLines,
    /// Without CR, and not in UTF-8.
    BareLf,
}

/// What the certificate says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Certified {
    /// It is for localhost, and holds.
    #[default]
    Well,
    /// It is an authority's (CA:TRUE).
    Authority,
    Expired,
    NotYet,
    /// It is for another host.
    Elsewhere,
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
    /// Answers this command with this reply; `CONNECT` is the greeting.
    Answer(&'static str, &'static str),
    /// Refuses each recipient the first time, for now.
    Greylist,
    /// Keeps the connection open and says nothing more.
    Hang,
    /// Says nothing more once the letter has arrived; the letter counts as received.
    HangAfterData,
    /// Says nothing more once this command has come; `CONNECT` is the greeting.
    HangAt(&'static str),
    /// Waits before each byte.
    Trickle(Duration),
    /// Waits before each reply.
    Slow(Duration),
    /// Closes the connection where the answer to the letter should be; the letter counts as
    /// received.
    CutAfterData,
    /// Closes every connection at once.
    Down,
}

/// A letter as it arrived.
#[derive(Clone)]
pub struct Received {
    /// Whom the client said to be.
    pub hello: String,
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
        let acceptor = certify(kind.certificate, &folder.path().join("certificate.pem"));
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

fn certify(says: Certified, file: &Path) -> TlsAcceptor {
    let names = match says {
        Certified::Elsewhere => vec!["mail.elsewhere.example".to_owned()],
        _ => vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
    };
    let mut parameters = CertificateParams::new(names).expect("the names are valid");
    match says {
        Certified::Authority => parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        Certified::Expired => parameters.not_after = rcgen::date_time_ymd(2020, 2, 20),
        Certified::NotYet => parameters.not_before = rcgen::date_time_ymd(2090, 2, 20),
        Certified::Well | Certified::Elsewhere => {}
    }
    let key = KeyPair::generate().expect("a key");
    let own = parameters.self_signed(&key).expect("a certificate");
    std::fs::write(file, own.pem()).expect("the folder is ours");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a PKCS#8 key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.into()], key)
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
                _ = conversation::serve(&shared, stream) => {}
                _ = hang_ups.changed() => {}
            }
        });
    }
}
