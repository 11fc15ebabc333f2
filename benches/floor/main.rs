//! The floor: the least that a program on the same libraries does for the same answers. What
//! Doorward costs beyond it is the price of its rules, and `script/bench` shows that price. Its
//! logins share no statements, as Doorward's do.
//!
//! Usage: `floor PORT DATABASE_URL X Y`, X and Y being those of the JWK that signs. It reads the tables of a
//! running Doorward and writes to tables of its own.
//!
//! `floor hash plain|hasher THREADS SECONDS` checks passwords, and nothing else, on so many
//! threads: by the plain crate as its documentation uses it, or by Doorward's own hasher. It prints
//! how many a second, and microseconds of processor time for each.

#![expect(clippy::unwrap_used, reason = "a program that measures ends where it cannot")]
#![expect(clippy::print_stdout, reason = "its result")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordVerifier, Version};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use doorward::fields::Password;
use doorward::security::password::Requester;
use doorward::security::password::{Hasher, production_params};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{FromRow, Row};
use tokio::sync::Semaphore;
use uuid::Uuid;

// The one that serves it best: the plain crate asks for new memory for each hash, of which jemalloc
// makes twice the work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Floor {
    pool: PgPool,
    /// For logins: it does not ask a connection whether it still works before it lends it.
    unasked: PgPool,
    access: DecodingKey,
    /// Signs access tokens. The library's own would be parsed anew for each.
    signing: EcdsaKeyPair,
    refresh: (EncodingKey, DecodingKey),
    /// As many passwords are hashed at once as there are processors.
    hashing: Semaphore,
    /// Checks the passwords of logins: the same hasher as Doorward's, for it is what surrounds a
    /// hash that is compared.
    hasher: Hasher,
}

#[derive(sqlx::FromRow)]
struct User {
    id: Uuid,
    username: String,
    email: String,
    first_name: String,
    last_name: String,
    role: String,
    created_at: DateTime<Utc>,
    modified_at: DateTime<Utc>,
}

impl User {
    fn json(&self) -> Value {
        json!({
            "public_id": self.id, "username": self.username, "email": self.email, "first_name": self.first_name,
            "last_name": self.last_name, "role": self.role, "created_at": self.created_at,
            "modified_at": self.modified_at,
        })
    }
}

async fn hello() -> &'static str {
    "hello"
}

/// A token verified and a user read by their session, in one query.
async fn caller(floor: &Floor, headers: &HeaderMap) -> Result<User, StatusCode> {
    let token = headers.get("x-access-token").and_then(|token| token.to_str().ok());
    let mut validation = Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.validate_aud = false;
    let claims =
        decode::<Value>(token.ok_or(StatusCode::UNAUTHORIZED)?, &floor.access, &validation)
            .map_err(|_| StatusCode::UNAUTHORIZED)?
            .claims;
    let session: Uuid = claims["sid"].as_str().and_then(|id| id.parse().ok()).unwrap();
    sqlx::query_as(
        "select u.id, u.username, u.email, u.first_name, u.last_name, u.role, u.created_at, u.modified_at
         from sessions s join users u on u.id = s.user_id
         where s.id = $1 and s.ended_at is null and s.expires_at > now()",
    )
    .bind(session)
    .fetch_one(&floor.pool)
    .await
    .map_err(|_| StatusCode::UNAUTHORIZED)
}

async fn me(
    State(floor): State<Arc<Floor>>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    Ok(Json(caller(&floor, &headers).await?.json()))
}

