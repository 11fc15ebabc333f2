//! The way to the server: which host of a list, and which address of a name.
//!
//! The one that worked is used until it does not. Then all are tried, each beside those before it
//! and a little later, so that neither a dead one nor a standby holds up the others.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use super::connection::timed_out;
use super::detour::Detour;
use super::error::{describe, is_full_server};
use crate::config::database_url::{Hosts, Role};

/// How long one server or address may take before the next one is tried beside it (RFC 8305: 250
/// ms).
const STAGGER: Duration = Duration::from_millis(250);
/// How long one server may take in all.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How often at most it is asked why no further connection is to be had.
const EXPLAIN_INTERVAL: Duration = Duration::from_secs(10);

const FULL: &str =
    "; those that there are serve everybody: lower DATABASE_CONNECTIONS, or allow this user more";

pub(super) struct Route {
    hosts: Hosts,
    current: Mutex<Current>,
    /// Held by whoever looks for a way.
    looking: tokio::sync::Mutex<()>,
    told: Mutex<Told>,
}

/// The way that is used.
#[derive(Clone)]
struct Current {
    options: PgConnectOptions,
    /// Kept open for as long as the options lead through it.
    detour: Option<Detour>,
    /// That of the way before: connections are made by it until sqlx's pool has the new options.
    _before: Option<Detour>,
    since: Instant,
}

/// What was said last about connections that cannot be had.
#[derive(Debug, Default)]
struct Told {
    words: Option<String>,
    /// They were that the server lets no more in.
    is_full: bool,
    asked_at: Option<Instant>,
}

/// A server to try: at one address of its name, or wherever that leads.
#[derive(Clone)]
struct Candidate {
    options: PgConnectOptions,
    address: Option<SocketAddr>,
}

impl fmt::Debug for Route {
    /// Without the passwords in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Route").field(&self.hosts).finish()
    }
}

impl Route {
    pub fn new(hosts: Hosts) -> Self {
        let options = hosts.list.first().expect("a URL names one host or more").clone();
        let current = Current { options, detour: None, _before: None, since: Instant::now() };
        Self {
            hosts,
            current: Mutex::new(current),
            looking: tokio::sync::Mutex::default(),
            told: Mutex::default(),
        }
    }

    pub fn hosts(&self) -> &[PgConnectOptions] {
        &self.hosts.list
    }

