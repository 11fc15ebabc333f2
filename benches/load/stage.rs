//! What is measured, running: a private PostgreSQL with people and sessions in it, the service
//! twice, the floor; several instances once they are asked for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use doorward::clock::Clock;
use doorward::config::TokenAlgorithm;
use doorward::fields::Password;
use doorward::local_postgres::{Durability, LocalPostgres};
use doorward::security::password::Requester;
use doorward::security::password::{Hasher, production_params};
use doorward::security::token::TokenKeys;
use doorward::store::db::Db;
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::fleet::Fleet;
use crate::process;
use crate::scenarios::Target;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub const PASSWORD: &str = "a long and good one";
const SECRET: &str = "Z3Vlc3NlZCBieSBub2JvZHkgYnV0IHRoZSBsb2FkIHRlc3Q";
const PUBLIC_URL: &str = "http://127.0.0.1:8000";
const DOORWARD: &str = env!("CARGO_BIN_EXE_doorward");
/// The variable that names the program of an older release.
const PREVIOUS: &str = "DOORWARD_PREVIOUS";
/// How long a program may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// Ids like those of version 7 in that they rise, and known without asking: `$1` in SQL is the
/// number.
pub const USER_ID: &str = "('00000000-0000-7000-8000-' || lpad(to_hex($1), 12, '0'))::uuid";
pub const SESSION_ID: &str = "('00000000-0001-7000-8000-' || lpad(to_hex($1), 12, '0'))::uuid";

pub struct Program {
    child: Child,
    pub port: u16,
    pub pid: u32,
}

pub struct Stage {
    postgres: LocalPostgres,
    pub pool: PgPool,
    pub postmaster: u32,
    pub keys: TokenKeys,
    pub users: u64,
    pub sessions: u64,
    doorward: Program,
    uncached: Program,
    floor: Program,
    /// Once it is asked for, and where there is one.
    previous: Option<Program>,
    fleet: Option<Fleet>,
    /// How many old ones the audit log has to begin with, where they are asked for.
    pub audit_rows: u64,
    pub audit_log_days: &'static str,
    /// Where the reports and the logs go.
    pub results: PathBuf,
    /// An empty folder, so that nobody finds settings in it.
    pub work: PathBuf,
}

