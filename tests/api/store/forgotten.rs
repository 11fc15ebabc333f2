//! Connections that a router on the way forgot while they were idle.

use std::time::{Duration, Instant};

use doorward::config::database_url::{Hosts, Role};
use doorward::store::db::Db;
use futures_util::future::join_all;

use crate::harness::cluster::{cluster, empty_database, new_database};
use crate::harness::home::Home;
use crate::harness::machine::free_port;
use crate::harness::tcp_proxy::TcpProxy;

/// What is open now never answers again, and has been idle for long enough to be asked first.
async fn forget(way: &TcpProxy) {
    tokio::time::sleep(Duration::from_secs(3)).await;
    way.swallow(true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    way.swallow(false);
}

#[tokio::test]
async fn twelve_that_were_forgotten_cost_no_more_than_one() {
    let port = free_port();
    let way = TcpProxy::open(port).await;
    let options = cluster().await.connect_options(&new_database().await);
    let name = options.get_database().unwrap();
    let url = format!("postgres://doorward@127.0.0.1:{port}/{name}?sslmode=disable");
    let db = Db::new(Hosts::parse(&url, Role::Primary).unwrap(), 12);
    for in_transaction in [true, false] {
        let held = join_all((0..12).map(async |_| db.begin().await.unwrap())).await;
        for tx in held {
            tx.commit().await.unwrap();
        }
        assert_eq!(db.connections().0, 12);
        forget(&way).await;
        let began = Instant::now();
        if in_transaction {
            db.begin().await.unwrap().commit().await.unwrap();
        } else {
            db.read(|conn| Box::pin(sqlx::query("select 1").execute(conn))).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn the_first_calls_after_a_pause_are_answered_at_once() {
    let port = free_port();
    let way = TcpProxy::open(port).await;
    let database = empty_database().await;
    let url = format!("postgres://doorward@127.0.0.1:{port}/{database}?sslmode=disable");
    let settings = [
        ("DATABASE_URL", &*url),
        ("DOORWARD_ENV", "development"),
        ("DATABASE_CONNECTIONS", "12"),
        // Nothing uses a connection meanwhile, which a router would then not forget.
        ("SESSION_CACHE", "off"),
        ("WORKER", "off"),
    ];
    let home = Home::new(&settings);
    let _service = home.start().await;
    let people: Vec<_> = (0..12).map(|number| format!("user{number}")).collect();
    join_all(people.iter().map(async |name| home.register(name).send().await.expect(201))).await;
    let open: i64 = {
        let options = cluster().await.connect_options(&database);
        let pool = sqlx::PgPool::connect_with(options).await.unwrap();
        let asked = "select count(*) from pg_stat_activity
            where application_name = 'doorward' and datname = current_database()";
        sqlx::query_scalar(asked).fetch_one(&pool).await.unwrap()
    };
    assert!(open >= 2, "{open} connections can be forgotten");
    forget(&way).await;
    for name in people.iter().take(3) {
        let began = Instant::now();
        home.log_in(name).send().await.expect(200);
        assert!(began.elapsed() < Duration::from_secs(1), "{name}: {:?}", began.elapsed());
    }
}
