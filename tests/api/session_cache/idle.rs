//! The session cache after a time in which no request asked it: the heartbeat has paused.

use std::time::{Duration, Instant};

use doorward::session_cache::{IN_USE_FOR, MAX_STALENESS};

use crate::harness::cluster::new_database;
use crate::harness::machine::note;
use crate::harness::person::Person;
use crate::session_cache::cut::{MARGIN, cut_one, rename, stale_for, through_proxy};
use crate::session_cache::follower::{
    Follower, ME, is_shown_from_memory, rename_silently, until_shown_from_memory,
};

/// Sleeps until the heartbeat has paused, and its last proof has run out.
async fn until_paused(follower: &Follower) {
    tokio::time::sleep(IN_USE_FOR + MAX_STALENESS + Duration::from_millis(1500)).await;
    assert!(follower.app.state.session_cache.is_live(), "the connection still counts");
    assert_eq!(follower.app.state.session_cache.entries(), 0, "nothing is kept from before");
}

async fn first_name(person: &Person) -> String {
    let me = person.get(ME).await.assert_ok(200)["user"]["first_name"].clone();
    me.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn after_a_pause_the_first_readings_are_right_and_memory_serves_again_within_a_second() {
    let follower = Follower::on(&new_database().await).await;
    let ada = follower.app.user("ada").await;
    until_shown_from_memory(&ada).await;
    until_paused(&follower).await;
    rename(&ada, "Heard").await;
    assert_eq!(first_name(&ada).await, "Heard");
    // By now the heartbeat may be back, and memory may serve what it hears of a moment later.
    let changed_at = rename(&ada, "Heard again").await;
    assert!(stale_for(&ada, "Heard again", changed_at).await < MARGIN);
    let asked_at = Instant::now();
    until_shown_from_memory(&ada).await;
    note(&format!("served from memory again after {:?}", asked_at.elapsed()));
    assert!(asked_at.elapsed() < Duration::from_secs(1));

    until_paused(&follower).await;
    // Not even the triggers tell of this one: what is shown was read.
    rename_silently(&ada, "Silent").await;
    assert_eq!(first_name(&ada).await, "Silent");
    until_shown_from_memory(&ada).await;
    // It stays in use: the heartbeat goes on.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ada.get(ME).await.assert_ok(200);
        assert!(is_shown_from_memory(&ada).await);
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_in_a_pause_is_replaced_before_memory_serves() {
    let follower = Follower::on(&new_database().await).await;
    let ada = follower.app.user("ada").await;
    until_paused(&follower).await;
    cut_one(&follower.app.pool).await;
    let changed_at = rename(&ada, "Unheard").await;
    assert!(stale_for(&ada, "Unheard", changed_at).await < MARGIN);
    until_shown_from_memory(&ada).await;
    let changed_at = rename(&ada, "Heard").await;
    assert!(stale_for(&ada, "Heard", changed_at).await < MAX_STALENESS);
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_since_a_pause_proves_nothing() {
    let (follower, proxy, _) = through_proxy(&new_database().await).await;
    let ada = follower.app.user("ada").await;
    until_paused(&follower).await;
    proxy.swallow(true);
    for name in ["Unheard", "Unheard again"] {
        let changed_at = rename(&ada, name).await;
        assert!(stale_for(&ada, name, changed_at).await < MARGIN, "it was read");
        assert!(!is_shown_from_memory(&ada).await);
    }
    // What the pause vouched for ends with it.
    tokio::time::sleep(MAX_STALENESS + Duration::from_secs(1)).await;
    assert!(!follower.app.state.session_cache.is_live());
    proxy.swallow(false);
    follower.until_live().await;
    until_shown_from_memory(&ada).await;
}
