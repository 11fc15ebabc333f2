//! `TestApp` and its persons: a service of its own for each test, on a database of its own.
//!
//! Every answer that passes through here is held against the OpenAPI document and the contract's conventions, so that
//! each test checks them by the way.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use doorward::clock::Clock;
use doorward::config::Config;
use doorward::http::client::ConnectionInfo;
use doorward::limits::Limits;
use doorward::local_postgres::{Durability, LocalPostgres};
use doorward::mail::{Letter, Mailer, SentLetters};
use doorward::metrics::Metrics;
use doorward::router::{App, app, openapi_document};
use doorward::security::password::Hasher;
use doorward::security::token::TokenKeys;
use doorward::session_cache::SessionCache;
use doorward::state::{AppState, Readiness, Shared};
use doorward::store::db::Db;
use doorward::store::logins::Logins;
use doorward::worker;
use http_body_util::BodyExt;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::{Notify, OnceCell};
use tower::ServiceExt;

use crate::binary::eventually;
use crate::pgbouncer::PgBouncer;

pub const PUBLIC_URL: &str = "https://auth.example.com";
pub const SECRET_KEY: &str = "a secret of the tests, which is long enough";
/// Everybody's password, unless a test says otherwise.
pub const PASSWORD: &str = "correct horse battery";

static CLUSTER: OnceCell<LocalPostgres> = OnceCell::const_new();
/// One clone at a time: PostgreSQL refuses a template that somebody else is copying.
static ONE_CLONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The throw-away PostgreSQL of this test process; it stops with it.
pub async fn cluster() -> &'static LocalPostgres {
    CLUSTER
        .get_or_init(async || {
            // Not made here: run by root, PostgreSQL's account makes it its own, and can remove it when we are gone.
            let name = format!("doorward-test-{}", uuid::Uuid::now_v7().simple());
            let folder = std::env::temp_dir().join(name);
            let cluster = LocalPostgres::start(&folder, Durability::Throwaway).await.unwrap();
            cluster.ensure_database("template_doorward").await.unwrap();
            let db = Db::new(cluster.connect_options("template_doorward"), 2);
            db.migrate().await.unwrap();
            db.close().await;
            cluster
        })
        .await
}

/// A new, migrated database; its name.
pub async fn new_database() -> String {
    let cluster = cluster().await;
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
    let pool = PgPool::connect_with(cluster.connect_options("postgres")).await.unwrap();
    let guard = ONE_CLONE.lock().await;
    let sql = format!("create database {name} template template_doorward");
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    drop(guard);
    pool.close().await;
    name
}

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
    document: Arc<Value>,
}

/// One of the services on a database.
struct Instance {
    state: AppState,
    app: App,
}

/// How many instances each test's service is: `DOORWARD_INSTANCES`, 1 unless set. More than one take the calls by
/// turns, and reach the database through PgBouncer in transaction mode.
fn instances() -> usize {
    std::env::var("DOORWARD_INSTANCES").map_or(1, |number| number.parse().unwrap())
}

