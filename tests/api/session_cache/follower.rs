//! An instance with a session cache that follows what changes elsewhere.

use std::time::{Duration, Instant};

use doorward::changes;
use doorward::clock::Clock;
use doorward::store::db::Db;
use tokio::task::JoinSet;

use crate::harness::app::TestApp;
use crate::harness::person::Person;

pub const ME: &str = "/api/v1/users/me";

/// An instance that follows what changes elsewhere, as the binary does, for as long as this is
/// kept.
pub struct Follower {
    pub app: TestApp,
    _following: JoinSet<()>,
}

impl Follower {
    pub async fn on(database: &str) -> Self {
        let app = instance(database).await;
        let db = app.state.db.clone();
        let follower = Self::through(app, db);
        follower.until_live().await;
        follower
    }

    /// Follows by another way than the one on which it reads and writes.
    pub fn through(app: TestApp, db: Db) -> Self {
        let state = app.state.clone();
        let mut following = JoinSet::new();
        following
            .spawn(async move { changes::follow(&db, Some(&state.session_cache), None).await });
        Self { app, _following: following }
    }

    pub async fn until_live(&self) {
        let start = Instant::now();
        while !self.app.state.session_cache.is_live() {
            assert!(start.elapsed() < Duration::from_secs(30), "it never becomes live");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// One process, which keeps what it has read itself. By the real clock: PostgreSQL's, too, decides
/// whether a session is over.
pub async fn instance(database: &str) -> TestApp {
    TestApp::at(database, &[], Clock::system()).await.alone()
}

/// Changes a first name, and nobody is told.
pub async fn rename_silently(person: &Person, first_name: &str) {
    let mut tx = person.app.pool.begin().await.unwrap();
    sqlx::raw_sql("set local session_replication_role = replica").execute(&mut *tx).await.unwrap();
    sqlx::query("update users set first_name = $1 where id::text = $2")
        .bind(first_name)
        .bind(person.id())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// Whether what the person is shown comes from memory. Leaves everything as it was.
pub async fn is_shown_from_memory(person: &Person) -> bool {
    let before = person.get(ME).await.assert_ok(200).clone();
    rename_silently(person, "Nobody knows").await;
    let after = person.get(ME).await.assert_ok(200).clone();
    rename_silently(person, before["user"]["first_name"].as_str().unwrap()).await;
    before == after
}

/// Waits until what the person is shown comes from memory: word of what happened to them before may
/// be on its way.
pub async fn until_shown_from_memory(person: &Person) {
    let start = Instant::now();
    while !is_shown_from_memory(person).await {
        assert!(start.elapsed() < Duration::from_secs(3), "nothing is shown from memory");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