impl Stage {
    pub async fn open(users: u64, sessions: u64, audit_rows: u64) -> Result<Self, Failure> {
        let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        let name = format!("doorward-bench-{}", uuid::Uuid::now_v7().simple());
        let work = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&results)?;
        std::fs::create_dir_all(&work)?;
        let folder = std::env::temp_dir().join(format!("{name}-postgres"));
        let postgres = LocalPostgres::start(&folder, Durability::Throwaway).await?;
        postgres.ensure_database("doorward").await?;
        let db = Db::new(postgres.connect_options("doorward"), 2);
        db.migrate().await?;
        db.close().await;
        let pool = PgPool::connect_with(postgres.connect_options("doorward")).await?;
        let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&pool).await?;
        let postmaster = process::parent(backend.try_into()?).ok_or("PostgreSQL has a parent")?;
        seed(&pool, users, sessions).await?;

        let keys = TokenKeys::new(&SECRET.to_owned().into(), None, algorithm(), PUBLIC_URL);
        let url = postgres.url("doorward");
        let site = Site {
            url,
            direct_url: None,
            audit_log_days: AUDIT_LOG_DAYS,
            work: &work,
            results: &results,
        };
        let doorward = site.start(Target::Doorward, &keys).await?;
        let uncached = site.start(Target::Uncached, &keys).await?;
        let floor = site.start(Target::Floor, &keys).await?;
        pool.execute("insert into floor_sessions (id, user_id) select id, user_id from sessions")
            .await?;
        pool.execute("vacuum analyze").await?;
        Ok(Self {
            postgres,
            pool,
            postmaster,
            keys,
            users,
            sessions,
            doorward,
            uncached,
            floor,
            previous: None,
            fleet: None,
            audit_rows,
            audit_log_days: AUDIT_LOG_DAYS,
            results: results.clone(),
            work,
        })
    }

    pub async fn close(self) {
        self.pool.close().await;
        drop(self.fleet);
        let programs = [self.doorward, self.uncached, self.floor].into_iter();
        for program in programs.chain(self.previous) {
            program.kill().await;
        }
        self.postgres.stop().await;
        let _ = std::fs::remove_dir_all(&self.work);
    }

    /// Starts what is not there from the beginning; `false` where it cannot be had here.
    pub async fn prepare(&mut self, target: Target) -> Result<bool, Failure> {
        let is_fleet = matches!(target, Target::OneOfFleet | Target::Fleet);
        if is_fleet && self.fleet.is_none() {
            let server = self.postgres.connect_options("doorward");
            self.fleet = Fleet::start(&self.site(), &server, &self.keys).await?;
        }
        if target == Target::Previous && self.previous.is_none() {
            if std::env::var_os(PREVIOUS).is_none() {
                return Ok(false);
            }
            self.previous = Some(self.site().start(target, &self.keys).await?);
        }
        Ok(!is_fleet || self.fleet.is_some())
    }

    /// Panics unless the target was prepared.
    pub fn program(&self, target: Target) -> &Program {
        let fleet = || self.fleet.as_ref().expect("it was prepared");
        match target {
            Target::Doorward => &self.doorward,
            Target::Uncached => &self.uncached,
            Target::Floor => &self.floor,
            Target::Previous => self.previous.as_ref().expect("it was prepared"),
            Target::OneOfFleet => &fleet().one,
            Target::Fleet => &fleet().all,
        }
    }

    fn site(&self) -> Site<'_> {
        let (work, results) = (self.work.as_path(), self.results.as_path());
        Site {
            url: self.database_url(),
            direct_url: None,
            audit_log_days: self.audit_log_days,
            work,
            results,
        }
    }

    pub fn database_url(&self) -> String {
        self.postgres.url("doorward")
    }

    /// Starts the service or the floor anew; how long it took from the start of the process to the
    /// first answer that says that all is ready.
    pub async fn restart(&mut self, target: Target) -> Result<Duration, Failure> {
        let began = Instant::now();
        let program = self.site().start(target, &self.keys).await?;
        let took = began.elapsed();
        let former = match target {
            Target::Floor => &mut self.floor,
            Target::Previous => self.previous.as_mut().expect("it was prepared"),
            _ => &mut self.doorward,
        };
        std::mem::replace(former, program).kill().await;
        Ok(took)
    }
}

/// As long as without a setting.
pub const AUDIT_LOG_DAYS: &str = "365";

/// What a program needs to run.
pub struct Site<'a> {
    pub url: String,
    /// The way past PgBouncer, where `url` leads through it.
    pub direct_url: Option<String>,
    pub audit_log_days: &'static str,
    pub work: &'a Path,
    pub results: &'a Path,
}

/// That of the tokens that are shown: one which the release before accepts as well, where it is
/// measured too.
fn algorithm() -> TokenAlgorithm {
    match std::env::var_os(PREVIOUS) {
        Some(_) => TokenAlgorithm::EdDsa,
        None => TokenAlgorithm::Es256,
    }
}

