//! The worker: when it sends a letter, again, or never, with memory mail and a clock that is
//! advanced by hand.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use doorward::clock::Clock;
use doorward::mail::{Mailbox, Mailer, SendError, SmtpSettings};
use doorward::state::AppState;
use doorward::worker::deliver_next;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::app::{SECRET_KEY, TestApp, link_in};
use crate::harness::cluster::{cluster, new_database};
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::smtp_sink::{Mode, SmtpSink};
use crate::harness::wait::{eventually, lock_waits};

/// The same service with another way for letters to leave.
pub fn with_mailer(app: &TestApp, mailer: Mailer) -> AppState {
    let (config, secret) = (app.state.config.clone(), SECRET_KEY.to_owned().into());
    let (clock, db, hasher) = (app.clock.clone(), app.state.db.clone(), app.state.hasher.clone());
    let letters = app.state.letters.clone();
    AppState::compose(config, &secret, clock, db, mailer, letters, hasher)
}

pub fn over(sink: &SmtpSink) -> Mailer {
    let from: Mailbox = "no-reply@example.com".parse().unwrap();
    Mailer::smtp(&SmtpSettings::parse(&sink.url()).unwrap(), from, None).unwrap()
}

pub async fn register(app: &TestApp, name: &str) {
    let body = json!({ "username": name, "email": email_of(name), "password": PASSWORD });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
}

fn away() -> SendError {
    SendError::Transient("connecting: the server is away".into())
}

/// The only letter's row: attempts, when it is due, when it was sent and when given up, and why.
type Row = (i32, DateTime<Utc>, Option<DateTime<Utc>>, Option<DateTime<Utc>>, Option<String>);

async fn row(app: &TestApp) -> Row {
    let sql = "select attempts, next_attempt_at, sent_at, failed_at, last_error from outbox";
    sqlx::query_as(sql).fetch_one(&app.pool).await.unwrap()
}

pub async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

#[tokio::test]
async fn a_letter_is_tried_again_after_longer_and_longer_waits() {
    let app = TestApp::start().await;
    register(&app, "ada").await;
    for (attempt, minutes) in (1..).zip([1, 5, 15, 60, 180, 180, 180]) {
        app.letters.fail_next(away());
        assert!(deliver_next(&app.state).await.unwrap());
        let (attempts, due, sent, failed, error) = row(&app).await;
        assert_eq!((attempts, sent, failed), (attempt, None, None));
        assert_eq!(error.as_deref(), Some("connecting: the server is away"));
        let wait = (due - app.clock.now()).num_milliseconds();
        let range = minutes * 48_000..=minutes * 72_000;
        assert!(range.contains(&wait), "{wait} ms after attempt {attempt}");

        app.clock.advance(TimeDelta::milliseconds(wait - 1));
        assert!(!deliver_next(&app.state).await.unwrap(), "not before its time");
        app.clock.advance(TimeDelta::milliseconds(1));
    }
    let letters = app.deliver_mail().await;
    assert_eq!(letters.len(), 1);
    let (attempts, _, sent, failed, error) = row(&app).await;
    assert_eq!((attempts, sent, failed, error), (8, Some(app.clock.now()), None, None));
}

#[tokio::test]
async fn letters_that_failed_together_do_not_come_back_together() {
    let app = TestApp::start().await;
    for number in 0..30 {
        register(&app, &format!("user{number}")).await;
        app.letters.fail_next(away());
    }
    app.deliver_mail().await;
    let due: Vec<DateTime<Utc>> = sqlx::query_scalar("select next_attempt_at from outbox")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    let waits: BTreeSet<_> = due.iter().map(|due| (*due - app.clock.now()).num_seconds()).collect();
    // From 48 to 72: 30 draws that all fall into one half have a chance of one in 500 million.
    let (first, last) = (waits.first().unwrap(), waits.last().unwrap());
    assert!(*first >= 48 && *last <= 72 && last - first > 12, "{waits:?}");
}

#[tokio::test]
async fn a_letter_is_given_up_after_a_day_and_can_be_asked_for_anew() {
    let app = TestApp::start().await;
    register(&app, "ada").await;
    let start = app.clock.now();
    let failed = loop {
        app.letters.fail_next(away());
        assert!(deliver_next(&app.state).await.unwrap());
        let (_, due, _, failed, _) = row(&app).await;
        if let Some(failed) = failed {
            break failed;
        }
        assert!(app.clock.now() - start < TimeDelta::hours(24));
        app.clock.advance(due - app.clock.now());
    };
    let age = failed - start;
    assert!((24..28).contains(&age.num_hours()), "{age}");
    assert_eq!(row(&app).await.4.as_deref(), Some("connecting: the server is away"));
    app.clock.advance(TimeDelta::days(2));
    assert!(!deliver_next(&app.state).await.unwrap(), "what was given up stays given up");

    let ada = app.log_in("ada", PASSWORD).await;
    ada.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
    let link = link_in(&app.letter_to("ada@example.com").await);
    app.anonymous().get(&link).await.assert_ok(200);
}