/// The first users, or those after another one (microseconds and an id, with a comma between them),
/// for an admin.
async fn list(
    State(floor): State<Arc<Floor>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, StatusCode> {
    if caller(&floor, &headers).await?.role != "admin" {
        return Err(StatusCode::FORBIDDEN);
    }
    let query = query.unwrap();
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
    let limit: i64 = value("limit=").unwrap().parse().unwrap();
    let query = match value("after=").and_then(|after| after.split_once(',')) {
        None => sqlx::query_as(
            "select id, username, email, first_name, last_name, role, created_at, modified_at
             from users order by created_at, id limit $1",
        ),
        Some((micros, id)) => sqlx::query_as(
            "select id, username, email, first_name, last_name, role, created_at, modified_at
             from users where (created_at, id) > ($1, $2) order by created_at, id limit $3",
        )
        .bind(DateTime::from_timestamp_micros(micros.parse().unwrap()).unwrap())
        .bind(id.parse::<Uuid>().unwrap()),
    };
    let users: Vec<User> = query.bind(limit).fetch_all(&floor.pool).await.unwrap();
    Ok(Json(json!({ "users": users.iter().map(User::json).collect::<Vec<_>>() })))
}

/// A session's counter moved on and its user read in one transaction, and two tokens signed.
async fn refresh(
    State(floor): State<Arc<Floor>>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    let token = headers.get("x-refresh-token").and_then(|token| token.to_str().ok());
    let claims = decode::<Value>(
        token.ok_or(StatusCode::UNAUTHORIZED)?,
        &floor.refresh.1,
        &Validation::new(jsonwebtoken::Algorithm::HS256),
    )
    .map_err(|_| StatusCode::UNAUTHORIZED)?
    .claims;
    let id: Uuid = claims["sid"].as_str().and_then(|id| id.parse().ok()).unwrap();
    let mut tx = floor.pool.begin().await.unwrap();
    let (counter, user): (i64, Uuid) = sqlx::query_as(
        "update floor_sessions set counter = $2 + 1, rotated_at = now() where id = $1 and counter <= $2
         returning counter, user_id",
    )
    .bind(id)
    .bind(claims["counter"].as_i64().unwrap())
    .fetch_optional(&mut *tx)
    .await
    .unwrap()
    .ok_or(StatusCode::UNAUTHORIZED)?;
    let user: User = sqlx::query_as(
        "select id, username, email, first_name, last_name, role, created_at, modified_at from users where id = $1",
    )
    .bind(user)
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    Ok(Json(json!({
        "token": floor.access_token(id, &user), "refresh_token": floor.refresh_token(id, counter),
    })))
}

/// A user read by their name, their password checked, a session inserted, and two tokens signed.
async fn login(
    State(floor): State<Arc<Floor>>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    let basic = headers.get("authorization").and_then(|value| value.to_str().ok());
    let basic = basic.and_then(|value| STANDARD.decode(value.strip_prefix("Basic ")?).ok());
    let basic = String::from_utf8(basic.ok_or(StatusCode::UNAUTHORIZED)?).unwrap();
    let (name, password) = basic.split_once(':').ok_or(StatusCode::UNAUTHORIZED)?;
    let (user, hash) = {
        let row = sqlx::query(
            "select id, username, email, first_name, last_name, role, created_at, modified_at, password_hash
             from users where username_key = $1",
        );
        let row = row.bind(name).fetch_one(&floor.unasked).await;
        let row = row.map_err(|_| StatusCode::UNAUTHORIZED)?;
        (User::from_row(&row).unwrap(), row.get::<String, _>("password_hash").into())
    };
    let client = Requester { key: 1, is_known: false };
    let verdict = floor
        .hasher
        .verify(client, Password::claimed(password), Some(&hash), &Arc::default())
        .await;
    if !verdict.is_ok_and(|verdict| verdict.matches) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let id = Uuid::now_v7();
    sqlx::query("insert into floor_sessions (id, user_id) values ($1, $2)")
        .bind(id)
        .bind(user.id)
        .execute(&floor.unasked)
        .await
        .unwrap();
    Ok(Json(json!({
        "token": floor.access_token(id, &user), "refresh_token": floor.refresh_token(id, 0), "user": user.json(),
    })))
}

/// A password hashed, a user and their letter inserted in one transaction.
async fn register(State(floor): State<Arc<Floor>>, Json(body): Json<Value>) -> StatusCode {
    let password = body["password"].as_str().unwrap().to_owned();
    let turn = floor.hashing.acquire().await.unwrap();
    let hash = tokio::task::spawn_blocking(move || {
        let mut output = [0; 32];
        let params = Params::new(19_456, 2, 1, Some(32)).unwrap();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), Uuid::new_v4().as_bytes(), &mut output)
            .unwrap();
        output
    });
    let hash = hash.await.unwrap();
    drop(turn);
    let mut tx = floor.pool.begin().await.unwrap();
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into floor_users (id, username, email, password_hash) values ($1, $2, $3, $4)",
    )
    .bind(id)
    .bind(body["username"].as_str())
    .bind(body["email"].as_str())
    .bind(hash.as_slice())
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query("insert into floor_letters (id, user_id) values ($1, $2)")
        .bind(Uuid::now_v7())
        .bind(id)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    StatusCode::CREATED
}

impl Floor {
    fn refresh_token(&self, id: Uuid, counter: i64) -> String {
        let claims = json!({ "sid": id, "counter": counter, "exp": 4_000_000_000_u64 });
        encode(&Header::default(), &claims, &self.refresh.0).unwrap()
    }

    fn access_token(&self, session: Uuid, user: &User) -> String {
        let mut claims = user.json();
        claims["sid"] = json!(session);
        claims["exp"] = json!(4_000_000_000_u64);
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ES256"}"#);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.signing.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        let signature = URL_SAFE_NO_PAD.encode(signature);
        format!("{message}.{signature}")
    }
}

