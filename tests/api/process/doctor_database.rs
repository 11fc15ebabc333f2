//! `doctor` on the database: there or not, let in or not, migrated, with connections left, in step
//! with our clock.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::cluster::{cluster, empty_database, new_database};
use crate::harness::machine::{free_port, note};
use crate::harness::pgbouncer::PgBouncer;
use crate::harness::smtp_sink::{Encryption, Mode};
use crate::process::doctor::{DATABASE_PASSWORD, Report, good, good_home, mail_server};

pub async fn sql_on(database: &str, sql: String) {
    let options = cluster().await.connect_options(database);
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// A loopback server that says the same to everybody once they have spoken, and then waits.
async fn server_that_says(answers: &'static [&'static [u8]]) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = [0; 1024];
                for answer in answers {
                    let _ = stream.read(&mut heard).await;
                    let _ = stream.write_all(answer).await;
                }
                while stream.read(&mut heard).await.is_ok_and(|heard| heard > 0) {}
            });
        }
    });
    port
}

#[tokio::test]
async fn a_database_that_does_not_let_us_in_is_told_from_one_that_is_not_there() {
    let (mut home, _, _sink) = good().await;
    // Asks for the password in the clear, then refuses it.
    let refusing = server_that_says(&[
        b"R\0\0\0\x08\0\0\0\x03",
        b"E\0\0\0\x47SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed for user \"me\"\0\0",
    ])
    .await;
    let name = "no_such_database";
    let nowhere = cluster().await.url(name).replacen('@', &format!(":{DATABASE_PASSWORD}@"), 1);
    let at =
        |port: u16| format!("postgres://me:{DATABASE_PASSWORD}@127.0.0.1:{port}/x?sslmode=disable");
    for (url, words) in [
        (at(free_port()), "host and port in DATABASE_URL"),
        (at(refusing), "check user and password in DATABASE_URL"),
        (nowhere, "create the database"),
    ] {
        home.set("DATABASE_URL", &url);
        let report = Report::of(&format!("a database: {words}"), &home, &[]).await;
        report.assert_troubles(&[("fail", "database", words)]);
    }
}

#[tokio::test]
async fn a_refused_connection_is_not_a_wrong_password() {
    let (mut home, _, _sink) = good().await;
    let refusing = server_that_says(&[
        b"R\0\0\0\x08\0\0\0\x03",
        b"E\0\0\0\x3dSFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry for host \"x\"\0\0",
    ])
    .await;
    home.set(
        "DATABASE_URL",
        &format!("postgres://me:{DATABASE_PASSWORD}@127.0.0.1:{refusing}/x?sslmode=disable"),
    );
    let report = Report::of("no entry in pg_hba.conf", &home, &[]).await;
    report.assert_troubles(&[("fail", "database", "add a line for this user")]);
}

#[tokio::test]
async fn parameters_of_other_clients_are_named_and_those_of_nobody_are_not() {
    let (mut home, _, _sink) = good().await;
    let url = home.setting("DATABASE_URL");
    let with = if url.contains('?') { '&' } else { '?' };
    home.set(
        "DATABASE_URL",
        &format!("{url}{with}sslaccept=strict&schema=auth&{DATABASE_PASSWORD}=1&channel_binding=prefer&keepalives_idle=30&prepareThreshold=0"),
    );
    let report = Report::of("parameters of other clients", &home, &[]).await;
    report.assert_troubles(&[
        (
            "warn",
            "database",
            "DATABASE_URL: sslaccept has no effect here: write sslmode=verify-full",
        ),
        ("warn", "database", "DATABASE_URL: schema has no effect here: run `alter role"),
        ("warn", "database", "DATABASE_URL: a parameter has no effect here"),
    ]);
}

