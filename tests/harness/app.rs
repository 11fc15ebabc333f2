//! `TestApp`: a service of its own for each test, on a database of its own, and the persons who
//! call it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use doorward::clock::Clock;
use doorward::config::Config;
use doorward::mail::letters::Letters;
use doorward::mail::{Letter, Mailer, SentLetters};
use doorward::router::{App, app, openapi_document};
use doorward::security::password::Hasher;
use doorward::state::AppState;
use doorward::store::db::Db;
use doorward::worker;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::OnceCell;

use super::cluster::{cluster, new_database};
use super::person::{PASSWORD, Person, email_of};
use super::pgbouncer::PgBouncer;
use super::wait::eventually;

pub const PUBLIC_URL: &str = "https://auth.example.com";
pub const SECRET_KEY: &str = "a secret of the tests, which is long enough";

/// The service as one test has it: memory mail, a clock that stands still, cheap Argon2.
#[derive(Clone)]
pub struct TestApp {
    pub state: AppState,
    pub clock: Clock,
    /// For what no endpoint shows.
    pub pool: PgPool,
    pub letters: SentLetters,
    /// Each call goes to the next one of these.
    instances: Arc<[Instance]>,
    calls: Arc<AtomicUsize>,
    pub document: Arc<Value>,
}

/// One of the services on a database.
struct Instance {
    state: AppState,
    app: App,
}

/// How many instances each test's service is: `DOORWARD_INSTANCES`, 1 unless set. More than one
/// take the calls by turns, and reach the database through PgBouncer in transaction mode.
fn instances() -> usize {
    std::env::var("DOORWARD_INSTANCES").map_or(1, |number| number.parse().unwrap())
}

/// PgBouncer, where it stands in between, goes on refusing for a moment after the server has
/// refused it.
pub async fn until_the_pooler_asks_again(app: &TestApp) {
    if instances() > 1 {
        eventually("PgBouncer lets clients in", async || {
            app.anonymous().get("/readyz").await.status == StatusCode::OK
        })
        .await;
    }
}

