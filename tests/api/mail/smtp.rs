//! The mailer against a real mail server over real sockets.

use std::path::Path;
use std::time::Duration;

use doorward::fields::Email;
use doorward::mail::{Letter, Mailbox, Mailer, SendError, SmtpSettings, sender};

use crate::harness::machine::root;
use crate::harness::smtp_sink::{Kind, Mode, SmtpSink};
use crate::mail::letters::{LINK, confirmation, letter};

pub fn letter_to(to: &str) -> Letter {
    Letter { to: to.to_owned(), ..letter() }
}

pub fn mailer_at(url: &str, roots: Option<&Path>) -> Mailer {
    let settings = SmtpSettings::parse(url).expect("the sink's URL is good");
    mailer_with(&settings, roots)
}

pub fn mailer_with(settings: &SmtpSettings, roots: Option<&Path>) -> Mailer {
    let from: Mailbox = "Doorward <no-reply@accounts.example.com>".parse().expect("a mailbox");
    Mailer::smtp(settings, from, roots).expect("the roots are readable")
}

pub fn mailer(sink: &SmtpSink) -> Mailer {
    mailer_at(&sink.url(), Some(&sink.certificate()))
}

pub fn transient(result: Result<(), SendError>) -> String {
    match result {
        Err(SendError::Transient(why)) => checked(why),
        other => panic!("expected a transient error, got {other:?}"),
    }
}

pub fn permanent(result: Result<(), SendError>) -> String {
    match result {
        Err(SendError::Permanent(why)) => checked(why),
        other => panic!("expected a permanent error, got {other:?}"),
    }
}

/// What is for the log names no person and holds no link.
fn checked(why: String) -> String {
    assert!(!why.contains('@') && !why.contains("http"), "{why}");
    why
}

#[tokio::test]
async fn a_letter_arrives_whole() {
    let sink = SmtpSink::start().await;
    mailer(&sink).send(&letter()).await.expect("the sink accepts");

    let received = sink.received();
    let [mail] = received.as_slice() else { panic!("one letter, not {}", received.len()) };
    assert_eq!(mail.from, "no-reply@accounts.example.com");
    assert_eq!(mail.to, ["ada@example.com"]);
    assert_eq!(mail.text(), letter().text);
    assert_eq!(mail.html(), letter().html);
    assert_eq!(mail.subject(), letter().subject);
    assert_eq!(mail.headers("message-id"), [letter().message_id]);
    assert_eq!(mail.headers("auto-submitted"), ["auto-generated"]);
    assert_eq!(mail.headers("from"), ["Doorward <no-reply@accounts.example.com>"]);
    assert_eq!(mail.headers("to"), ["ada@example.com"]);
    assert_eq!(mail.headers("date").len(), 1);
    assert_eq!(mail.headers("mime-version"), ["1.0"]);
    assert!(mail.headers("content-type").concat().starts_with("multipart/alternative;"));
}

#[tokio::test]
async fn we_are_a_domain_or_an_address_and_never_the_name_of_a_container() {
    let sink = SmtpSink::start().await;
    for (host, hello) in [
        ("auth.example.com", "auth.example.com"),
        ("203.0.113.7", "[203.0.113.7]"),
        ("[2001:db8::7]", "[IPv6:2001:db8::7]"),
        ("localhost", "[127.0.0.1]"),
        ("", "[127.0.0.1]"),
    ] {
        let mut settings = SmtpSettings::parse(&sink.url()).expect("the sink's URL is good");
        host.clone_into(&mut settings.hello);
        let mailer = mailer_with(&settings, Some(&sink.certificate()));
        mailer.send(&letter()).await.expect("the sink accepts");
        assert_eq!(sink.received().last().map(|letter| &*letter.hello), Some(hello), "{host}");
    }
}

#[tokio::test]
async fn no_line_on_the_wire_is_longer_than_mail_allows() {
    let sink = SmtpSink::start().await;
    // About as long as APP_NAME may be.
    let name = ["Bücher & Söhne"; 4].join(" ");
    let long = format!("https://example.com/{}#token={}", "x".repeat(1_500), "y".repeat(500));
    for link in [LINK, &long] {
        let letter = confirmation(&name, link);
        mailer(&sink).send(&letter).await.expect("the sink accepts");
        let mail = sink.received().pop().unwrap();
        // RFC 5322, 2.1.1.
        for line in mail.data.split(|&byte| byte == b'\n') {
            assert!(line.len() <= 999, "{} bytes", line.len());
        }
        assert_eq!((mail.text(), mail.html()), (letter.text, letter.html));
        assert_eq!(mail.subject(), letter.subject);
    }
}