#[tokio::test]
async fn a_database_on_which_nobody_can_register_is_never_called_good() {
    let (_, database, sink) = good().await;
    let home = good_home(&database, &sink).await;
    let fails = async |what: &str, sql: &str, expected: (&str, &str)| {
        sql_on(&database, sql.to_owned()).await;
        let report = Report::of(what, &home, &[]).await;
        report.assert_troubles(&[("fail", expected.0, expected.1)]);
    };
    let read_only = format!("alter database {database} set default_transaction_read_only = on");
    fails("a read-only database", &read_only, ("database", "refuses writes")).await;
    let writes = format!(
        "set transaction read write; alter database {database} reset all;
         alter database {database} set search_path = nowhere"
    );
    fails("a search path without a schema", &writes, ("migrations", "no schema")).await;
    sql_on(&database, format!("alter database {database} reset all")).await;

    let role = format!("rows_of_{database}");
    let grants = format!(
        "create role {role} login; grant select, insert, update, delete on all tables in schema public to {role};
         revoke insert on users from {role}; revoke delete on sessions from {role}"
    );
    sql_on(&database, grants).await;
    let mut of_role = good_home(&database, &sink).await;
    let url = cluster().await.url(&database).replacen("doorward@", &format!("{role}@"), 1);
    of_role.set("DATABASE_URL", &url);
    let report = Report::of("rights that were revoked", &of_role, &[]).await;
    let words = "this user may not delete on sessions, insert on users";
    report.assert_troubles(&[("fail", "rights", words)]);
    let report = Report::of("another role that may read", &home, &[]).await;
    report.assert_troubles(&[]);
    assert!(report.text.contains(&format!("others that may read: {role}")), "{}", report.text);

    let to_all = "grant select (username) on users to public";
    fails("a column for everybody", to_all, ("rights", "public may")).await;
}

#[tokio::test]
async fn a_schema_of_another_application_and_another_encoding_are_told() {
    let sink = mail_server(Encryption::Implicit).await;
    let foreign = empty_database().await;
    sql_on(&foreign, "create table users (id integer)".into()).await;
    let home = good_home(&foreign, &sink).await;
    let report = Report::of("another application's users", &home, &[]).await;
    report.assert_troubles(&[("fail", "migrations", "tables of another application")]);

    let latin = format!("latin_{foreign}");
    sql_on(
        &foreign,
        format!("create database {latin} template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"),
    )
    .await;
    let home = good_home(&latin, &sink).await;
    let report = Report::of("a database in LATIN1", &home, &[]).await;
    report.assert_troubles(&[
        ("fail", "database", "keeps this database in LATIN1"),
        ("warn", "migrations", "no tables yet"),
    ]);
    let said = home.fails(&["serve"], "").await;
    assert!(said.contains("doorward: the database is kept in LATIN1"), "{said}");
}

