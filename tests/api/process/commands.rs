//! The binary's commands, each as an operator runs it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::timeout;

use crate::harness::app::PUBLIC_URL;
use crate::harness::cluster::{cluster, empty_database};
use crate::harness::home::Home;
use crate::harness::machine::{note, root};
use crate::harness::person::{PASSWORD, email_of};
#[cfg(target_os = "linux")]
use crate::harness::process::handles;
use crate::harness::smtp_sink::SmtpSink;
use crate::harness::wait::eventually;

const CREATE: &[&str] = &["create-admin", "--email", "boss@example.com", "--password-stdin"];

async fn pool_of(database: &str) -> PgPool {
    PgPool::connect_with(cluster().await.connect_options(database)).await.unwrap()
}

async fn count(database: &str, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&pool_of(database).await).await.unwrap()
}

async fn role_of(home: &Home, username: &str) -> Value {
    home.log_in(username).send().await.expect(200)["user"]["role"].clone()
}

#[tokio::test]
async fn help_tells_what_each_command_is_for() {
    let home = Home::new(&[]);
    let help = home.succeeds(&["--help"], "").await;
    for command in [
        "serve",
        "worker",
        "migrate",
        "create-admin",
        "letters",
        "settings",
        "openapi",
        "healthcheck",
    ] {
        let line = help.lines().find(|line| line.trim_start().starts_with(command));
        assert!(line.is_some_and(|line| line.split_whitespace().count() > 4), "{command}: {help}");
        assert!(home.succeeds(&[command, "--help"], "").await.contains("Usage: doorward"));
    }
    assert!(help.contains("DATABASE_URL") && help.contains(".env"), "{help}");
    assert_eq!(home.run(&["sreve"], "").await.status.code(), Some(2));
    assert_eq!(fs::read_dir(home.folder()).unwrap().count(), 0, "help leaves nothing behind");
}

#[tokio::test]
async fn an_admin_is_made_from_flags_and_standard_input() {
    let (home, database) = Home::with_database(&[]).await;
    let said = home.succeeds(CREATE, &format!("{PASSWORD}\nanother line\n")).await;
    assert_eq!(said, "Created the admin boss.\n");
    // A reserved word binds people who register, not the operator.
    let second = ["create-admin", "--email", "b@example.com", "--username", "root"];
    home.succeeds(&[&second[..], &["--password-stdin"]].concat(), PASSWORD).await;

    let service = home.start().await;
    for login in ["boss", "boss@example.com", "root"] {
        let user = &home.log_in(login).send().await.expect(200)["user"];
        assert_eq!((&user["role"], &user["email_verified"]), (&"admin".into(), &true.into()));
    }
    service.stop().await;
    assert_eq!(count(&database, "select count(*) from outbox").await, 0);
    let audited = "select count(*) from audit_log where event = 'create_admin'";
    assert_eq!(count(&database, audited).await, 2);
}

#[tokio::test]
async fn an_admin_that_cannot_be_made_is_refused_in_words() {
    let (home, database) = Home::with_database(&[]).await;
    home.succeeds(CREATE, PASSWORD).await;
    let refused = async |arguments: &[&str], password: &str, word: &str| {
        let said = home.fails(&[&["create-admin"], arguments].concat(), password).await;
        assert!(said.starts_with("doorward: ") && said.contains(word), "{arguments:?}: {said}");
        assert!(password.trim().is_empty() || !said.contains(password), "{said}");
    };
    let ann = ["--email", "ann@example.com", "--password-stdin"];
    refused(&ann, "short", "password is not usable").await;
    refused(&ann, "12345678", "password is not usable").await;
    refused(&ann, "ann@example.com", "password is not usable").await;
    refused(&ann, "\n", "password is not usable").await;
    let given = |email, username| ["--email", email, "--username", username, "--password-stdin"];
    refused(&given("ann@example.com", "BOSS"), PASSWORD, "username BOSS is taken").await;
    refused(&given("Boss@Example.com", "ann"), PASSWORD, "registered this e-mail address").await;
    refused(&given("ann@example.com", "a b"), PASSWORD, "username is not usable").await;
    refused(&given(" boss@example.com\u{200b}", "ann"), PASSWORD, "registered this").await;
    refused(&given("ann@example.com", "boss\n"), PASSWORD, "username boss is taken").await;
    refused(&["--email", "ann", "--password-stdin"], PASSWORD, "e-mail address is not usable")
        .await;
    // Standard input is no terminal here: there is nobody to ask.
    refused(&["--email", "ann@example.com"], PASSWORD, "give --password-stdin").await;
    refused(&["--password-stdin"], PASSWORD, "give --email").await;
    assert_eq!(count(&database, "select count(*) from users").await, 1);
}