#[tokio::test]
async fn unicode_arrives_whole_and_dots_at_the_start_of_a_line_too() {
    let sink = SmtpSink::of(Kind { ascii_only: true, ..Kind::default() }).await;
    let unicode = Letter {
        subject: "Ärger mit dem Türschloß — 門番 🚪 und noch viel mehr Worte, bis die Zeile bricht"
            .to_owned(),
        text: ".\n..\nGrüße, Ωmega 門番 🚪\n.ende\n".to_owned(),
        html: "<p>\n.\nGrüße 門番 🚪</p>\n".to_owned(),
        ..letter()
    };
    mailer(&sink).send(&unicode).await.expect("a letter is ASCII on its way");

    let mail = &sink.received()[0];
    assert!(mail.data.is_ascii());
    assert_eq!(mail.subject(), unicode.subject);
    assert_eq!(mail.text(), unicode.text);
    assert_eq!(mail.html(), unicode.html);
}

#[tokio::test]
async fn an_address_outside_ascii_needs_a_server_that_takes_it() {
    let sink = SmtpSink::start().await;
    mailer(&sink).send(&letter_to("jürgen@bücher.example")).await.expect("the sink knows SMTPUTF8");
    assert_eq!(sink.received()[0].to, ["jürgen@xn--bcher-kva.example"]);
    assert!(
        sink.commands().iter().any(|line| line.starts_with("MAIL") && line.contains(" SMTPUTF8"))
    );

    let old = SmtpSink::of(Kind { ascii_only: true, ..Kind::default() }).await;
    permanent(mailer(&old).send(&letter_to("jürgen@example.com")).await);
    mailer(&old)
        .send(&letter_to("ada@bücher.example"))
        .await
        .expect("the domain has an ASCII form");
    assert_eq!(old.received()[0].to, ["ada@xn--bcher-kva.example"]);

    // Another sender can be set, so the letter waits.
    let settings = SmtpSettings::parse(&old.url()).expect("the sink's URL is good");
    let from = sender("jürgen@bücher.example").expect("a sender");
    let mailer = Mailer::smtp(&settings, from, Some(&old.certificate())).expect("readable roots");
    let why = transient(mailer.send(&letter()).await);
    assert!(why.starts_with("naming the sender: "), "{why}");
}

#[tokio::test]
async fn every_address_that_can_be_registered_can_be_written_to() {
    let sink = SmtpSink::of(Kind { ascii_only: true, ..Kind::default() }).await;
    let mailer = mailer(&sink);
    let table = std::fs::read_to_string(root().join("tests/data/isemail.json")).unwrap();
    let table: Vec<(String, String)> = serde_json::from_str(&table).unwrap();
    let marks = "!#$%&'*+-/=?^_`{|}~".chars().map(|mark| format!("a{mark}b.{mark}@example.com"));
    let long = format!("{}@{}.example.com", "x".repeat(64), "y".repeat(63));
    let typed = table.into_iter().map(|(address, _)| address).chain(marks).chain([long]);
    let taken: Vec<Email> = typed.filter_map(|address| Email::parse(&address).ok()).collect();
    assert!(taken.len() > 60, "{}", taken.len());
    for email in taken.iter().map(Email::as_str) {
        mailer.send(&letter_to(email)).await.expect(email);
        assert_eq!(sink.received().pop().unwrap().to, [email]);
    }
}

#[tokio::test]
async fn a_recipient_that_smuggles_headers_or_commands_is_never_named() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    for to in [
        "ada@example.com\r\nBcc: eve@evil.example",
        "ada@example.com\nSubject: other",
        "ada@example.com>\r\nRCPT TO:<eve@evil.example",
        "ada@example.com, eve@evil.example",
        "\"ada\r\nDATA\"@example.com",
        "",
    ] {
        permanent(mailer.send(&letter_to(to)).await);
    }
    assert_eq!(sink.connections(), 0);
}

