//! What goes in and out, counted: requests by route, connections, errors, letters. Read by `GET /metrics`.

use std::sync::OnceLock;
use std::time::Duration;

use axum::extract::MatchedPath;
use axum::http::{Method, StatusCode};

use crate::metrics::{Counter, Gauge, Histogram, Present, Tally};

/// Routes that are told apart; there are some 30.
const ROUTES: usize = 64;

/// The methods and statuses that are told apart, and one place more for whatever else a client or a handler thinks of.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const STATUSES: [u16; 22] = [
    200, 201, 202, 204, 206, 303, 304, 400, 401, 403, 404, 405, 409, 410, 413, 415, 416, 422, 429,
    431, 500, 503,
];
const OTHER: &str = "other";

/// What may come of an attempt to send a letter.
pub const LETTERS: [&str; 3] = [SENT, DELAYED, FAILED];
pub const SENT: &str = "sent";
pub const DELAYED: &str = "delayed";
pub const FAILED: &str = "failed";

#[derive(Debug)]
pub struct Traffic {
    /// In the order of their first requests, and none is ever taken away.
    routes: [OnceLock<Box<Route>>; ROUTES],
    /// What no route is for, whatever its path.
    unmatched: Box<Route>,
    pub in_flight: Gauge,
    /// Requests whose client did not wait for the answer.
    pub abandoned: Counter,
    /// Errors by their stable code.
    pub errors: Tally,
    pub connections: Gauge,
    /// Connections beyond the cap, which are answered about health alone.
    pub crowded: Counter,
    /// Letters by what came of an attempt to send one.
    pub letters: Tally,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            routes: [const { OnceLock::new() }; ROUTES],
            unmatched: Box::new(Route::new(None)),
            in_flight: Gauge::default(),
            abandoned: Counter::default(),
            errors: Tally::default(),
            connections: Gauge::default(),
            crowded: Counter::default(),
            letters: Tally::default(),
        }
    }
}

impl Traffic {
    /// To be held while a request is answered.
    pub fn begin(&self) -> InHand<'_> {
        InHand { traffic: self, _present: self.in_flight.enter(), is_answered: false }
    }

    /// Those that had a request, and the unmatched.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        let known = self.routes.iter().map_while(OnceLock::get);
        known.chain([&self.unmatched]).map(Box::as_ref)
    }

    /// By comparing patterns one by one: nearly all differ in their length, and those in use come first.
    fn route(&self, pattern: Option<&MatchedPath>) -> &Route {
        let Some(pattern) = pattern else { return &self.unmatched };
        for slot in &self.routes {
            let route = slot.get_or_init(|| Box::new(Route::new(Some(pattern.clone()))));
            if route.pattern() == pattern.as_str() {
                return route;
            }
        }
        &self.unmatched
    }
}

/// A request in hand. Dropped without an answer, it was abandoned: the client has hung up.
#[must_use]
pub struct InHand<'a> {
    traffic: &'a Traffic,
    _present: Present<'a>,
    is_answered: bool,
}

impl InHand<'_> {
    pub fn answered(
        mut self,
        route: Option<&MatchedPath>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        self.is_answered = true;
        let route = self.traffic.route(route);
        let method = METHODS.iter().position(|known| *known == method.as_str());
        let status = STATUSES.iter().position(|known| *known == status.as_u16());
        let (method, status) = (method.unwrap_or(METHODS.len()), status.unwrap_or(STATUSES.len()));
        route.requests[method][status].add(1);
        route.duration.observe(took);
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.traffic.abandoned.add(1);
        }
    }
}

/// The requests of one route.
#[derive(Debug)]
pub struct Route {
    pattern: Option<MatchedPath>,
    requests: [[Counter; STATUSES.len() + 1]; METHODS.len() + 1],
    pub duration: Histogram,
}

impl Route {
    fn new(pattern: Option<MatchedPath>) -> Self {
        Self { pattern, requests: Default::default(), duration: Histogram::default() }
    }

    pub fn pattern(&self) -> &str {
        self.pattern.as_ref().map_or("unmatched", MatchedPath::as_str)
    }

    /// Method, status and number of the requests, where there were any.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, String, u64)> {
        self.requests
            .iter()
            .enumerate()
            .flat_map(|(method, by_status)| {
                by_status.iter().enumerate().map(move |(status, count)| {
                    let method = METHODS.get(method).copied().unwrap_or(OTHER);
                    let status =
                        STATUSES.get(status).map_or_else(|| OTHER.to_owned(), u16::to_string);
                    (method, status, count.get())
                })
            })
            .filter(|(_, _, count)| *count > 0)
    }
}
