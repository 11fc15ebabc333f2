//! The real binary behind PgBouncer in transaction mode, which gives each transaction another
//! server connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doorward::store::db::Db;
use futures_util::future::join_all;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::cluster::{cluster, empty_database, new_database};
use crate::harness::home::Home;
use crate::harness::person::PASSWORD;
use crate::harness::pgbouncer::{PgBouncer, SERVER_CONNECTIONS};
use crate::harness::process::Process;
use crate::harness::wait::eventually;

const DETECTED: &str = "a pooler stands in front";
const CLIENTS: usize = 20;

/// Everything that a person does, as one of many at once.
async fn live(home: &Home, number: usize, boss: &Value) {
    let username = format!("user{number}");
    let mut pair = home.newcomer(&username).await;
    for round in 0..3 {
        let me = home.get("/api/v1/users/me").by(&pair).send().await.expect(200);
        assert_eq!(me["user"]["username"], *username);
        let change = serde_json::json!({ "first_name": format!("Round {round}") });
        home.put("/api/v1/users/me").by(&pair).json(&change).send().await.expect(200);
        let refresh = pair["refresh_token"].as_str().unwrap();
        pair = home
            .post("/api/v1/refresh")
            .header("x-refresh-token", refresh)
            .send()
            .await
            .expect(200);
        let list = home.get("/api/v1/users/?count=true&q=user").by(boss).send().await.expect(200);
        assert!(!list["users"].as_array().unwrap().is_empty());
        let lines = home.get("/api/v1/users/").by(boss);
        let lines = lines.header("accept", "application/x-ndjson").send().await;
        assert_eq!(lines.status, 200);
        let names: Vec<Value> =
            lines.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(names.iter().any(|user| user["username"] == *username), "{}", lines.text);
    }
    home.post("/api/v1/logout").by(&pair).send().await.expect(200);
}

/// Twenty people at once on `home`, which has nobody yet.
pub async fn twenty_people_live_in(home: &Home) {
    let flags = ["create-admin", "--email", "boss@example.com", "--password-stdin"];
    home.succeeds(&flags, PASSWORD).await;
    let boss = home.log_in("boss").send().await.expect(200);
    join_all((0..CLIENTS).map(|number| live(home, number, &boss))).await;
    let all = home.get("/api/v1/users/?count=true").by(&boss).send().await.expect(200);
    assert_eq!(all["count"], CLIENTS + 1);
}

/// How many server connections a database has at the moment.
async fn server_connections(database: &str) -> usize {
    let options = cluster().await.connect_options("postgres");
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let sql = "select count(*) from pg_stat_activity where datname = $1";
    let count: i64 =
        sqlx::query_scalar(sql).bind(database).fetch_one(&mut connection).await.unwrap();
    usize::try_from(count).unwrap()
}

fn assert_no_trouble(service: &Process, bouncer: &PgBouncer) {
    let log = service.log();
    assert!(!log.contains("ERROR") && !log.contains("request failed"), "{log}");
    let log = bouncer.log();
    assert!(!log.contains("ERROR") && !log.contains("prepared statement"), "{log}");
}

#[tokio::test]
async fn a_pooler_is_noticed_and_twenty_clients_share_three_server_connections() {
    let Some(bouncer) = PgBouncer::start("").await else { return };
    let database = empty_database().await;
    let home = bouncer.home(&database, &[("DATABASE_CONNECTIONS", "20")]).await;
    home.succeeds(&["migrate"], "").await;
    home.succeeds(&["migrate"], "").await;
    let service = home.spawn("serve");
    // Whoever asks before it knows about the pooler leaves no connection behind that does not.
    join_all((0..CLIENTS).map(async |_| {
        eventually("it is ready", async || {
            home.get("/readyz").try_send().await.is_ok_and(|reply| reply.status == 200)
        })
        .await;
    }))
    .await;
    service.wait_for_log(DETECTED).await;
    for _ in 0..5 {
        let ready = join_all((0..CLIENTS).map(|_| home.get("/readyz").send())).await;
        for ready in ready {
            ready.expect(200);
        }
    }
    twenty_people_live_in(&home).await;
    let connections = server_connections(&database).await;
    assert!((1..=SERVER_CONNECTIONS).contains(&connections), "{connections}");
    assert_no_trouble(&service, &bouncer);
    service.stop().await;
}

/// PgBouncer may lend a server connection that was ended just before, and tells its client so with
/// an error of its own.
#[tokio::test]
async fn server_connections_that_end_are_replaced_unnoticed() {
    let Some(bouncer) = PgBouncer::start("").await else { return };
    let database = new_database().await;
    let home = bouncer.home(&database, &[("DATABASE_POOLER", "on")]).await;
    home.succeeds(&["create-admin", "--email", "boss@example.com", "--password-stdin"], PASSWORD)
        .await;
    let service = home.start().await;
    let mut pair = home.log_in("boss").send().await.expect(200);
    let options = cluster().await.connect_options("postgres");
    let mut outside = PgConnection::connect_with(&options).await.unwrap();
    for round in 0..25 {
        for call in ["change", "list", "refresh"] {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
            sqlx::query(end).bind(&database).execute(&mut outside).await.unwrap();
            match call {
                "change" => {
                    let change = serde_json::json!({ "first_name": format!("Round {round}") });
                    let changing = home.put("/api/v1/users/me").by(&pair).json(&change);
                    changing.send().await.expect(200);
                }
                "list" => drop(home.get("/api/v1/users").by(&pair).send().await.expect(200)),
                _ => {
                    let token = pair["refresh_token"].as_str().unwrap();
                    let refreshing = home.post("/api/v1/refresh").header("x-refresh-token", token);
                    pair = refreshing.send().await.expect(200);
                }
            }
        }
    }
    service.stop().await;
}

