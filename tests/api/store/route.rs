//! The way to the server, where a URL names several, or a name has several addresses: whichever can
//! be used is, whatever the others do.

use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use doorward::config::database_url::{Hosts, Role};
use doorward::store::db::Db;
use rustix::process::Signal;
use sqlx::Executor as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::harness::cluster::{cluster, empty_database, new_database};
use crate::harness::home::Home;
use crate::harness::machine::{free_port, note};
use crate::harness::postgres::Postgres;
use crate::harness::tcp_proxy::TcpProxy;
use crate::harness::wait::eventually;
use crate::process::doctor_database::sql_on;

/// An address that swallows what is sent to it, until dropped.
struct Hole {
    _listener: TcpListener,
    _waiting: Vec<tokio::task::JoinHandle<()>>,
    port: u16,
}

impl Hole {
    /// Its queue of connections is full: from then on the kernel drops each further one.
    async fn at(address: SocketAddr) -> Self {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4().unwrap(),
            SocketAddr::V6(_) => TcpSocket::new_v6().unwrap(),
        };
        socket.bind(address).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = (0..4).map(|_| {
            tokio::spawn(async move {
                let _kept = TcpStream::connect(address).await;
                std::future::pending::<()>().await;
            })
        });
        let waiting = waiting.collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let late = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address));
        assert!(late.await.is_err(), "it swallows");
        Self { _listener: listener, _waiting: waiting, port: address.port() }
    }
}

/// The write that every server takes which is of use.
async fn write(db: &Db) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    tx.execute("delete from limits").await?;
    tx.commit().await
}

fn several(hosts: &str, role: Role) -> Db {
    let url = format!("postgres://doorward@{hosts}/doorward?sslmode=disable");
    Db::new(Hosts::parse(&url, role).unwrap(), 3)
}

#[tokio::test]
async fn of_several_servers_the_primary_is_used_wherever_it_is_and_goes() {
    let mut primary = Postgres::primary(&[]).await;
    let standby = primary.standby(&[]).await;
    let hole = Hole::at(([127, 0, 0, 1], 0).into()).await;
    let refusing = free_port();
    let hosts = format!(
        "127.0.0.1:{},127.0.0.1:{},127.0.0.1:{refusing},127.0.0.1:{}",
        hole.port, standby.port, primary.port
    );
    let db = several(&hosts, Role::Primary);
    let began = Instant::now();
    assert!(!db.detect_pooler().await.unwrap());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    db.assume_direct();
    write(&db).await.unwrap();

    primary.stop(Signal::INT);
    standby.promote().await;
    let began = Instant::now();
    eventually("the new primary is found", async || write(&db).await.is_ok()).await;
    note(&format!("the new primary was found after {:?}", began.elapsed()));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());

    // A list of standbys is read from one, and the new primary is none.
    let newest = standby.standby(&[]).await;
    let reads = format!("127.0.0.1:{},127.0.0.1:{}", standby.port, newest.port);
    let url = format!("postgres://doorward@{reads}/doorward?sslmode=disable");
    let db = db.with_standby(Hosts::parse(&url, Role::Standby).unwrap(), 2);
    let facts = db.describe_standby().await.unwrap().unwrap();
    assert!(facts.is_standby);
}

/// Without a primary nothing is written anywhere, and nobody waits for long to be told so.
#[tokio::test]
async fn a_standby_alone_is_not_taken_for_the_primary() {
    let primary = Postgres::primary(&[]).await;
    let standby = primary.standby(&[]).await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", standby.port, free_port());
    let db = several(&hosts, Role::Primary);
    let began = Instant::now();
    write(&db).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// A name with two addresses, as a provider's without a way over IPv6 from here.
#[tokio::test]
async fn an_address_that_swallows_everything_does_not_hide_the_next_one() {
    if !rustix::process::getuid().is_root() {
        return note("left out: a hosts file of one's own is root's alone");
    }
    let swallowing = Hole::at((Ipv6Addr::LOCALHOST, 0).into()).await;
    let _way = TcpProxy::open(swallowing.port).await;
    let database = empty_database().await;
    let url =
        format!("postgres://doorward@db.internal:{}/{database}?sslmode=disable", swallowing.port);
    let mut home = Home::new(&[("DATABASE_URL", &url), ("DOORWARD_ENV", "development")]);
    let hosts = home.folder().join("hosts");
    let names = "::1 db.internal\n127.0.0.1 db.internal\n127.0.0.1 localhost\n";
    std::fs::write(&hosts, names).unwrap();
    let script = home.folder().join("with-hosts");
    let program = env!("CARGO_BIN_EXE_doorward");
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/hosts && exec {program} \"$@\"' sh \"$@\"\n",
        hosts.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    home.set("DOORWARD_BINARY", script.to_str().unwrap());
    let began = Instant::now();
    let service = home.start().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    service.wait_for_log("database: this server is used").await;
    home.register("ann").send().await.expect(201);
}

#[tokio::test]
async fn a_role_with_fewer_connections_than_the_pool_serves_all_and_says_so_once() {
    let database = new_database().await;
    let role = format!("few_of_{database}");
    sql_on(
        &database,
        format!(
            "create role {role} login connection limit 3;
             grant select, insert, update, delete on all tables in schema public to {role}"
        ),
    )
    .await;
    let url = cluster().await.url(&database).replacen("doorward@", &format!("{role}@"), 1);
    let home = Home::new(&[("DATABASE_URL", &url), ("DOORWARD_ENV", "development")]);
    let service = home.start().await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..20 {
        let call = home.register(&format!("user{number}"));
        calls.spawn(async move { call.send().await.expect(201) });
    }
    calls.join_all().await;
    service.wait_for_log("too many connections for role").await;
    assert_eq!(service.log().matches("no further connection is to be had").count(), 1);
}

/// Under a stricter one, calls that meet at one row would fail.
#[tokio::test]
async fn a_default_isolation_is_not_ours() {
    let database = new_database().await;
    let sql =
        format!("alter database {database} set default_transaction_isolation = 'serializable'");
    sql_on(&database, sql).await;
    for pooled in [false, true] {
        let db = Db::new(cluster().await.connect_options(&database), 2);
        if pooled {
            db.assume_pooler();
        } else {
            db.assume_direct();
        }
        let asked = "select current_setting('transaction_isolation')";
        let mut tx = db.begin().await.unwrap();
        let own: String = sqlx::query_scalar(asked).fetch_one(&mut *tx).await.unwrap();
        let read = db.read(|conn| Box::pin(sqlx::query_scalar(asked).fetch_one(conn)));
        let read: String = read.await.unwrap();
        assert_eq!((&*own, &*read), ("read committed", "read committed"), "pooled: {pooled}");
    }
}
