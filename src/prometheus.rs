//! `GET /metrics`: what Prometheus asks, with `METRICS_TOKEN`; without that setting there is no
//! such path.
//!
//! It is for the operator, not for clients: the OpenAPI document leaves it out. The numbers are
//! read when they are asked for. Every label is one of a few words that the program itself has: no
//! path, address, id or name.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;
use chrono::{DateTime, TimeDelta, Utc};

use crate::config::Config;
use crate::http::credentials::bearer;
use crate::http::error::{ApiError, Code};
use crate::http::routes::Routes;
use crate::limits;
use crate::metrics::{self, Exposition, Kind, LETTERS, Route};
use crate::state::AppState;
use crate::store::audit::EventKind;
use crate::store::{outbox, sessions, users};
use crate::{security, telemetry};

/// How long the database may take; what it does not say by then is left out.
const DATABASE_TIMEOUT: Duration = Duration::from_millis(500);
/// Users and sessions are counted up to here, and estimated beyond.
const COUNTED: i64 = 10_000;
/// Letters that wait are counted up to here.
const MAX_LETTERS: i64 = 100_000;

pub fn routes(config: &Config) -> Routes {
    let routes = Routes::default();
    if config.metrics_token.is_some() { routes.route("/metrics", get(metrics)) } else { routes }
}

async fn metrics(
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    authorize(&state.config, &headers)?;
    let stored = stored(&state).await;
    let mut page = Exposition::default();
    requests(&mut page, &state);
    hashing(&mut page, &state);
    database(&mut page, &state, stored.as_ref());
    session_cache(&mut page, &state);
    log(&mut page);
    refusals(&mut page, &state);
    metrics::write_process(&mut page);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("doorward_build_info", Kind::Gauge, "1, and which release this is.")
        .sample(&version, 1);
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((content_type, page.into_text()))
}

fn authorize(config: &Config, headers: &HeaderMap) -> Result<(), ApiError> {
    let refused =
        |code: Code, message: &str| ApiError { message: Some(message.into()), ..code.into() };
    if !headers.contains_key(header::AUTHORIZATION) {
        let message = "METRICS_TOKEN is needed as authorization: Bearer.";
        return Err(refused(Code::TokenMissing, message));
    }
    match (bearer(headers), &config.metrics_token) {
        (Ok(Some(token)), Some(secret)) if security::is_secret(token, secret) => Ok(()),
        _ => Err(refused(Code::TokenInvalid, "This is not METRICS_TOKEN.")),
    }
}

/// What only the database knows.
struct Stored {
    users: i64,
    sessions: i64,
    letters: i64,
    /// For how long the oldest of the letters has waited.
    oldest: TimeDelta,
}

/// `None` where the database does not answer in time.
async fn stored(state: &AppState) -> Option<Stored> {
    // Before that it is not known whether a pooler stands in between.
    if !state.readiness.has_started() {
        return None;
    }
    let read = read(state, state.clock.now());
    tokio::time::timeout(DATABASE_TIMEOUT, read).await.ok()?.ok()
}

async fn read(state: &AppState, now: DateTime<Utc>) -> sqlx::Result<Stored> {
    let mut db = state.db.acquire().await?;
    let (letters, oldest) = outbox::count_waiting(&mut db, MAX_LETTERS).await?;
    Ok(Stored {
        users: users::count_about(&mut db, COUNTED).await?,
        sessions: sessions::count_active_about(&mut db, now, COUNTED).await?,
        letters,
        // Another instance's clock may be ahead.
        oldest: oldest.map_or(TimeDelta::zero(), |oldest| (now - oldest).max(TimeDelta::zero())),
    })
}

fn requests(page: &mut Exposition, state: &AppState) {
    let metrics = &state.metrics;
    let routes: Vec<&Route> = metrics.routes().collect();
    let help = "Requests answered, by the route's pattern; unmatched: no route has that path.";
    let mut family = page.family("doorward_http_requests_total", Kind::Counter, help);
    for route in &routes {
        for (method, status, count) in route.requests() {
            let labels = [("method", method), ("route", route.pattern()), ("status", &status)];
            family.sample(&labels, count);
        }
    }
    let help = "Time from a request's head to its answer's.";
    let mut family = page.family("doorward_http_request_duration_seconds", Kind::Histogram, help);
    for route in &routes {
        family.histogram(&[("route", route.pattern())], &route.duration);
    }
    let help = "Requests in flight, this one among them.";
    let in_flight = metrics.in_flight.get();
    page.single("doorward_http_requests_in_flight", Kind::Gauge, help, in_flight);
    let help = "Requests whose client hung up before the answer.";
    let abandoned = metrics.abandoned.get();
    page.single("doorward_http_requests_abandoned_total", Kind::Counter, help, abandoned);
    let codes = metrics.errors.read(Code::ALL.iter().map(|code| code.as_str()));
    let help = "Error answers by their code: refused tokens and all else.";
    tally(page, "doorward_http_errors_total", help, "code", &codes);
    let open = metrics.connections.get();
    page.single("doorward_connections_open", Kind::Gauge, "Connections of clients.", open);
    let help = "Connections over the cap, which are told about health and metrics alone.";
    let crowded = metrics.over_cap.get();
    page.single("doorward_connections_refused_total", Kind::Counter, help, crowded);
}

