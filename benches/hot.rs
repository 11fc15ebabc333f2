//! What every request is made of, each by itself: `cargo bench --bench hot`, or with a part of a
//! name after `--`.
//!
//! The password is checked by the service's own hasher and by the plain crate as its documentation
//! uses it; both have one thread.

#![expect(clippy::unwrap_used, reason = "a program that measures ends where it cannot")]

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Duration;

use argon2::{Argon2, PasswordVerifier};
use axum::extract::FromRequestParts;
use axum::http::Request;
use chrono::{DateTime, TimeDelta, Utc};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use doorward::admin::list::ListRequest;
use doorward::changes;
use doorward::clock::Clock;
use doorward::config::TokenAlgorithm;
use doorward::fields::{Password, Role};
use doorward::http::body::QueryString;
use doorward::limits::{Allowances, Attempt, LOGIN_ADDRESS, Limits, RateLimits, Refusal};
use doorward::local_postgres::{Durability, LocalPostgres};
use doorward::security::password::Requester;
use doorward::security::password::{Hasher, production_params};
use doorward::security::random_secret;
use doorward::security::token::{AccessClaims, RefreshClaims, TokenKeys};
use doorward::session_cache::SessionCache;
use doorward::store::db::Db;
use doorward::store::sessions::{Authentication, Session};
use doorward::store::standing::Standing;
use doorward::store::users::User;
use futures_util::FutureExt;
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ISSUER: &str = "https://auth.example.com";

fn user(now: DateTime<Utc>) -> User {
    User {
        id: Uuid::now_v7(),
        username: "ada".to_owned(),
        email: "ada@example.com".to_owned(),
        email_verified_at: Some(now),
        pending_email: None,
        first_name: "Ada".to_owned(),
        last_name: "Lovelace".to_owned(),
        role: Role::User,
        password_hash: String::new().into(),
        created_at: now,
        modified_at: now,
        standing: Standing::default(),
    }
}

fn access_claims(user: &User) -> AccessClaims {
    AccessClaims {
        sub: user.id,
        public_id: user.id,
        sid: Uuid::now_v7(),
        jti: Uuid::now_v7().to_string(),
        generation: Some(3),
        amr: vec!["pwd".to_owned()],
        auth_time: Some(1_750_000_000),
        username: user.username.clone(),
        email: user.email.clone(),
        email_verified: user.is_email_verified(),
        first_name: user.first_name.clone(),
        last_name: user.last_name.clone(),
        role: user.role,
        is_staff: user.role.is_staff(),
        is_admin: user.role.is_admin(),
    }
}

fn tokens(bench: &mut Criterion) {
    let now = Clock::system().now();
    let until = now + TimeDelta::hours(1);
    let keys = TokenKeys::new(&random_secret().into(), None, TokenAlgorithm::Es256, ISSUER);
    let claims = access_claims(&user(now));
    let access = keys.issue_access(&claims, now, until);
    let refresh = RefreshClaims { sub: claims.sub, sid: claims.sid, counter: 3 };
    let refresh = keys.issue_refresh(&refresh, now, until);

    bench.bench_function("access token: sign", |b| {
        b.iter(|| keys.issue_access(black_box(&claims), now, until));
    });
    let mut number = 0;
    let mut another = || {
        number += 1;
        keys.issue_access(&AccessClaims { jti: number.to_string(), ..claims.clone() }, now, until)
    };
    bench.bench_function("access token: verify", |b| {
        let open = |token: String| keys.open_access(&token, now).unwrap();
        b.iter_batched(&mut another, open, BatchSize::SmallInput);
    });
    bench.bench_function("access token: verified before", |b| {
        b.iter(|| keys.open_access(black_box(&access), now).unwrap());
    });
    bench.bench_function("refresh token: verify", |b| {
        b.iter(|| keys.open_refresh(black_box(&refresh), now).unwrap());
    });
}