impl Site<'_> {
    /// Starts a program with the settings of production; returns once it is ready.
    pub async fn start(&self, target: Target, keys: &TokenKeys) -> Result<Program, Failure> {
        let port = free_port().await?;
        if target == Target::Floor {
            let floor = std::env::var("FLOOR").map_err(|_| "run script/bench: FLOOR is unset")?;
            // The floor knows ES256 alone, whose key is the one with two coordinates.
            let all = keys.jwks()["keys"].as_array().into_iter().flatten();
            let key = all.into_iter().find(|key| key["y"].is_string()).ok_or("no key")?;
            let [x, y] = ["x", "y"].map(|name| key[name].as_str().unwrap_or_default());
            let mut command = Command::new(floor);
            command.args([&port.to_string(), &self.url, x, y]);
            return self.launch(command, port, "floor.log", Some("/hello")).await;
        }
        let is_plain = [Target::Doorward, Target::Previous].contains(&target);
        let previous = std::env::var_os(PREVIOUS).filter(|_| target == Target::Previous);
        let mut command = Command::new(previous.unwrap_or_else(|| DOORWARD.into()));
        command.arg("serve").env_clear().envs([
            ("DATABASE_URL", self.url.as_str()),
            ("HOST", "127.0.0.1"),
            ("PORT", &port.to_string()),
            ("PUBLIC_URL", PUBLIC_URL),
            ("SECRET_KEY", SECRET),
            ("RATE_LIMITS", "off"),
            ("SESSION_CACHE", if target == Target::Uncached { "off" } else { "on" }),
            ("AUDIT_LOG_DAYS", self.audit_log_days),
            ("WORKER", if is_plain { "on" } else { "off" }),
        ]);
        if let Some(url) = &self.direct_url {
            command.env("DATABASE_DIRECT_URL", url);
        }
        let log = if is_plain { "doorward.log" } else { "others.log" };
        self.launch(command, port, log, Some("/readyz")).await
    }

    /// Runs a program until it is ready: `path` answers 200, or, where it speaks no HTTP, somebody
    /// listens.
    pub async fn launch(
        &self,
        mut command: Command,
        port: u16,
        log: &str,
        path: Option<&str>,
    ) -> Result<Program, Failure> {
        let log = File::options().create(true).append(true).open(self.results.join(log))?;
        let name = command.as_std().get_program().to_owned();
        let child = command
            .current_dir(self.work)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or("a program that was just started has an id")?;
        let mut program = Program { child, port, pid };
        let deadline = Instant::now() + PATIENCE;
        while !program.is_ready(path).await {
            if Instant::now() > deadline || program.child.try_wait()?.is_some() {
                return Err(
                    format!("{} does not start: see target/bench/*.log", name.display()).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(program)
    }
}

pub async fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port())
}

impl Program {
    async fn is_ready(&self, path: Option<&str>) -> bool {
        match path {
            Some(path) => self.get(path).await.is_ok_and(|status| status == 200),
            None => TcpStream::connect(("127.0.0.1", self.port)).await.is_ok(),
        }
    }

    /// The status of an answer.
    async fn get(&self, path: &str) -> Result<u16, Failure> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.split(' ').nth(1).unwrap_or_default().parse()?)
    }

    async fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}

/// One insert for each table; all users have the same password, and names of the same length, so
/// that pages of them are equally long.
async fn seed(pool: &PgPool, users: u64, sessions: u64) -> Result<(), Failure> {
    let hasher = Hasher::new(production_params(), 1);
    let client = Requester { key: 0, is_known: true };
    let hash = hasher.hash(client, Password::claimed(PASSWORD)).await.map_err(|_| "hashing")?;
    let now = Clock::system().now();
    sqlx::query(AssertSqlSafe(format!(
        "insert into users (id, username, email, email_verified_at, first_name, last_name, role, password_hash,
             created_at, modified_at)
         select {}, 'user' || digits, 'user' || digits || '@example.com', $3, 'First' || digits, 'Last' || digits,
             case n when 1 then 'admin' else 'user' end, $2, $3 - ($1 - n) * interval '1 minute', $3
         from generate_series(1, $1) n, lpad(n::text, 7, '0') digits",
        USER_ID.replace("$1", "n")
    )))
    .bind(i64::try_from(users)?)
    .bind(hash.expose_secret())
    .bind(now)
    .execute(pool)
    .await?;
    sqlx::query(AssertSqlSafe(format!(
        "insert into sessions (id, user_id, created_at, expires_at, ends_at, ip, user_agent)
         select {}, {}, $3, $3 + interval '30 days', $3 + interval '90 days', '127.0.0.1', 'wrk'
         from generate_series(1, $1) n",
        SESSION_ID.replace("$1", "n"),
        USER_ID.replace("$1", "1 + (n - 1) % $2")
    )))
    .bind(i64::try_from(sessions)?)
    .bind(i64::try_from(users)?)
    .bind(now)
    .execute(pool)
    .await?;
    pool.execute("vacuum analyze").await?;
    Ok(())
}
