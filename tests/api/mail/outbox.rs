//! The outbox: letters without a user, with data of their own, and of other releases.

use doorward::mail::Letter;
use doorward::store::outbox::{self, LetterKind, NewLetter};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::harness::app::TestApp;
use crate::harness::person::email_of;
use crate::mail::worker::register;

/// As `worker/letters/test.rs` tells an operator to.
async fn queue_in_psql(app: &TestApp, recipient: &str, data: &Value) {
    let file = include_str!("../../../src/worker/letters/test.rs");
    let lines = file.lines().filter_map(|line| line.strip_prefix("//! "));
    let sql = lines.skip_while(|line| !line.starts_with("insert into outbox")).take(2);
    let sql = sql.collect::<Vec<_>>().join("\n");
    let sql = sql.replace("you@example.com", recipient);
    let sql = sql.replace(r#"{"number": 1}"#, &data.to_string());
    assert!(sql.contains(recipient) && sql.contains(&data.to_string()), "{sql}");
    // The tests' clock stands still in the past of the database's.
    let sql = sql.replace("now(), now()", "'2026-01-01', '2026-01-01'");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&app.pool).await.unwrap();
}

async fn queue_test(app: &TestApp, recipient: &str, data: Value) {
    let kind = LetterKind::Test;
    let letter = NewLetter { kind, user_id: None, recipient, data, challenge_id: None };
    let mut conn = app.pool.acquire().await.unwrap();
    outbox::insert(&mut conn, &[letter], app.clock.now()).await.unwrap();
}

async fn count(app: &TestApp, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
}

fn recipients(letters: &[Letter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.to.as_str()).collect()
}

#[tokio::test]
async fn a_letter_without_a_user_is_sent_with_its_own_data() {
    let app = TestApp::start().await;
    queue_test(&app, "one@example.com", json!({ "number": 1 })).await;
    // Only a user's letters are held against each other: of these each counts.
    queue_test(&app, "one@example.com", json!({ "number": 1 })).await;
    queue_test(&app, "none@example.com", json!({})).await;
    queue_in_psql(&app, "psql@example.com", &json!({ "number": 7 })).await;
    register(&app, "ada").await;
    let mut letters = app.deliver_mail().await;
    letters.sort_by(|one, other| one.to.cmp(&other.to));
    let to = ["ada@example.com", "none@example.com", "one@example.com", "one@example.com"];
    assert_eq!(recipients(&letters), [&to[..], &["psql@example.com"]].concat());
    let begins =
        |letter: &Letter, words: &str| assert!(letter.text.starts_with(words), "{letter:?}");
    begins(&letters[1], "This letter shows that auth.example.com can send mail.");
    begins(&letters[2], "This letter, number 1, shows that auth.example.com can send mail.");
    begins(&letters[4], "This letter, number 7, shows that auth.example.com can send mail.");
    assert_eq!(count(&app, "select count(*) from outbox where sent_at is null").await, 0);
}

#[tokio::test]
async fn a_letter_whose_data_cannot_be_read_waits_for_a_release_that_can() {
    let app = TestApp::start().await;
    queue_test(&app, "ann@example.com", json!({ "number": "ann's secret" })).await;
    assert_eq!(app.deliver_mail().await, []);
    let sql = "select last_error from outbox where attempts = 1 and failed_at is null";
    let error: String = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert_eq!(error, "its data cannot be read", "and not what stands there");
    let mended = r#"update outbox set data = '{"number": 3}'"#;
    sqlx::query(mended).execute(&app.pool).await.unwrap();
    app.clock.advance(chrono::TimeDelta::minutes(2));
    assert!(app.letter_to("ann@example.com").await.text.contains("number 3"));
}

#[tokio::test]
async fn a_user_that_is_deleted_takes_their_letters_along_and_no_others() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let ada = app.newcomer("ada").await;
    queue_test(&app, &email_of("ada"), json!({})).await;
    boss.delete(&format!("/api/v1/users/{}", ada.id())).await.assert_ok(200);
    let about_ada = "select count(*) from outbox where recipient = 'ada@example.com'";
    assert_eq!(count(&app, about_ada).await, 1);
    assert!(app.letter_to("ada@example.com").await.subject.starts_with("A test letter"));
}