fn password(bench: &mut Criterion) {
    // As low as the hasher's own threads, so that whatever else runs here disturbs both alike.
    rustix::process::setpriority_process(None, 10).unwrap();
    let mut bench = bench.benchmark_group("password");
    bench.sample_size(20);
    let runtime = Runtime::new().unwrap();
    let hasher = Hasher::new(production_params(), 1);
    let client = Requester { key: 1, is_known: false };
    let password = "a long and good one";
    let hash = runtime.block_on(hasher.hash(client, Password::claimed(password))).unwrap();

    bench.bench_function("verify", |b| {
        b.to_async(&runtime).iter(async || {
            let claimed = Password::claimed(password);
            assert!(
                hasher
                    .verify(client, claimed, Some(&hash), &std::sync::Arc::default())
                    .await
                    .unwrap()
                    .matches
            );
        });
    });
    bench.bench_function("verify with the plain crate", |b| {
        let parsed = argon2::password_hash::phc::PasswordHash::new(hash.expose_secret()).unwrap();
        b.iter(|| Argon2::default().verify_password(password.as_bytes(), &parsed).unwrap());
    });
}

fn cursor(bench: &mut Criterion) {
    let parse = |query: &str| {
        let (mut parts, ()) =
            Request::builder().uri(format!("/?{query}")).body(()).unwrap().into_parts();
        let form = QueryString::from_request_parts(&mut parts, &()).now_or_never().unwrap();
        form.and_then(|QueryString(form)| ListRequest::parse(form)).unwrap()
    };
    let last = user(Clock::system().now());
    let first_page = parse("limit=20");
    let query = format!("limit=20&after={}", first_page.cursor(&last));

    bench.bench_function("cursor: write", |b| b.iter(|| first_page.cursor(black_box(&last))));
    bench.bench_function("cursor: read, with its query", |b| b.iter(|| parse(black_box(&query))));
}

fn limit(bench: &mut Criterion) {
    let now = Clock::system().now();
    let limits = Limits::new(RateLimits::Everybody, Allowances::default(), &random_secret().into());
    let by = |ip: &str| [Attempt::by_address(&LOGIN_ADDRESS, ip.parse::<IpAddr>().ok())];
    let (free, refused) = (by("192.0.2.1"), by("203.0.113.7"));
    let refusal = Refusal { limit: LOGIN_ADDRESS.name, until: now + TimeDelta::hours(1) };
    limits.remember(&refused[0], refusal, now);

    bench.bench_function("limit: let through to the database", |b| {
        b.iter(|| assert!(limits.refused_before(black_box(&free), now).is_none()));
    });
    bench.bench_function("limit: refused from memory", |b| {
        b.iter(|| assert!(limits.refused_before(black_box(&refused), now).is_some()));
    });
}

/// Nothing is served from memory unless a database tells of changes: so there is one.
fn session_cache(bench: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let folder = std::env::temp_dir().join(format!("doorward-hot-{}", Uuid::now_v7().simple()));
    let (server, db) = runtime.block_on(async {
        let server = LocalPostgres::start(&folder, Durability::Throwaway).await.unwrap();
        let db = Db::new(server.connect_options("postgres"), 2);
        db.migrate().await.unwrap();
        (server, db)
    });
    let cache = std::sync::Arc::new(SessionCache::new(true));
    let shared = (std::sync::Arc::clone(&cache), db.clone());
    let following =
        runtime.spawn(async move { changes::follow(&shared.1, Some(&shared.0), None).await });
    while !cache.is_live() {
        std::thread::sleep(Duration::from_millis(10));
    }

    let now = Clock::system().now();
    let until = now + TimeDelta::hours(1);
    let user = user(now);
    let claims = access_claims(&user);
    let session = Session {
        id: claims.sid,
        counter: 3,
        successor_used: true,
        expires_at: until,
        authentication: Authentication { amr: claims.amr.clone(), at: now },
    };
    let token = TokenKeys::new(&random_secret().into(), None, TokenAlgorithm::Es256, ISSUER)
        .issue_access(&claims, now, until);
    let keep = || {
        let stamp = cache.stamp(user.id);
        cache.keep(&token, until, stamp, session.clone(), user.clone())
    };
    bench.bench_function("session cache: hit", |b| {
        // Kept anew once in five seconds, when what is kept has become too old.
        b.iter(|| cache.find(black_box(&token), now).unwrap_or_else(keep));
    });

    following.abort();
    runtime.block_on(async {
        db.close().await;
        server.stop().await;
    });
}

criterion_group! {
    name = hot;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = tokens, cursor, limit, session_cache, password
}
criterion_main!(hot);