#[tokio::test]
async fn a_refusal_for_good_is_final() {
    let app = TestApp::start().await;
    register(&app, "ada").await;
    app.letters.fail_next(SendError::Permanent("naming the recipient: 550 5.1.1".into()));
    assert!(deliver_next(&app.state).await.unwrap());
    let (attempts, _, sent, failed, error) = row(&app).await;
    assert_eq!((attempts, sent, failed), (1, None, Some(app.clock.now())));
    assert_eq!(error.as_deref(), Some("naming the recipient: 550 5.1.1"));
    app.clock.advance(TimeDelta::days(1));
    assert!(!deliver_next(&app.state).await.unwrap());
}

#[tokio::test]
async fn every_attempt_carries_the_same_message_id() {
    let (app, sink) = (TestApp::start().await, SmtpSink::start().await);
    let state = with_mailer(&app, over(&sink));
    register(&app, "ada").await;
    // The letter is taken, and we do not get to know.
    sink.behave(Mode::CutAfterData);
    assert!(deliver_next(&state).await.unwrap());
    sink.behave(Mode::Accept);
    app.clock.advance(TimeDelta::minutes(2));
    assert!(deliver_next(&state).await.unwrap());
    let ids: Vec<_> = sink.received().iter().map(|mail| mail.headers("message-id")).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    assert!(row(&app).await.2.is_some());
}

#[tokio::test]
async fn a_letter_that_nobody_needs_any_more_is_not_sent() {
    let app = TestApp::start().await;
    // The address was mistyped, and corrected before the letter left.
    let ada = app.newcomer("ada").await;
    ada.put("/api/v1/users/me", &json!({ "email": "ada@new.example" })).await.assert_ok(200);
    let letters = app.deliver_mail().await;
    let to: Vec<_> = letters.iter().map(|letter| &letter.to).collect();
    assert_eq!(to, ["ada@new.example"]);
    assert_eq!(count(&app, "select count(*) from outbox where failed_at is not null").await, 1);

    // It was asked for twice, and the first one has been followed.
    let bob = app.newcomer("bob").await;
    let link = link_in(&app.letter_to(&email_of("bob")).await);
    bob.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
    app.anonymous().get(&link).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await, []);

    // The account is gone.
    let boss = app.admin().await;
    let eve = app.newcomer("eve").await;
    boss.delete(&format!("/api/v1/users/{}", eve.id())).await.assert_ok(200);
    assert_eq!(app.deliver_mail().await, []);
    assert_eq!(
        count(&app, "select count(*) from outbox where sent_at is null and failed_at is null")
            .await,
        0
    );
}

#[tokio::test]
async fn the_notice_of_a_change_that_was_taken_back_is_not_sent() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    for email in ["ada@new.example", "ada@example.com"] {
        let change = json!({ "email": email, "password": PASSWORD });
        ada.put("/api/v1/users/me", &change).await.assert_ok(200);
    }
    assert_eq!(app.deliver_mail().await, []);
}

#[tokio::test]
async fn two_workers_never_send_one_letter_twice() {
    let one = TestApp::start().await;
    let database = one.pool.connect_options().get_database().unwrap().to_owned();
    let other = TestApp::at(&database, &[], one.clock.clone()).await;
    for number in 0..20 {
        register(&one, &format!("user{number}")).await;
    }
    let mut workers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let state = if number % 2 == 0 { one.state.clone() } else { other.state.clone() };
        workers.spawn(async move {
            let mut sent = 0;
            while deliver_next(&state).await.unwrap() {
                sent += 1;
            }
            sent
        });
    }
    assert_eq!(workers.join_all().await.iter().sum::<i32>(), 20);
    let letters = [one.letters.take(), other.letters.take()].concat();
    let recipients: BTreeSet<_> = letters.iter().map(|letter| &letter.to).collect();
    assert_eq!((letters.len(), recipients.len()), (20, 20));
}

#[tokio::test]
async fn the_letter_of_a_worker_that_died_is_sent_by_the_next_one() {
    let (app, sink) = (TestApp::start().await, SmtpSink::start().await);
    register(&app, "ada").await;
    sink.behave(Mode::Hang);
    let dying = with_mailer(&app, over(&sink));
    let dying = tokio::spawn(async move { deliver_next(&dying).await });
    eventually("it is sending", async || sink.connections() == 1).await;
    dying.abort();

    app.clock.advance(TimeDelta::milliseconds(139_999));
    assert_eq!(app.deliver_mail().await, [], "it may still be at it");
    app.clock.advance(TimeDelta::milliseconds(1));
    app.letter_to("ada@example.com").await;
    assert_eq!(row(&app).await.0, 2);
}