#[tokio::test]
async fn a_pooler_that_hands_its_connections_out_by_turns_is_noticed_too() {
    for size in 2..=3 {
        let more = format!("server_round_robin = 1\ndefault_pool_size = {size}");
        let Some(bouncer) = PgBouncer::start(&more).await else { return };
        let database = new_database().await;
        let home = bouncer.home(&database, &[]).await;
        for _ in 0..2 {
            let service = home.start().await;
            service.wait_for_log(DETECTED).await;
            home.log_in("nobody").send().await.expect(401);
            service.forget_log();
            service.stop().await;
        }
    }
}

#[tokio::test]
async fn a_pooler_in_session_mode_that_refuses_our_settings_is_noticed_too() {
    let Some(bouncer) = PgBouncer::start("pool_mode = session\ndefault_pool_size = 40").await
    else {
        return;
    };
    let database = new_database().await;
    let mut home = bouncer.home(&database, &[]).await;
    let service = home.start().await;
    service.wait_for_log(DETECTED).await;
    home.newcomer("ada").await;
    service.stop().await;
    home.set("DATABASE_POOLER", "off");
    let said = home.run(&["doctor"], "").await.stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("set DATABASE_POOLER=on"), "{said}");
}

/// The next message to a server, without its type and its length.
async fn read_message(client: &mut TcpStream) -> Vec<u8> {
    let length = client.read_u32().await.unwrap();
    let mut body = vec![0; length as usize - 4];
    client.read_exact(&mut body).await.unwrap();
    body
}

async fn send_message(client: &mut TcpStream, kind: u8, body: &[u8]) {
    client.write_u8(kind).await.unwrap();
    client.write_u32(u32::try_from(body.len()).unwrap() + 4).await.unwrap();
    client.write_all(body).await.unwrap();
}

async fn refuse(client: &mut TcpStream, code: &str, message: &str) {
    let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
    send_message(client, b'E', fields.as_bytes()).await;
}

/// What comes of a transaction behind a pooler that lets clients in if `lets_in`, refuses their
/// first statement so, and begins for the second; and how many clients it saw.
async fn begin_behind(lets_in: bool, message: &'static str) -> (sqlx::Result<()>, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let pooler = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let number = count.fetch_add(1, Ordering::SeqCst);
            read_message(&mut client).await;
            if !lets_in {
                refuse(&mut client, "08P01", message).await;
                continue;
            }
            send_message(&mut client, b'R', &[0; 4]).await;
            send_message(&mut client, b'Z', b"I").await;
            assert_eq!(client.read_u8().await.unwrap(), b'Q');
            read_message(&mut client).await;
            if number == 0 {
                refuse(&mut client, "08P01", message).await;
                continue;
            }
            send_message(&mut client, b'C', b"BEGIN\0").await;
            send_message(&mut client, b'Z', b"T").await;
            tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await });
        }
    });
    let url = format!("postgres://ann@127.0.0.1:{port}/x?sslmode=disable");
    let begun = Db::new(url.parse::<sqlx::postgres::PgConnectOptions>().unwrap(), 10)
        .begin()
        .await
        .map(drop);
    pooler.abort();
    (begun, seen.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_connection_that_ended_behind_a_pooler_is_replaced_and_a_refusal_is_taken_as_one() {
    for ended in ["invalid server parameter", "server conn crashed?", "server connection closed"] {
        let (begun, clients) = begin_behind(true, ended).await;
        begun.unwrap();
        assert_eq!(clients, 2, "{ended}");
    }
    let refusals =
        ["server login has been failing, try again later (server_login_retry)", "no such user"];
    for refusal in refusals {
        for lets_in in [true, false] {
            let (begun, clients) = begin_behind(lets_in, refusal).await;
            assert!(begun.unwrap_err().to_string().contains(refusal));
            assert_eq!(clients, 1, "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_pooler_that_knows_no_settings_at_the_start_is_noticed_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let start = read_message(&mut client).await;
        refuse(&mut client, "0A000", "Feature not supported: command-line options").await;
        String::from_utf8_lossy(&start).into_owned()
    });
    let url = format!("postgres://ann@127.0.0.1:{port}/x?sslmode=disable");
    assert!(
        Db::new(url.parse::<sqlx::postgres::PgConnectOptions>().unwrap(), 2)
            .detect_pooler()
            .await
            .unwrap()
    );
    assert!(proxy.await.unwrap().contains("statement_timeout"));
}

#[tokio::test]
async fn two_instances_migrate_through_a_pooler_at_once() {
    let Some(bouncer) = PgBouncer::start("").await else { return };
    let database = empty_database().await;
    let settings = [("DATABASE_POOLER", "on")];
    let homes =
        [bouncer.home(&database, &settings).await, bouncer.home(&database, &settings).await];
    let (first, second) = tokio::join!(homes[0].start(), homes[1].start());
    let pair = homes[0].newcomer("ada").await;
    homes[1].get("/api/v1/users/me").by(&pair).send().await.expect(200);
    for service in [first, second] {
        // It was told, so it does not look.
        assert!(!service.log().contains(DETECTED));
        assert_no_trouble(&service, &bouncer);
        service.stop().await;
    }
}

#[tokio::test]
async fn without_a_pooler_none_is_noticed() {
    for pooler in ["auto", "off"] {
        let database = new_database().await;
        let home = Home::on(&database, &[("DATABASE_POOLER", pooler)]).await;
        let service = home.start().await;
        home.newcomer("ada").await;
        assert!(!service.log().contains(DETECTED));
        service.stop().await;
    }
}
