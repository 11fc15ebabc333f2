//! The mailer and the mail server that wants a login or TLS, and what it never says in a log.

use std::sync::{Arc, Mutex};

use doorward::mail::{Mailbox, Mailer, SmtpSettings, advice};

use crate::harness::smtp_sink::{Certified, Encryption, Kind, Mode, SmtpSink};
use crate::mail::letters::letter;
use crate::mail::smtp::{mailer, mailer_at, permanent, transient};

#[tokio::test]
async fn a_login_works_by_either_mechanism_and_under_either_tls() {
    for tls in [Encryption::None, Encryption::StartTls, Encryption::Implicit] {
        for (offers, spoken) in [
            (None, "AUTH PLAIN"),
            (Some("AUTH LOGIN"), "AUTH LOGIN"),
            (Some("auth plain login"), "AUTH PLAIN"),
            (Some("AUTH=LOGIN"), "AUTH LOGIN"),
            (Some("AUTH CRAM-MD5 XOAUTH2 Login"), "AUTH LOGIN"),
        ] {
            let login = Some(("you", "right"));
            let sink = SmtpSink::of(Kind { tls, login, offers, ..Kind::default() }).await;
            mailer(&sink).send(&letter()).await.expect("the password is right");
            assert_eq!(sink.received().len(), 1);
            assert!(sink.commands().iter().any(|command| command == spoken), "{offers:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_overlooks_the_password_beside_the_command_gets_it_again() {
    let sink = SmtpSink::of(Kind { login: Some(("you", "right")), ..Kind::default() }).await;
    sink.behave(Mode::Answer("AUTH", "334"));
    let why = transient(mailer(&sink).send(&letter()).await);
    assert_eq!(why, "signing in to the mail server: 500 5.5.2");
    let response = "AHlvdQByaWdodA==".to_owned();
    assert_eq!(sink.commands().last(), Some(&response), "the sink knows it only with its command");
}

#[tokio::test]
async fn a_server_without_a_login_that_we_know_is_told_apart() {
    let login = Some(("you", "right"));
    let kinds = [
        (
            Encryption::None,
            Some("AUTH CRAM-MD5 NTLM"),
            "no login by PLAIN or LOGIN, but CRAM-MD5, NTLM",
            "which are all",
        ),
        (
            Encryption::None,
            Some("auth=ntlm you@example.com"),
            "no login by PLAIN or LOGIN, but NTLM",
            "which are all",
        ),
        (Encryption::None, Some("SIZE 1000"), "it offers no login", "submission"),
    ];
    for (tls, offers, why, remedy) in kinds {
        let sink = SmtpSink::of(Kind { tls, login, offers, ..Kind::default() }).await;
        let (error, advice) = trouble(&mailer(&sink)).await;
        assert!(
            error.starts_with("signing in to the mail server: ") && error.ends_with(why),
            "{error}"
        );
        assert!(advice.contains(remedy), "{advice}");
        assert_silent(&sink);
    }
    // It has one, but not in the clear.
    let sink = SmtpSink::of(Kind { tls: Encryption::StartTls, login, ..Kind::default() }).await;
    let url = sink.url().replace("?tls=required", "");
    let (error, advice) = trouble(&mailer_at(&url, None)).await;
    assert!(
        error.contains("after STARTTLS") && advice.contains("?tls=required"),
        "{error}: {advice}"
    );
    assert_silent(&sink);
}

#[tokio::test]
async fn each_fault_of_a_certificate_is_told_with_its_remedy() {
    for (certificate, trusted, why, remedy) in [
        (Certified::Well, false, "is from an authority that is not known here", "SSL_CERT_FILE"),
        (
            Certified::Elsewhere,
            true,
            "is for another name than localhost: mail.elsewhere.example",
            "host in SMTP_URL",
        ),
        (Certified::Expired, true, "has expired, on 2020-02-20", "new certificate"),
        (Certified::NotYet, true, "is not valid yet, only from 2090-02-20", "clock"),
        (Certified::Authority, true, "is an authority's own (CA:TRUE)", "CA:FALSE"),
        (Certified::Authority, false, "is an authority's own (CA:TRUE)", "CA:FALSE"),
    ] {
        for tls in [Encryption::StartTls, Encryption::Implicit] {
            let sink = SmtpSink::of(Kind { tls, certificate, ..Kind::default() }).await;
            let roots = trusted.then(|| sink.certificate());
            let (error, advice) = trouble(&mailer_at(&sink.url(), roots.as_deref())).await;
            assert!(error.ends_with(&format!("its certificate {why}")), "{error}");
            assert!(advice.contains(remedy), "{error}: {advice}");
            assert_silent(&sink);
        }
    }
}

#[tokio::test]
async fn a_reply_that_asks_for_patience_is_no_fault_of_the_settings() {
    let login = Some(("you", "right"));
    for (tls, command, reply, stage) in [
        (
            Encryption::None,
            "CONNECT",
            "421 4.7.0 Too many connections",
            "connecting to the mail server: 421 4.7.0",
        ),
        (Encryption::None, "EHLO", "421 4.3.2 Closing", "connecting to the mail server: 421 4.3.2"),
        (
            Encryption::StartTls,
            "STARTTLS",
            "454 4.7.0 TLS not available",
            "asking the mail server for TLS: 454 4.7.0",
        ),
        (
            Encryption::None,
            "AUTH",
            "454 4.7.0 Temporary failure",
            "signing in to the mail server: 454 4.7.0",
        ),
        (Encryption::None, "MAIL", "451 4.3.0 Later", "naming the sender: 451 4.3.0"),
        (Encryption::None, "DATA", "421 4.4.2 Timeout", "handing over the letter: 421 4.4.2"),
    ] {
        let sink = SmtpSink::of(Kind { tls, login, ..Kind::default() }).await;
        sink.behave(Mode::Answer(command, reply));
        let (error, advice) = trouble(&mailer(&sink)).await;
        assert_eq!(error, stage);
        assert!(advice.contains("tried again later"), "{advice}");
        sink.behave(Mode::Accept);
        mailer(&sink).send(&letter()).await.expect("later");
    }
}

#[tokio::test]
async fn a_refusal_is_told_with_what_can_be_done_about_it() {
    let login = Some(("you", "right"));
    for (command, reply, remedy) in [
        ("CONNECT", "554 5.7.1 You are on a blocklist", "does not talk to this machine"),
        ("EHLO", "501 5.5.2 Helo command rejected", "PUBLIC_URL"),
        ("AUTH", "535 5.7.8 Wrong", "user and password"),
        (
            "RCPT",
            "504 5.5.2 <x>: Helo command rejected: need fully-qualified hostname",
            "PUBLIC_URL",
        ),
        (
            "MAIL",
            "504 5.5.2 <x>: Sender address rejected: need fully-qualified address",
            "MAIL_FROM",
        ),
        ("MAIL", "550 5.7.60 may not send as this sender", "MAIL_FROM"),
    ] {
        let sink = SmtpSink::of(Kind { login, ..Kind::default() }).await;
        sink.behave(Mode::Answer(command, reply));
        let (error, advice) = trouble(&mailer(&sink)).await;
        assert!(advice.contains(remedy), "{error}: {advice}");
    }
    let sink = SmtpSink::start().await;
    let (error, advice) = trouble(&mailer_at(&sink.url().replace("smtp:", "smtps:"), None)).await;
    assert!(
        error.ends_with("it speaks no TLS on this port") && advice.contains("?tls=required"),
        "{error}: {advice}"
    );
}

#[tokio::test]
async fn a_server_that_is_reached_in_the_clear_is_told_of() {
    let at = |url: &str| SmtpSettings::parse(url).expect(url).is_exposed();
    assert!(at("smtp://mail.example?tls=none") && at("smtp://10.0.0.1:2525?tls=none"));
    for url in ["smtp://localhost?tls=none", "smtp://127.0.0.1", "smtp://mail.example?tls=required"]
    {
        assert!(!at(url), "{url}");
    }
    assert!(!at("smtps://mail.example"));
}

/// Why a letter did not go, and what is to be done.
async fn trouble(mailer: &Mailer) -> (String, &'static str) {
    let error = mailer.send(&letter()).await.expect_err("it cannot go");
    let advice = advice(&error).expect("something can be done");
    (transient(Err(error)), advice)
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
async fn what_comes_behind_the_reply_to_starttls_is_not_taken_for_what_tls_protects() {
    let login = Some(("you", "right"));
    let sink = SmtpSink::of(Kind { tls: Encryption::StartTls, login, ..Kind::default() }).await;
    sink.behave(Mode::Answer("STARTTLS", "220 2.0.0 go ahead\r\n250 AUTH PLAIN"));
    let why = transient(mailer(&sink).send(&letter()).await);
    assert_eq!(why, "asking the mail server for TLS: it gave an answer that is no SMTP");
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
