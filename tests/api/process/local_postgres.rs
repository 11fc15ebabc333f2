//! The private PostgreSQL: made, joined, killed, restarted, removed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr as _;
use std::time::Duration;

use doorward::local_postgres::Durability::{Durable, Throwaway};
use doorward::local_postgres::LocalPostgres;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::harness::machine::{is_alive, kill_9, open_folder};
use crate::harness::wait::eventually;

pub const NOTES: &str = "notes";

async fn connect(postgres: &LocalPostgres, database: &str) -> PgConnection {
    PgConnection::connect_with(&postgres.connect_options(database)).await.unwrap()
}

async fn text(connection: &mut PgConnection, query: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(connection).await.unwrap()
}

pub async fn write_a_note(postgres: &LocalPostgres) {
    postgres.ensure_database(NOTES).await.unwrap();
    let mut connection = connect(postgres, NOTES).await;
    for statement in
        ["create table if not exists notes (body text)", "insert into notes values ('x')"]
    {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
}

pub async fn count_notes(options: &PgConnectOptions) -> sqlx::Result<i64> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::query_scalar("select count(*) from notes").fetch_one(&mut connection).await
}

/// The server's data folder and process id.
pub async fn server(postgres: &LocalPostgres) -> (PathBuf, u32) {
    let data =
        PathBuf::from(text(&mut connect(postgres, "postgres").await, "show data_directory").await);
    let pid = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    (data, pid.lines().next().unwrap().parse().unwrap())
}

/// Another process that owns a cluster: this binary again, running only the next function.
struct OtherProcess(Child);