/// Letters of a release after this one: a kind that is not known here, with and without a user.
async fn queue_newer(app: &TestApp) {
    let sql = "insert into outbox (id, user_id, kind, recipient, data, created_at, next_attempt_at)
               select gen_random_uuid(), id, 'of_a_newer_release', 'new@example.com', '{\"a\": 1}',
                   '2026-01-01', '2026-01-01'
               from (select null as id union all select id from users) people";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
}

#[tokio::test]
async fn a_newer_releases_letter_is_left_to_it_and_holds_up_no_other() {
    let app = TestApp::start().await;
    register(&app, "ada").await;
    app.deliver_mail().await;
    queue_newer(&app).await;
    register(&app, "bob").await;
    assert_eq!(recipients(&app.deliver_mail().await), ["bob@example.com"]);
    let untouched = "select count(*) from outbox
                     where kind = 'of_a_newer_release' and attempts = 0";
    assert_eq!(count(&app, untouched).await, 2);
    let mut conn = app.pool.acquire().await.unwrap();
    assert_eq!(outbox::first_due(&mut conn).await.unwrap(), None, "nor is it waited for");
}

/// Word for word what the release before asks (commit 349d8aa).
const CLAIM_OF_BEFORE: &str =
    "update outbox set attempts = attempts + 1, next_attempt_at = $2
         from users
         where users.id = outbox.user_id and outbox.id = (
             select id from outbox
             where sent_at is null and failed_at is null and next_attempt_at <= $1
                 -- One of a newer release's is left to it.
                 and kind in ('confirmation', 'email_change_notice')
             order by next_attempt_at
             limit 1
             for update skip locked
         )
         returning outbox.id, outbox.kind, outbox.user_id, outbox.recipient, outbox.created_at, outbox.attempts,
             users.username, users.email, users.email_verified_at, users.pending_email";
const INSERT_OF_BEFORE: &str =
    "insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at)
         select $1, $2, $3, $4, $5, least($5, now())
         where not exists (
             select from outbox
             where user_id = $2 and kind = $3 and recipient = $4
               and attempts = 0 and sent_at is null and failed_at is null
         )";

#[tokio::test]
async fn the_release_before_queues_and_claims_its_own_letters_beside_new_ones() {
    let app = TestApp::start().await;
    register(&app, "ada").await;
    app.deliver_mail().await;
    queue_newer(&app).await;
    // Due for longer than any other.
    queue_in_psql(&app, "psql@example.com", &json!({})).await;
    let (now, sql) = (app.clock.now(), "select id from users where username = 'ada'");
    let ada: uuid::Uuid = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    for id in [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()] {
        let queued = sqlx::query(INSERT_OF_BEFORE).bind(id).bind(ada).bind("confirmation");
        let queued = queued.bind("ada@example.com").bind(now);
        queued.execute(&app.pool).await.unwrap();
    }
    let claim = async || {
        let claimed =
            sqlx::query(CLAIM_OF_BEFORE).bind(now).bind(now + chrono::TimeDelta::hours(1));
        let row = claimed.fetch_optional(&app.pool).await.unwrap();
        row.map(|row| sqlx::Row::get::<String, _>(&row, "recipient"))
    };
    assert_eq!(claim().await.as_deref(), Some("ada@example.com"));
    assert_eq!(claim().await, None, "what it queued twice is one letter, and no other is its own");
    let untouched = "select count(*) from outbox where attempts = 0";
    assert_eq!(count(&app, untouched).await, 3);
}

#[tokio::test]
async fn no_letter_of_the_release_before_can_be_without_a_user() {
    let app = TestApp::start().await;
    for kind in [LetterKind::Confirmation, LetterKind::EmailChangeNotice] {
        let recipient = "stuck@example.com";
        let data = json!({});
        let letter = NewLetter { kind, user_id: None, recipient, data, challenge_id: None };
        let mut conn = app.pool.acquire().await.unwrap();
        let refused = outbox::insert(&mut conn, &[letter], app.clock.now()).await.unwrap_err();
        let refused = refused.as_database_error().and_then(|error| error.constraint());
        // Its claim would pick this one, find no user, and never get to another.
        assert_eq!(refused, Some("outbox_user_id_check"));
    }
}
