//! Instances behind HAProxy, on PostgreSQL behind PgBouncer in transaction mode: one of them, and
//! three.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use doorward::security::token::TokenKeys;
use sqlx::postgres::PgConnectOptions;
use tokio::process::Command;

use crate::scenarios::Target;
use crate::stage::{Failure, Program, Site, free_port};

const INSTANCES: usize = 3;

pub struct Fleet {
    /// Leads to the first one alone.
    pub one: Program,
    /// Leads to all, by turns.
    pub all: Program,
    _instances: Vec<Program>,
    _bouncer: Program,
}

impl Fleet {
    /// `None` where HAProxy or PgBouncer is not installed.
    pub async fn start(
        site: &Site<'_>,
        server: &PgConnectOptions,
        keys: &TokenKeys,
    ) -> Result<Option<Self>, Failure> {
        let (Some(haproxy), Some(pgbouncer)) = (program("haproxy"), program("pgbouncer")) else {
            return Ok(None);
        };
        let bouncer = start_bouncer(&pgbouncer, site, server).await?;
        let behind = Site {
            url: format!("postgres://doorward@127.0.0.1:{}/doorward?sslmode=disable", bouncer.port),
            direct_url: Some(site.url.clone()),
            ..*site
        };
        let mut instances = Vec::new();
        for _ in 0..INSTANCES {
            instances.push(behind.start(Target::Fleet, keys).await?);
        }
        let one = start_balancer(&haproxy, site, &instances[..1]).await?;
        let all = start_balancer(&haproxy, site, &instances).await?;
        Ok(Some(Self { one, all, _instances: instances, _bouncer: bouncer }))
    }
}

/// Where its package puts a program that is for administrators.
fn program(name: &str) -> Option<String> {
    let folders = ["/usr/sbin", "/usr/bin"].map(|folder| format!("{folder}/{name}"));
    folders.into_iter().find(|path| Path::new(path).exists())
}

/// With the settings that the README advises.
async fn start_bouncer(
    program: &str,
    site: &Site<'_>,
    server: &PgConnectOptions,
) -> Result<Program, Failure> {
    let (port, sockets) = (free_port().await?, server.get_socket().ok_or("no socket")?);
    let settings = format!(
        "[databases]\n* = host={} port=5432 user=doorward\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
         pool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = 1000\n",
        sockets.display()
    );
    let file = site.work.join("pgbouncer.ini");
    std::fs::write(&file, settings)?;
    let mut command = Command::new(program);
    command.arg("-q").arg(&file);
    // It refuses to run as root, and the server's socket is for PostgreSQL's account alone.
    let owner = std::fs::metadata(sockets)?;
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    site.launch(command, port, "pgbouncer.log", None).await
}

async fn start_balancer(
    program: &str,
    site: &Site<'_>,
    instances: &[Program],
) -> Result<Program, Failure> {
    let port = free_port().await?;
    let servers = instances.iter().map(|instance| {
        let port = instance.port;
        format!("  server at{port} 127.0.0.1:{port} check inter 1s\n")
    });
    let settings = format!(
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n\
         listen people\n  bind 127.0.0.1:{port}\n  balance roundrobin\n  option forwardfor\n  option httpchk GET /readyz\n{}",
        servers.collect::<String>()
    );
    let file = site.work.join(format!("haproxy-{port}.cfg"));
    std::fs::write(&file, settings)?;
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(&file);
    site.launch(command, port, "haproxy.log", Some("/readyz")).await
}
