//! What a mail server answers, how it spells it, and how long it takes: a letter that it took is not
//! sent again.

use std::time::{Duration, Instant};

use doorward::mail::{Deadlines, Mailer, SmtpSettings};

use crate::harness::smtp_sink::{Encryption, Kind, Mode, SmtpSink, Spelling};
use crate::mail::letters::letter;
use crate::mail::smtp::{letter_to, mailer, mailer_with, transient};

/// A mailer that gives up soon enough for a test.
fn impatient_mailer(sink: &SmtpSink) -> Mailer {
    let mut settings = SmtpSettings::parse(&sink.url()).expect("the sink's URL is good");
    settings.deadlines =
        Deadlines { command: Duration::from_millis(600), letter: Duration::from_millis(1500) };
    mailer_with(&settings, Some(&sink.certificate()))
}

#[tokio::test]
async fn however_replies_are_spelt_a_letter_is_taken_once() {
    let login = Some(("you", "right"));
    for spelling in [Spelling::CodesAlone, Spelling::SeveralLines, Spelling::BareLf] {
        for tls in [Encryption::None, Encryption::StartTls, Encryption::Implicit] {
            for offers in [None, Some("AUTH LOGIN")] {
                let kind = Kind { tls, login, offers, spelling, ..Kind::default() };
                let sink = SmtpSink::of(kind).await;
                let mailer = mailer(&sink);
                mailer.check(Duration::from_secs(10)).await.expect("it answers");
                mailer.send(&letter()).await.expect("the sink accepts");
                mailer.send(&letter_to("bob@example.com")).await.expect("the next one too");
                let to: Vec<_> = sink.received().into_iter().map(|mail| mail.to.concat()).collect();
                assert_eq!(to, ["ada@example.com", "bob@example.com"]);
                assert_eq!(sink.connections(), 2, "one for both, after that of the check");
            }
        }
    }
}

#[tokio::test]
async fn a_server_older_than_ehlo_is_greeted_by_helo() {
    let sink = SmtpSink::start().await;
    sink.behave(Mode::Answer("EHLO", "502 5.5.1 not implemented"));
    mailer(&sink).send(&letter()).await.expect("the sink accepts");
    assert_eq!(sink.received()[0].hello, "[127.0.0.1]");
}

#[tokio::test]
async fn a_server_that_says_yes_and_closes_has_taken_the_letter() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    sink.behave(Mode::RefuseContent("250 2.0.0 Ok\r\n421 4.3.2 Closing"));
    mailer.send(&letter()).await.expect("it was taken");
    // What it said beyond that is no answer to the next letter.
    sink.behave(Mode::Accept);
    mailer.send(&letter_to("bob@example.com")).await.expect("on a new connection");
    assert_eq!(sink.received().len(), 1);
    assert_eq!(sink.connections(), 2);
}

#[tokio::test]
async fn a_lost_answer_means_the_same_letter_again() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    sink.behave(Mode::CutAfterData);
    let why = transient(mailer.send(&letter()).await);
    let unknown = "handing over the letter: it closed the connection; whether it took the letter is not known";
    assert_eq!(why, unknown);
    sink.behave(Mode::Accept);
    mailer.send(&letter()).await.expect("the sink accepts");

    let ids: Vec<_> = sink.received().iter().map(|mail| mail.headers("message-id")).collect();
    assert_eq!(ids, [[letter().message_id], [letter().message_id]]);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_in_time() {
    let sink = SmtpSink::start().await;
    sink.behave(Mode::Hang);
    let began = Instant::now();
    let why = transient(impatient_mailer(&sink).send(&letter()).await);
    assert!(why.contains("no answer within"), "{why}");
    assert!(began.elapsed() < Duration::from_millis(1400), "{:?}", began.elapsed());
}

#[tokio::test]
async fn wherever_a_server_hangs_it_is_left_in_time_and_the_step_is_named() {
    let login = Some(("you", "right"));
    for (command, stage) in [
        ("CONNECT", "connecting to the mail server"),
        ("EHLO", "connecting to the mail server"),
        ("STARTTLS", "asking the mail server for TLS"),
        ("AUTH", "signing in to the mail server"),
        ("MAIL", "naming the sender"),
        ("RCPT", "naming the recipient"),
        ("DATA", "handing over the letter"),
    ] {
        let sink = SmtpSink::of(Kind { tls: Encryption::StartTls, login, ..Kind::default() }).await;
        sink.behave(Mode::HangAt(command));
        let began = Instant::now();
        let why = transient(impatient_mailer(&sink).send(&letter()).await);
        assert_eq!(why, format!("{stage}: no answer within 600ms"));
        assert!(began.elapsed() < Duration::from_millis(1400), "{:?}", began.elapsed());
        assert!(sink.received().is_empty());
    }
    // The letter has arrived.
    let sink = SmtpSink::start().await;
    sink.behave(Mode::HangAfterData);
    let began = Instant::now();
    let why = transient(impatient_mailer(&sink).send(&letter()).await);
    assert_eq!(
        why,
        "handing over the letter: no answer to it within 1.5s; whether it took the letter is not known"
    );
    assert!(began.elapsed() < Duration::from_millis(2200), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_reply_that_trickles_in_is_no_reply_in_time() {
    let sink = SmtpSink::start().await;
    sink.behave(Mode::Trickle(Duration::from_millis(40)));
    let why = transient(impatient_mailer(&sink).send(&letter()).await);
    assert_eq!(why, "connecting to the mail server: no answer within 600ms");
}

#[tokio::test]
async fn a_slow_server_is_waited_for_and_a_very_slow_one_is_not() {
    let sink = SmtpSink::start().await;
    sink.behave(Mode::Slow(Duration::from_millis(100)));
    mailer(&sink).send(&letter()).await.expect("six replies take 0.6 s");

    // Each reply comes in time, all of them together do not.
    sink.behave(Mode::Slow(Duration::from_millis(400)));
    let began = Instant::now();
    let why = transient(impatient_mailer(&sink).send(&letter()).await);
    assert_eq!(why, "the mail server was too slow to be given the letter");
    assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_letter_whose_answer_would_not_get_its_time_is_not_begun() {
    let sink = SmtpSink::start().await;
    sink.behave(Mode::Slow(Duration::from_millis(200)));
    let mut settings = SmtpSettings::parse(&sink.url()).expect("the sink's URL is good");
    let command = Duration::from_millis(800);
    // The five replies before that take a second.
    settings.deadlines = Deadlines { command, letter: Duration::from_millis(1600) };
    transient(mailer_with(&settings, None).send(&letter()).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(sink.received().is_empty());
    settings.deadlines.letter = Duration::from_secs(4);
    mailer_with(&settings, None).send(&letter()).await.expect("all of it takes 1.2 s");
}

#[tokio::test]
async fn an_abandoned_conversation_is_not_continued_by_the_next_letter() {
    let sink = SmtpSink::start().await;
    let mailer = impatient_mailer(&sink);
    mailer.send(&letter()).await.expect("the sink accepts");
    sink.behave(Mode::HangAfterData);
    transient(mailer.send(&letter()).await);
    sink.behave(Mode::Accept);
    mailer.send(&letter_to("bob@example.com")).await.expect("on a new connection");
    assert_eq!(sink.received()[2].to, ["bob@example.com"]);
    assert_eq!(sink.connections(), 2);
}
