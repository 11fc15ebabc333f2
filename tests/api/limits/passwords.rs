//! The limits on proofs of the present password, by somebody who is logged in.

use chrono::TimeDelta;
use serde_json::json;

use crate::harness::answer::Answer;
use crate::harness::person::{PASSWORD, Person};
use crate::limits::{assert_limited, counted, limited};

const NEW: &str = "another good one";

async fn change(person: &Person, old: &str) -> Answer {
    let body = json!({ "old_password": old, "new_password": NEW });
    person.put("/api/v1/users/me/change_password", &body).await
}

#[tokio::test]
async fn the_present_password_can_be_guessed_five_times_in_a_session_by_either_way() {
    let app = limited().await;
    let ann = app.user("ann").await;
    let change = json!({ "old_password": "wrong", "new_password": "another good one" });
    let move_away = json!({ "email": "new@example.com", "password": "wrong" });
    for _ in 0..3 {
        ann.put("/api/v1/users/me/change_password", &change)
            .await
            .assert_error(403, "wrong_password");
    }
    for _ in 0..2 {
        ann.put("/api/v1/users/me", &move_away).await.assert_error(403, "wrong_password");
    }
    assert_limited(&ann.put("/api/v1/users/me", &move_away).await, "password", 900);
    let change = json!({ "old_password": PASSWORD, "new_password": "another good one" });
    assert_limited(&ann.put("/api/v1/users/me/change_password", &change).await, "password", 900);
    app.clock.advance(TimeDelta::minutes(15));
    ann.put("/api/v1/users/me/change_password", &change).await.assert_ok(200);
}

#[tokio::test]
async fn a_thief_in_one_session_does_not_lock_the_owner_out_of_the_others() {
    let app = limited().await;
    let (thief, owner) = (app.user("ann").await, app.log_in("ann", PASSWORD).await);
    for _ in 0..5 {
        change(&thief, "wrong").await.assert_error(403, "wrong_password");
    }
    assert_limited(&change(&thief, PASSWORD).await, "password", 900);
    change(&owner, "wrong").await.assert_error(403, "wrong_password");
    change(&owner, PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn all_sessions_of_a_user_together_guess_fifteen_times() {
    let app = limited().await;
    app.user("ann").await;
    for _ in 0..3 {
        let session = app.log_in("ann", PASSWORD).await;
        for _ in 0..5 {
            change(&session, "wrong").await.assert_error(403, "wrong_password");
        }
        assert_limited(&change(&session, "wrong").await, "password", 900);
    }
    let fresh = app.log_in("ann", PASSWORD).await;
    assert_limited(&change(&fresh, PASSWORD).await, "password_user", 900);
    // What one of the two refuses counts in neither.
    let before = counted(&app).await;
    change(&fresh, PASSWORD).await.assert_error(429, "rate_limited");
    assert_eq!(counted(&app).await, before);
    // Another user's password is another one.
    let bob = app.user("bob").await;
    change(&bob, PASSWORD).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(15));
    change(&fresh, PASSWORD).await.assert_ok(200);
}

#[tokio::test]
async fn a_right_present_password_is_no_guess() {
    let app = limited().await;
    let ann = app.user("ann").await;
    let before = counted(&app).await;
    let (mut old, mut new) = (PASSWORD.to_owned(), NEW.to_owned());
    for _ in 0..20 {
        let body = json!({ "old_password": old, "new_password": new });
        ann.put("/api/v1/users/me/change_password", &body).await.assert_ok(200);
        std::mem::swap(&mut old, &mut new);
    }
    assert_eq!(counted(&app).await, before);
}
