//! The mailer against a real mail server over real sockets, and the words of the letters.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::smtp_sink::{Encryption, Kind, Mode, SmtpSink};
use doorward::mail::{
    Deadlines, Letter, Mailbox, Mailer, SendError, SmtpSettings, message, sender,
};

const LINK: &str = "https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIi\
                    OiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU";

fn letter() -> Letter {
    message::confirmation(
        "<0198b58f-0c4a-7c3e-b1a2-0123456789ab@accounts.example.com>",
        "ada@example.com",
        "accounts.example.com",
        LINK,
        24,
    )
}

fn letter_to(to: &str) -> Letter {
    Letter { to: to.to_owned(), ..letter() }
}

fn mailer_at(url: &str, roots: Option<&Path>) -> Mailer {
    let settings = SmtpSettings::parse(url).expect("the sink's URL is good");
    mailer_with(&settings, roots)
}

fn mailer_with(settings: &SmtpSettings, roots: Option<&Path>) -> Mailer {
    let from: Mailbox = "Doorward <no-reply@accounts.example.com>".parse().expect("a mailbox");
    Mailer::smtp(settings, from, roots).expect("the roots are readable")
}

fn mailer(sink: &SmtpSink) -> Mailer {
    mailer_at(&sink.url(), Some(&sink.certificate()))
}

/// A mailer that gives up soon enough for a test.
fn impatient_mailer(sink: &SmtpSink) -> Mailer {
    let mut settings = SmtpSettings::parse(&sink.url()).expect("the sink's URL is good");
    settings.deadlines =
        Deadlines { command: Duration::from_millis(600), letter: Duration::from_millis(1500) };
    mailer_with(&settings, None)
}

fn transient(result: Result<(), SendError>) -> String {
    match result {
        Err(SendError::Transient(why)) => checked(why),
        other => panic!("expected a transient error, got {other:?}"),
    }
}

fn permanent(result: Result<(), SendError>) -> String {
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
async fn a_server_that_says_nothing_is_left_in_time() {
    let sink = SmtpSink::start().await;
    sink.behave(Mode::Hang);
    let began = Instant::now();
    let why = transient(impatient_mailer(&sink).send(&letter()).await);
    assert!(why.contains("no answer within"), "{why}");
    assert!(began.elapsed() < Duration::from_millis(1400), "{:?}", began.elapsed());
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
    assert!(why.contains("not taken within"), "{why}");
    assert!(began.elapsed() < Duration::from_millis(1900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_lost_answer_means_the_same_letter_again() {
    let sink = SmtpSink::start().await;
    let mailer = mailer(&sink);
    sink.behave(Mode::CutAfterData);
    let why = transient(mailer.send(&letter()).await);
    assert_eq!(why, "handing over the letter: it closed the connection");
    sink.behave(Mode::Accept);
    mailer.send(&letter()).await.expect("the sink accepts");

    let ids: Vec<_> = sink.received().iter().map(|mail| mail.headers("message-id")).collect();
    assert_eq!(ids, [[letter().message_id], [letter().message_id]]);
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

#[tokio::test]
async fn a_folder_keeps_letters_newest_first_and_for_the_owner_alone() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join(".doorward/mailbox");
    let mailer = Mailer::folder(&folder);
    assert!(mailer.kept(10).expect("it is a folder mailer").is_empty());
    for i in 0..5 {
        mailer.send(&letter_to(&format!("user{i}@example.com"))).await.expect("the folder is ours");
    }
    std::fs::write(folder.join("zzz.json"), "no letter").expect("our folder");

    let kept = mailer.kept(3).expect("it is a folder mailer");
    let recipients: Vec<_> = kept.iter().map(|letter| letter.to.as_str()).collect();
    assert_eq!(recipients, ["user4@example.com", "user3@example.com", "user2@example.com"]);
    assert_eq!(kept[0].links, [LINK]);
    assert_eq!(kept[0].message_id, letter().message_id);
    assert!(kept[0].at.timestamp() > 1_700_000_000);

    let mode =
        |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).expect("our folder").flatten() {
        if entry.file_name() != "zzz.json" {
            assert_eq!(mode(&entry.path()), 0o600);
            assert!(entry.path().extension().is_some_and(|end| end == "json"));
        }
    }
}

#[tokio::test]
async fn memory_keeps_letters_and_fails_when_told() {
    let (mailer, sent) = Mailer::memory();
    sent.fail_next(SendError::Transient("later".to_owned()));
    transient(mailer.send(&letter()).await);
    mailer.send(&letter()).await.expect("only one failure was asked for");
    assert_eq!(sent.take(), [letter()]);
    assert!(sent.take().is_empty());
    assert!(mailer.kept(1).is_none());
}

#[tokio::test]
async fn without_a_server_letters_wait() {
    assert!(Mailer::Off.is_off());
    transient(Mailer::Off.send(&letter()).await);
}

#[test]
fn the_confirmation_says_what_it_is() {
    let letter = letter();
    insta::assert_snapshot!(letter.subject, @"Confirm your e-mail address for accounts.example.com");
    insta::assert_snapshot!(letter.text, @r"
    Please confirm that this e-mail address is yours.

    Somebody, most likely you, gave it for an account at accounts.example.com.
    To confirm it, open this link:

    https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIiOiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU

    The link works for 24 hours. If it has run out, sign in and ask for a new
    one.

    If it was not you, there is nothing to do: ignore this mail, and the address
    stays unconfirmed.
    ");
}

#[test]
fn the_notice_of_a_change_says_what_to_do() {
    let letter = notice("ada");
    insta::assert_snapshot!(letter.subject, @"The e-mail address of your account at accounts.example.com is about to change");
    insta::assert_snapshot!(letter.text, @r"
    Your account ada at accounts.example.com is about to get another e-mail
    address: e***@example.org.

    If you asked for this, there is nothing to do. This address stays in use
    until the new one is confirmed.

    If it was not you, somebody knows your password. Sign in and change it now:
    that signs out everyone else. Then set the e-mail address of your account
    back to this one.
    ");
}

fn notice(username: &str) -> Letter {
    message::address_change_notice(
        "<a@b>",
        "ada@example.com",
        "accounts.example.com",
        username,
        "eve.adams@example.org",
    )
}

#[test]
fn html_is_escaped_loads_nothing_and_links_only_to_the_link() {
    let html = notice("<script>\"&'").html;
    assert!(
        !html.contains("<script>") && !html.contains("eve.adams") && !html.contains("href"),
        "{html}"
    );

    let html = message::confirmation(
        "<a@b>",
        "ada@example.com",
        "a.example",
        "https://a.example/?a=\"><b>&c=d",
        24,
    )
    .html;
    assert!(!html.contains("<b>") && !html.contains("?a=\""), "{html}");
    assert_eq!(html.matches("href").count(), 1);
    for remote in ["src=", "url(", "<link", "@import"] {
        assert!(!html.contains(remote), "{remote}");
    }
}

#[test]
fn lines_of_text_are_short_but_links_are_whole() {
    let site = "a-rather-long-name-for-a-service.accounts.subsidiary.example.com";
    let text = message::confirmation("<a@b>", "ada@example.com", site, LINK, 24).text;
    assert!(text.lines().any(|line| line == LINK));
    for line in text.lines().filter(|line| *line != LINK) {
        assert!(line.chars().count() < 78, "{line}");
    }
}
