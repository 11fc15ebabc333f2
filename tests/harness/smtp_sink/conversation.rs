//! One connection of the mail server: its commands, and how they are answered.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::{Encryption, Mode, Received, Shared, Spelling};

/// Answers a client until one side ends it.
pub(super) async fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
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
    hello: String,
    from: String,
    to: Vec<String>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Conversation<'a, S> {
    fn new(shared: &'a Shared, stream: S, encrypted: bool) -> Self {
        let stream = BufStream::new(stream);
        let (hello, from, to) = (String::new(), String::new(), Vec::new());
        Self { shared, stream, encrypted, signed_in: false, hello, from, to }
    }

    async fn run(&mut self) -> io::Result<End> {
        if matches!(self.shared.mode(), Mode::Down) {
            return Ok(End::Closed);
        }
        match self.shared.mode() {
            Mode::Answer("CONNECT", reply) => {
                self.reply(reply).await?;
                return Ok(End::Closed);
            }
            Mode::HangAt("CONNECT") => std::future::pending().await,
            _ => {}
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
                (_, Mode::HangAt(command)) if command == verb => std::future::pending().await,
                (_, Mode::Answer(command, reply)) if command == verb => self.reply(reply).await?,
                ("EHLO" | "HELO", _) => {
                    let hello = line.split(' ').nth(1).unwrap_or_default();
                    hello.trim().clone_into(&mut self.hello);
                    self.greet().await?;
                }
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
        let (hello, from, to) = (self.hello.clone(), self.from.clone(), self.to.clone());
        self.shared.state().received.push(Received { hello, from, to, data });
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
            lines.push(kind.offers.unwrap_or("AUTH PLAIN LOGIN"));
        }
        let last = lines.len() - 1;
        let lines = lines.iter().enumerate();
        let reply: Vec<_> = lines
            .map(|(i, line)| format!("250{}{line}", if i == last { ' ' } else { '-' }))
            .collect();
        self.write(&reply.join("\r\n")).await
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
        let code = &reply[..3];
        match self.shared.kind.spelling {
            Spelling::Usual | Spelling::BareLf => self.write(reply).await,
            Spelling::CodesAlone => self.write(code).await,
            Spelling::SeveralLines => {
                self.write(&format!("{code}-\r\n{code}-One more\r\n{code}")).await
            }
        }
    }

    async fn write(&mut self, reply: &str) -> io::Result<()> {
        match self.shared.mode() {
            Mode::Hang => std::future::pending().await,
            Mode::Slow(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        let mut bytes = format!("{reply}\r\n").into_bytes();
        if self.shared.kind.spelling == Spelling::BareLf {
            bytes = [reply.replace("\r\n", "\n").as_bytes(), b" gr\xfc\xdfe\n"].concat();
        }
        if let Mode::Trickle(delay) = self.shared.mode() {
            for byte in &bytes {
                tokio::time::sleep(delay).await;
                self.stream.write_all(std::slice::from_ref(byte)).await?;
                self.stream.flush().await?;
            }
            return Ok(());
        }
        self.stream.write_all(&bytes).await?;
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
