//! The mail server is down, slow, silent or refuses: mail is late, and nothing else is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use doorward::mail::{Deadlines, Mailbox, Mailer, SmtpSettings};
use doorward::worker::deliver_next;
use sqlx::PgPool;

use crate::harness::app::TestApp;
use crate::harness::cluster::cluster;
use crate::harness::home::Home;
use crate::harness::machine::{free_port, note};
use crate::harness::person::email_of;
use crate::harness::process::Process;
use crate::harness::smtp_sink::{Mode, SmtpSink};
use crate::harness::wait::eventually;
use crate::mail::worker::{over, register, with_mailer};

const ALL_KINDS_OF_TROUBLE: [(&str, Mode); 5] = [
    ("down", Mode::Down),
    ("silent", Mode::Hang),
    ("slow", Mode::Slow(Duration::from_secs(2))),
    ("refusing us", Mode::RefuseSender("451 4.3.0 Try again later")),
    ("losing answers", Mode::CutAfterData),
];

async fn start_with(smtp_url: &str) -> (Process, Home) {
    let (mut home, _) = Home::with_database(&[("MAIL_FROM", "no-reply@example.com")]).await;
    home.set("SMTP_URL", smtp_url);
    let service = home.start().await;
    (service, home)
}

#[tokio::test]
async fn registering_takes_as_long_whatever_the_mail_server_does() {
    let mut sinks = Vec::new();
    let mut services = Vec::new();
    for (trouble, mode) in [("none", Mode::Accept)].iter().chain(&ALL_KINDS_OF_TROUBLE) {
        let sink = SmtpSink::start().await;
        sink.behave(*mode);
        services.push((*trouble, start_with(&sink.url()).await, Vec::new()));
        sinks.push(sink);
    }
    let nobody = format!("smtp://localhost:{}", free_port());
    services.push(("nobody there", start_with(&nobody).await, Vec::new()));

    // By turns, so that whatever else this machine does meanwhile falls on all of them.
    let rounds = 10;
    for round in 0..rounds {
        for (_, (_, home), times) in &mut services {
            let start = Instant::now();
            home.register(&format!("user{round}")).send().await.expect(201);
            times.push(start.elapsed());
        }
    }
    let medians: Vec<_> = services
        .iter_mut()
        .map(|(trouble, _, times)| {
            times.sort_unstable();
            (*trouble, times[times.len() / 2])
        })
        .collect();
    note(&format!("median of {rounds} registrations by the mail server's trouble: {medians:.1?}"));
    let (_, without) = medians[0];
    for (trouble, median) in &medians {
        // Far less than any of the troubles takes; the machine has other things to do, too.
        assert!(*median < without * 2 + Duration::from_millis(100), "{trouble}: {medians:?}");
    }
    // Otherwise the comparison says nothing.
    sinks[0].wait_for(rounds).await;
    assert!(sinks[1].received().is_empty() && sinks[2].received().is_empty());
    for (_, (service, _), _) in services {
        // Killed: a letter in hand may keep a worker for as long as a mail server may take.
        service.kill_9();
    }
}

#[tokio::test]
async fn every_letter_arrives_once_the_mail_server_is_back() {
    for (trouble, mode) in ALL_KINDS_OF_TROUBLE {
        let (app, sink) = (TestApp::start().await, SmtpSink::start().await);
        let mut settings = SmtpSettings::parse(&sink.url()).unwrap();
        settings.deadlines =
            Deadlines { command: Duration::from_millis(100), letter: Duration::from_millis(300) };
        let from: Mailbox = "no-reply@example.com".parse().unwrap();
        let state = with_mailer(&app, Mailer::smtp(&settings, from, None).unwrap());
        sink.behave(mode);
        let names: Vec<String> = (0..4).map(|number| format!("user{number}")).collect();
        for name in &names {
            register(&app, name).await;
            assert!(deliver_next(&state).await.unwrap());
        }
        let sql = "select count(*) from outbox where sent_at is not null";
        let sent: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
        assert_eq!(sent, 0, "{trouble}");

        // The mail server answers as it should again, and the letters' time comes.
        sink.behave(Mode::Accept);
        app.clock.advance(TimeDelta::minutes(2));
        let state = with_mailer(&app, over(&sink));
        while deliver_next(&state).await.unwrap() {}
        let sent: i64 = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
        assert_eq!(sent, 4, "{trouble}");
        let received = sink.received();
        let arrived: BTreeSet<_> = received.iter().map(|mail| mail.to.concat()).collect();
        assert_eq!(arrived, names.iter().map(|name| email_of(name)).collect(), "{trouble}");
        let ids: BTreeSet<_> = received.iter().map(|mail| mail.headers("message-id")).collect();
        assert_eq!(ids.len(), 4, "{trouble}: a letter that came twice is the same one");
    }
}

/// The same with the real binary, whose next attempt is a minute away: its time is moved, not
/// waited for.
#[tokio::test]
async fn the_running_service_sends_what_waits_once_the_mail_server_is_back() {
    let sink = SmtpSink::start().await;
    sink.behave(Mode::Down);
    let (mut home, database) = Home::with_database(&[("MAIL_FROM", "no-reply@example.com")]).await;
    home.set("SMTP_URL", &sink.url());
    let service = home.start().await;
    for number in 0..10 {
        home.register(&format!("user{number}")).send().await.expect(201);
    }
    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    eventually("every letter was tried", async || {
        let sql = "select count(*) from outbox where last_error is not null";
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await.unwrap() == 10
    })
    .await;
    assert!(sink.received().is_empty());
    // The log has the remedy beside the reason.
    let log = service.log();
    let delayed = log.lines().find(|line| line.contains("could not be sent yet")).unwrap();
    for words in ["it closed the connection", "check host and port in SMTP_URL"] {
        assert!(delayed.contains(words), "{delayed}");
    }
    sink.behave(Mode::Accept);
    sqlx::query("update outbox set next_attempt_at = now()").execute(&pool).await.unwrap();
    eventually("every letter arrives", async || sink.received().len() >= 10).await;
    service.stop().await;
    assert_eq!(sink.received().len(), 10);
}
