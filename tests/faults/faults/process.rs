//! What happens to the instances.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;

use super::seconds;
use crate::harness::app::SECRET_KEY;
use crate::world::World;

const NEW_KEY: &str = "another secret key, long enough to sign with as well";

pub async fn kill(world: &mut World) {
    for round in 0..5 {
        // Each time at another point of what is going on.
        let [random, ..] = *uuid::Uuid::new_v4().as_bytes();
        sleep(Duration::from_millis(500 + 5 * u64::from(random))).await;
        let number = round % world.homes.len();
        world.services[number].take().unwrap().kill_9();
        world.services[number] = Some(world.homes[number].start().await);
    }
}

/// The last instance.
pub async fn freeze(world: &mut World) {
    let last = world.homes.len() - 1;
    world.signal(last, Signal::STOP);
    sleep(seconds(20)).await;
    world.signal(last, Signal::CONT);
}

pub async fn roll(world: &mut World) {
    for number in 0..world.homes.len() {
        world.roll(number).await;
    }
}

pub async fn rotate_key(world: &mut World) {
    // Everybody accepts the new key before anybody signs with it.
    for (key, previous) in [(SECRET_KEY, NEW_KEY), (NEW_KEY, SECRET_KEY)] {
        for number in 0..world.homes.len() {
            world.homes[number].set("SECRET_KEY", key);
            world.homes[number].set("SECRET_KEY_PREVIOUS", previous);
            world.roll(number).await;
        }
    }
}

pub async fn step_clock(world: &mut World) {
    let file = world.homes.last().unwrap().setting("FAKETIME_TIMESTAMP_FILE");
    for offset in ["+600", "-600", "+0"] {
        fs::write(&file, offset).unwrap();
        sleep(seconds(5)).await;
    }
    let sql = "select array[count(*) filter (where at > now() + interval '5 minutes'),
                   count(*) filter (where at < now() - interval '5 minutes')] from audit_log";
    let stepped: Vec<i64> =
        sqlx::query_scalar(sql).fetch_one(&mut world.postgres().connect().await).await.unwrap();
    assert!(!stepped.contains(&0), "libfaketime has no effect: {stepped:?}");
}

/// What a newer release might bring.
const NEWER: &str = "
    begin;
    set local lock_timeout = '2s';
    alter table users add column nickname text;
    alter table sessions add column device text not null default '';
    create index users_nickname_idx on users (nickname);
    insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'newer', true, 'x', 1);
    commit";

/// The schema is brought up to date by two at once when they start; then it is found to be so by
/// two at once, a newer release migrates, and this one is started again on what that left.
pub async fn migrate(world: &mut World) {
    let [one, other] = &world.homes[..] else { unreachable!("there are two") };
    tokio::join!(one.succeeds(&["migrate"], ""), other.succeeds(&["migrate"], ""));
    world.postgres().execute("doorward", NEWER).await;
    sleep(seconds(3)).await;
    world.roll(1).await;
    sleep(seconds(2)).await;
}

/// An older release is at work on its schema; this one starts beside it, and then in its place.
pub async fn upgrade(world: &mut World) {
    sleep(seconds(2)).await;
    world.services[1] = Some(world.homes[1].start().await);
    sleep(seconds(4)).await;
    world.homes[0].set("DOORWARD_BINARY", "");
    world.roll(0).await;
}
