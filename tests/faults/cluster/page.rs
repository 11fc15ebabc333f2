//! The files of docs/scaling.md, with this machine's addresses in place of theirs.

use std::fs;
use std::path::Path;

use super::{Member, NODES, Node, Ports};
use crate::harness::home::Home;
use crate::harness::machine::root;

pub fn node(number: usize) -> String {
    format!("node{}", number + 1)
}

/// A file with these changes, each of which it has to have something to change for.
fn changed(file: &str, changes: &[(String, String)]) -> String {
    let mut text = fs::read_to_string(root().join("docs/scaling").join(file)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from.as_str()), "docs/scaling/{file} does not have {from:?}");
        text = text.replace(from, to);
    }
    text
}

fn change(from: impl Into<String>, to: impl Into<String>) -> (String, String) {
    (from.into(), to.into())
}

fn here(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The address of a node or an instance in the files: `10.0.0.11:5432`.
fn there(first: usize, number: usize, port: u16) -> String {
    format!("10.0.0.{}:{port}", first + number)
}

pub fn etcd(number: usize, members: &[Member], folder: &Path) -> String {
    let own = &members[number];
    let data = folder.join(format!("{}.etcd", node(number)));
    let mut changes = vec![
        change("\nname: node1", format!("\nname: {}", node(number))),
        change("/var/lib/etcd/doorward", data.display().to_string()),
        change(
            "-peer-urls: http://10.0.0.11:2380",
            format!("-peer-urls: http://{}", here(own.peers)),
        ),
        change(
            "-client-urls: http://10.0.0.11:2379",
            format!("-client-urls: http://{}", here(own.clients)),
        ),
    ];
    for (number, member) in members.iter().enumerate() {
        let name = node(number);
        let from = format!("{name}=http://{}", there(11, number, 2380));
        changes.push(change(from, format!("{name}=http://{}", here(member.peers))));
    }
    changed("etcd.conf.yml", &changes)
}

/// `doors` lead to each etcd, to this PostgreSQL and to this Patroni.
pub fn patroni(node: &Node, doors: &[u16], programs: &Path) -> String {
    let folder = node.folder().display().to_string();
    let etcds: Vec<_> = doors[..NODES].iter().copied().map(here).collect();
    let etcds_there: Vec<_> = (0..NODES).map(|number| there(11, number, 2379)).collect();
    let changes = [
        change("\nname: node1", format!("\nname: {}", node.name())),
        // Else it would ask etcd for its members' own addresses, and go past the proxies.
        change(
            format!("hosts: [{}]", etcds_there.join(", ")),
            format!("use_proxies: true\n  hosts: [{}]", etcds.join(", ")),
        ),
        change(" listen: 10.0.0.11:8008", format!(" listen: {}", here(node.api_port))),
        change(
            "connect_address: 10.0.0.11:8008",
            format!("connect_address: {}", here(doors[NODES + 1])),
        ),
        change(" listen: 10.0.0.11:5432", format!(" listen: {}", here(node.port))),
        change(
            "connect_address: 10.0.0.11:5432",
            format!("connect_address: {}", here(doors[NODES])),
        ),
        change("/var/lib/postgresql/doorward", &folder),
        change("/var/run/postgresql", &folder),
        change("/usr/lib/postgresql/15/bin", programs.display().to_string()),
        change("10.0.0.0/24", "127.0.0.1/32"),
    ];
    changed("patroni.yml", &changes)
}

pub fn haproxy(ports: &Ports, nodes: &[Node], homes: &[Home]) -> String {
    let mut changes = vec![
        change("bind 127.0.0.1:5000", format!("bind {}", here(ports.leader))),
        change("bind 127.0.0.1:5001", format!("bind {}", here(ports.standbys))),
        change("bind 10.0.0.20:8080", format!("bind {}", here(ports.people))),
    ];
    for (number, node) in nodes.iter().enumerate() {
        let from = format!("{} port 8008", there(11, number, 5432));
        changes.push(change(from, format!("{} port {}", here(node.port), node.api_port)));
    }
    for (number, home) in homes.iter().enumerate() {
        changes.push(change(there(21, number, 8000), here(home.port())));
    }
    changed("haproxy.cfg", &changes)
}

/// Its settings and its users.
pub fn pgbouncer(port: u16, ports: &Ports, folder: &Path) -> (String, String) {
    let changes = [
        change("port=5000", format!("port={}", ports.leader)),
        change("port=5001", format!("port={}", ports.standbys)),
        change("listen_port = 6432", format!("listen_port = {port}")),
        change("/etc/pgbouncer", folder.display().to_string()),
        change("/run/pgbouncer/pgbouncer.pid", folder.join("pid").display().to_string()),
    ];
    (changed("pgbouncer.ini", &changes), changed("userlist.txt", &[]))
}

/// What an instance is told of its database.
pub fn doorward(bouncer: u16) -> Vec<(String, String)> {
    let text = changed(
        "doorward.env",
        &[change("127.0.0.1:6432", here(bouncer)), change("HOST=10.0.0.21", "HOST=127.0.0.1")],
    );
    let settings = text.lines().filter_map(|line| line.split_once('='));
    // The people of the trial name their own addresses, one more proxy's.
    let settings = settings.filter(|(name, _)| *name != "TRUSTED_PROXY_HOPS");
    settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The statements that make the service's database.
pub fn database() -> Vec<String> {
    let text = changed("database.sql", &[]);
    text.lines().map(ToOwned::to_owned).collect()
}