/// The way to a database: through PgBouncer where there are several instances.
async fn way_to(database: &str) -> Db {
    static BOUNCER: OnceCell<PgBouncer> = OnceCell::const_new();
    let direct = cluster().await.connect_options(database);
    if instances() == 1 {
        return Db::new(direct, 10);
    }
    let bouncer = BOUNCER.get_or_init(async || {
        // The last setting counts. Each test has a database of its own, so connections must not be
        // kept for long.
        let more = "default_pool_size = 40\nmax_client_conn = 4000\nserver_idle_timeout = 2\n\
                    server_login_retry = 1";
        PgBouncer::start(more).await.expect("several instances need PgBouncer")
    });
    let db = Db::new(
        bouncer.await.url(database).parse::<sqlx::postgres::PgConnectOptions>().unwrap(),
        10,
    )
    .with_direct(direct);
    db.assume_pooler();
    db
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With settings other than the tests' own.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(&new_database().await, settings).await
    }

    /// One more instance on a database that another one uses too.
    pub async fn on(database: &str, settings: &[(&str, &str)]) -> Self {
        let start: DateTime<Utc> = "2026-01-02T03:04:05.678Z".parse().unwrap();
        Self::at(database, settings, Clock::fixed(start)).await
    }

    pub async fn at(database: &str, settings: &[(&str, &str)], clock: Clock) -> Self {
        let app = Self::starting(database, settings, clock).await;
        app.instances.iter().for_each(|instance| instance.state.readiness.set_ready());
        app
    }

    /// The first of its instances, where there are several: for what one process knows by itself.
    #[must_use]
    pub fn alone(mut self) -> Self {
        let Instance { state, app } = &self.instances[0];
        self.instances = Arc::new([Instance { state: state.clone(), app: app.clone() }]);
        self
    }

    /// As it is while it still waits for its database.
    pub async fn starting(database: &str, settings: &[(&str, &str)], clock: Clock) -> Self {
        let cheap = argon2::Params::new(8, 1, 1, Some(32)).unwrap();
        Self::build(database, settings, clock, Hasher::new(cheap, 2)).await
    }

    /// With Argon2 at another price.
    pub async fn hashing(
        database: &str,
        settings: &[(&str, &str)],
        clock: Clock,
        hasher: Hasher,
    ) -> Self {
        let app = Self::build(database, settings, clock, hasher).await;
        app.instances.iter().for_each(|instance| instance.state.readiness.set_ready());
        app
    }

    async fn build(
        database: &str,
        settings: &[(&str, &str)],
        clock: Clock,
        hasher: Hasher,
    ) -> Self {
        let own = [
            ("PUBLIC_URL", PUBLIC_URL),
            ("SECRET_KEY", SECRET_KEY),
            // What a test does in a moment a person does in a day; the tests of limits/ turn them
            // on.
            ("RATE_LIMITS", "off"),
            // Makes it production; the connection itself is the cluster's.
            ("DATABASE_URL", "postgres://localhost/unused"),
        ];
        let settings: Vec<_> = settings.iter().chain(&own).copied().collect();
        let lookup = |name: &str| {
            settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let config = Config::from_vars(lookup).unwrap();
        let options = cluster().await.connect_options(database);
        let pool = PgPool::connect_lazy_with(options);
        let (mailer, letters) = Mailer::memory();
        let secret: &SecretString = config.secret_key.as_ref().unwrap();
        let document = Arc::new(openapi_document(&config.public_url, config.min_password_length));
        let mut all = Vec::new();
        for _ in 0..instances() {
            let db = way_to(database).await;
            let (clock, mailer, hasher) = (clock.clone(), mailer.clone(), hasher.clone());
            let letters = Letters::new(&config).unwrap();
            let config = config.clone();
            let state = AppState::compose(config, secret, clock, db, mailer, letters, hasher);
            all.push(Instance { app: app(state.clone()), state });
        }
        let (state, instances) = (all[0].state.clone(), all.into());
        Self { state, clock, pool, letters, instances, calls: Arc::default(), document }
    }

    /// The instance whose turn it is.
    pub fn next_instance(&self) -> App {
        let turn = self.calls.fetch_add(1, Ordering::SeqCst);
        self.instances[turn % self.instances.len()].app.clone()
    }

    pub fn anonymous(&self) -> Person {
        Person { app: self.clone(), access: None, refresh: None, user: Value::Null }
    }

    /// Somebody who has registered, whose address is not verified yet, and who is logged in.
    pub async fn newcomer(&self, name: &str) -> Person {
        let body = json!({ "username": name, "email": email_of(name), "password": PASSWORD });
        let registered = self.anonymous().post("/api/v1/users/", &body).await;
        assert_eq!(registered.status, StatusCode::CREATED, "{}", registered.text);
        self.log_in(name, PASSWORD).await
    }

    /// Somebody with a verified address who is logged in.
    pub async fn user(&self, name: &str) -> Person {
        let mut person = self.newcomer(name).await;
        let link = link_in(&self.letter_to(&email_of(name)).await);
        let confirmed = self.anonymous().get(&link).await;
        assert_eq!(confirmed.status, StatusCode::OK, "{}", confirmed.text);
        person.user["email_verified"] = json!(true);
        person
    }

    /// An admin, made as the first one is: by the operator.
    pub async fn admin(&self) -> Person {
        self.admin_called("boss").await
    }

    pub async fn admin_called(&self, name: &str) -> Person {
        let mut person = self.user(name).await;
        let sql = "update users set role = 'admin' where username = $1";
        sqlx::query(sql).bind(name).execute(&self.pool).await.unwrap();
        person.user["role"] = json!("admin");
        person
    }

    /// Logs in, which has to work.
    pub async fn log_in(&self, login: &str, password: &str) -> Person {
        let answer = self.anonymous().log_in(login, password).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let text = |field: &str| Some(answer.json[field].as_str().unwrap().to_owned());
        Person {
            app: self.clone(),
            access: text("token"),
            refresh: text("refresh_token"),
            user: answer.json["user"].clone(),
        }
    }

    /// Lets the worker send everything that is due, and returns what it sent.
    pub async fn deliver_mail(&self) -> Vec<Letter> {
        while worker::deliver_next(&self.state).await.unwrap() {}
        self.letters.take()
    }

    /// Sends what is due; the one letter to `address` among it.
    pub async fn letter_to(&self, address: &str) -> Letter {
        let letters = self.deliver_mail().await;
        let mut own = letters.into_iter().filter(|letter| letter.to == address);
        let letter = own.next().unwrap_or_else(|| panic!("no letter to {address}"));
        assert!(own.next().is_none(), "more than one letter to {address}");
        letter
    }
}

/// The path and query of the confirmation link in a letter.
pub fn link_in(letter: &Letter) -> String {
    let link = letter.text.split_whitespace().find(|word| word.starts_with(PUBLIC_URL));
    link.unwrap_or_else(|| panic!("no link in {}", letter.text))[PUBLIC_URL.len()..].to_owned()
}
