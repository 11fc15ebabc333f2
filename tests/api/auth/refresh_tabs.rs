//! `POST /refresh` as browsers use it: several tabs with one storage, a network that loses requests
//! and answers, and somebody who has stolen a pair.
//!
//! Known and accepted: a thief who refreshes before the owner, every time, and shows his access
//! tokens only to backends that verify them by themselves is not noticed. The owner is given the
//! same pairs, and nobody is left behind.
//!
//! `TABS_RUNS` asks for more stories, `TABS_SEED` for another beginning; with `TABS_RUNS=1`, for
//! that story alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::auth::refresh_story::{Tally, one_story};
use crate::harness::app::TestApp;
use crate::harness::cluster::new_database;
use crate::harness::dice::number;
use crate::harness::machine::note;

/// Stories of each test.
const RUNS: u64 = 150;
/// Stories told at once; each has a clock of its own.
const LANES: u64 = 4;

/// Tells stories on one database, several at once; what was said in them.
async fn tell(has_thief: bool) -> Tally {
    let start = Instant::now();
    let (runs, seed) = (number("TABS_RUNS", RUNS), number("TABS_SEED", 1));
    let database = new_database().await;
    let next = Arc::new(AtomicU64::new(0));
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let (next, app) = (next.clone(), TestApp::on(&database, &[]).await);
        // Each has an owner of its own: an account keeps 50,000 sessions.
        let owner = format!("owner{lane}");
        app.newcomer(&owner).await;
        let beginning = app.clock.now();
        lanes.spawn(async move {
            let mut tally = Tally::new();
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= runs {
                    return tally;
                }
                app.clock.advance(beginning - app.clock.now());
                for (said, times) in one_story(&app, &owner, seed + number, has_thief).await {
                    *tally.entry(said).or_default() += times;
                }
            }
        });
    }
    let mut all = Tally::new();
    for (said, times) in lanes.join_all().await.into_iter().flatten() {
        *all.entry(said).or_default() += times;
    }
    let calls: u64 = all.values().sum();
    note(&format!("{runs} stories in {:?}, {calls} calls: {all:?}", start.elapsed()));
    let app = TestApp::on(&database, &[]).await;
    let sql = "select count(*), count(distinct session_id),
                   (select count(*) from sessions where end_reason = 'refresh_token_reused')
               from audit_log where event = 'refresh_token_reused'";
    let counted: (i64, i64, i64) = sqlx::query_as(sql).fetch_one(&app.pool).await.unwrap();
    let (audited, sessions, ended) = counted;
    assert!(audited == sessions && sessions == ended, "each reuse is audited, once: {counted:?}");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tabs_and_lost_answers_never_log_their_owner_out() {
    let said = tell(false).await;
    assert!(!said.contains_key("refresh_token_reused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_on_with_a_stolen_pair_ends_the_session_and_has_nothing() {
    let said = tell(true).await;
    assert!(said.contains_key("refresh_token_reused"));
}
