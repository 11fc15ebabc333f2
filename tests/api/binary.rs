//! The real binary, for tests: a process in a folder of its own, with a clean environment, on a real port.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use crate::support::{PASSWORD, PUBLIC_URL, SECRET_KEY, cluster, email_of, new_database};

/// How long anything may take that is waited for: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_mins(1);

/// A folder that any user may pass through, as a checkout usually is: run as root, PostgreSQL has another account.
pub fn open_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("doorward-test-").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// A database of the tests' cluster with nothing in it; its name.
pub async fn empty_database() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("empty_{}", COUNT.fetch_add(1, Ordering::SeqCst));
    cluster().await.ensure_database(&name).await.unwrap();
    name
}

/// A port that nobody uses, outside the range from which the system picks for outgoing connections: between this look
/// and the start of whoever will listen there, no other process gets it by the way.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() * 97 % 18_000;
    loop {
        let offset = start + u32::from(NEXT.fetch_add(1, Ordering::SeqCst));
        let port = 10_000 + u16::try_from(offset % 20_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// For whoever runs a test by hand, with `--nocapture`, or reads why it failed.
#[expect(clippy::print_stdout, reason = "what a test prints is shown when it fails")]
pub fn note(what: &str) {
    println!("{what}");
}

pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where the binary runs: its folder, its port and its settings stay the same from one start to the next.
pub struct Home {
    folder: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    client: Client,
}

impl Home {
    /// Without a database: the service starts its own.
    pub fn new(settings: &[(&str, &str)]) -> Self {
        // Each request has a connection of its own, so that none meets one that died with a service.
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let port = free_port();
        let mut home = Self { folder: open_folder(), port, settings: Vec::new(), client };
        home.set("HOST", "127.0.0.1");
        home.set("PORT", &port.to_string());
        // No balancer has to notice anything.
        home.set("SHUTDOWN_DELAY_SECONDS", "0");
        // What a test does in a moment a person does in a day.
        home.set("RATE_LIMITS", "off");
        for (name, value) in settings {
            home.set(name, value);
        }
        home
    }

    /// In production, on a database of the tests' cluster.
    pub async fn on(database: &str, settings: &[(&str, &str)]) -> Self {
        let url = cluster().await.url(database);
        let own = [("DATABASE_URL", &*url), ("SECRET_KEY", SECRET_KEY), ("PUBLIC_URL", PUBLIC_URL)];
        Self::new(&own.iter().chain(settings).copied().collect::<Vec<_>>())
    }

    /// In production, on a new database; also that database's name.
    pub async fn with_database(settings: &[(&str, &str)]) -> (Self, String) {
        let database = new_database().await;
        (Self::on(&database, settings).await, database)
    }

    /// The same settings, with calls that go to another port: to a balancer, say.
    pub fn through(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets one thing; an empty value takes it away.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.settings.push((name.to_owned(), value.to_owned()));
        }
    }

    /// What is set; empty if nothing is.
    pub fn setting(&self, name: &str) -> String {
        let mut own = self.settings.iter().filter(|(known, _)| known == name);
        own.next().map(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `DOORWARD_BINARY` names another one, a release build say, where a test is to measure; set in the home, for this
    /// home alone.
    fn command(&self, arguments: &[&str]) -> Command {
        let own = self.setting("DOORWARD_BINARY");
        let named = || std::env::var_os("DOORWARD_BINARY");
        let named = if own.is_empty() { named() } else { Some(own.into()) };
        let binary = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_doorward").into());
        let mut command = Command::new(binary);
        command.args(arguments).current_dir(self.folder()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command that ends by itself, with `input` as its standard input.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = tokio::process::Command::from(self.command(arguments));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read it is gone before it is written.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
        ended.unwrap_or_else(|_| panic!("{arguments:?} does not end")).unwrap()
    }

    /// Runs a command that has to fail with exit code 1; what it says.
    pub async fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Runs a command that has to succeed; what it prints.
    pub async fn succeeds(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a command that lasts. Its log goes on where the one before ended.
    pub fn spawn(&self, command: &str) -> Process {
        let path = self.folder().join(format!("{command}.log"));
        let log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let mut child = self.command(&[command]);
        child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Process { child: child.spawn().unwrap(), log: path }
    }

    /// Starts the service and waits until it is ready.
    pub async fn start(&self) -> Process {
        let mut service = self.spawn("serve");
        self.ready(&mut service).await;
        service
    }

    pub async fn ready(&self, service: &mut Process) {
        eventually("the service is ready", async || {
            let ended = service.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", service.log());
            self.get("/readyz").try_send().await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub fn call(&self, method: Method, path: &str) -> Call {
        Call(self.client.request(method, self.url(path)))
    }

    /// Registers somebody who has everybody's password.
    pub fn register(&self, username: &str) -> Call {
        let (email, password) = (email_of(username), PASSWORD);
        let body = json!({ "username": username, "email": email, "password": password });
        self.post("/api/v1/users/").json(&body)
    }

    pub fn log_in(&self, username: &str) -> Call {
        self.log_in_with(username, PASSWORD)
    }

    pub fn log_in_with(&self, username: &str, password: &str) -> Call {
        Call(self.post("/api/v1/login").0.basic_auth(username, Some(password)))
    }

    /// Registers and logs in, which has to work; the answer to the login.
    pub async fn newcomer(&self, username: &str) -> Value {
        self.register(username).send().await.expect(201);
        self.log_in(username).send().await.expect(200)
    }
}

/// A request on its way.
pub struct Call(RequestBuilder);

impl From<RequestBuilder> for Call {
    fn from(request: RequestBuilder) -> Self {
        Self(request)
    }
}

impl Call {
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// Something that says that it is JSON.
    pub fn body(self, body: impl Into<String>) -> Self {
        Self(self.0.header("content-type", "application/json").body(body.into()))
    }

    /// With the access token of a login's or a refresh's answer.
    pub fn by(self, pair: &Value) -> Self {
        self.header("x-access-token", pair["token"].as_str().unwrap())
    }

    pub async fn send(self) -> Reply {
        self.try_send().await.unwrap()
    }

    /// An error where the connection or the answer was cut off.
    pub async fn try_send(self) -> reqwest::Result<Reply> {
        let response = self.0.timeout(PATIENCE).send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Reply { status, text, json })
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub text: String,
    /// Null where the body is not JSON.
    pub json: Value,
}

impl Reply {
    /// Fails unless this is the status; the body.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json
    }
}

/// A command that lasts; dropping it kills it.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// What this command has said in this home so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub async fn wait_for_log(&self, part: &str) {
        eventually(part, async || self.log().contains(part)).await;
    }

    /// Begins the log anew, so that what is looked for was not said before.
    pub fn forget_log(&self) {
        File::create(&self.log).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// What Ctrl-C sends.
    pub fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        eventually("the process ends", async || !self.is_running()).await;
        self.child.wait().unwrap()
    }

    /// Asks it to end, which it has to do without a complaint; everything that it has said.
    pub async fn stop(mut self) -> String {
        self.terminate();
        let status = self.end().await;
        let log = self.log();
        assert_eq!(status.code(), Some(0), "{status:?}: {log}");
        log
    }

    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            // Its folder may be gone already.
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            note(&format!("{}:\n{log}", self.log.display()));
        }
    }
}

/// The process id of the private PostgreSQL in a home.
pub fn postgres_of(home: &Home) -> u32 {
    let file = home.folder().join(".doorward/postgres/data/postmaster.pid");
    fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap()
}

pub fn kill_9(pid: u32) {
    kill_process(as_pid(pid), Signal::KILL).unwrap();
}

pub fn is_alive(pid: u32) -> bool {
    // A zombie is as dead: nobody reaps in some containers.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    test_kill_process(as_pid(pid)).is_ok() && !stat.contains(") Z ")
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}
