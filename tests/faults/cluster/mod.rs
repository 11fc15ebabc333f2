//! The cluster of docs/scaling.md on one machine: three nodes of PostgreSQL under Patroni with etcd, and HAProxy and
//! PgBouncer before them, all by the very files of that page.
//!
//! A node reaches etcd, and is reached by the other nodes, through proxies of its own: when these swallow everything,
//! it is cut off, while its clients still reach it.

mod node;
mod page;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tempfile::TempDir;

pub use node::Node;
use node::Supervised;

use crate::harness::balancer::Balancer;
use crate::harness::home::Home;
use crate::harness::machine::{free_port, note};
use crate::harness::pgbouncer::{PgBouncer, SETTINGS};
use crate::harness::postgres::{as_owner_of, owned_folder};
use crate::harness::wait::eventually;
use crate::server::SmallDisk;

pub const NODES: usize = 3;
/// How long the cluster may take for anything.
const PATIENCE: Duration = Duration::from_secs(90);
const PROGRAMS: [&str; 5] = [
    "/usr/bin/etcd",
    "/usr/bin/patroni",
    "/usr/bin/patronictl",
    "/usr/sbin/haproxy",
    "/usr/sbin/pgbouncer",
];

/// Why there can be none on this machine, if so.
pub fn is_left_out() -> Option<&'static str> {
    let is_missing = |program: &str| !Path::new(program).exists();
    PROGRAMS.iter().any(|program| is_missing(program)).then_some(
        "the cluster needs Debian's programs: apt-get install patroni etcd-server haproxy pgbouncer, after \
         systemctl mask patroni etcd haproxy pgbouncer",
    )
}

/// Dropping it ends it. The fields are dropped in this order.
pub struct Cluster {
    pub bouncer: PgBouncer,
    pub nodes: Vec<Node>,
    _etcds: Vec<Supervised>,
    ports: Ports,
    /// With the logs.
    folder: TempDir,
}

/// Where HAProxy leads to the leader and to its standbys, and where it lets people in.
pub struct Ports {
    leader: u16,
    standbys: u16,
    people: u16,
}

/// Ports of one member of etcd.
pub struct Member {
    peers: u16,
    clients: u16,
}

impl Cluster {
    /// With an empty database for the service; the first node, which leads, on this disk if there is one.
    pub async fn start(disk: Option<&SmallDisk>) -> Self {
        let folder = owned_folder().await;
        let members: Vec<_> =
            (0..NODES).map(|_| Member { peers: free_port(), clients: free_port() }).collect();
        let mut etcds = Vec::new();
        for number in 0..NODES {
            let file = folder.path().join(format!("etcd{number}.yml"));
            fs::write(&file, page::etcd(number, &members, folder.path())).unwrap();
            let mut etcd = Command::new("/usr/bin/etcd");
            etcd.arg("--config-file").arg(file);
            etcds.push(Supervised::start(
                &etcd,
                &folder.path().join(format!("etcd{number}")),
                None,
            ));
        }
        // Patroni asks once, and speaks what etcd answers; a member that is alone yet speaks 3.0.
        eventually("etcd has come together", async || {
            let url = format!("http://127.0.0.1:{}/version", members[NODES - 1].clients);
            let Ok(answer) = reqwest::get(url).await else { return false };
            let version: serde_json::Value = answer.json().await.unwrap_or_default();
            let version = version["etcdcluster"].as_str().unwrap_or_default();
            version.starts_with("3.") && !version.starts_with("3.0")
        })
        .await;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let disk = disk.filter(|_| number == 0);
            nodes.push(Node::new(number, &members, folder.path(), disk).await);
        }
        let ports = Ports { leader: free_port(), standbys: free_port(), people: free_port() };
        let bouncer = bouncer(&ports).await;
        let mut cluster = Self { bouncer, nodes, _etcds: etcds, ports, folder };
        // The first one has the cluster to itself when it is made.
        cluster.nodes[0].resume();
        cluster.leader_other_than(None).await;
        cluster.nodes[1..].iter_mut().for_each(Node::resume);
        for sql in page::database() {
            let mut connection =
                PgConnection::connect(&cluster.nodes[0].url("postgres")).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
        cluster.whole().await;
        cluster
    }

