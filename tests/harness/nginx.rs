//! nginx before the service, with its defaults.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::machine::{free_port, note, open_folder};
use super::wait::eventually;

pub struct Nginx {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Nginx {
    /// Before the servers on these ports; `None` where there is no such program. Where all checks
    /// have to run (`CI`), that is a failure.
    pub async fn start(servers: &[u16]) -> Option<Self> {
        let places = ["/usr/sbin/nginx", "/usr/bin/nginx", "/opt/homebrew/bin/nginx"];
        let Some(program) = places.iter().find(|place| Path::new(place).exists()) else {
            assert!(std::env::var_os("CI").is_none(), "nginx is not installed");
            note("left out: nginx is not installed");
            return None;
        };
        let (folder, port) = (open_folder(), free_port());
        let path = folder.path().display();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds.map(|kind| format!("  {kind}_temp_path {path}/{kind};\n")).concat();
        let servers: Vec<_> =
            servers.iter().map(|port| format!(" server 127.0.0.1:{port};")).collect();
        let servers = servers.concat();
        let settings = format!(
            "daemon off;\nworker_processes 1;\npid {path}/pid;\nerror_log {path}/log;\n\
             events {{ worker_connections 512; }}\nhttp {{\n  access_log off;\n{temporary}\
             \x20 client_max_body_size 0;\n  upstream service {{{servers} }}\n\
             \x20 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://service; }} }}\n}}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, settings).unwrap();
        let mut command = Command::new(program);
        command.arg("-e").arg(folder.path().join("log")).arg("-c").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let nginx = Self { process: command.spawn().unwrap(), port, folder };
        eventually("nginx answers", async || {
            let answer = reqwest::get(format!("http://127.0.0.1:{port}/healthz")).await;
            answer.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        Some(nginx)
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.process),
            rustix::process::Signal::TERM,
        );
        let _ = self.process.wait();
        if std::thread::panicking() {
            note(&fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}
