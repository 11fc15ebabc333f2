//! Instances behind a balancer: HAProxy.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::home::Home;
use super::machine::{free_port, note, open_folder};
use super::wait::eventually;

/// Asks each instance ten times a second whether it is ready, and sends people to those that are.
/// It tries no request twice.
pub struct Balancer {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Balancer {
    /// `None` where there is no such program. Where all checks have to run (`CI`), that is a
    /// failure.
    pub async fn start(homes: &[Home]) -> Option<Self> {
        Self::with_patience(homes, 10, 30).await
    }

    /// One that takes an instance for gone when it does not answer a check, or a call, for so many
    /// seconds.
    pub async fn with_patience(homes: &[Home], check: u32, call: u32) -> Option<Self> {
        let port = free_port();
        let servers: Vec<_> = (homes.iter().map(Home::port))
            .map(|port| {
                format!("  server at{port} 127.0.0.1:{port} check inter 100ms fall 1 rise 1")
            })
            .collect();
        let settings = format!(
            "defaults\n  mode http\n  retries 0\n  timeout connect 2s\n  timeout check {check}s\n  timeout client 30s\n  timeout server {call}s\n\
             frontend people\n  bind 127.0.0.1:{port}\n  default_backend instances\n\
             \x20 monitor-uri /all-up\n  monitor fail if {{ nbsrv(instances) lt {} }}\n\
             backend instances\n  option forwardfor\n  option httpchk\n\
             \x20 http-check send meth GET uri /readyz ver HTTP/1.1 hdr host balancer\n{}\n",
            homes.len(),
            servers.join("\n")
        );
        let balancer = Self::run(&settings, port)?;
        balancer.sees_all().await;
        Some(balancer)
    }

    /// With these settings, in which people are let in by this port. `None` as above.
    pub fn run(settings: &str, port: u16) -> Option<Self> {
        let places = ["/usr/sbin/haproxy", "/usr/bin/haproxy", "/opt/homebrew/bin/haproxy"];
        let Some(program) = places.iter().find(|place| Path::new(place).exists()) else {
            assert!(std::env::var_os("CI").is_none(), "HAProxy is not installed");
            note("left out: HAProxy is not installed");
            return None;
        };
        let folder = open_folder();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, settings).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        Some(Self { process: command.stderr(log).spawn().unwrap(), port, folder })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub async fn sees_all(&self) {
        eventually("the balancer sees every instance", async || {
            let answer = reqwest::get(self.url("/all-up")).await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            note(&fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}
