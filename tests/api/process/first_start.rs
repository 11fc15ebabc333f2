//! The first start: what it says while it works, whose files it trusts, and whose programs it runs.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::home::Home;
use crate::harness::machine::{note, open_folder};

/// A user who is neither root nor the one that the tests run as.
const STRANGER: u32 = 12_345;

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Fails unless these stand in the text one after the other.
#[track_caller]
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("{part}: {text}"));
        rest = after;
    }
}

#[tokio::test]
async fn a_first_start_says_each_step_and_a_second_what_it_still_does() {
    let home = Home::new(&[]);
    let log = home.start().await.stop().await;
    let (once, each) = (
        ["private PostgreSQL: creating it once", "SECRET_KEY is not set: making a key"],
        [
            "private PostgreSQL: starting",
            "private PostgreSQL: running",
            "database: connecting",
            " ready",
        ],
    );
    assert_in_order(&log, &[once[0], each[0], each[1], once[1], each[2], each[3]]);
    let ignored = home.folder().join(".doorward/.gitignore");
    assert_eq!(fs::read_to_string(&ignored).unwrap(), "*\n");

    fs::write(&ignored, "mine\n").unwrap();
    fs::remove_file(home.folder().join("serve.log")).unwrap();
    let log = home.start().await.stop().await;
    assert_in_order(&log, &each);
    assert!(once.iter().all(|line| !log.contains(line)), "{log}");
    assert_eq!(fs::read_to_string(&ignored).unwrap(), "mine\n");
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_not_waited_for_without_a_word() {
    // Takes connections, and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut home = Home::on("x", &[]).await;
    home.set("DATABASE_URL", &format!("postgres://a:b@127.0.0.1:{port}/x"));
    for command in ["migrate", "serve"] {
        let process = home.spawn(command);
        tokio::time::sleep(Duration::from_millis(2900)).await;
        let log = process.log();
        assert!(log.contains("database: bringing the schema up to date takes a while"), "{log}");
    }
}

#[tokio::test]
async fn a_folder_a_key_and_a_lock_of_another_users_are_refused_with_the_remedy() {
    let home = Home::new(&[]);
    home.start().await.stop().await;
    let folder = home.folder().join(".doorward");
    let key = folder.join("secret_key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let log = home.start().await.stop().await;
    assert!(log.contains(".doorward/secret_key was open to other users"), "{log}");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    if !is_root() {
        return note("passed over: only root gives a file away");
    }
    for name in ["", "secret_key", "postgres.lock"] {
        let path = folder.join(name);
        let owner = fs::metadata(&path).unwrap().uid();
        chown(&path, Some(STRANGER), None).unwrap();
        let said = home.fails(&["serve"], "").await;
        let last = said.trim_end().lines().last().unwrap();
        assert!(last.starts_with("doorward: ") && last.contains(name), "{last}");
        assert!(last.contains("belongs to user 12345") && last.contains("chown it"), "{last}");
        chown(&path, Some(owner), None).unwrap();
    }
    home.start().await.stop().await;
}

/// Programs that say that they are PostgreSQL 99, and write down as whom they were run.
fn impostors(bin: &Path, names: &[&str], ran: &Path) {
    fs::create_dir_all(bin).unwrap();
    for name in names {
        let script = format!(
            "#!/bin/sh\n/usr/bin/id -u >> {}\necho 'postgres (PostgreSQL) 99.1'\n",
            ran.display()
        );
        fs::write(bin.join(name), script).unwrap();
        fs::set_permissions(bin.join(name), Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(bin, Permissions::from_mode(0o755)).unwrap();
}

/// What `serve` says with this folder first in PATH, and as whom the impostors were run.
async fn start_with(path: &str, folder: &TempDir) -> (bool, String, String) {
    let home = Home::new(&[]);
    impostors(
        &home.folder().join("relative"),
        &["postgres", "initdb"],
        &folder.path().join("ran/by"),
    );
    let inherited = std::env::var("PATH").unwrap();
    let mut command = home.command(&["serve"]);
    command.env("PATH", format!("{path}:{inherited}"));
    let mut service = home.spawn_as("serve", command);
    let ready = loop {
        if !service.is_running() {
            break false;
        }
        if service.log().contains(" ready") {
            break true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let log = service.log();
    if ready {
        service.stop().await;
    }
    (ready, log, fs::read_to_string(folder.path().join("ran/by")).unwrap_or_default())
}

#[tokio::test]
async fn a_strangers_program_is_never_run() {
    let folder = open_folder();
    let ran = folder.path().join("ran");
    fs::create_dir(&ran).unwrap();
    fs::set_permissions(&ran, Permissions::from_mode(0o777)).unwrap();
    let by = ran.join("by");
    let bin = |name: &str| {
        let bin = folder.path().join(name).join("bin");
        impostors(&bin, &["postgres", "initdb"], &by);
        bin
    };
    // Which the server's supervisor would run by their names.
    let with_tools = |name: &str| {
        let bin = bin(name);
        impostors(&bin, &["rm", "rmdir", "sleep"], &by);
        bin
    };
    let writable = with_tools("writable");
    fs::set_permissions(&writable, Permissions::from_mode(0o777)).unwrap();
    let below = with_tools("below");
    fs::set_permissions(below.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
    let program = bin("program");
    fs::set_permissions(program.join("postgres"), Permissions::from_mode(0o757)).unwrap();
    let linked = folder.path().join("linked");
    symlink(&writable, &linked).unwrap();
    let mut passed_over = vec![writable, below, program, linked];
    if is_root() {
        let strangers = bin("strangers");
        chown(strangers.join("initdb"), Some(STRANGER), None).unwrap();
        let strangers_folder = with_tools("strangers_folder");
        chown(&strangers_folder, Some(STRANGER), None).unwrap();
        passed_over.extend([strangers, strangers_folder]);
    }
    let path = passed_over.iter().map(|bin| bin.to_str().unwrap());
    let path = [&["relative"], path.collect::<Vec<_>>().as_slice()].concat().join(":");
    let (is_ready, log, by) = start_with(&path, &folder).await;
    assert!(is_ready && by.is_empty(), "{by}: {log}");

    // Nothing else keeps them from being run, and root has them run as another user.
    let trusted = bin("trusted");
    let (is_ready, log, by) = start_with(trusted.to_str().unwrap(), &folder).await;
    assert!(!is_ready && !by.is_empty(), "{log}");
    assert!(!is_root() || by.lines().all(|user| user != "0"), "{by}");
}
