//! The real binary, for tests: a process in a folder of its own, with a clean environment, on a
//! real port.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use super::app::{PUBLIC_URL, SECRET_KEY};
use super::cluster::{cluster, new_database};
use super::http_call::HttpCall;
use super::machine::{free_port, open_folder};
use super::person::{PASSWORD, email_of};
use super::process::Process;
use super::wait::{PATIENCE, eventually};

/// Where the binary runs: its folder, its port and its settings stay the same from one start to the
/// next.
pub struct Home {
    folder: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    client: Client,
}

impl Home {
    /// Without a database: the service starts its own.
    pub fn new(settings: &[(&str, &str)]) -> Self {
        // Each request has a connection of its own, so that none meets one that died with a
        // service.
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

    /// `DOORWARD_BINARY` names another one, a release build say, where a test is to measure; set in
    /// the home, for this home alone.
    pub fn command(&self, arguments: &[&str]) -> Command {
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
        self.spawn_as(command, self.command(&[command]))
    }

    /// As [`spawn`](Self::spawn), with arguments or a program around it.
    pub fn spawn_as(&self, name: &str, mut command: Command) -> Process {
        let path = self.folder().join(format!("{name}.log"));
        let log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Process::new(command.spawn().unwrap(), path)
    }

    /// A command that another program runs in the same folder, with the same environment.
    pub fn within(&self, program: &str, program_arguments: &[&str], command: &[&str]) -> Command {
        let command = self.command(command);
        let mut outer = Command::new(program);
        outer.args(program_arguments).arg(command.get_program()).args(command.get_args());
        outer.current_dir(self.folder()).env_clear();
        outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        outer
    }

    /// Starts the service and waits until it is ready.
    pub async fn start(&self) -> Process {
        let mut service = self.spawn("serve");
        self.ready(&mut service).await;
        service
    }

    pub async fn ready(&self, service: &mut Process) {
        eventually("the service is ready", async || {
            assert!(service.is_running(), "{}", service.log());
            self.get("/readyz").try_send().await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    pub fn get(&self, path: &str) -> HttpCall {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> HttpCall {
        self.call(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> HttpCall {
        self.call(Method::PUT, path)
    }

    pub fn call(&self, method: Method, path: &str) -> HttpCall {
        self.client.request(method, self.url(path)).into()
    }

    /// Registers somebody who has everybody's password.
    pub fn register(&self, username: &str) -> HttpCall {
        let (email, password) = (email_of(username), PASSWORD);
        let body = json!({ "username": username, "email": email, "password": password });
        self.post("/api/v1/users/").json(&body)
    }

    pub fn log_in(&self, username: &str) -> HttpCall {
        self.log_in_with(username, PASSWORD)
    }

    pub fn log_in_with(&self, username: &str, password: &str) -> HttpCall {
        self.post("/api/v1/login").basic_auth(username, password)
    }

    /// Registers and logs in, which has to work; the answer to the login.
    pub async fn newcomer(&self, username: &str) -> Value {
        self.register(username).send().await.expect(201);
        self.log_in(username).send().await.expect(200)
    }
}

/// The process id of the private PostgreSQL in a home.
pub fn postgres_of(home: &Home) -> u32 {
    let file = home.folder().join(".doorward/postgres/data/postmaster.pid");
    fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap()
}