#[tokio::test]
async fn an_admin_is_made_while_the_service_runs_on_its_private_postgres() {
    let home = Home::new(&[]);
    let service = home.start().await;
    home.succeeds(CREATE, PASSWORD).await;
    assert_eq!(role_of(&home, "boss").await, "admin");
    home.register("ada").send().await.expect(201);
    service.stop().await;

    // And while it does not: the command starts PostgreSQL for itself and leaves nothing running.
    let second = ["create-admin", "--email", "b@example.com", "--username", "second"];
    home.succeeds(&[&second[..], &["--password-stdin"]].concat(), PASSWORD).await;
    assert!(!home.folder().join(".doorward/postgres/data/postmaster.pid").exists());
}

#[tokio::test]
async fn migrating_twice_and_two_at_once_is_as_good_as_once() {
    let database = empty_database().await;
    let home = Home::on(&database, &[]).await;
    tokio::join!(home.succeeds(&["migrate"], ""), home.succeeds(&["migrate"], ""));
    home.succeeds(&["migrate"], "").await;
    let files = fs::read_dir(root().join("migrations")).unwrap().count();
    let done = "select count(*) from _sqlx_migrations where success";
    assert_eq!(count(&database, done).await, i64::try_from(files).unwrap());

    let mut elsewhere = Home::on("no_such_database", &[]).await;
    assert!(elsewhere.fails(&["migrate"], "").await.contains("no_such_database"));
    elsewhere.set("DATABASE_URL", "postgres://doorward:hunter22@127.0.0.1:1/x?sslmode=disable");
    assert!(!elsewhere.fails(&["migrate"], "").await.contains("hunter22"));
}

#[tokio::test]
async fn a_migration_waits_for_whoever_holds_its_table_and_lets_others_go_on_meanwhile() {
    let (home, database) = Home::with_database(&[]).await;
    let pool = pool_of(&database).await;
    let before = "create index sessions_user_id_idx on sessions (user_id);
                  delete from _sqlx_migrations where version = 8";
    sqlx::raw_sql(before).execute(&pool).await.unwrap();
    // As a backup does.
    let mut backup = pool.begin().await.unwrap();
    sqlx::query("lock table sessions in access share mode").execute(&mut *backup).await.unwrap();
    let mut other = pool.acquire().await.unwrap().detach();
    let mut migrating = home.spawn("migrate");
    migrating.wait_for_log("waiting for a table").await;
    let others = sqlx::query("select from sessions").execute(&mut other);
    timeout(Duration::from_secs(1), others).await.expect("nobody waits for it").unwrap();
    backup.commit().await.unwrap();
    assert!(migrating.end().await.success());
    assert_eq!(
        count(&database, "select count(*) from _sqlx_migrations where version = 8").await,
        1
    );
    let dropped = "select count(*) from pg_indexes where indexname = 'sessions_user_id_idx'";
    assert_eq!(count(&database, dropped).await, 0);
}

