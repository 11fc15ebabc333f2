//! A role that may read and write rows, and nothing else, on a schema that its owner migrates.

use sqlx::AssertSqlSafe;
use sqlx::PgPool;

use crate::harness::cluster::{cluster, empty_database};
use crate::harness::home::Home;
use crate::harness::person::PASSWORD;

/// A database that the cluster's superuser owns, a role with rights to rows alone, and homes of
/// both.
async fn homes() -> (Home, Home, PgPool) {
    let database = empty_database().await;
    let owner = Home::on(&database, &[]).await;
    let pool = PgPool::connect_with(cluster().await.connect_options(&database)).await.unwrap();
    let role = format!("rows_{database}");
    let sql = format!(
        "create role {role} login;
         revoke all on schema public from public;
         grant usage on schema public to {role};
         alter default privileges in schema public
             grant select, insert, update, delete on tables to {role};
         alter default privileges in schema public grant usage on sequences to {role}"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    let mut rows = Home::on(&database, &[]).await;
    let url = owner.setting("DATABASE_URL").replacen("doorward@", &format!("{role}@"), 1);
    rows.set("DATABASE_URL", &url);
    (owner, rows, pool)
}

#[tokio::test]
async fn a_role_with_rights_to_rows_alone_serves_works_and_makes_admins() {
    let (owner, rows, _) = homes().await;
    owner.succeeds(&["migrate"], "").await;
    rows.succeeds(&["migrate"], "").await;
    let create = ["create-admin", "--email", "boss@example.com", "--password-stdin"];
    rows.succeeds(&create, PASSWORD).await;
    let service = rows.start().await;
    let worker = rows.spawn("worker");
    rows.newcomer("ada").await;
    let boss = rows.log_in("boss").send().await.expect(200);
    let list = rows.get("/api/v1/users/").by(&boss).send().await.expect(200);
    assert_eq!(list["users"].as_array().map(Vec::len), Some(2));
    rows.post("/api/v1/logout").by(&boss).send().await.expect(200);
    let said = String::from_utf8(rows.run(&["doctor"], "").await.stdout).unwrap();
    assert!(said.lines().any(|line| line.starts_with("ok    migrations")), "{said}");
    assert!(!worker.stop().await.contains("ERROR"));
    assert!(!service.stop().await.contains("ERROR"));
}

#[tokio::test]
async fn a_role_that_may_not_migrate_is_told_who_has_to() {
    let (owner, rows, pool) = homes().await;
    let said = rows.fails(&["serve"], "").await;
    assert!(said.contains("run `doorward migrate` as the role that owns the tables"), "{said}");
    // One of the release before: what is missing is migrated by the owner, while others read.
    owner.succeeds(&["migrate"], "").await;
    let newest =
        "delete from _sqlx_migrations where version = (select max(version) from _sqlx_migrations)";
    sqlx::query(newest).execute(&pool).await.unwrap();
    let said = rows.fails(&["serve"], "").await;
    assert!(said.contains("run `doorward migrate` as the role that owns the tables"), "{said}");
}
