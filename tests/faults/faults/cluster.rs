//! What happens to a cluster under Patroni: that of docs/scaling.md.

use std::time::Instant;

use tokio::time::sleep;

use super::{BALANCED, Fault, fault, process, seconds};
use crate::world::{Setup, World};

/// Some 200 calls a second, most of them of people who keep a session, once everybody has come.
const CLUSTER: Setup =
    Setup { cluster: true, phones: PHONES, instances: 3, before: seconds(12), ..BALANCED };
const PHONES: usize = 140;
/// What a first leader's disk holds, in MB.
const DISK: usize = 512;

pub fn faults() -> Vec<Fault> {
    vec![
        fault(
            "cluster-switchover",
            "an operator hands the leader's part over to its synchronous standby",
            CLUSTER,
            |world, _| Box::pin(switch_over(world)),
        ),
        fault(
            "cluster-kill",
            "every process of the leading node is killed, and started again later",
            CLUSTER,
            |world, _| Box::pin(kill(world)),
        ),
        fault(
            "cluster-partition",
            "the leader is cut off from etcd and its standbys, while clients reach it",
            CLUSTER,
            |world, _| Box::pin(partition(world)),
        ),
        fault(
            "cluster-disk-full",
            "the leader's disk is full, and its part is handed over after 10 s",
            Setup { small_disk: Some(DISK), ..CLUSTER },
            |world, _| Box::pin(disk_full(world)),
        ),
        fault(
            "cluster-rolling",
            "every node and every instance is restarted, one after the other",
            CLUSTER,
            |world, _| Box::pin(roll(world)),
        ),
    ]
}

async fn switch_over(world: &mut World) {
    let cluster = world.cluster();
    cluster.switch_over().await;
    cluster.whole().await;
}

async fn kill(world: &mut World) {
    let cluster = world.cluster();
    let (leader, start) = (cluster.leading().await, Instant::now());
    cluster.nodes[leader].kill_9();
    cluster.next_leader(leader, start).await;
    sleep(seconds(5)).await;
    cluster.nodes[leader].resume();
    cluster.whole().await;
}

async fn partition(world: &mut World) {
    let cluster = world.cluster();
    let (leader, start) = (cluster.leading().await, Instant::now());
    cluster.nodes[leader].cut_off(true);
    cluster.next_leader(leader, start).await;
    sleep(seconds(5)).await;
    cluster.nodes[leader].cut_off(false);
    cluster.whole().await;
}

/// Patroni does not look at the disk, and the server goes on without what it cannot write: whoever
/// has the alarm hands over.
async fn disk_full(world: &mut World) {
    let ballast = world.disk.as_ref().unwrap().fill();
    sleep(seconds(10)).await;
    let cluster = world.cluster.as_ref().unwrap();
    cluster.switch_over().await;
    sleep(seconds(5)).await;
    drop(ballast);
    cluster.whole().await;
}

async fn roll(world: &mut World) {
    let cluster = world.cluster();
    let leader = cluster.leading().await;
    for number in (0..cluster.nodes.len()).filter(|number| *number != leader) {
        cluster.restart(number).await;
    }
    cluster.switch_over().await;
    cluster.restart(leader).await;
    process::roll(world).await;
}
