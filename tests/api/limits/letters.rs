//! The limits on letters and on changes of one's own data.

use chrono::TimeDelta;
use serde_json::json;

use crate::harness::app::TestApp;
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::wait::{eventually, lock_waits};
use crate::limits::{assert_limited, counted, limited, limited_with, register_as};

const VERIFY: &str = "/api/v1/users/me/verify_email";
const VICTIM: &str = "victim@example.com";

#[tokio::test]
async fn an_address_is_not_flooded_with_notices_that_it_is_to_be_replaced() {
    let app = limited().await;
    let ann = app.user("ann").await;
    app.deliver_mail().await;
    let change = async |number: usize| {
        let email = format!("ann{number}@example.com");
        ann.put("/api/v1/users/me", &json!({ "email": email, "password": PASSWORD })).await
    };
    for number in 0..3 {
        change(number).await.assert_ok(200);
        app.deliver_mail().await;
    }
    for number in 3..20 {
        // Nor does it use up what the password may be tried.
        assert_limited(&change(number).await, "mail_recipient_hour", 3600);
    }
    assert_eq!(app.deliver_mail().await.len(), 0);
}

/// A change of the password locks the user first, too: else the two could wait for each other.
#[tokio::test]
async fn a_new_address_waits_for_its_user_before_it_locks_what_was_counted() {
    let app = limited().await;
    let ann = app.user("ann").await;
    let mut hold = app.pool.begin().await.unwrap();
    sqlx::query("select from users for update").execute(&mut *hold).await.unwrap();
    let address = json!({ "email": "ann2@example.com", "password": PASSWORD });
    let look = async {
        lock_waits(&app.pool, 1).await;
        let counted = "select from limits for update nowait";
        let counted = sqlx::query(counted).execute(&app.pool).await.unwrap();
        assert!(counted.rows_affected() > 0);
        hold.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(ann.put("/api/v1/users/me", &address), look);
    answer.assert_ok(200);
}

#[tokio::test]
async fn calls_that_are_refused_use_up_nobodys_letters() {
    let app = limited().await;
    let ann = app.newcomer("ann").await;
    assert_eq!(app.deliver_mail().await.len(), 1);
    let eve = app.newcomer("eve").await;
    app.deliver_mail().await;
    let before = counted(&app).await;
    let body = json!({ "username": "other", "email": email_of("ann"), "password": PASSWORD });
    for time in 1..=4 {
        let answer = eve.put("/api/v1/users/me", &json!({ "email": email_of("ann") })).await;
        answer.assert_error(409, "email_taken");
        let answer = app.anonymous().post("/api/v1/users/", &body).await;
        answer.assert_error(409, "email_taken");
        // What was asked for counts as a name that is taken and as a change; no account and no
        // letter does.
        let others = 2 * time * 1000;
        eventually("letters are given back", async || counted(&app).await == before + others).await;
    }
    for _ in 0..2 {
        ann.post("/api/v1/users/me/verify_email", &json!({})).await.assert_ok(202);
        assert_eq!(app.deliver_mail().await.len(), 1);
    }
}

#[tokio::test]
async fn somebodys_own_data_changes_sixty_times_an_hour() {
    let app = limited().await;
    let ann = app.newcomer("ann").await;
    let bea = app.newcomer("bea").await;
    let set = async |name: &str| ann.put("/api/v1/users/me", &json!({ "first_name": name })).await;
    // What changes nothing is no change.
    set("").await.assert_ok(200);
    for number in 0..60 {
        set(&format!("Ann {number}")).await.assert_ok(200);
    }
    assert_limited(&set("Ann").await, "profile", 3600);
    bea.put("/api/v1/users/me", &json!({ "first_name": "Bea" })).await.assert_ok(200);
    app.clock.advance(TimeDelta::hours(1));
    let ann = app.log_in("ann", PASSWORD).await;
    ann.put("/api/v1/users/me", &json!({ "first_name": "Ann" })).await.assert_ok(200);
}

#[tokio::test]
async fn an_address_that_waits_already_is_no_letter_and_neither_is_a_call_that_was_hung_up() {
    let app = limited().await.alone();
    app.newcomer("ann").await;
    let (eve, mel) = (app.user("eve").await, app.newcomer("mel").await);
    let wish = json!({ "email": "free@example.com", "password": PASSWORD });
    eve.put("/api/v1/users/me", &wish).await.assert_ok(200);
    let before = counted(&app).await;
    eve.put("/api/v1/users/me", &wish).await.assert_ok(200);
    eventually("no letter counts", async || counted(&app).await == before).await;
    // While Mel's turn is taken her call waits, having counted a letter to Ann.
    let turn = app.state.db.begin_for(mel.id().parse().unwrap()).await.unwrap();
    let wish = json!({ "email": email_of("ann") });
    let call = async { mel.put("/api/v1/users/me", &wish).await };
    let counts = async {
        // The change, and the letter: to Ann for an hour and for a day, and from this address.
        let all = before + 4 * 1000;
        eventually("it is counted", async || counted(&app).await == all).await;
    };
    tokio::select! {
        _ = call => panic!("it waits"),
        () = counts => {}
    }
    let change = before + 1000;
    eventually("the letter is given back", async || counted(&app).await == change).await;
    drop(turn);
}

/// Lets everything be sent that is due; how many letters the victim has got.
async fn letters_to_victim(app: &TestApp) -> usize {
    app.deliver_mail().await.iter().filter(|letter| letter.to == VICTIM).count()
}

/// Registers somebody with the victim's address, who moves on to one of their own, so that the
/// address is free again; how many letters the victim has got by it.
async fn register_and_move_on(app: &TestApp, name: &str, from: &str) -> usize {
    register_as(app, from, name, VICTIM).await.assert_ok(201);
    let letters = letters_to_victim(app).await;
    let eve = app.log_in(name, PASSWORD).await;
    eve.put("/api/v1/users/me", &json!({ "email": email_of(name) })).await.assert_ok(200);
    assert_eq!(letters_to_victim(app).await, 0);
    letters
}

#[tokio::test]
async fn an_account_that_moves_on_does_not_free_an_address_for_letter_after_letter() {
    let app = limited().await;
    let mut letters = 0;
    for number in 0..6 {
        let name = format!("eve{number}");
        letters += register_and_move_on(&app, &name, &format!("203.0.113.{number}")).await;
    }
    // A whole IPv6 /48 is one place, too.
    for number in 0..6 {
        let name = format!("mel{number}");
        letters += register_and_move_on(&app, &name, &format!("2001:db8:1:{number}::1")).await;
    }
    assert_eq!(letters, 3 + 3);
}

#[tokio::test]
async fn strangers_elsewhere_do_not_use_up_the_first_letter_of_the_owner() {
    let app = limited().await;
    let mut letters = 0;
    for number in 0..3 {
        let name = format!("eve{number}");
        letters += register_and_move_on(&app, &name, &format!("203.0.{number}.1")).await;
    }
    assert_eq!(letters, 3);
    register_as(&app, "198.51.100.7", "ann", VICTIM).await.assert_ok(201);
    app.letter_to(VICTIM).await;
    // A further one is for later, and the owner is told when.
    let ann = app.log_in("ann", PASSWORD).await;
    let answer = ann.post(VERIFY, &json!({})).await;
    assert_limited(&answer, "mail_recipient_hour", 3600);
    app.clock.advance(TimeDelta::hours(1));
    let ann = app.log_in("ann", PASSWORD).await;
    ann.post(VERIFY, &json!({})).await.assert_ok(202);
    app.letter_to(VICTIM).await;
}

#[tokio::test]
async fn letters_that_others_asked_for_do_not_keep_the_first_one_of_an_account_back() {
    let app = limited_with(&[("LIMIT_MAIL_ADDRESS", "5")]).await;
    let mut sent = 0;
    for number in 0..8 {
        let email = format!("user{number}@example.com");
        register_as(&app, "198.51.100.7", &format!("user{number}"), &email).await.assert_ok(201);
        sent += app.deliver_mail().await.len();
    }
    assert_eq!(sent, 8, "an office signs up from one address");
}

async fn set_email(person: &Person, email: &str) {
    person.put("/api/v1/users/me", &json!({ "email": email })).await.assert_ok(200);
}

#[tokio::test]
async fn letters_of_changes_beyond_the_limit_are_merged_in_silence() {
    let app = limited().await;
    let eve = app.newcomer("eve").await;
    app.deliver_mail().await;
    let mut letters = 0;
    for _ in 0..5 {
        set_email(&eve, VICTIM).await;
        letters += letters_to_victim(&app).await;
        set_email(&eve, &email_of("eve")).await;
        app.deliver_mail().await;
    }
    assert_eq!(letters, 3, "and each change was made");
}

#[tokio::test]
async fn a_letter_more_than_an_hour_or_a_day_allows_is_refused_and_the_answer_says_when() {
    let app = limited().await;
    app.newcomer("ann").await;
    let mut sent = app.deliver_mail().await.len();
    let ask = async || {
        let ann = app.log_in("ann", PASSWORD).await;
        ann.post(VERIFY, &json!({})).await
    };
    for hour in 0..3 {
        for _ in 0..3 - i32::from(hour == 0) {
            ask().await.assert_ok(202);
            sent += app.deliver_mail().await.len();
        }
        let answer = ask().await;
        assert_limited(&answer, "mail_recipient_hour", 3600);
        assert_eq!(answer.json["message"], "Too many attempts: try again in 60 minutes.");
        app.clock.advance(TimeDelta::hours(1));
    }
    assert_eq!(sent, 9, "the one of the registration and eight more");
    ask().await.assert_ok(202);
    sent += app.deliver_mail().await.len();
    let answer = ask().await;
    assert_limited(&answer, "mail_recipient_day", 21 * 3600);
    assert_eq!(answer.json["message"], "Too many attempts: try again in 21 hours.");
    assert_eq!((sent, app.deliver_mail().await.len()), (10, 0));
}

#[tokio::test]
async fn one_address_asks_for_so_many_letters_to_whomever() {
    let app = limited_with(&[("LIMIT_MAIL_ADDRESS", "4")]).await;
    let (ann, bea) = (app.newcomer("ann").await, app.newcomer("bea").await);
    app.deliver_mail().await;
    // Two of the four are those of the registrations.
    for person in [&ann, &bea] {
        person.post(VERIFY, &json!({})).await.assert_ok(202);
        assert_eq!(app.deliver_mail().await.len(), 1);
    }
    assert_limited(&ann.post(VERIFY, &json!({})).await, "mail_address", 3600);
    let elsewhere = ann.call(axum::http::Method::POST, VERIFY).from("192.0.2.9").send().await;
    elsewhere.assert_ok(202);
    assert_eq!(app.deliver_mail().await.len(), 1);
}

#[tokio::test]
async fn nobody_gets_more_than_thirty_first_letters_a_day_from_wherever_they_are_caused() {
    let app = limited().await;
    let victim = "victim@example.com";
    let mut letters = 0;
    for number in 0..40 {
        let (name, from) = (format!("eve{number}"), format!("203.0.{number}.1"));
        register_as(&app, &from, &name, victim).await.assert_ok(201);
        letters += app.deliver_mail().await.iter().filter(|letter| letter.to == victim).count();
        let sql = "update users set email = username || '@example.org' where username = $1";
        sqlx::query(sql).bind(&name).execute(&app.pool).await.unwrap();
    }
    assert_eq!(letters, 30);
}
