//! What has become of letters, as staff see it, and another try.

use chrono::TimeDelta;
use doorward::mail::SendError;
use doorward::store::letter_list::{self, Filter, LetterState};
use doorward::store::outbox::LetterKind;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit::staff;
use crate::harness::app::{PUBLIC_URL, TestApp, link_in};
use crate::harness::person::{Person, email_of};

const MAILS: &str = "/api/v1/admin/mails";

async fn mails(person: &Person, query: &str) -> Vec<Value> {
    let answer = person.get(&format!("{MAILS}?{query}")).await;
    answer.assert_ok(200)["mails"].as_array().unwrap().clone()
}

fn recipients(mails: &[Value]) -> Vec<&str> {
    mails.iter().map(|mail| mail["recipient"].as_str().unwrap()).collect()
}

async fn retry(person: &Person, mail: &Value) -> crate::harness::answer::Answer {
    person.post(&format!("{MAILS}/{}/retry", mail["id"].as_str().unwrap()), &json!({})).await
}

/// An admin, a letter that was sent, one that was refused for good, and one that waits for its
/// second attempt.
async fn office() -> (TestApp, Person) {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for (name, error) in [
        ("refused", SendError::Permanent("550 no such box".into())),
        ("delayed", SendError::Transient("connecting: the server is away".into())),
    ] {
        app.clock.advance(TimeDelta::seconds(1));
        app.newcomer(name).await;
        app.letters.fail_next(error);
        app.deliver_mail().await;
    }
    (app, boss)
}

#[tokio::test]
async fn staff_see_what_has_become_of_letters_newest_first() {
    let (app, boss) = office().await;
    let deputy = staff(&app).await;
    let all = mails(&deputy, "").await;
    assert_eq!(
        recipients(&all),
        ["deputy", "delayed", "refused", "boss"].map(email_of),
        "newest first, and an hour's worth of an admin's before them"
    );
    let delayed = json!({
        "id": all[1]["id"], "kind": "confirmation", "recipient": email_of("delayed"),
        "state": "waiting", "attempts": 1, "last_error": "connecting: the server is away",
        "at": "2026-01-02T03:04:07.678Z",
    });
    assert_eq!(all[1], delayed);
    assert_eq!(
        (&all[2]["state"], &all[2]["last_error"]),
        (&json!("failed"), &json!("550 no such box"))
    );
    assert_eq!((&all[3]["state"], &all[3]["last_error"]), (&json!("sent"), &Value::Null));
    for (state, names) in
        [("waiting", &["delayed"][..]), ("failed", &["refused"]), ("sent", &["deputy", "boss"])]
    {
        let found = mails(&boss, &format!("state={state}")).await;
        let names: Vec<String> = names.iter().map(|name| email_of(name)).collect();
        assert_eq!(recipients(&found), names, "{state}");
    }
    let about = format!("user_id={}&kind=confirmation&state=sent", boss.id());
    assert_eq!(recipients(&mails(&boss, &about).await), [email_of("boss")]);
    assert!(mails(&boss, "kind=reset").await.is_empty());
}

#[tokio::test]
async fn pages_of_letters_follow_each_other() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    // Many of one instant.
    let many = "insert into outbox (id, kind, recipient, created_at, next_attempt_at, sent_at)
                select gen_random_uuid(), 'password_changed', n || '@example.com', now() + n / 10 * interval '1 second',
                    now(), now() from generate_series(1, 45) n";
    sqlx::query(many).execute(&app.pool).await.unwrap();
    let mut path = format!("{MAILS}?limit=7&state=sent");
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let answer = boss.get(&path).await;
        let body = answer.assert_ok(200);
        seen.extend(body["mails"].as_array().unwrap().iter().map(|mail| mail["id"].clone()));
        pages += 1;
        let Some(link) = answer.header("link") else { break };
        let url = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
        assert!(url.contains("state=sent") && url.contains("limit=7"), "{link}");
        path = url.strip_prefix(PUBLIC_URL).unwrap().to_owned();
    }
    let sql = "select to_jsonb(id::text) from outbox order by created_at desc, id desc";
    let expected: Vec<Value> = sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap();
    assert_eq!((seen, pages), (expected, 7));
}