#[tokio::test]
async fn servers_that_say_nothing_are_given_up_in_time() {
    let (mut home, _, sink) = good().await;
    sink.behave(Mode::Hang);
    let silent = server_that_says(&[]).await;
    home.set("DATABASE_URL", &format!("postgres://me:{DATABASE_PASSWORD}@127.0.0.1:{silent}/x"));
    let start = Instant::now();
    let output = home.run(&["doctor"], "").await;
    assert!(start.elapsed() < Duration::from_secs(14), "{:?}", start.elapsed());
    let text = String::from_utf8(output.stdout).unwrap();
    note(&format!("--- two silent servers\n{text}"));
    assert_eq!(text.matches("no answer within 10s").count(), 2, "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn how_the_schema_stands_to_this_release_is_told() {
    let (mut home, database, sink) = good().await;
    let newest = "version = (select max(version) from _sqlx_migrations)";
    let troubles = async |sql: String, level: &str, words: &str| {
        sql_on(&database, sql).await;
        let report = Report::of(&format!("the schema: {words}"), &home, &[]).await;
        report.assert_troubles(&[(level, "migrations", words)]);
    };
    sql_on(&database, "drop extension pg_trgm cascade".into()).await;
    let report = Report::of("no pg_trgm", &home, &[]).await;
    report.assert_troubles(&[("warn", "search", "create extension if not exists pg_trgm")]);
    let again = include_str!("../../../migrations/0004_list_indexes.sql");
    sql_on(&database, again[again.find("do $$").unwrap()..].into()).await;

    let newer =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                 values (9999, 'from the future', true, '', 0)";
    troubles(newer.into(), "warn", "deploy the newer one").await;
    let undo = "delete from _sqlx_migrations where version = 9999;";
    let other = format!("{undo} update _sqlx_migrations set checksum = 'x' where {newest}");
    troubles(other, "fail", "another one when it ran").await;
    troubles(format!("delete from _sqlx_migrations where {newest}"), "warn", "an older release's")
        .await;

    let empty = empty_database().await;
    home = good_home(&empty, &sink).await;
    let report = Report::of("an empty database", &home, &[]).await;
    report.assert_troubles(&[("warn", "migrations", "`doorward migrate`")]);
    let role =
        format!("create role guest_of_{empty} login; revoke create on schema public from public");
    sql_on(&empty, role).await;
    let url = cluster().await.url(&empty).replacen("doorward@", &format!("guest_of_{empty}@"), 1);
    home.set("DATABASE_URL", &url);
    let report = Report::of("a user who may create nothing", &home, &[]).await;
    report.assert_troubles(&[("fail", "migrations", "grant it create")]);
    // Whoever may create tables and no extension has to do without that alone.
    sql_on(&empty, format!("grant create on schema public to guest_of_{empty}")).await;
    let migrated = home.run(&["migrate"], "").await;
    assert!(migrated.status.success(), "{migrated:?}");
    let report = Report::of("a user who may not add extensions", &home, &[]).await;
    report.assert_troubles(&[("warn", "search", "as a user who may")]);
}

#[tokio::test]
async fn connections_that_will_not_do_and_a_clock_that_is_off_are_noticed() {
    let (mut home, database, _sink) = good().await;
    sql_on(&database, format!("alter database {database} connection limit 16")).await;
    let report = Report::of("few connections", &home, &[]).await;
    report.assert_troubles(&[("warn", "connections", "lower DATABASE_CONNECTIONS")]);
    home.set("DATABASE_CONNECTIONS", "17");
    let report = Report::of("too few connections", &home, &[]).await;
    report.assert_troubles(&[("fail", "connections", "or put PgBouncer in front")]);
    home.set("DATABASE_CONNECTIONS", "5");
    // The server's own clock is everybody's: one that goes wrong for this database alone stands
    // before it.
    let sql = format!(
        "create schema wrong; create function wrong.clock_timestamp() returns timestamptz language sql
             return pg_catalog.clock_timestamp() - interval '1 hour';
         alter database {database} set search_path = public, wrong, pg_catalog;"
    );
    sql_on(&database, sql).await;
    let report = Report::of("a wrong clock", &home, &[]).await;
    report.assert_troubles(&[("warn", "clock", "s behind ours")]);
}

#[tokio::test]
async fn a_pooler_in_front_is_told_and_no_trouble() {
    let Some(bouncer) = PgBouncer::start("").await else { return };
    let (database, sink) = (new_database().await, mail_server(Encryption::Implicit).await);
    let mut home = good_home(&database, &sink).await;
    home.set("DATABASE_URL", &bouncer.url(&database));
    let report = Report::of("behind PgBouncer", &home, &[]).await;
    report.assert_troubles(&[]);
    assert!(report.text.contains("a pooler stands in front"), "{}", report.text);
    assert!(report.text.contains("set DATABASE_DIRECT_URL"), "{}", report.text);

    home.set("DATABASE_DIRECT_URL", &cluster().await.url(&database));
    let report = Report::of("and a way past it", &home, &[]).await;
    report.assert_troubles(&[]);
    assert!(report.text.contains("DATABASE_DIRECT_URL leads past it"), "{}", report.text);
    home.set("DATABASE_DIRECT_URL", "postgres://localhost:1/x");
    let report = Report::of("and a way past it that leads nowhere", &home, &[]).await;
    report.assert_troubles(&[("warn", "pooler", "correct it, or remove it")]);
}

#[tokio::test]
async fn no_admin_and_letters_that_nobody_sends_are_told() {
    let (mut home, database, _sink) = good().await;
    let report = Report::of("no admin", &home, &[]).await;
    report.assert_troubles(&[]);
    for words in ["admins      there is none yet", "letters     none is late"] {
        assert!(report.text.contains(words), "{}", report.text);
    }
    let ann = "insert into users (id, username, email, role, password_hash, created_at, modified_at)
               values (gen_random_uuid(), 'ann', 'ann@example.com', 'admin', '', now(), now());
               insert into outbox (id, user_id, kind, recipient, created_at, next_attempt_at, attempts)
               select gen_random_uuid(), id, 'confirmation', email, now() - interval '1 hour', now() - interval '9 minutes', 0
               from users";
    sql_on(&database, ann.to_owned()).await;
    let report = Report::of("an admin, and a letter", &home, &[]).await;
    report.assert_troubles(&[]);
    assert!(report.text.contains("admins      1\n"), "{}", report.text);
    assert!(report.text.contains("letters     none is late"), "{}", report.text);
    let later = "update outbox set next_attempt_at = now() - interval '11 minutes'";
    sql_on(&database, later.to_owned()).await;
    let report = Report::of("a late letter", &home, &[]).await;
    report.assert_troubles(&[("warn", "letters", "see that an instance runs")]);
    home.set("WORKER", "off");
    let report = Report::of("a late letter, and no worker", &home, &[]).await;
    report.assert_troubles(&[("warn", "letters", "see that `doorward worker` runs")]);
}
