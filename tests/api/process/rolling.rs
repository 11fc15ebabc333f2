//! Two instances behind a balancer (HAProxy), replaced one by one while people work: nobody
//! notices.
//!
//! `DOORWARD_ROLLS` is the number of restarts (2 unless set).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::harness::app::SECRET_KEY;
use crate::harness::balancer::Balancer;
use crate::harness::cluster::new_database;
use crate::harness::home::Home;
use crate::harness::http_call::HttpCall;
use crate::harness::machine::note;
use crate::harness::person::{PASSWORD, email_of};
use crate::harness::process::Process;

const PEOPLE: usize = 20;
/// Each person makes a call in this time: 200 calls a second in all.
const PACE: Duration = Duration::from_millis(100);
const NEW_KEY: &str = "another secret key, long enough to sign with as well";

/// Somebody with a browser, which keeps its connections for as long as it is let.
struct BrowserUser<'a> {
    balancer: &'a Balancer,
    browser: Client,
    name: String,
    pair: Value,
    calls: usize,
    failures: Vec<String>,
}

impl<'a> BrowserUser<'a> {
    fn new(balancer: &'a Balancer, number: usize) -> Self {
        let browser = Client::builder().no_proxy().build().unwrap();
        let name = format!("user{number}");
        Self { balancer, browser, name, pair: Value::Null, calls: 0, failures: Vec::new() }
    }

    fn call(&self, method: Method, path: &str) -> HttpCall {
        self.browser.request(method, self.balancer.url(path)).into()
    }

    async fn send(&mut self, what: &str, call: HttpCall) -> Option<Value> {
        self.calls += 1;
        let said = match call.try_send().await {
            Ok(answer) if [200, 201].contains(&answer.status) => return Some(answer.json),
            Ok(answer) => format!("{} {}", answer.status, answer.text),
            Err(error) => format!("{error:?}"),
        };
        self.failures.push(format!("{} {what}: {said}", self.name));
        None
    }

    async fn register(&mut self) {
        let body =
            json!({ "username": self.name, "email": email_of(&self.name), "password": PASSWORD });
        let call = self.call(Method::POST, "/api/v1/users/").json(&body);
        self.send("registers", call).await;
        self.log_in().await;
    }

    async fn log_in(&mut self) {
        let request = self.browser.post(self.balancer.url("/api/v1/login"));
        let call = request.basic_auth(&self.name, Some(PASSWORD)).into();
        self.pair = self.send("logs in", call).await.unwrap_or(Value::Null);
    }

    async fn refresh(&mut self) {
        let Some(token) = self.pair["refresh_token"].as_str() else { return };
        let call = self.call(Method::POST, "/api/v1/refresh").header("x-refresh-token", token);
        if let Some(pair) = self.send("refreshes", call).await {
            self.pair = pair;
        }
    }

    async fn work(&mut self, enough: &AtomicBool) {
        let mut pace = tokio::time::interval(PACE);
        for round in 0.. {
            pace.tick().await;
            if enough.load(Ordering::SeqCst) || self.pair.is_null() {
                return;
            }
            match round % 8 {
                3 => self.refresh().await,
                7 => {
                    let change = json!({ "first_name": format!("Round {round}") });
                    let call = self.call(Method::PUT, "/api/v1/users/me").by(&self.pair);
                    self.send("changes their name", call.json(&change)).await;
                }
                _ => {
                    let call = self.call(Method::GET, "/api/v1/users/me").by(&self.pair);
                    self.send("asks who they are", call).await;
                }
            }
        }
    }
}

async fn two_homes() -> Vec<Home> {
    let database = new_database().await;
    // The balancer needs a moment to notice that an instance leaves.
    let settings = [("SHUTDOWN_DELAY_SECONDS", "1"), ("TRUSTED_PROXY_HOPS", "1")];
    vec![Home::on(&database, &settings).await, Home::on(&database, &settings).await]
}

/// Lets everybody work while `operate` does what it does to the instances; nobody may notice, and
/// all that they hold is good at the end.
async fn while_people_work(
    homes: &mut [Home],
    operate: impl AsyncFnOnce(&mut [Home], &mut Vec<Option<Process>>, &Balancer),
) {
    let mut services = Vec::new();
    for home in &*homes {
        services.push(Some(home.start().await));
    }
    let Some(balancer) = Balancer::start(homes).await else { return };
    let mut people: Vec<_> =
        (0..PEOPLE).map(|number| BrowserUser::new(&balancer, number)).collect();
    join_all(people.iter_mut().map(BrowserUser::register)).await;

    let (enough, start) = (AtomicBool::new(false), Instant::now());
    tokio::join!(join_all(people.iter_mut().map(|person| person.work(&enough))), async {
        operate(homes, &mut services, &balancer).await;
        enough.store(true, Ordering::SeqCst);
    });
    let seconds = start.elapsed().as_secs_f64();
    join_all(people.iter_mut().map(BrowserUser::refresh)).await;

    let calls: usize = people.iter().map(|person| person.calls).sum();
    let failures: Vec<_> = people.iter().flat_map(|person| &person.failures).collect();
    note(&format!("{calls} calls in {seconds:.1} s, {} failed", failures.len()));
    assert!(failures.is_empty(), "{failures:#?}");
    for service in services.into_iter().flatten() {
        service.stop().await;
    }
}

/// Stops one instance, starts it again with its settings of now, and waits until the balancer has
/// noticed.
async fn restart(home: &Home, service: &mut Option<Process>, balancer: &Balancer) {
    service.take().unwrap().stop().await;
    *service = Some(home.start().await);
    balancer.sees_all().await;
}

#[tokio::test]
async fn a_rolling_restart_behind_a_balancer_fails_no_call() {
    let rolls = std::env::var("DOORWARD_ROLLS").map_or(2, |rolls| rolls.parse().unwrap());
    let mut homes = two_homes().await;
    while_people_work(&mut homes, async |homes, services, balancer| {
        for roll in 0..rolls {
            restart(&homes[roll % 2], &mut services[roll % 2], balancer).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_secret_key_on_one_instance_after_the_other_refuses_nobody() {
    let mut homes = two_homes().await;
    while_people_work(&mut homes, async |homes, services, balancer| {
        // The README's two steps: everybody accepts the new key before anybody signs with it.
        for (key, previous) in [(SECRET_KEY, NEW_KEY), (NEW_KEY, SECRET_KEY)] {
            for (home, service) in homes.iter_mut().zip(services.iter_mut()) {
                home.set("SECRET_KEY", key);
                home.set("SECRET_KEY_PREVIOUS", previous);
                restart(home, service, balancer).await;
            }
        }
    })
    .await;
}