#[tokio::test]
async fn an_admin_tries_a_letter_once_more_and_it_is_sent_as_it_is_written_now() {
    let (app, boss) = office().await;
    let failed = mails(&boss, "state=failed").await.remove(0);
    // Long after a letter of its age would have been given up.
    app.clock.advance(TimeDelta::days(3));
    app.deliver_mail().await;
    let boss = app.log_in("boss", crate::harness::person::PASSWORD).await;
    retry(&boss, &failed).await.assert_ok(202);
    let waiting = mails(&boss, "state=waiting&kind=confirmation").await;
    let again = waiting.iter().find(|mail| mail["id"] == failed["id"]).unwrap();
    assert_eq!(again["attempts"], 0, "as many as a new one has");
    for _ in 0..4 {
        app.letters.fail_next(SendError::Transient("away".into()));
        app.deliver_mail().await;
        app.clock.advance(TimeDelta::hours(4));
        let state =
            mails(&app.log_in("boss", crate::harness::person::PASSWORD).await, "state=failed")
                .await;
        assert!(!recipients(&state).contains(&&*email_of("refused")), "it is really tried");
    }
    let letters = app.deliver_mail().await;
    let letter = letters.iter().find(|letter| letter.to == email_of("refused")).unwrap();
    app.anonymous().get(&link_in(letter)).await.assert_ok(200);
    let sql = "select details, actor_id from audit_log where event = 'letter_retried'";
    let (details, actor): (Value, Uuid) = sqlx::query_as(sql).fetch_one(&app.pool).await.unwrap();
    assert_eq!(details, json!({ "letter": failed["id"], "kind": "confirmation" }));
    assert_eq!(actor.to_string(), boss.id());
}

#[tokio::test]
async fn a_letter_that_waits_is_due_at_once_unless_it_may_be_on_its_way() {
    let (app, boss) = office().await;
    let waiting = mails(&boss, "state=waiting").await.remove(0);
    let due = async || -> chrono::DateTime<chrono::Utc> {
        let sql = "select next_attempt_at from outbox where sent_at is null and failed_at is null";
        sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
    };
    // Within a lease: nobody knows whether some worker sends it now.
    let before = due().await;
    assert!(before > app.clock.now() && before < app.clock.now() + TimeDelta::seconds(140));
    retry(&boss, &waiting).await.assert_ok(202);
    assert_eq!(due().await, before);
    sqlx::query(
        "update outbox set next_attempt_at = next_attempt_at + interval '3 hours'
                 where sent_at is null and failed_at is null",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    assert_eq!(app.deliver_mail().await, []);
    retry(&boss, &waiting).await.assert_ok(202);
    let sent = app.deliver_mail().await;
    assert_eq!(sent.len(), 1);
    assert_eq!(mails(&boss, "state=sent&limit=1").await[0]["attempts"], 2, "the first one counts");
}

#[tokio::test]
async fn a_letter_whose_link_has_run_out_is_not_sent_with_a_dead_one() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let email = json!({ "email": email_of("boss") });
    app.anonymous().post("/api/v1/password/forgot", &email).await.assert_ok(202);
    app.letters.fail_next(SendError::Permanent("550 no".into()));
    app.deliver_mail().await;
    let failed = mails(&boss, "kind=reset").await.remove(0);
    assert_eq!(failed["state"], "failed");
    app.clock.advance(TimeDelta::minutes(29) + TimeDelta::seconds(30));
    retry(&boss, &failed).await.assert_ok(202);
    assert_eq!(app.deliver_mail().await, []);
    let failed = mails(&boss, "kind=reset").await.remove(0);
    assert_eq!((&failed["state"], &failed["attempts"]), (&json!("failed"), &json!(1)));
    assert_eq!(failed["last_error"], "its link has run out, or is void");
}