    /// HAProxy, before the nodes and before the instances.
    pub fn balancer(&self, homes: &[Home]) -> Balancer {
        let settings = page::haproxy(&self.ports, &self.nodes, homes);
        Balancer::run(&settings, self.ports.people).expect("HAProxy is installed")
    }

    /// The node that leads, as it says itself.
    async fn leader(&self) -> Option<usize> {
        for (number, node) in self.nodes.iter().enumerate() {
            if !node.is_cut_off() && node.leads().await {
                return Some(number);
            }
        }
        None
    }

    /// Waits until a node leads that is not this one.
    pub async fn leader_other_than(&self, former: Option<usize>) -> usize {
        let start = Instant::now();
        loop {
            let leader = self.leader().await.filter(|leader| Some(*leader) != former);
            if let Some(leader) = leader {
                return leader;
            }
            assert!(start.elapsed() < PATIENCE, "nobody leads: {}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until another one leads than did until `start`, and says how long that took.
    pub async fn next_leader(&self, former: usize, start: Instant) {
        self.leader_other_than(Some(former)).await;
        note(&format!("    another node leads after {:.1?}", start.elapsed()));
    }

    pub async fn leading(&self) -> usize {
        self.leader_other_than(None).await
    }

    /// Waits until both other nodes follow the leader, one of them synchronously.
    pub async fn whole(&self) {
        let sql = "select count(*) filter (where state = 'streaming') = 2 and count(*) filter (where sync_state = 'sync') = 1
                   from pg_stat_replication where application_name like 'node_'";
        let start = Instant::now();
        loop {
            let leader = self.leading().await;
            if self.nodes[leader].ask(sql).await == Some(true) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the cluster is not whole: {}", self.logs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Hands over to the synchronous standby, as an operator does.
    pub async fn switch_over(&self) {
        let (start, leader) = (Instant::now(), self.leading().await);
        let sql = "select application_name from pg_stat_replication where sync_state = 'sync'";
        let candidate: String = self.nodes[leader].ask(sql).await.expect("there is a standby");
        let mut patronictl = Command::new("/usr/bin/patronictl");
        patronictl.arg("-c").arg(self.nodes[leader].settings());
        patronictl.args(["switchover", "--force", "--leader", self.nodes[leader].name()]);
        patronictl.args(["--candidate", &candidate, "doorward"]).env("LC_ALL", "C.UTF-8");
        as_owner_of(self.folder.path(), &mut patronictl);
        let output = tokio::process::Command::from(patronictl).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        self.next_leader(leader, start).await;
    }

    /// Ends a node in its own time, and starts it again.
    pub async fn restart(&mut self, number: usize) {
        self.nodes[number].stop().await;
        self.nodes[number].resume();
        self.whole().await;
    }

    /// What an instance is told of its database.
    pub fn settings(&self) -> Vec<(String, String)> {
        page::doorward(self.bouncer.port())
    }

    /// To the service's database on the leader, past everything.
    pub async fn pool(&self) -> PgPool {
        let url = self.nodes[self.leading().await].url("doorward");
        PgPoolOptions::new().max_connections(3).connect_lazy(&url).unwrap()
    }

    fn logs(&self) -> String {
        self.nodes.iter().map(Node::last_words).collect()
    }
}

async fn bouncer(ports: &Ports) -> PgBouncer {
    let (folder, port) = (owned_folder().await, free_port());
    let (settings, users) = page::pgbouncer(port, ports, folder.path());
    fs::write(folder.path().join(SETTINGS), settings).unwrap();
    fs::write(folder.path().join("userlist.txt"), users).unwrap();
    PgBouncer::run(folder, port, "").await.expect("PgBouncer is installed")
}
