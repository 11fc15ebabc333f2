//! The database of a fault, on a PostgreSQL of its own: it is restarted, copied, filled up and
//! killed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};
use tempfile::TempDir;

use crate::harness::machine::open_folder;
use crate::harness::postgres::Postgres;
use crate::harness::wait::eventually;

/// The role of the service: not the superuser, who may do what others are refused.
const SERVICE: &str = "service";

impl Postgres {
    /// With a database `doorward` that is the service's.
    pub async fn for_service(settings: &[&str]) -> Self {
        let postgres = Self::start(settings).await;
        postgres.let_service_in().await;
        postgres
    }

    pub async fn on_small_disk(disk: &SmallDisk) -> Self {
        let folder = disk.folder();
        // Small pieces of log, so that a small disk holds a cluster.
        let settings = ["max_wal_size=4MB", "min_wal_size=2MB"];
        let postgres = Self::create(folder, &["--wal-segsize=1"], &settings).await;
        postgres.let_service_in().await;
        postgres
    }

    async fn let_service_in(&self) {
        self.execute("postgres", &format!("create role {SERVICE} login")).await;
        self.execute("postgres", &format!("create database doorward owner {SERVICE}")).await;
    }

    /// From when it is there, nothing is committed before it has it too.
    pub async fn synchronous_standby(&self) -> Self {
        let standby = self.standby(&[]).await;
        self.execute("postgres", "alter system set synchronous_standby_names = '*'").await;
        self.execute("postgres", "select pg_reload_conf()").await;
        eventually("the standby is synchronous", async || {
            let sql = "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'";
            self.ask::<bool>(sql).await
        })
        .await;
        standby
    }

    /// The way of the service to its database, through whatever stands at this port.
    pub fn url_through(port: u16) -> String {
        format!("postgres://{SERVICE}@127.0.0.1:{port}/doorward?sslmode=disable")
    }

    /// A connection to the service's database as the service has them.
    pub async fn connect_as_service(&self) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&Self::url_through(self.port)).await
    }

    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url("doorward")).await.unwrap()
    }

    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(3).connect_lazy(&self.url("doorward")).unwrap()
    }

    /// Ends every connection that the service has; whether there was any.
    pub async fn cut_service(&self) -> bool {
        cut_service(&mut self.connect().await).await
    }
}

/// The same by a connection that is there: a server that is full has few places for new ones.
pub async fn cut_service(connection: &mut PgConnection) -> bool {
    let sql = "select count(pg_terminate_backend(pid)) > 0 from pg_stat_activity
               where application_name = 'doorward'";
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

/// A disk in memory, which only root can have.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    pub fn mount(mebibytes: usize) -> Self {
        Self::try_mount(mebibytes).expect("only root can mount a small disk")
    }

    /// A new folder on it.
    pub fn folder(&self) -> TempDir {
        tempfile::tempdir_in(self.folder.path()).unwrap()
    }

    pub fn is_possible() -> bool {
        cfg!(target_os = "linux") && Self::try_mount(1).is_some()
    }

    fn try_mount(mebibytes: usize) -> Option<Self> {
        let folder = open_folder();
        let mut mount = Command::new("mount");
        let size = format!("size={mebibytes}m,mode=0755");
        mount.args(["-t", "tmpfs", "-o", &size, "doorward-faults"]);
        let output = mount.arg(folder.path()).output().ok()?;
        output.status.success().then_some(Self { folder })
    }

    /// Fills it to its last byte; what is dropped makes room again.
    pub fn fill(&self) -> Ballast {
        let path = self.folder.path().join("ballast");
        let mut file = fs::File::create(&path).unwrap();
        let zeroes = [0; 4096];
        while std::io::Write::write_all(&mut file, &zeroes).is_ok() {}
        Ballast(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

pub struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}