#[tokio::test]
async fn what_was_sent_and_what_never_was_is_not_tried_again() {
    let (app, boss) = office().await;
    let (deputy, ada) = (staff(&app).await, app.user("ada").await);
    let sent = mails(&boss, "state=sent").await.remove(0);
    retry(&boss, &sent).await.assert_error(404, "not_found");
    for id in [&*Uuid::now_v7().to_string(), "nobody", "%FF"] {
        let answer = boss.post(&format!("{MAILS}/{id}/retry"), &json!({})).await;
        answer.assert_error(404, "not_found");
    }
    let failed = mails(&boss, "state=failed").await.remove(0);
    retry(&deputy, &failed).await.assert_error(403, "forbidden");
    retry(&ada, &failed).await.assert_error(403, "forbidden");
    retry(&app.anonymous(), &failed).await.assert_error(401, "token_missing");
    ada.get(MAILS).await.assert_error(403, "forbidden");
    app.anonymous().get(MAILS).await.assert_error(401, "token_missing");
    assert_eq!(mails(&boss, "state=failed").await, [failed]);
}

#[tokio::test]
async fn what_is_no_filter_of_letters_is_refused() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    for (query, field, code) in [
        ("status=failed", "status", "unknown_parameter"),
        ("state=lost", "state", "invalid_choice"),
        ("kind=spam", "kind", "invalid_choice"),
        ("user_id=ada", "user_id", "invalid_format"),
        ("limit=501", "limit", "out_of_range"),
        ("after=nonsense", "after", "invalid_cursor"),
    ] {
        boss.get(&format!("{MAILS}?{query}")).await.assert_fields(&[(field, code)]);
    }
    boss.get(&format!("{MAILS}?state=&kind=&user_id=&limit=&after=")).await.assert_ok(200);
}

/// Rows of letters that this transaction has read.
async fn rows_read(db: &mut PgConnection) -> i64 {
    let sql = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'outbox'";
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

#[tokio::test]
async fn a_page_of_letters_costs_what_its_rows_cost() {
    let app = TestApp::start().await;
    // A failed one in 2,500, 9 that wait, 8 invitations.
    let sql = "insert into outbox (id, kind, recipient, created_at, next_attempt_at, sent_at, failed_at)
               select gen_random_uuid(), case when n % 2500 = 3 then 'invitation' else 'password_changed' end,
                   n || '@example.com', timestamptz '2026-01-01' + n * interval '1 second', now(),
                   case when n % 2500 <> 7 and n < 19992 then now() end, case when n % 2500 = 7 then now() end
               from generate_series(1, 20000) n";
    sqlx::query(sql).execute(&app.pool).await.unwrap();
    sqlx::query("vacuum analyze outbox").execute(&app.pool).await.unwrap();
    let far: Uuid =
        sqlx::query_scalar("select id from outbox where recipient = '10000@example.com'")
            .fetch_one(&app.pool)
            .await
            .unwrap();
    let at = "2026-01-01T02:46:40Z".parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let far =
        doorward::store::keyset::Position { value: at.timestamp_micros().to_string(), id: far };
    let mut tx = app.pool.begin().await.unwrap();
    let db = &mut *tx;
    for state in [None].into_iter().chain(LetterState::ALL.map(Some)) {
        for kind in [
            None,
            Some(LetterKind::Invitation),
            Some(LetterKind::PasswordChanged),
            Some(LetterKind::Test),
        ] {
            for user_id in [None, Some(Uuid::now_v7())] {
                for after in [None, Some(&far)] {
                    let filter = Filter { state, kind, user_id };
                    let before = rows_read(db).await;
                    let page = letter_list::list(db, &filter, after, 20).await.unwrap();
                    let read = rows_read(db).await - before;
                    let which = format!("{filter:?} after {after:?}: {} rows", page.len());
                    let shown = i64::try_from(page.len()).unwrap();
                    assert!((shown..=100).contains(&read), "{which}, {read} read");
                }
            }
        }
    }
}
