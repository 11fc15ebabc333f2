//! The private PostgreSQL where something is in its way: a folder for root alone, half a start,
//! another version.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use doorward::local_postgres::Durability::{Durable, Throwaway};
use doorward::local_postgres::{LocalPostgres, LocalPostgresError};

use crate::harness::machine::{is_alive, open_folder};
use crate::process::local_postgres::{NOTES, count_notes, server, write_a_note};

#[tokio::test]
async fn root_puts_the_files_elsewhere_if_only_root_may_enter_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    if fs::metadata(dir.path()).unwrap().uid() != 0 {
        return;
    }
    for durability in [Durable, Throwaway] {
        let folder = dir.path().join("closed");
        let postgres = LocalPostgres::start(&folder, durability).await.unwrap();
        write_a_note(&postgres).await;
        let (data, pid) = server(&postgres).await;
        let home = data.parent().unwrap().to_owned();
        assert!(!home.starts_with(dir.path()));
        assert_ne!(fs::metadata(&home).unwrap().uid(), 0);
        assert_eq!(fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
        postgres.stop().await;
        assert!(!is_alive(pid));
        if durability == Throwaway {
            assert!(!home.exists());
        } else {
            let postgres = LocalPostgres::start(&folder, durability).await.unwrap();
            assert_eq!(count_notes(&postgres.connect_options(NOTES)).await.unwrap(), 1);
            postgres.stop().await;
            fs::remove_dir_all(&home).unwrap();
        }
    }
}

#[tokio::test]
async fn an_interrupted_initdb_is_started_over() {
    let dir = open_folder();
    let started = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    let (data, _) = server(&started).await;
    started.stop().await;
    fs::rename(&data, data.with_extension("new")).unwrap();
    fs::remove_file(data.with_extension("new").join("PG_VERSION")).unwrap();

    let again = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    write_a_note(&again).await;
    assert!(!data.with_extension("new").exists());
    again.stop().await;
}

#[tokio::test]
async fn a_cluster_of_a_version_that_is_gone_says_so_and_stays() {
    let dir = open_folder();
    let started = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    let (data, _) = server(&started).await;
    started.stop().await;
    fs::write(data.join("PG_VERSION"), "8\n").unwrap();
    let error = LocalPostgres::start(dir.path(), Durable).await.unwrap_err();
    assert!(matches!(error, LocalPostgresError::VersionGone { .. }));
    assert!(error.to_string().contains("made by PostgreSQL 8"));
    assert!(data.join("base").exists());
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_without_a_long_wait() {
    let dir = open_folder();
    let started = LocalPostgres::start(dir.path(), Durable).await.unwrap();
    let (data, _) = server(&started).await;
    started.stop().await;
    fs::remove_file(data.join("global/pg_control")).unwrap();
    let start = Instant::now();
    let error = LocalPostgres::start(dir.path(), Durable).await.unwrap_err();
    assert!(error.to_string().contains("pg_control"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let dir = open_folder();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = LocalPostgres::start(&file.join("below"), Durable).await.unwrap_err();
    assert!(error.to_string().contains("file/below"), "{error}");
}