#[tokio::test]
async fn the_document_is_printed_as_it_is_published() {
    let (home, _) = Home::with_database(&[]).await;
    let printed = home.succeeds(&["openapi"], "").await;
    let service = home.start().await;
    let published = home.get("/openapi.json").send().await.expect(200);
    service.stop().await;
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), published);
    assert_eq!(published["servers"][0]["url"], PUBLIC_URL);
    assert!(published["openapi"].as_str().unwrap().starts_with("3.1."));
}

#[tokio::test]
async fn letters_wait_for_a_worker_that_is_a_process_of_its_own() {
    let sink = SmtpSink::start().await;
    let (mut home, database) = Home::with_database(&[("WORKER", "off")]).await;
    home.set("SMTP_URL", &sink.url());
    home.set("MAIL_FROM", "no-reply@example.com");
    let service = home.start().await;
    home.register("ada").send().await.expect(201);
    let untouched = "select count(*) from outbox where attempts = 0";
    // A worker inside would have been rung at once.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(count(&database, untouched).await, 1);

    let worker = home.spawn("worker");
    assert_eq!(sink.wait_for(1).await[0].to, [email_of("ada")]);
    // Another process is told by the database.
    home.register("bob").send().await.expect(201);
    assert_eq!(sink.wait_for(2).await[1].to, [email_of("bob")]);
    eventually("the letters are settled", async || {
        count(&database, "select count(*) from outbox where sent_at is null").await == 0
    })
    .await;
    worker.stop().await;
    service.stop().await;
    assert_eq!(sink.received().len(), 2);
}

#[tokio::test]
async fn a_health_check_tells_whether_a_service_answers_and_where_it_asked() {
    let (home, _) = Home::with_database(&[]).await;
    let asked = format!("nothing answers on 127.0.0.1:{}", home.port());
    assert!(home.fails(&["healthcheck"], "").await.contains(&asked));
    let service = home.start().await;
    home.succeeds(&["healthcheck"], "").await;
    service.stop().await;
}

/// sqlx refuses to start on a database that was migrated by a file with other bytes, comments
/// included.
#[test]
fn no_migration_is_changed_once_it_is_released() {
    let released = [
        ("0001_accounts.sql", "f4eee1b79c6b3823"),
        ("0002_limits.sql", "457a89816371bfdd"),
        ("0003_changes.sql", "3a0c6aab017835d8"),
        ("0004_list_indexes.sql", "a6ed4f93cd757f90"),
        ("0005_session_refresh.sql", "641f8a162f383346"),
        ("0006_session_refresh.sql", "6fb69ff363da211e"),
        ("0007_session_address.sql", "8dd59bea595257b9"),
        ("0008_session_address.sql", "8ce986c3d4a7ee61"),
        ("0009_audit_log_at.sql", "5df118a915e3a6d7"),
        ("0010_outbox_data.sql", "5f2c0269fc78db1c"),
        ("0011_outbox_notify.sql", "025fff38ac60b29c"),
        ("0012_session_rotations.sql", "9a5718505982fdd4"),
        ("0013_audit_log_count.sql", "a1531d556f34a32d"),
        ("0014_audit_log_minute.sql", "9a973e7bad4d92b5"),
        ("0015_names_nfc.sql", "3eea7b6e6368ce00"),
        ("0016_pending_email_search.sql", "da7181deb2c1778c"),
        ("0017_challenges.sql", "1c9bfc0fcb4b78ae"),
        ("0018_standing.sql", "975f89dc5b67aa0e"),
        ("0019_audit_columns.sql", "df6ca8b6dade6521"),
        ("0020_audit_log_off_clock.sql", "a3c5cfe0c4b30fe7"),
        ("0021_audit_log_event.sql", "dc36e5a816daa8d0"),
        ("0022_audit_log_actor.sql", "a4a96fd6dd755a86"),
        ("0023_audit_log_ip.sql", "a7489de375040d97"),
        ("0024_audit_log_request_id.sql", "3d9e6b3d031f1e46"),
        ("0025_outbox_failed.sql", "845a2800f3d5de9f"),
        ("0026_outbox_kind.sql", "c4ca164ca698b1fe"),
        ("0027_invitations.sql", "17d742ab4a10e879"),
        ("0028_session_authentication.sql", "c37f0ef2a2481bfd"),
        ("0029_users_purge_at.sql", "6ce52cf8b298e4ec"),
        ("0030_users_banned_at.sql", "5b1d933d7960aae0"),
        ("0031_session_list.sql", "9ccc6c465b91eb7c"),
    ];
    let mut files: Vec<_> =
        fs::read_dir(root().join("migrations")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let found: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let sum = digest(&SHA256, &fs::read(file).unwrap());
            let start = u64::from_be_bytes(*sum.as_ref().first_chunk().unwrap());
            (file.file_name().unwrap().to_str().unwrap().to_owned(), format!("{start:016x}"))
        })
        .collect();
    assert_eq!(found, released.map(|(name, digest)| (name.to_owned(), digest.to_owned())));
}

