//! The limit on refreshes: thirty new pairs in any minute of a session.

use chrono::TimeDelta;
use serde_json::json;

use crate::harness::person::PASSWORD;
use crate::limits::{assert_limited, counted, limited};

#[tokio::test]
async fn a_session_is_refreshed_thirty_times_a_minute_and_can_always_be_ended() {
    let app = limited().await;
    let mut ann = app.newcomer("ann").await;
    for _ in 0..30 {
        ann.refresh().await.assert_ok(200);
    }
    assert_limited(&ann.refresh().await, "refresh", 60);
    app.clock.advance(TimeDelta::seconds(60));
    ann.refresh().await.assert_ok(200);
    for _ in 0..40 {
        let other = app.log_in("ann", PASSWORD).await;
        other.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    }
}

#[tokio::test]
async fn the_minute_begins_with_the_oldest_of_the_thirty_and_moves_on() {
    let app = limited().await;
    let mut ann = app.newcomer("ann").await;
    for (number, wait) in [(10, 20), (20, 25)] {
        for _ in 0..number {
            ann.refresh().await.assert_ok(200);
        }
        app.clock.advance(TimeDelta::seconds(wait));
    }
    assert_limited(&ann.refresh().await, "refresh", 15);
    // A refusal is none, however often it is asked for.
    app.clock.advance(TimeDelta::seconds(14));
    for _ in 0..5 {
        assert_limited(&ann.refresh().await, "refresh", 1);
    }
    app.clock.advance(TimeDelta::seconds(1));
    for _ in 0..10 {
        ann.refresh().await.assert_ok(200);
    }
    // The twenty of the second time are younger than a minute.
    assert_limited(&ann.refresh().await, "refresh", 20);
}

#[tokio::test]
async fn a_pair_that_is_asked_for_again_is_no_refresh() {
    let app = limited().await;
    let mut ann = app.newcomer("ann").await;
    let mut before = ann.refresh_token().to_owned();
    for _ in 0..30 {
        before = ann.refresh_token().to_owned();
        ann.refresh().await.assert_ok(200);
        for _ in 0..3 {
            ann.refresh_with(&before).await.assert_ok(200);
        }
    }
    assert_limited(&ann.refresh().await, "refresh", 60);
    // Tabs that still have the token before get in all the same.
    for _ in 0..40 {
        let again = ann.refresh_with(&before).await;
        assert_eq!(again.assert_ok(200)["refresh_token"], ann.refresh_token());
    }
}

#[tokio::test]
async fn a_session_has_its_own_and_no_row_of_the_limits() {
    let app = limited().await;
    let mut ann = app.newcomer("ann").await;
    let mut phone = app.log_in("ann", PASSWORD).await;
    let before = counted(&app).await;
    for _ in 0..30 {
        ann.refresh().await.assert_ok(200);
    }
    assert_eq!(counted(&app).await, before);
    assert_limited(&ann.refresh().await, "refresh", 60);
    phone.refresh().await.assert_ok(200);
}

#[tokio::test]
async fn what_is_refused_for_good_is_no_refresh() {
    let app = limited().await;
    let ann = app.newcomer("ann").await;
    let old = ann.refresh_token().to_owned();
    ann.post("/api/v1/logout", &json!({})).await.assert_ok(200);
    for _ in 0..40 {
        ann.refresh_with(&old).await.assert_error(401, "session_ended");
    }
    let mut ann = app.log_in("ann", PASSWORD).await;
    for _ in 0..30 {
        ann.refresh().await.assert_ok(200);
    }
}
