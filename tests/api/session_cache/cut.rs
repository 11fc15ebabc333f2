//! The session cache while nobody tells it of what changes elsewhere: it shows nothing older than
//! its bound, and comes back.

use std::time::{Duration, Instant};

use doorward::session_cache::MAX_STALENESS;
use doorward::store::db::Db;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::harness::cluster::{cluster, new_database};
use crate::harness::machine::{free_port, note};
use crate::harness::person::Person;
use crate::harness::pgbouncer::PgBouncer;
use crate::harness::tcp_proxy::TcpProxy;
use crate::session_cache::follower::{
    Follower, ME, instance, is_shown_from_memory, until_shown_from_memory,
};

/// Of the clock, which is read here and there.
pub const MARGIN: Duration = Duration::from_millis(50);

/// Ends a connection on which an instance of this database listens, whichever.
pub async fn cut_one(pool: &PgPool) {
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and query ilike 'listen %' order by random() limit 1";
    assert!(sqlx::query_scalar::<_, bool>(sql).fetch_one(pool).await.unwrap());
}

/// A name that is changed by hand, at the last moment at which nobody hears of it.
pub async fn rename(person: &Person, first_name: &str) -> Instant {
    let sql = "update users set first_name = $1 where id::text = $2";
    let changing = sqlx::query(sql).bind(first_name).bind(person.id());
    changing.execute(&person.app.pool).await.unwrap();
    Instant::now()
}

/// For how long after `changed_at` the person is still shown another first name.
pub async fn stale_for(person: &Person, first_name: &str, changed_at: Instant) -> Duration {
    let mut stale = Duration::ZERO;
    loop {
        let asked_at = Instant::now();
        if person.get(ME).await.assert_ok(200)["user"]["first_name"] == first_name {
            return stale;
        }
        stale = asked_at - changed_at;
        assert!(stale < 3 * MAX_STALENESS, "still not shown");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[track_caller]
fn assert_proven(stale: Duration, what: &str) {
    note(&format!("{what}: an answer that was {stale:?} old"));
    assert!(stale < MAX_STALENESS + MARGIN, "{stale:?}");
}

/// After the connection was lost: what is read then is kept, for all changes from before have been
/// heard of.
async fn until_shown_from_memory_once_more(person: &Person) {
    // Time enough to notice, but not to connect anew.
    tokio::time::sleep(Duration::from_millis(200)).await;
    until_shown_from_memory(person).await;
}

/// An instance that listens through a proxy; the database is reached past it.
pub async fn through_proxy(database: &str) -> (Follower, TcpProxy, u16) {
    let port = free_port();
    let (app, proxy) = (instance(database).await, TcpProxy::open(port).await);
    let options = tcp_options(port, database);
    let follower = Follower::through(app.clone(), app.state.db.clone().with_direct(options));
    follower.until_live().await;
    (follower, proxy, port)
}

fn tcp_options(port: u16, database: &str) -> PgConnectOptions {
    format!("postgres://doorward@127.0.0.1:{port}/{database}?sslmode=disable").parse().unwrap()
}

#[tokio::test]
async fn what_changes_while_the_listening_connection_is_cut_is_seen_when_it_is_back() {
    let follower = Follower::on(&new_database().await).await;
    let ada = follower.app.user("ada").await;
    until_shown_from_memory(&ada).await;
    cut_one(&follower.app.pool).await;
    until_shown_from_memory_once_more(&ada).await;
    let changed_at = rename(&ada, "Unheard").await;
    assert_proven(stale_for(&ada, "Unheard", changed_at).await, "cut");
    follower.until_live().await;
    until_shown_from_memory(&ada).await;
}

#[tokio::test]
async fn nothing_old_is_shown_while_the_server_refuses_to_be_listened_to() {
    let database = new_database().await;
    let (follower, proxy, port) = through_proxy(&database).await;
    let ada = follower.app.user("ada").await;
    until_shown_from_memory(&ada).await;
    drop(proxy);
    until_shown_from_memory_once_more(&ada).await;
    let changed_at = rename(&ada, "Unheard").await;
    let reopen = async {
        // After it was refused once.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        TcpProxy::open(port).await
    };
    let (stale, _gate) = tokio::join!(stale_for(&ada, "Unheard", changed_at), reopen);
    assert_proven(stale, "refused");
    follower.until_live().await;
    until_shown_from_memory(&ada).await;
}

#[tokio::test]
async fn nothing_old_is_shown_while_the_listening_connection_leads_nowhere() {
    let (follower, proxy, _) = through_proxy(&new_database().await).await;
    let ada = follower.app.user("ada").await;
    until_shown_from_memory(&ada).await;
    proxy.swallow(true);
    let changed_at = rename(&ada, "Unheard").await;
    assert_proven(stale_for(&ada, "Unheard", changed_at).await, "leads nowhere");
    assert!(!follower.app.state.session_cache.is_live() && !is_shown_from_memory(&ada).await);
    // The connection from before stays dead, and neither side is told.
    proxy.swallow(false);
    follower.until_live().await;
    until_shown_from_memory(&ada).await;
}

#[tokio::test]
async fn whoever_listens_where_nothing_is_told_keeps_nothing() {
    let database = new_database().await;
    let mut ways = vec![("another database", {
        let elsewhere = cluster().await.connect_options(&new_database().await);
        instance(&database).await.state.db.clone().with_direct(elsewhere)
    })];
    let bouncer = PgBouncer::start("").await;
    if let Some(bouncer) = &bouncer {
        let options = || -> PgConnectOptions { bouncer.url(&database).parse().unwrap() };
        let pooled = || Db::new(options(), 2);
        let known = pooled();
        known.assume_pooler();
        ways.push(("a pooler that is known", known));
        ways.push(("a pooler that nobody has noticed", pooled()));
        let known = pooled().with_direct(options());
        known.assume_pooler();
        ways.push(("a pooler that is said to be none", known));
    }
    let mut followers = Vec::new();
    for (way, db) in ways {
        let app = instance(&database).await;
        let ada = app.user(&format!("ada{}", followers.len())).await;
        followers.push((way, Follower::through(app, db), ada));
    }
    let start = Instant::now();
    while start.elapsed() < MAX_STALENESS {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for (way, follower, ada) in &followers {
            assert!(!follower.app.state.session_cache.is_live(), "{way}");
            assert!(!is_shown_from_memory(ada).await, "{way}");
        }
    }
}

#[tokio::test]
async fn behind_a_pooler_its_own_way_to_the_server_is_enough() {
    let Some(bouncer) = PgBouncer::start("").await else { return };
    let database = new_database().await;
    let app = instance(&database).await;
    let pooled =
        Db::new(bouncer.url(&database).parse::<sqlx::postgres::PgConnectOptions>().unwrap(), 2)
            .with_direct(cluster().await.connect_options(&database));
    pooled.assume_pooler();
    let follower = Follower::through(app.clone(), pooled);
    let ada = app.user("ada").await;
    follower.until_live().await;
    until_shown_from_memory(&ada).await;
    let changed_at = rename(&ada, "Heard").await;
    assert!(stale_for(&ada, "Heard", changed_at).await < MAX_STALENESS);
}
