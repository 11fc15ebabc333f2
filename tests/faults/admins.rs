//! Two admins who take each other's role away, at once, again and again: one of them remains.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;

use crate::harness::person::PASSWORD;
use crate::history::{Invariant, Outcome};
use crate::load::{Answer, Load, Pair};

pub const ADMINS: [&str; 2] = ["boss", "deputy"];

struct Admin {
    id: String,
    pair: Pair,
}

pub async fn quarrel(load: Arc<Load>) {
    while !load.is_over() {
        if one_round(&load).await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn one_round(load: &Load) -> Option<()> {
    let [boss, deputy] = [log_in(load, ADMINS[0]).await?, log_in(load, ADMINS[1]).await?];
    let path = "/api/v1/users/?sort=-created_at&limit=5";
    let list = || load.request(Method::GET, path).header("x-access-token", &boss.pair.access);
    let (listed, _) = load.insist("list", list).await?;
    if listed.status != 200 {
        load.broken(Invariant::Admin, format!("an admin is not shown the list: {}", listed.json));
    }
    let depose = |by: &Admin, whom: &Admin| load.call("demote", role(load, by, whom, "user"));
    let (one, other) = tokio::join!(depose(&boss, &deputy), depose(&deputy, &boss));
    if one.outcome == Outcome::Done && other.outcome == Outcome::Done {
        load.broken(Invariant::Admin, "two admins have taken each other's role away");
    }
    // Whoever remains makes the other one an admin again.
    let mut restored = Vec::new();
    for (by, whom) in [(&boss, &deputy), (&deputy, &boss)] {
        let (answer, _) = load.insist("promote", || role(load, by, whom, "admin")).await?;
        restored.push(answer);
    }
    if restored.iter().all(|answer| answer.status != 200) {
        let said: Vec<_> = restored.iter().map(|answer| answer.json.to_string()).collect();
        load.broken(Invariant::Admin, format!("no admin is left: {said:?}"));
        return None;
    }
    Some(())
}

fn role(load: &Load, by: &Admin, whom: &Admin, role: &str) -> reqwest::RequestBuilder {
    let path = format!("/api/v1/users/{}?role={role}", whom.id);
    load.request(Method::PUT, &path).header("x-access-token", &by.pair.access)
}

async fn log_in(load: &Load, name: &str) -> Option<Admin> {
    let request = || load.request(Method::POST, "/api/v1/login").basic_auth(name, Some(PASSWORD));
    let (answer, _): (Answer, _) = load.insist("log in", request).await?;
    if answer.status != 200 {
        let said = format!("{name} cannot log in: {} {}", answer.status, answer.json);
        load.broken(Invariant::Admin, said);
        return None;
    }
    let id = answer.json["user"]["public_id"].as_str().unwrap_or_default().to_owned();
    Some(Admin { id, pair: answer.pair() })
}