impl OtherProcess {
    async fn start(folder: &Path, durability: &str) -> OtherProcess {
        let ready = folder.with_extension("ready");
        // The path without the name of the crate.
        let (_, module) = module_path!().split_once("::").unwrap();
        let function = format!("{module}::as_another_process");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &function, "--ignored"])
            .env("LOCAL_POSTGRES_FOLDER", folder)
            .env("LOCAL_POSTGRES_DURABILITY", durability)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the other process is ready", async || ready.exists()).await;
        OtherProcess(child)
    }

    fn kill_9(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
#[ignore = "run by other tests, as another process"]
async fn as_another_process() {
    let Some(folder) = std::env::var_os("LOCAL_POSTGRES_FOLDER").map(PathBuf::from) else {
        return;
    };
    let throwaway = std::env::var("LOCAL_POSTGRES_DURABILITY").unwrap() == "throwaway";
    let durability = if throwaway { Throwaway } else { Durable };
    let postgres = LocalPostgres::start(&folder, durability).await.unwrap();
    write_a_note(&postgres).await;
    fs::write(folder.with_extension("ready"), "").unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
}

#[tokio::test]
async fn a_durable_cluster_keeps_its_data_from_one_start_to_the_next() {
    let dir = open_folder();
    let folder = dir.path().join(".doorward");
    let first = LocalPostgres::start(&folder, Durable).await.unwrap();
    write_a_note(&first).await;
    first.ensure_database(NOTES).await.unwrap();
    let (data, pid) = server(&first).await;
    assert!(data.starts_with(folder.canonicalize().unwrap()));

    let mut connection = connect(&first, "postgres").await;
    assert_eq!(text(&mut connection, "show fsync").await, "on");
    assert_eq!(text(&mut connection, "show listen_addresses").await, "");
    assert_eq!(text(&mut connection, "show timezone").await, "UTC");
    assert_eq!(text(&mut connection, "show server_encoding").await, "UTF8");
    assert_eq!(fs::metadata(data.parent().unwrap()).unwrap().mode() & 0o777, 0o700);

    let from_url = PgConnectOptions::from_str(&first.url(NOTES)).unwrap();
    assert_eq!(count_notes(&from_url).await.unwrap(), 1);

    // A stop does not wait for clients: `connection` is open.
    first.stop().await;
    assert!(!is_alive(pid));

    let second = LocalPostgres::start(&folder, Durable).await.unwrap();
    assert_eq!(count_notes(&second.connect_options(NOTES)).await.unwrap(), 1);
    second.stop().await;
}

#[tokio::test]
async fn libpq_takes_the_url_too() {
    let Ok(psql) = Command::new("psql").arg("--version").output() else {
        return;
    };
    assert!(psql.status.success());
    let dir = open_folder();
    let postgres = LocalPostgres::start(&dir.path().join("a + b"), Throwaway).await.unwrap();
    postgres.ensure_database("an odd \"name\"").await.unwrap();
    let output = Command::new("psql")
        .args(["-Atc", "select current_database(), current_user", &postgres.url("an odd \"name\"")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "an odd \"name\"|doorward\n", "{output:?}");
    postgres.stop().await;
}

#[tokio::test]
async fn a_second_start_joins_and_takes_over_when_the_owner_stops() {
    let dir = open_folder();
    let owner = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    write_a_note(&owner).await;
    let joiner = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    let (_, pid) = server(&owner).await;
    assert_eq!(server(&joiner).await.1, pid);

    owner.stop().await;
    let options = joiner.connect_options(NOTES);
    eventually("the joiner serves", async || count_notes(&options).await.is_ok()).await;
    assert_ne!(server(&joiner).await.1, pid);
    assert_eq!(count_notes(&options).await.unwrap(), 1);
    joiner.stop().await;
}

#[tokio::test]
async fn eight_starts_at_once_get_one_server() {
    let dir = open_folder();
    let starts = (0..8).map(|_| LocalPostgres::start(dir.path(), Durable));
    let all: Vec<_> = futures_util::future::join_all(starts).await;
    let mut pids = Vec::new();
    for postgres in &all {
        let postgres = postgres.as_ref().unwrap();
        postgres.ensure_database(NOTES).await.unwrap();
        pids.push(server(postgres).await.1);
    }
    pids.dedup();
    assert_eq!(pids.len(), 1);
    for postgres in all {
        postgres.unwrap().stop().await;
    }
}

#[tokio::test]
async fn a_killed_postgres_comes_back_with_its_data() {
    for durability in [Durable, Throwaway] {
        let dir = open_folder();
        let postgres = LocalPostgres::start(dir.path(), durability).await.unwrap();
        for round in 1..=3 {
            write_a_note(&postgres).await;
            let (_, pid) = server(&postgres).await;
            let _busy = connect(&postgres, NOTES).await;
            kill_9(pid);
            eventually("the old server is gone", async || !is_alive(pid)).await;
            let options = postgres.connect_options(NOTES);
            eventually("it answers again", async || count_notes(&options).await.is_ok()).await;
            assert_eq!(count_notes(&options).await.unwrap(), round);
        }
        postgres.stop().await;
    }
}

#[tokio::test]
async fn a_killed_supervisor_is_replaced_too() {
    let dir = open_folder();
    let postgres = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    write_a_note(&postgres).await;
    let (_, pid) = server(&postgres).await;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    kill_9(parent);
    eventually("the old server is stopped", async || !is_alive(pid)).await;
    let options = postgres.connect_options(NOTES);
    eventually("it answers again", async || count_notes(&options).await.is_ok()).await;
    postgres.stop().await;
}

#[tokio::test]
async fn a_killed_owner_takes_its_server_along_and_the_next_start_has_the_data() {
    let dir = open_folder();
    let folder = dir.path().join("cluster");
    let owner = OtherProcess::start(&folder, "durable").await;
    let joined = LocalPostgres::start(&folder, Durable).await.unwrap();
    let (_, pid) = server(&joined).await;
    drop(joined);
    owner.kill_9();
    // At once, while the old server is still going down.
    let next = LocalPostgres::start(&folder, Durable).await.unwrap();
    let options = next.connect_options(NOTES);
    eventually("the next one answers", async || count_notes(&options).await.is_ok()).await;
    assert_eq!(count_notes(&options).await.unwrap(), 1);
    eventually("the old server is gone", async || !is_alive(pid)).await;
    next.stop().await;
}

#[tokio::test]
async fn a_throwaway_cluster_vanishes_with_its_folder() {
    let dir = open_folder();
    let folder = dir.path().join("cluster");
    let postgres = LocalPostgres::start(&folder, Throwaway).await.unwrap();
    assert_eq!(text(&mut connect(&postgres, "postgres").await, "show fsync").await, "off");
    postgres.stop().await;
    assert!(!folder.exists());

    let postgres = LocalPostgres::start(&folder, Throwaway).await.unwrap();
    drop(postgres);
    eventually("a drop removes it too", async || !folder.exists()).await;

    let owner = OtherProcess::start(&folder, "throwaway").await;
    let lock = folder.join("throwaway.lock");
    assert!(lock.exists());
    owner.kill_9();
    // Run by root, the supervisor may empty the folder, but not remove it from root's.
    eventually("a kill removes it too", async || !lock.exists()).await;
    assert!(fs::read_dir(&folder).is_ok_and(|mut rest| rest.next().is_none()) || !folder.exists());
}

#[tokio::test]
async fn a_throwaway_cluster_leaves_a_durable_one_and_other_files_alone() {
    let dir = open_folder();
    let durable = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    write_a_note(&durable).await;
    fs::write(dir.path().join("precious"), "").unwrap();
    let throwaway = LocalPostgres::start(dir.path(), Throwaway).await.unwrap();
    assert_ne!(server(&durable).await.1, server(&throwaway).await.1);
    throwaway.stop().await;
    assert!(!dir.path().join("throwaway").exists());
    assert!(dir.path().join("precious").exists());
    assert_eq!(count_notes(&durable.connect_options(NOTES)).await.unwrap(), 1);
    durable.stop().await;
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_works() {
    let dir = open_folder();
    let folder = dir.path().join("long".repeat(30)).join("a, b");
    let postgres = LocalPostgres::start(&folder, Throwaway).await.unwrap();
    write_a_note(&postgres).await;
    let from_url = PgConnectOptions::from_str(&postgres.url(NOTES)).unwrap();
    assert_eq!(count_notes(&from_url).await.unwrap(), 1);
    let mut connection = connect(&postgres, NOTES).await;
    let sockets = PathBuf::from(text(&mut connection, "show unix_socket_directories").await);
    assert!(sockets.starts_with("/tmp"));
    assert_eq!(fs::metadata(&sockets).unwrap().mode() & 0o777, 0o700);
    postgres.stop().await;
    assert!(!sockets.exists());
}

#[test]
fn a_server_outlives_the_runtime_that_started_it() {
    let dir = open_folder();
    let on_a_runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = on_a_runtime();
    let postgres = first.block_on(LocalPostgres::start(dir.path(), Throwaway)).unwrap();
    drop(first);
    on_a_runtime().block_on(async {
        write_a_note(&postgres).await;
        kill_9(server(&postgres).await.1);
        let options = postgres.connect_options(NOTES);
        eventually("it answers again", async || count_notes(&options).await.is_ok()).await;
        postgres.stop().await;
    });
}