    /// Of the server that is used now.
    pub fn options(&self) -> PgConnectOptions {
        self.current().options.clone()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the kind of server that was asked for.
    pub async fn suits(&self, conn: &mut PgConnection) -> sqlx::Result<bool> {
        let Some(role) = self.hosts.wanted else { return Ok(true) };
        // The second is on where an administrator closed a primary to writes.
        let asked =
            "select pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean";
        let row = conn.fetch_one(asked).await?;
        let (is_standby, is_read_only): (bool, bool) =
            (row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
        Ok(match role {
            Role::Primary => !is_standby && !is_read_only,
            Role::Standby => is_standby,
        })
    }

    /// Looks for another way than the one that did not work at `since`; returns whether there is
    /// one now.
    pub async fn find(&self, since: Instant) -> bool {
        let _looking = self.looking.lock().await;
        if self.current().since > since {
            // Somebody else has just found it.
            return true;
        }
        let candidates = self.candidates().await;
        // With one server at one address there is nothing to choose.
        let [only] = &*candidates else {
            return self.take(first_of(candidates, |candidate| self.try_out(candidate)).await);
        };
        let was_pinned = self.current().detour.is_some();
        if only.address.is_none() && self.hosts.wanted.is_none() && !was_pinned {
            return false;
        }
        let only = only.clone();
        self.take(timeout(ATTEMPT, self.try_out(only)).await.ok().flatten())
    }

    fn take(&self, found: Option<(PgConnectOptions, Option<Detour>)>) -> bool {
        let Some((options, detour)) = found else { return false };
        if self.hosts.list.len() > 1 || detour.is_some() {
            let (host, port) = (options.get_host(), options.get_port());
            tracing::info!(
                host,
                port,
                by_address = detour.is_some(),
                "database: this server is used"
            );
        }
        let mut current = self.current();
        let before = current.detour.take();
        *current = Current { options, detour, _before: before, since: Instant::now() };
        true
    }

    async fn candidates(&self) -> Vec<Candidate> {
        let of_hosts = self.hosts.list.iter().map(|options| self.candidates_of(options));
        join_all(of_hosts).await.concat()
    }

    async fn candidates_of(&self, options: &PgConnectOptions) -> Vec<Candidate> {
        let anywhere = Candidate { options: options.clone(), address: None };
        let addresses = addresses(options).await;
        match (&*addresses, self.hosts.wanted) {
            ([] | [_], _) => vec![anywhere],
            // Any of them may be the one.
            (several, Some(_)) => {
                let pinned: Vec<_> = several.iter().map(|address| anywhere.at(*address)).collect();
                [vec![anywhere], pinned].concat()
            }
            (_, None) => match first_of(addresses.clone(), reach).await {
                Some(reached) if hides(&addresses, reached).await => vec![anywhere.at(reached)],
                _ => vec![anywhere],
            },
        }
    }

    async fn try_out(&self, candidate: Candidate) -> Option<(PgConnectOptions, Option<Detour>)> {
        let Candidate { options, address } = candidate;
        let detour = address.map(|address| Detour::open(address, options.get_port())).transpose();
        let detour = detour
            .inspect_err(|error| tracing::warn!(%error, "database: no way past a dead address"))
            .ok()?;
        let options = match &detour {
            Some(detour) => detour.through(options),
            None => options,
        };
        let mut conn = timeout(ATTEMPT, options.connect()).await.ok()?.ok()?;
        let suits = timeout(ATTEMPT, self.suits(&mut conn)).await.ok()?.ok()?;
        // One that is left without a word shows in the server's log.
        let _ = timeout(STAGGER, conn.close()).await;
        suits.then_some((options, detour))
    }

    /// Whether it is time to ask again why there is no further connection.
    pub fn may_explain(&self) -> bool {
        let (now, mut told) = (Instant::now(), self.told());
        let is_due = |asked_at: Instant| now.duration_since(asked_at) >= EXPLAIN_INTERVAL;
        let may = told.asked_at.is_none_or(is_due);
        if may {
            told.asked_at = Some(now);
        }
        may
    }

    /// Tells the log, once, why the server lets no further connection in: sqlx's pool tries again
    /// and says only that its time was over.
    pub async fn explain(&self, options: &PgConnectOptions) {
        let connecting = timeout(ATTEMPT, options.connect()).await;
        let mut is_full = false;
        let words = match connecting.map_err(|_| timed_out()).flatten() {
            Ok(conn) => {
                let _ = timeout(STAGGER, conn.close()).await;
                None
            }
            Err(error) => {
                is_full = is_full_server(&error);
                Some(describe(&error))
            }
        };
        let mut told = self.told();
        told.is_full = is_full;
        match &words {
            Some(error) if told.words != words => tracing::warn!(
                error,
                "database: no further connection is to be had{}",
                if is_full { FULL } else { "" }
            ),
            _ => {}
        }
        if words.is_some() {
            told.words = words;
        }
    }

    /// A connection was made: trouble after that is told anew.
    pub fn connected(&self) {
        let mut told = self.told();
        // Of a full server some can be made, and further ones not.
        if told.words.is_some() && !told.is_full {
            told.words = None;
            tracing::info!("database: connections are to be had again");
        }
    }
}

impl Candidate {
    fn at(&self, address: SocketAddr) -> Self {
        Self { address: Some(address), ..self.clone() }
    }
}

/// The addresses of a host's name; none of a socket.
async fn addresses(options: &PgConnectOptions) -> Vec<SocketAddr> {
    let host = options.get_host();
    if options.get_socket().is_some() || host.starts_with('/') {
        return Vec::new();
    }
    let looked_up = timeout(ATTEMPT, lookup_host((host, options.get_port()))).await;
    let mut addresses: Vec<SocketAddr> =
        looked_up.ok().and_then(Result::ok).into_iter().flatten().collect();
    addresses.dedup();
    addresses
}

async fn reach(address: SocketAddr) -> Option<SocketAddr> {
    TcpStream::connect(address).await.ok().map(|_| address)
}

/// Whether an address before the one that was reached says nothing at all: sqlx would wait for it.
/// One that refuses it passes over at once.
async fn hides(addresses: &[SocketAddr], reached: SocketAddr) -> bool {
    for address in addresses.iter().take_while(|address| **address != reached) {
        if timeout(STAGGER, TcpStream::connect(*address)).await.is_err() {
            return true;
        }
    }
    false
}

/// The first result that there is, of attempts that begin one after the other; none after
/// [`ATTEMPT`].
async fn first_of<T, R, F>(tries: Vec<T>, attempt: impl Fn(T) -> F) -> Option<R>
where
    F: Future<Output = Option<R>>,
{
    let stagger = STAGGER.min(ATTEMPT / 2 / u32::try_from(tries.len()).unwrap_or(1).max(1));
    let mut attempts: FuturesUnordered<_> = (0..)
        .zip(tries)
        .map(|(place, it)| {
            let attempt = attempt(it);
            async move {
                sleep(stagger * place).await;
                attempt.await
            }
        })
        .collect();
    let found = async {
        while let Some(outcome) = attempts.next().await {
            if outcome.is_some() {
                return outcome;
            }
        }
        None
    };
    timeout(ATTEMPT, found).await.ok().flatten()
}
