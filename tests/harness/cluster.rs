//! The throw-away PostgreSQL that the tests of a process share, and databases on it.

use std::sync::atomic::{AtomicU32, Ordering};

use doorward::local_postgres::{Durability, LocalPostgres};
use doorward::store::db::Db;
use sqlx::PgPool;
use tokio::sync::OnceCell;

static CLUSTER: OnceCell<LocalPostgres> = OnceCell::const_new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The throw-away PostgreSQL of this test process; it stops with it.
pub async fn cluster() -> &'static LocalPostgres {
    CLUSTER
        .get_or_init(async || {
            // Not made here: run by root, PostgreSQL's account makes it its own, and can remove it
            // when we are gone.
            let name = format!("doorward-test-{}", uuid::Uuid::now_v7().simple());
            let folder = std::env::temp_dir().join(name);
            let cluster = LocalPostgres::start(&folder, Durability::Throwaway).await.unwrap();
            cluster.ensure_database("template_doorward").await.unwrap();
            let db = Db::new(cluster.connect_options("template_doorward"), 2);
            db.migrate().await.unwrap();
            db.close().await;
            cluster
        })
        .await
}

/// A new, migrated database; its name. Several may be cloned at once: PostgreSQL refuses a template only while
/// somebody is connected to it.
pub async fn new_database() -> String {
    let cluster = cluster().await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
    let pool = PgPool::connect_with(cluster.connect_options("postgres")).await.unwrap();
    let sql = format!("create database {name} template template_doorward");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    pool.close().await;
    name
}

/// A database of the tests' cluster with nothing in it; its name.
pub async fn empty_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("empty_{}", COUNT.fetch_add(1, Ordering::SeqCst));
    cluster().await.ensure_database(&name).await.unwrap();
    name
}
