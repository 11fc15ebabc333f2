//! A database that is not Doorward's alone, or not as it should be: what is said, and that no call
//! is answered with a fault of ours.

use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::cluster::{cluster, empty_database, new_database};
use crate::harness::home::Home;
use crate::harness::person::PASSWORD;
use crate::harness::pgbouncer::PgBouncer;
use crate::process::doctor::{Report, good_home, mail_server};
use crate::process::doctor_database::sql_on;

const THEIRS: &str = "create table _sqlx_migrations (
        version bigint primary key, description text not null,
        installed_on timestamptz not null default now(), success boolean not null,
        checksum bytea not null, execution_time bigint not null
    )";

#[tokio::test]
async fn migrations_of_another_application_are_not_taken_for_ours() {
    let sink = mail_server(crate::harness::smtp_sink::Encryption::Implicit).await;
    let words = "another application keeps its migrations in this schema";
    for version in ["1", "20240101120000"] {
        let database = empty_database().await;
        let row =
            format!("insert into _sqlx_migrations values ({version}, 'init', now(), true, '', 0)");
        sql_on(&database, format!("{THEIRS}; {row}")).await;
        let home = good_home(&database, &sink).await;
        Report::of("their migrations", &home, &[]).await.assert_troubles(&[(
            "fail",
            "migrations",
            words,
        )]);
        let said = home.fails(&["serve"], "").await;
        assert!(said.contains(words), "{said}");
        // Nothing of ours is left behind.
        let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
        let asked = "select count(*) from pg_tables where schemaname = 'public'";
        let tables: i64 = sqlx::query_scalar(asked).fetch_one(&pool).await.unwrap();
        assert_eq!(tables, 1);
    }
    let database = new_database().await;
    sql_on(
        &database,
        "insert into _sqlx_migrations values (20240101120000, 'init', now(), true, '', 0)".into(),
    )
    .await;
    let home = good_home(&database, &sink).await;
    let report = Report::of("theirs beside ours", &home, &[]).await;
    report.assert_troubles(&[("warn", "migrations", "another application keeps its migrations")]);
    home.start().await;
}

/// As Supabase has it: extensions in a schema that is not in the search path.
#[tokio::test]
async fn an_extension_in_a_schema_of_its_own_is_found() {
    let database = empty_database().await;
    sql_on(
        &database,
        "create schema extensions; create extension pg_trgm schema extensions".into(),
    )
    .await;
    let home = Home::on(&database, &[]).await;
    let said = String::from_utf8(home.run(&["migrate"], "").await.stderr).unwrap();
    assert!(!said.contains("WARN"), "{said}");
    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    let asked = "select to_regclass('users_search_idx') is not null and to_regclass('extensions.users') is null";
    assert!(sqlx::query_scalar::<_, bool>(asked).fetch_one(&pool).await.unwrap());
}

/// Whatever is taken away while people are served is a 503, and never a fault of ours; once it is
/// back they are served again.
#[tokio::test]
async fn rights_and_tables_that_are_taken_away_are_no_fault_of_ours() {
    let database = new_database().await;
    let role = format!("taken_{database}");
    let grants =
        format!("grant select, insert, update, delete on all tables in schema public to {role}");
    sql_on(&database, format!("create role {role} login; {grants}")).await;
    let mut home = Home::on(&database, &[("SESSION_CACHE", "off")]).await;
    home.set(
        "DATABASE_URL",
        &home.setting("DATABASE_URL").replacen("doorward@", &format!("{role}@"), 1),
    );
    let service = home.start().await;
    let ann = home.newcomer("ann").await;
    for (taken, given) in [
        (format!("revoke insert on users from {role}"), grants.clone()),
        (format!("revoke all on sessions, users from {role}"), grants.clone()),
        ("alter schema public rename to elsewhere".into(), "alter schema elsewhere rename to public".into()),
        ("alter table users rename to theirs; create table users (id integer); grant all on users to public".into(),
         "drop table users; alter table theirs rename to users".into()),
        (format!("alter role {role} set default_transaction_read_only = on; select pg_terminate_backend(pid)
                  from pg_stat_activity where usename = '{role}'"),
         format!("alter role {role} reset all")),
    ] {
        sql_on(&database, taken.clone()).await;
        let registered = home.register("bob").send().await;
        assert_eq!(registered.status, 503, "{taken}: {}", registered.text);
        for call in [home.log_in("ann"), home.get("/api/v1/users/me").by(&ann)] {
            let answer = call.send().await;
            assert!(matches!(answer.status, 200 | 503), "{taken}: {}\n{}", answer.text, service.log());
        }
        sql_on(&database, given).await;
        crate::harness::wait::eventually("it is served again", async || {
            home.log_in_with("ann", PASSWORD).send().await.status == 200
        })
        .await;
    }
    let log = service.stop().await;
    assert!(!log.contains(" at line "), "{log}");
    assert!(log.contains("permission denied for table"), "{log}");
}

#[tokio::test]
async fn a_character_that_the_database_cannot_hold_is_refused_and_no_fault() {
    let name = format!("latin_in_use_{}", empty_database().await);
    let utf8 = "set client_encoding = 'UTF8'";
    sql_on("postgres", format!("create database {name} template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"))
        .await;
    // One of a time when that was not looked at.
    let empty = PgPool::connect_with(cluster().await.connect_options(&name)).await.unwrap();
    let mut migrator = sqlx::migrate!();
    migrator.set_locking(true);
    migrator.run(&empty).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(utf8)).execute(&empty).await.unwrap();
    let home = Home::on(&name, &[]).await;
    let _service = home.start().await;
    let ann = home.newcomer("ann").await;
    let change = serde_json::json!({ "first_name": "Zoë" });
    home.put("/api/v1/users/me").by(&ann).json(&change).send().await.expect(200);
    let change = serde_json::json!({ "first_name": "\u{65e5}" });
    let answer = home.put("/api/v1/users/me").by(&ann).json(&change).send().await.expect(422);
    assert_eq!(answer["code"], "validation_failed");
    let said = String::from_utf8(home.run(&["doctor"], "").await.stdout).unwrap();
    assert!(said.contains("warn  database") && said.contains("move the rows there"), "{said}");
}

#[tokio::test]
async fn a_pooler_in_statement_mode_is_told_as_what_it_is() {
    let Some(bouncer) = PgBouncer::start("pool_mode = statement").await else { return };
    let database = new_database().await;
    let home = bouncer.home(&database, &[]).await;
    let said = home.fails(&["serve"], "").await;
    assert!(said.contains("set its pool_mode to transaction"), "{said}");
    let said = String::from_utf8(home.run(&["doctor"], "").await.stdout).unwrap();
    assert!(
        said.contains("FAIL  database") && said.contains("set its pool_mode to transaction"),
        "{said}"
    );
}
