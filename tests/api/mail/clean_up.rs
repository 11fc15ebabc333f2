//! The worker: what it removes, and when.

use chrono::TimeDelta;
use doorward::mail::{Mailer, SendError};
use doorward::worker;
use tokio::sync::watch;

use crate::harness::app::TestApp;
use crate::harness::wait::eventually;
use crate::mail::worker::{count, register, with_mailer};

#[tokio::test]
async fn tidying_removes_what_is_old_and_settled_and_nothing_else() {
    let app = TestApp::start().await;
    app.newcomer("sent").await;
    app.deliver_mail().await;
    register(&app, "refused").await;
    app.letters.fail_next(SendError::Permanent("no".into()));
    app.deliver_mail().await;
    // More than one portion of a thousand.
    let many = "insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at, sent_at)
                select gen_random_uuid(), user_id, kind, recipient, created_at, next_attempt_at, sent_at
                from outbox, generate_series(1, 2500) where sent_at is not null";
    sqlx::query(many).execute(&app.pool).await.unwrap();
    register(&app, "waiting").await;
    let tidy = async |left: &[&str], sessions: i64| {
        let (stop, stopped) = watch::channel(false);
        // Without a way out for letters it only tidies.
        let work = tokio::spawn(worker::run(with_mailer(&app, Mailer::Off), stopped));
        let mut found: Vec<String> = Vec::new();
        eventually("it is tidy", async || {
            let sql = "select username from outbox join users on users.id = user_id order by outbox.created_at, outbox.id";
            found = sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap();
            found.len() <= left.len()
                && count(&app, "select count(*) from sessions").await <= sessions
        })
        .await;
        stop.send(true).unwrap();
        work.await.unwrap();
        assert_eq!(found, left);
        assert_eq!(count(&app, "select count(*) from sessions").await, sessions);
    };
    app.clock.advance(TimeDelta::days(31));
    app.newcomer("young").await;
    // The first session ran out a day ago, unused. The letter that waits is kept however old.
    tidy(&["waiting", "young"], 2).await;
    app.clock.advance(TimeDelta::days(30) + TimeDelta::seconds(1));
    tidy(&["waiting", "young"], 2).await;
    let letters = app.deliver_mail().await;
    assert_eq!(letters.len(), 2);
    // Sent late, and kept after that as long as any other.
    app.clock.advance(TimeDelta::days(29));
    // 90 days after its login a session has ended, whatever was done with it.
    tidy(&["waiting", "young"], 1).await;
    app.clock.advance(TimeDelta::days(2));
    tidy(&[], 1).await;
    let kept = "select count(*) from audit_log where event = 'registered'";
    assert_eq!(
        count(&app, kept).await,
        4,
        "the audit log stays, unless the settings say otherwise"
    );
}

#[tokio::test]
async fn audit_log_days_keeps_events_for_so_long_and_no_longer() {
    let app = TestApp::with(&[("AUDIT_LOG_DAYS", "365")]).await;
    app.newcomer("ada").await;
    // More than one portion of a thousand.
    let many = "insert into audit_log (at, event) select at, 'login' from audit_log, generate_series(1, 2500)
                where event = 'registered'";
    sqlx::query(many).execute(&app.pool).await.unwrap();
    let old = count(&app, "select count(*) from audit_log").await;
    // Those of an instance whose clock was ahead do not stand in the way of others.
    let ahead = "insert into audit_log (id, at, event) overriding system value
                 select -n, timestamptz '2027-12-31', 'login' from generate_series(1, 1500) n";
    sqlx::query(ahead).execute(&app.pool).await.unwrap();
    app.clock.advance(TimeDelta::days(365));
    register(&app, "bob").await;
    // A letter beside them that is to go in any case: once it is gone, old rows were removed.
    let settled = "insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at, sent_at)
                   select gen_random_uuid(), id, 'confirmation', email, created_at, created_at, created_at
                   from users where username = 'ada'";
    let tidy = async |left: i64| {
        sqlx::query(settled).execute(&app.pool).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let work = tokio::spawn(worker::run(with_mailer(&app, Mailer::Off), stopped));
        eventually("it is tidy", async || {
            count(&app, "select count(*) from outbox where sent_at is not null").await == 0
                && count(&app, "select count(*) from audit_log").await <= left
        })
        .await;
        stop.send(true).unwrap();
        work.await.unwrap();
        assert_eq!(count(&app, "select count(*) from audit_log").await, left);
    };
    tidy(old + 1501).await;
    app.clock.advance(TimeDelta::seconds(1));
    tidy(1501).await;
    let left = "select count(*) from audit_log where event = 'registered'";
    assert_eq!(count(&app, left).await, 1);
}
