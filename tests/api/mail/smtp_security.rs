//! The mailer and the mail server that wants a login or TLS, and what it never says in a log.

use std::sync::{Arc, Mutex};

use doorward::mail::{Mailbox, Mailer, SmtpSettings};

use crate::harness::smtp_sink::{Encryption, Kind, Mode, SmtpSink};
use crate::mail::letters::letter;
use crate::mail::smtp::{mailer, mailer_at, permanent, transient};

#[tokio::test]
async fn a_login_works_by_either_mechanism_and_under_either_tls() {
    for tls in [Encryption::None, Encryption::StartTls, Encryption::Implicit] {
        for old_login in [false, true] {
            let login = Some(("you", "right"));
            let kind = Kind { tls, login, old_login, ..Kind::default() };
            let sink = SmtpSink::of(kind).await;
            mailer(&sink).send(&letter()).await.expect("the password is right");
            assert_eq!(sink.received().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_wrong_password_costs_no_letter() {
    let login = Some(("you", "right"));
    let sink = SmtpSink::of(Kind { tls: Encryption::Implicit, login, ..Kind::default() }).await;
    let wrong = sink.url().replace("right", "wrong");
    let why = transient(mailer_at(&wrong, Some(&sink.certificate())).send(&letter()).await);
    assert_eq!(why, "signing in to the mail server: 535 5.7.8");

    let none = sink.url().replace("you:right@", "");
    let why = transient(mailer_at(&none, Some(&sink.certificate())).send(&letter()).await);
    assert_eq!(why, "naming the sender: 530 5.7.0");
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_whose_certificate_is_not_trusted() {
    for tls in [Encryption::StartTls, Encryption::Implicit] {
        let login = Some(("you", "right"));
        let sink = SmtpSink::of(Kind { tls, login, ..Kind::default() }).await;
        let other = SmtpSink::start().await;
        for roots in [None, Some(other.certificate())] {
            let why = transient(mailer_at(&sink.url(), roots.as_deref()).send(&letter()).await);
            assert!(why.contains("certificate"), "{why}");
        }
        assert!(sink.connections() >= 2);
        assert_silent(&sink);
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_of_another_name() {
    let sink = SmtpSink::of(Kind { tls: Encryption::Implicit, ..Kind::default() }).await;
    let url = sink.url().replace("localhost", "127.0.0.1");
    mailer_at(&url, Some(&sink.certificate()))
        .send(&letter())
        .await
        .expect("the certificate names 127.0.0.1");
    let url = sink.url().replace("localhost", "127.0.0.2");
    transient(mailer_at(&url, Some(&sink.certificate())).send(&letter()).await);
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn nothing_is_sent_in_the_clear_where_starttls_is_missing() {
    let login = Some(("you", "right"));
    let sink = SmtpSink::of(Kind { login, ..Kind::default() }).await;
    let url = format!("{}?tls=required", sink.url());
    let why = transient(mailer_at(&url, None).send(&letter()).await);
    assert!(why.contains("STARTTLS"), "{why}");
    assert_silent(&sink);
}

#[tokio::test]
async fn tls_is_not_begun_with_a_server_that_speaks_plain_text() {
    let sink = SmtpSink::start().await;
    let url = sink.url().replace("smtp:", "smtps:");
    transient(mailer_at(&url, None).send(&letter()).await);
    assert_silent(&sink);
}

/// The server saw no credentials, no sender and no letter.
fn assert_silent(sink: &SmtpSink) {
    assert!(sink.received().is_empty());
    for command in sink.commands() {
        let told = ["AUTH", "MAIL", "RCPT", "DATA"].iter().any(|verb| command.starts_with(verb));
        assert!(!told, "{command}");
    }
}

#[tokio::test]
async fn no_log_level_shows_a_password_an_address_or_a_link() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    tracing::trace!("the log is read");

    let login = Some(("you", "hunter2"));
    let sink = SmtpSink::of(Kind { tls: Encryption::StartTls, login, ..Kind::default() }).await;
    let mailer = mailer(&sink);
    mailer.send(&letter()).await.expect("the sink accepts");
    sink.behave(Mode::RefuseRecipient("550 5.1.1 <ada@example.com>: no such user"));
    permanent(mailer.send(&letter()).await);

    let log = String::from_utf8_lossy(&log.0.lock().expect("no panic")).into_owned();
    assert!(log.contains("the log is read"));
    for secret in ["hunter2", "AHlvdQBodW50ZXIy", "@", "confirm?token"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn roots_that_cannot_be_read_are_complained_about() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.pem");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n")
        .expect("our folder");
    let settings = SmtpSettings::gmail("you@gmail.com", "app");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing").expect("our folder");
    for path in [broken, empty, folder.path().join("absent.pem")] {
        let from: Mailbox = "you@gmail.com".parse().expect("a mailbox");
        let complaint = Mailer::smtp(&settings, from, Some(&path)).err().expect("a complaint");
        assert!(complaint.contains(&*path.to_string_lossy()), "{complaint}");
    }
}