#[tokio::test]
async fn a_subject_with_line_breaks_stays_one_header() {
    let sink = SmtpSink::start().await;
    let subject = "Hello\r\nBcc: eve@evil.example\r\n\r\nbody".to_owned();
    mailer(&sink).send(&Letter { subject, ..letter() }).await.expect("the sink accepts");
    let mail = &sink.received()[0];
    assert_eq!(mail.to, ["ada@example.com"]);
    assert!(mail.headers("bcc").is_empty());
    assert_eq!(mail.text(), letter().text);
}

#[tokio::test]
async fn a_refused_recipient_or_content_is_final() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    sink.behave(Mode::RefuseRecipient(
        "550 5.1.1 <ada@example.com>: no such user, see https://x.example",
    ));
    assert_eq!(permanent(mailer.send(&letter()).await), "naming the recipient: 550 5.1.1");
    sink.behave(Mode::RefuseContent("554 5.6.0 ada@example.com does not want this"));
    assert_eq!(permanent(mailer.send(&letter()).await), "handing over the letter: 554 5.6.0");
    assert!(sink.received().is_empty());

    sink.behave(Mode::Accept);
    mailer.send(&letter()).await.expect("a refusal leaves nothing behind");
}

#[tokio::test]
async fn what_concerns_us_and_not_the_letter_can_be_mended() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    sink.behave(Mode::RefuseSender("550 5.1.0 <no-reply@accounts.example.com> may not send here"));
    assert_eq!(transient(mailer.send(&letter()).await), "naming the sender: 550 5.1.0");
    sink.behave(Mode::RefuseRecipient("554 5.7.1 <ada@example.com>: Relay access denied"));
    assert_eq!(transient(mailer.send(&letter()).await), "naming the recipient: 554 5.7.1");
    sink.behave(Mode::RefuseRecipient("450 4.2.0 <ada@example.com>: later"));
    assert_eq!(transient(mailer.send(&letter()).await), "naming the recipient: 450 4.2.0");
    sink.behave(Mode::RefuseContent(
        "550-5.4.5 Daily user sending limit exceeded.\r\n550 5.4.5 See https://x.example",
    ));
    assert_eq!(transient(mailer.send(&letter()).await), "handing over the letter: 550 5.4.5");
    sink.behave(Mode::RefuseContent(
        "550 The from address does not match a verified Sender Identity.",
    ));
    assert_eq!(transient(mailer.send(&letter()).await), "handing over the letter: 550");
}

#[tokio::test]
async fn a_greylisting_server_takes_the_second_attempt() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    sink.behave(Mode::Greylist);
    transient(mailer.send(&letter()).await);
    mailer.send(&letter()).await.expect("the second attempt");
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_away_can_be_tried_again() {
    let sink = SmtpSink::start().await;
    let (url, mailer) = (sink.url(), mailer(&sink));
    sink.behave(Mode::Down);
    transient(mailer.send(&letter()).await);
    drop(sink);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let why = transient(mailer_at(&url, None).send(&letter()).await);
    assert!(why.contains("refused"), "{why}");
}

#[tokio::test]
async fn a_connection_serves_the_next_letter_and_a_dead_one_fails_none() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    mailer.send(&letter()).await.expect("the first");
    mailer.send(&letter()).await.expect("the second");
    assert_eq!(sink.connections(), 1);

    sink.hang_up();
    tokio::time::sleep(Duration::from_millis(50)).await;
    mailer.send(&letter()).await.expect("the third");
    assert_eq!((sink.received().len(), sink.connections()), (3, 2));

    // The server answers on the old connection, and wants no more of it.
    sink.behave(Mode::Down);
    transient(mailer.send(&letter()).await);
    sink.behave(Mode::Accept);
    mailer.send(&letter()).await.expect("the fourth");
    assert_eq!(sink.received().len(), 4);
}

#[tokio::test]
async fn letters_at_the_same_time_all_arrive() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    let sending: Vec<_> = (0..20)
        .map(|i| {
            let mailer = mailer.clone();
            tokio::spawn(
                async move { mailer.send(&letter_to(&format!("user{i}@example.com"))).await },
            )
        })
        .collect();
    for each in sending {
        each.await.expect("no panic").expect("the sink accepts");
    }
    let recipients: std::collections::HashSet<_> =
        sink.wait_for(20).await.into_iter().flat_map(|mail| mail.to).collect();
    assert_eq!(recipients.len(), 20);
}