/// PgBouncer, where it stands in between, goes on refusing for a moment after the server has refused it.
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
        // The last setting counts. Each test has a database of its own, so connections must not be kept for long.
        let more = "default_pool_size = 40\nmax_client_conn = 4000\nserver_idle_timeout = 2\n\
                    server_login_retry = 1";
        PgBouncer::start(more).await.expect("several instances need PgBouncer")
    });
    let db = Db::new(bouncer.await.url(database).parse().unwrap(), 10).with_direct(direct);
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
            // What a test does in a moment a person does in a day; limits.rs turns them on.
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
            let previous = config.secret_key_previous.as_ref();
            let db = way_to(database).await;
            let state = AppState::new(Shared {
                clock: clock.clone(),
                logins: Logins::new(db.clone()),
                db,
                keys: TokenKeys::new(secret, previous, &config.public_url),
                hasher: hasher.clone(),
                limits: Limits::new(config.rate_limits, secret),
                // In use once `session_cache::follow` runs, too.
                sessions: SessionCache::new(config.session_cache),
                mailer: mailer.clone(),
                readiness: Readiness::default(),
                metrics: Metrics::default(),
                mail_queued: Notify::new(),
                surplus_removal: tokio::sync::Mutex::default(),
                config: config.clone(),
            });
            all.push(Instance { app: app(state.clone()), state });
        }
        let (state, instances) = (all[0].state.clone(), all.into());
        Self { state, clock, pool, letters, instances, calls: Arc::default(), document }
    }

    /// The instance whose turn it is.
    fn next_instance(&self) -> App {
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

    /// Waits until so many on this app's database wait for a lock: the moment at which their calls are held up half
    /// way.
    pub async fn until_calls_are_held_up(&self, calls: i64) {
        let sql = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'";
        for _ in 0..1000 {
            if sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.pool).await.unwrap() == calls {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("not as many wait for a lock");
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

pub fn email_of(name: &str) -> String {
    format!("{name}@example.com")
}

/// The path and query of the confirmation link in a letter.
pub fn link_in(letter: &Letter) -> String {
    let link = letter.text.split_whitespace().find(|word| word.starts_with(PUBLIC_URL));
    link.unwrap_or_else(|| panic!("no link in {}", letter.text))[PUBLIC_URL.len()..].to_owned()
}

/// Somebody who makes calls, with the tokens they hold.
#[derive(Clone)]
pub struct Person {
    pub app: TestApp,
    pub access: Option<String>,
    pub refresh: Option<String>,
    /// As the login showed them.
    pub user: Value,
}

impl Person {
    pub fn id(&self) -> &str {
        self.user["public_id"].as_str().unwrap()
    }

    pub fn access_token(&self) -> &str {
        self.access.as_deref().unwrap()
    }

    pub fn refresh_token(&self) -> &str {
        self.refresh.as_deref().unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).send().await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path).json(body).send().await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path).json(body).send().await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path).json(body).send().await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    pub async fn log_in(&self, login: &str, password: &str) -> Answer {
        let value = format!("Basic {}", STANDARD.encode(format!("{login}:{password}")));
        let call = self.app.anonymous().call(Method::POST, "/api/v1/login");
        call.header("authorization", &value).send().await
    }

    /// Refreshes with the token held, and holds the new pair if there is one.
    pub async fn refresh(&mut self) -> Answer {
        let answer = self.refresh_with(self.refresh_token()).await;
        if answer.status == StatusCode::OK {
            self.access = Some(answer.json["token"].as_str().unwrap().to_owned());
            self.refresh = Some(answer.json["refresh_token"].as_str().unwrap().to_owned());
        }
        answer
    }

    /// Refreshes with any token, and keeps what is held.
    pub async fn refresh_with(&self, token: &str) -> Answer {
        let call = self.app.anonymous().call(Method::POST, "/api/v1/refresh");
        call.header("x-refresh-token", token).send().await
    }

    /// A call to be completed by hand; the access token is in it already, if there is one.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(access) = &self.access {
            request = request.header("x-access-token", access);
        }
        let peer = ConnectionInfo::from(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        Call { app: self.app.clone(), request: request.extension(peer), body: Vec::new() }
    }
}

pub struct Call {
    app: TestApp,
    request: axum::http::request::Builder,
    body: Vec<u8>,
}

impl Call {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// A header value that need not be text.
    pub fn header_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// From another address.
    pub fn from(mut self, ip: &str) -> Self {
        let peer = ConnectionInfo::from(SocketAddr::from((ip.parse::<IpAddr>().unwrap(), 40_000)));
        self.request = self.request.extension(peer);
        self
    }