#[tokio::test]
async fn a_letter_that_was_taken_is_not_sent_again_as_the_database_was_away_for_a_moment() {
    let (app, sink) = (TestApp::start().await, SmtpSink::start().await);
    register(&app, "ada").await;
    sink.behave(Mode::Slow(std::time::Duration::from_millis(100)));
    let state = with_mailer(&app, over(&sink));
    let delivering = tokio::spawn(async move { deliver_next(&state).await });
    eventually("it is sending", async || sink.connections() == 1).await;
    // What became of it cannot be written down, and the connection on which that is tried breaks.
    let mut other = app.pool.begin().await.unwrap();
    sqlx::query("select id from outbox for update").fetch_one(&mut *other).await.unwrap();
    lock_waits(&app.pool, 1).await;
    let broken = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                  where wait_event_type = 'Lock' and datname = current_database()";
    assert_eq!(count(&app, broken).await, 1);
    other.rollback().await.unwrap();
    assert!(delivering.await.unwrap().unwrap());
    let (attempts, _, sent, failed, error) = row(&app).await;
    assert_eq!((attempts, sent, failed, error), (1, Some(app.clock.now()), None, None));
    assert_eq!(sink.received().len(), 1);
}

#[tokio::test]
async fn a_link_is_good_for_a_day_from_when_it_was_sent() {
    for (late, status) in [(TimeDelta::seconds(-1), 200), (TimeDelta::seconds(1), 410)] {
        let app = TestApp::start().await;
        register(&app, "ada").await;
        // Nobody sent letters for a while.
        app.clock.advance(TimeDelta::hours(30));
        let link = link_in(&app.letter_to("ada@example.com").await);
        app.clock.advance(TimeDelta::hours(24) + late);
        assert_eq!(app.anonymous().get(&link).await.status, status);
    }
}

#[tokio::test]
async fn the_outbox_holds_no_link_and_no_secret() {
    let app = TestApp::start().await;
    register(&app, "ada").await;
    let rows = async || -> Vec<String> {
        let sql = "select outbox::text from outbox";
        sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap()
    };
    let before = rows().await;
    let link = link_in(&app.letter_to("ada@example.com").await);
    let token = link.split_once('=').unwrap().1;
    for row in [before, rows().await].concat() {
        assert!(row.contains("ada@example.com"), "{row}");
        for secret in ["http", "eyJ", PASSWORD, token, token.rsplit('.').next().unwrap()] {
            assert!(!row.contains(secret), "{secret}: {row}");
        }
    }
}

#[tokio::test]
async fn a_letter_of_an_instance_whose_clock_is_ahead_is_sent_by_one_whose_is_not() {
    let database = new_database().await;
    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    let now: DateTime<Utc> = sqlx::query_scalar("select now()").fetch_one(&pool).await.unwrap();
    let at = async |instant| TestApp::at(&database, &[], Clock::fixed(instant)).await;
    let (ahead, right) = (at(now + TimeDelta::hours(1)).await, at(now).await);
    ahead.newcomer("ada").await;
    // The database's own clock has gone on since.
    right.clock.advance(TimeDelta::minutes(1));
    right.letter_to("ada@example.com").await;
}

#[tokio::test]
async fn a_letter_that_waited_for_a_mail_server_is_not_given_up_at_its_first_failure() {
    let app = TestApp::start().await;
    register(&app, "ada").await;
    // Nobody had said where the letters go.
    app.clock.advance(TimeDelta::days(3));
    for _ in 0..4 {
        app.letters.fail_next(away());
        assert!(deliver_next(&app.state).await.unwrap());
        assert_eq!(row(&app).await.3, None);
        app.clock.advance(TimeDelta::hours(4));
    }
    app.letter_to("ada@example.com").await;
}

#[tokio::test]
async fn a_letter_that_is_wanted_again_by_a_change_on_its_way_is_sent() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    app.deliver_mail().await;
    for email in ["new@example.com", "ada@example.com"] {
        let body = json!({ "email": email, "password": PASSWORD });
        ada.put("/api/v1/users/me", &body).await.assert_ok(200);
    }
    // The third change of the three finds the letters of the first still waiting, and queues none.
    let mut change = app.pool.begin().await.unwrap();
    let sql = "update users set pending_email = 'new@example.com' where username = 'ada'";
    sqlx::query(sql).execute(&mut *change).await.unwrap();
    let (state, claimed) =
        (app.state.clone(), "select count(*) from outbox where attempts > 0 and sent_at is null");
    let delivering = tokio::spawn(async move { while deliver_next(&state).await.unwrap() {} });
    lock_waits(&app.pool, 1).await;
    assert_eq!(count(&app, claimed).await, 1);
    change.commit().await.unwrap();
    delivering.await.unwrap();
    let mut told: Vec<_> = app.letters.take().into_iter().map(|letter| letter.to).collect();
    told.sort();
    assert_eq!(told, ["ada@example.com", "new@example.com"]);
}