/// Linux keeps signals without a handler away from process 1, which a command is in a container.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_that_is_process_1_ends_on_a_signal() {
    use rustix::process::{Pid, Signal, kill_process};
    // Takes connections, and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut home = Home::on("x", &[]).await;
    home.set("DATABASE_URL", &format!("postgres://a:b@127.0.0.1:{port}/x"));
    let isolated: &[&str] = &["--pid", "--fork", "--kill-child"];
    let isolated = if rustix::process::getuid().is_root() {
        isolated.to_vec()
    } else {
        [&["--user", "--map-root-user"], isolated].concat()
    };
    let may = Command::new("unshare").args(&isolated).arg("true").status();
    if !may.is_ok_and(|status| status.success()) {
        return note("passed over: this machine lets us have no PID namespace");
    }
    for (arguments, signal, code) in [
        (&["migrate"][..], Signal::TERM, 143),
        (CREATE, Signal::TERM, 143),
        (&["doctor"], Signal::INT, 130),
        (&["migrate"], Signal::HUP, 129),
    ] {
        let command = home.command(arguments);
        // Also where whoever runs the tests has them ignore a hang-up.
        let mut wrapped = Command::new("env");
        wrapped
            .args(["--default-signal=HUP", "unshare"])
            .args(&isolated)
            .arg(command.get_program())
            .args(arguments);
        wrapped.current_dir(home.folder()).env_clear();
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        wrapped.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut outside = wrapped.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outside.id());
        let child = || fs::read_to_string(&children).unwrap_or_default().trim().parse().ok();
        // It has its handlers before it asks the database.
        let mut inside = None;
        eventually("the command asks the database", async || {
            inside = child().and_then(Pid::from_raw);
            inside.is_some() && handles(inside.unwrap(), signal)
        })
        .await;
        kill_process(inside.unwrap(), signal).unwrap();
        let mut status = None;
        eventually("the command ends", async || {
            status = outside.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert_eq!(status.and_then(|status| status.code()), Some(code), "{arguments:?}");
    }
}

#[tokio::test]
async fn names_of_before_are_composed_by_the_migration() {
    let (home, database) = Home::with_database(&[]).await;
    let service = home.start().await;
    home.register("zoe").send().await.expect(201);
    service.stop().await;
    let pool = pool_of(&database).await;
    let before = "update users set first_name = E'Zoe\\u0308', last_name = 'Quick'";
    sqlx::query(before).execute(&pool).await.unwrap();
    let migration = fs::read_to_string(root().join("migrations/0015_names_nfc.sql")).unwrap();
    sqlx::raw_sql(AssertSqlSafe(migration)).execute(&pool).await.unwrap();
    let sql = "select first_name || ' ' || last_name from users";
    let name: String = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
    assert_eq!(name, "Zo\u{eb} Quick");
}