    /// On one of the connections beyond the cap.
    pub fn crowded(mut self) -> Self {
        let peer = ConnectionInfo::from(SocketAddr::from(([127, 0, 0, 1], 40_000)));
        self.request = self.request.extension(ConnectionInfo { is_over_cap: true, ..peer });
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The answer's body, to be read bit by bit.
    pub async fn begin(self) -> Body {
        let request = self.request.body(Body::from(self.body)).unwrap();
        self.app.next_instance().oneshot(request).await.unwrap().into_body()
    }

    pub async fn send(self) -> Answer {
        let request = self.request.body(Body::from(self.body)).unwrap();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (parts, body) = self.app.next_instance().oneshot(request).await.unwrap().into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        let answer = Answer { status: parts.status, headers: parts.headers, text, json };
        answer.check_conventions(&method);
        answer.check_document(&self.app.document, &method, &path);
        answer
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    /// Null where the body is not JSON.
    pub json: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.json["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Fails unless this is the error with that status and code.
    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.text);
    }

    /// Fails unless this is a `validation_failed` about exactly these fields and codes.
    #[track_caller]
    pub fn assert_fields(&self, expected: &[(&str, &str)]) {
        self.assert_error(422, "validation_failed");
        let errors = self.json["errors"].as_array().unwrap();
        let found: Vec<_> = errors
            .iter()
            .map(|error| (error["field"].as_str().unwrap(), error["code"].as_str().unwrap()))
            .collect();
        assert_eq!(found, expected, "{}", self.text);
    }

    /// Fails unless this is a success with that status; the body.
    #[track_caller]
    pub fn assert_ok(&self, status: u16) -> &Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.json["success"], true, "{}", self.text);
        &self.json
    }

    #[track_caller]
    fn check_conventions(&self, method: &Method) {
        let id = self.header("x-request-id").expect("every answer has an id");
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(self.header("referrer-policy"), Some("no-referrer"));
        assert!(self.headers.contains_key(header::CONTENT_SECURITY_POLICY));
        let status = self.status.as_u16();
        assert_eq!(status == 405, self.headers.contains_key(header::ALLOW), "{}", self.text);
        assert_eq!(status == 401, self.headers.contains_key(header::WWW_AUTHENTICATE));
        assert_eq!([429, 503].contains(&status), self.headers.contains_key(header::RETRY_AFTER));
        assert_ne!(status, 500, "{}", self.text);
        let is_json = self.header("content-type") == Some("application/json");
        if status >= 400 && is_json && method != Method::HEAD {
            assert_eq!(self.json["success"], false, "{}", self.text);
            assert_eq!(self.json["request_id"], id);
            assert!(!self.json["message"].as_str().unwrap().is_empty());
            assert_eq!(self.json.get("expired").is_some(), self.code() == "token_expired");
        }
    }

    /// Fails if the OpenAPI document does not know this answer.
    #[track_caller]
    fn check_document(&self, document: &Value, method: &Method, path: &str) {
        if [Method::OPTIONS, Method::HEAD].contains(method) || self.json.is_null() {
            return;
        }
        let segments = |path: &str| -> Vec<String> {
            path.trim_end_matches('/').split('/').map(str::to_owned).collect()
        };
        let asked = segments(path);
        let templates = document["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let template = segments(template);
            let is_same = |(one, other): (&String, &String)| one == other || one.starts_with('{');
            template.len() == asked.len() && template.iter().zip(&asked).all(is_same)
        };
        // `/users/me` fits `/users/{public_id}` too: the template with the fewest braces is the one.
        let found = templates
            .keys()
            .filter(|template| fits(template))
            .min_by_key(|t| t.matches('{').count());
        let Some(template) = found else { return };
        let operation = &templates[template][method.as_str().to_ascii_lowercase()];
        if operation.is_null() {
            return self.assert_error(405, "method_not_allowed");
        }
        let response = &operation["responses"][self.status.as_str()];
        assert!(
            !response.is_null(),
            "undocumented: {method} {template} {} {}",
            self.status,
            self.text
        );
        if self.status.as_u16() >= 400 {
            let schema = &response["content"]["application/json"]["schema"]["allOf"][1];
            let codes = schema["properties"]["code"]["enum"].as_array().unwrap();
            let known = codes.iter().any(|code| code == self.code());
            assert!(known, "undocumented: {method} {template} {} {}", self.status, self.code());
        }
    }
}

/// Of calls at once one has succeeded, and every other one was refused like this; the answer to the one.
#[track_caller]
pub fn only_winner<'a>(answers: &'a [Answer], status: u16, code: &str) -> &'a Answer {
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status.is_success());
    assert_eq!(won.len(), 1, "exactly one wins");
    for answer in lost {
        answer.assert_error(status, code);
    }
    won[0]
}

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