/// The hasher turns them off for the whole process once it has its own memory; the plain crate may
/// have them.
fn allow_huge_pages() {
    rustix::thread::disable_transparent_huge_pages(false).unwrap();
}

/// A hasher each of whose threads has its memory.
async fn warm_hasher(threads: usize) -> Hasher {
    let hasher = Hasher::new(production_params(), threads);
    let client = Requester { key: 1, is_known: false };
    let hash = || hasher.hash(client, Password::claimed("a long and good one"));
    futures_util::future::join_all((0..threads * 8).map(|_| hash())).await;
    hasher
}

/// How many passwords `threads` threads check in a second.
fn hash(how: &str, threads: usize, seconds: u64) {
    // What the hasher's threads have, so that whatever else runs here disturbs both alike.
    rustix::process::setpriority_process(None, 10).unwrap();
    let password = "a long and good one";
    let hasher = Hasher::new(production_params(), threads);
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let client = Requester { key: 1, is_known: false };
    let hash = runtime.block_on(hasher.hash(client, Password::claimed(password))).unwrap();
    let began = Instant::now();
    let deadline = began + Duration::from_secs(seconds);
    let checked: u32 = if how == "hasher" {
        // Two for each thread: one is at work, the next one waits.
        let callers: Vec<_> = (0..threads * 2)
            .map(|_| {
                let (hasher, hash) = (hasher.clone(), hash.clone());
                runtime.spawn(async move {
                    let mut checked = 0;
                    while Instant::now() < deadline {
                        let claimed = Password::claimed(password);
                        let verdict = hasher
                            .verify(client, claimed, Some(&hash), &Arc::default())
                            .await
                            .unwrap();
                        checked += u32::from(verdict.matches);
                    }
                    checked
                })
            })
            .collect();
        callers.into_iter().map(|caller| runtime.block_on(caller).unwrap()).sum()
    } else {
        allow_huge_pages();
        let check = || {
            let mut checked = 0;
            while Instant::now() < deadline {
                let parsed = PasswordHash::new(hash.expose_secret()).unwrap();
                Argon2::default().verify_password(password.as_bytes(), &parsed).unwrap();
                checked += 1;
            }
            checked
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(check)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    };
    let elapsed = began.elapsed().as_secs_f64();
    // Of Linux alone: the fields of a process's times, in hundredths of a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.split(' ').skip(13).take(2).map(|ticks| ticks.parse::<f64>().unwrap());
    let cpu = ticks.sum::<f64>() * 10_000.0;
    println!("{} {}", f64::from(checked) / elapsed, cpu / f64::from(checked + 1));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["hash", how, threads, seconds] => {
            hash(how, threads.parse().unwrap(), seconds.parse().unwrap());
        }
        [port, database, x, y] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(serve(port.parse().unwrap(), database, (x, y)));
        }
        _ => panic!("usage: floor PORT DATABASE_URL X, or floor hash plain|hasher THREADS SECONDS"),
    }
}

async fn serve(port: u16, database: &str, public: (&str, &str)) {
    let pool = PgPoolOptions::new().max_connections(10).connect(database).await.unwrap();
    sqlx::raw_sql(
        "create table if not exists floor_sessions (
             id uuid primary key, user_id uuid not null, counter bigint not null default 0, rotated_at timestamptz);
         create table if not exists floor_users (
             id uuid primary key, username text unique, email text unique, password_hash bytea);
         create table if not exists floor_letters (id uuid primary key, user_id uuid not null references floor_users);",
    )
    .execute(&pool)
    .await
    .unwrap();
    let unasked = PgPoolOptions::new().max_connections(10).test_before_acquire(false);
    let unasked = unasked.connect(database).await.unwrap();
    let secret = [7; 32];
    let processors = std::thread::available_parallelism().unwrap().get();
    let floor = Floor {
        pool,
        unasked,
        access: DecodingKey::from_ec_components(public.0, public.1).unwrap(),
        signing: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        refresh: (EncodingKey::from_secret(&secret), DecodingKey::from_secret(&secret)),
        hashing: Semaphore::new(processors),
        hasher: warm_hasher(processors).await,
    };
    allow_huge_pages();
    let app = Router::new()
        .route("/hello", get(hello))
        .route("/me", get(me))
        .route("/list", get(list))
        .route("/login", post(login))
        .route("/refresh", post(refresh))
        .route("/register", post(register))
        .with_state(Arc::new(floor));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await.unwrap();
}
