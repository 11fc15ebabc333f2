//! What happens to the database.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::AssertSqlSafe;
use tokio::time::sleep;

use super::seconds;
use crate::harness::tcp_proxy::Upstream;
use crate::server::cut_service;
use crate::world::World;

pub async fn restart(world: &mut World, how: Signal) {
    for _ in 0..3 {
        world.postgres().stop(how);
        sleep(seconds(1)).await;
        world.postgres().resume().await;
        sleep(seconds(2)).await;
    }
}

pub async fn cut(world: &mut World) {
    for _ in 0..8 {
        let _ = world.postgres().cut_service().await;
        sleep(seconds(1)).await;
    }
}

pub async fn lock(world: &mut World, table: &str, long: Duration) {
    let mut connection = world.postgres().connect().await;
    let sql = format!("begin; lock table {table} in access exclusive mode");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    sleep(long).await;
    sqlx::raw_sql("rollback").execute(&mut connection).await.unwrap();
}

pub async fn slow(world: &mut World) {
    world.proxy().delay(Duration::from_millis(300));
    sleep(seconds(12)).await;
    world.proxy().delay(Duration::ZERO);
}

pub async fn half_open(world: &mut World) {
    // Slow at first, so that it happens to calls that are half way.
    world.proxy().delay(Duration::from_millis(150));
    sleep(seconds(1)).await;
    world.proxy().swallow(true);
    world.proxy().delay(Duration::ZERO);
    sleep(seconds(12)).await;
    world.proxy().swallow(false);
}

/// The service is started while the way leads nowhere.
pub async fn start_half_open(world: &mut World) {
    world.services[0].take().unwrap().kill_9();
    world.proxy().swallow(true);
    world.services[0] = Some(world.homes[0].spawn("serve"));
    sleep(seconds(8)).await;
    world.proxy().swallow(false);
}

/// The connections that are made meanwhile are read-only for as long as they last, which is what a
/// server leaves behind that has changed its part.
pub async fn read_only(world: &mut World) {
    let set = "alter database doorward set default_transaction_read_only = on";
    world.postgres().execute("postgres", set).await;
    let _ = world.postgres().cut_service().await;
    sleep(seconds(8)).await;
    let reset = "alter database doorward reset default_transaction_read_only";
    world.postgres().execute("postgres", reset).await;
}

pub async fn fail_over(world: &mut World) {
    let standby = world.postgres().synchronous_standby().await;
    sleep(seconds(2)).await;
    world.postgres().stop(Signal::QUIT);
    sleep(seconds(1)).await;
    standby.promote().await;
    world.proxy().lead_to(Upstream::Port(standby.port));
    world.postgres = Some(standby);
}

pub async fn disk_full(world: &mut World) {
    let ballast = world.disk.as_ref().unwrap().fill();
    sleep(seconds(8)).await;
    drop(ballast);
    // It ends where it cannot write its log; whoever runs it starts it again.
    world.postgres().resume().await;
}

pub async fn too_many_connections(world: &mut World) {
    let (mut held, start) = (Vec::new(), Instant::now());
    let mut own = world.postgres().connect().await;
    while start.elapsed() < seconds(10) {
        while let Ok(connection) = world.postgres().connect_as_service().await {
            held.push(connection);
        }
        // Whoever is quicker gets the places of those that end.
        if !cut_service(&mut own).await {
            sleep(Duration::from_millis(100)).await;
        }
    }
}