fn hashing(page: &mut Exposition, state: &AppState) {
    let (hasher, load) = (&state.hasher, state.hasher.load());
    let (known, strangers) = hasher.waiting();
    let help = "Passwords that wait to be hashed, by whether the address has logged in to the account before.";
    let mut family = page.family("doorward_hash_waiting", Kind::Gauge, help);
    family.sample(&[("client", "known")], known);
    family.sample(&[("client", "stranger")], strangers);
    let running = load.running.get();
    page.single("doorward_hash_running", Kind::Gauge, "Passwords being hashed.", running);
    let help = "Passwords that can be hashed at once.";
    page.single("doorward_hash_permits", Kind::Gauge, help, hasher.threads());
    let help = "Passwords that were not hashed, for too many waited.";
    let turned_away = load.turned_away.get();
    page.single("doorward_hash_turned_away_total", Kind::Counter, help, turned_away);
    let help = "Time that a password waited to be hashed.";
    page.family("doorward_hash_wait_seconds", Kind::Histogram, help).histogram(&[], &load.wait);
}

fn database(page: &mut Exposition, state: &AppState, stored: Option<&Stored>) {
    let help = "Whether the database answered this scrape within half a second; what it knows is left out if not.";
    let up = u8::from(stored.is_some());
    page.single("doorward_database_up", Kind::Gauge, help, up);
    let (open, idle, most) = state.db.connections();
    let used = (open as usize).saturating_sub(idle);
    let mut family =
        page.family("doorward_database_connections", Kind::Gauge, "Connections of the pool.");
    family.sample(&[("state", "idle")], idle);
    family.sample(&[("state", "used")], used);
    let help = "Connections that the pool may have.";
    page.single("doorward_database_connections_max", Kind::Gauge, help, most);
    let letters = state.metrics.letters.read(LETTERS);
    let help = "Attempts of this process to send a letter, by what came of them.";
    tally(page, "doorward_letters_total", help, "outcome", &letters);
    let Some(stored) = stored else { return };
    let help = "Letters that wait in the outbox; 100000 stands for that many and more.";
    page.single("doorward_outbox_waiting", Kind::Gauge, help, stored.letters);
    let help = "For how long the oldest letter in the outbox has waited.";
    let seconds = stored.oldest.as_seconds_f64();
    page.single("doorward_outbox_oldest_seconds", Kind::Gauge, help, seconds);
    let help = "Users; over 10000 as the database estimates.";
    page.single("doorward_users", Kind::Gauge, help, stored.users);
    let help = "Sessions that live; of over 10000 rows as the database estimates.";
    page.single("doorward_sessions", Kind::Gauge, help, stored.sessions);
}

fn log(page: &mut Exposition) {
    let help = "Lines of the log that were dropped since their reader did not keep up.";
    let dropped = telemetry::dropped_lines();
    page.single("doorward_log_lines_dropped_total", Kind::Counter, help, dropped);
}

fn session_cache(page: &mut Exposition, state: &AppState) {
    let cache = &state.session_cache;
    let help = "Access tokens whose session and user are kept in memory.";
    page.single("doorward_session_cache_entries", Kind::Gauge, help, cache.entries());
    let help = "Reads answered from memory.";
    page.single("doorward_session_cache_hits_total", Kind::Counter, help, cache.hits.get());
    let help = "Reads for which the database was asked.";
    page.single("doorward_session_cache_misses_total", Kind::Counter, help, cache.misses.get());
    let help = "Whether changes made elsewhere are heard of; if not, the database is asked for everything.";
    let live = u8::from(cache.is_live());
    page.single("doorward_session_cache_live", Kind::Gauge, help, live);
}

fn refusals(page: &mut Exposition, state: &AppState) {
    let limits = state.limits.refusals.read(limits::LIMITS.iter().map(|limit| limit.name));
    let help = "Refusals by a limit, the silent ones among them.";
    tally(page, "doorward_limit_refusals_total", help, "limit", &limits);
    let events = state.metrics.events.read(EventKind::ALL.iter().map(|kind| kind.as_str()));
    let help = "Security events, by the name that they have in the log.";
    tally(page, "doorward_security_events_total", help, "event", &events);
}

fn tally(
    page: &mut Exposition,
    name: &'static str,
    help: &str,
    label: &str,
    counts: &[(&'static str, u64)],
) {
    let mut family = page.family(name, Kind::Counter, help);
    for (value, count) in counts {
        family.sample(&[(label, value)], count);
    }
}
