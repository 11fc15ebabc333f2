//! The floor: the least that a program on the same libraries does for the same answers. What Doorward costs beyond it is
//! the price of its rules, and `script/bench` shows that price.
//!
//! Usage: `floor PORT DATABASE_URL X`, X being that of the JWK that signs. It reads the tables of a running Doorward and writes to tables of its own.

#![expect(clippy::unwrap_used, reason = "a program that measures ends where it cannot")]

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Floor {
    pool: PgPool,
    access: DecodingKey,
    refresh: (EncodingKey, DecodingKey),
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
async fn me(
    State(floor): State<Arc<Floor>>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    let token = headers.get("x-access-token").and_then(|token| token.to_str().ok());
    let mut validation = Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.validate_aud = false;
    let claims =
        decode::<Value>(token.ok_or(StatusCode::UNAUTHORIZED)?, &floor.access, &validation)
            .map_err(|_| StatusCode::UNAUTHORIZED)?
            .claims;
    let session: Uuid = claims["sid"].as_str().and_then(|id| id.parse().ok()).unwrap();
    let user: User = sqlx::query_as(
        "select u.id, u.username, u.email, u.first_name, u.last_name, u.role, u.created_at, u.modified_at
         from sessions s join users u on u.id = s.user_id
         where s.id = $1 and s.ended_at is null and s.expires_at > now()",
    )
    .bind(session)
    .fetch_one(&floor.pool)
    .await
    .map_err(|_| StatusCode::UNAUTHORIZED)?;
    Ok(Json(user.json()))
}

/// The first twenty of all users.
async fn list(State(floor): State<Arc<Floor>>) -> Json<Value> {
    let users: Vec<User> = sqlx::query_as(
        "select id, username, email, first_name, last_name, role, created_at, modified_at
                        from users order by created_at desc, id desc limit 20",
    )
    .fetch_all(&floor.pool)
    .await
    .unwrap();
    Json(json!({ "users": users.iter().map(User::json).collect::<Vec<_>>() }))
}

/// A session's counter moved on in one transaction, and two tokens signed.
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
    let counter: i64 = sqlx::query_scalar(
        "update floor_sessions set counter = counter + 1, rotated_at = now() where id = $1 and counter = $2
         returning counter",
    )
    .bind(id)
    .bind(claims["counter"].as_i64().unwrap())
    .fetch_optional(&mut *tx)
    .await
    .unwrap()
    .ok_or(StatusCode::UNAUTHORIZED)?;
    tx.commit().await.unwrap();
    Ok(Json(json!({ "refresh_token": floor.refresh_token(id, counter) })))
}

/// A password hashed, a user and their letter inserted in one transaction.
async fn register(State(floor): State<Arc<Floor>>, Json(body): Json<Value>) -> StatusCode {
    let password = body["password"].as_str().unwrap().to_owned();
    let hash = tokio::task::spawn_blocking(move || {
        let mut output = [0; 32];
        let params = Params::new(19_456, 2, 1, Some(32)).unwrap();
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), Uuid::new_v4().as_bytes(), &mut output)
            .unwrap();
        output
    });
    let hash = hash.await.unwrap();
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
}

/// A session to refresh, for each who asks.
async fn session(State(floor): State<Arc<Floor>>) -> Json<Value> {
    let id = Uuid::now_v7();
    sqlx::query("insert into floor_sessions (id) values ($1)")
        .bind(id)
        .execute(&floor.pool)
        .await
        .unwrap();
    Json(json!({ "refresh_token": floor.refresh_token(id, 0) }))
}

#[tokio::main]
async fn main() {
    let [port, database, public_x] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else {
        panic!("usage: floor PORT DATABASE_URL X");
    };
    let pool = PgPoolOptions::new().max_connections(10).connect(database).await.unwrap();
    sqlx::raw_sql(
        "create table if not exists floor_sessions (id uuid primary key, counter bigint not null default 0, rotated_at timestamptz);
         create table if not exists floor_users (id uuid primary key, username text unique, email text unique, password_hash bytea);
         create table if not exists floor_letters (id uuid primary key, user_id uuid not null references floor_users);",
    )
    .execute(&pool)
    .await
    .unwrap();
    let secret = [7; 32];
    let floor = Floor {
        pool,
        access: DecodingKey::from_ed_components(public_x).unwrap(),
        refresh: (EncodingKey::from_secret(&secret), DecodingKey::from_secret(&secret)),
    };
    let app = Router::new()
        .route("/hello", get(hello))
        .route("/me", get(me))
        .route("/list", get(list))
        .route("/session", post(session))
        .route("/refresh", post(refresh))
        .route("/register", post(register))
        .with_state(Arc::new(floor));
    let listener =
        tokio::net::TcpListener::bind(("127.0.0.1", port.parse::<u16>().unwrap())).await.unwrap();
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app).await.unwrap();
}
