//! What goes in and out, counted: requests by route, connections, errors, letters. Read by `GET
//! /metrics`.

use std::sync::OnceLock;
use std::time::Duration;

use axum::http::{Method, StatusCode};

use super::{Counter, Gauge, GaugeGuard, Histogram, Tally};

/// The methods and statuses that are counted separately; all others count as `other`.
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

#[derive(Default)]
pub struct Metrics {
    routes: OnceLock<Routes>,
    /// Requests that match no route.
    unmatched: Route,
    pub in_flight: Gauge,
    /// Requests whose client did not wait for the answer.
    pub abandoned: Counter,
    /// Errors by their stable code.
    pub errors: Tally,
    /// Security events by their names.
    pub events: Tally,
    pub connections: Gauge,
    /// Connections beyond the cap, on which only health and metrics are answered.
    pub over_cap: Counter,
    /// Letters by what came of an attempt to send one.
    pub letters: Tally,
}

/// The routes by their paths.
struct Routes {
    index: matchit::Router<usize>,
    routes: Vec<Route>,
}

/// One of the routes, or none of them.
#[derive(Clone, Copy, Debug)]
pub struct RouteId(Option<usize>);

impl Metrics {
    /// From now on counts these routes separately, given by axum's patterns. Only the first call
    /// counts.
    pub fn register_routes(&self, patterns: impl IntoIterator<Item = String>) {
        let mut routes = Routes { index: matchit::Router::new(), routes: Vec::new() };
        for pattern in patterns {
            if routes.index.insert(pattern.clone(), routes.routes.len()).is_ok() {
                routes.routes.push(Route { pattern: Some(pattern), ..Route::default() });
            }
        }
        let _ = self.routes.set(routes);
    }

    /// Where a path leads.
    pub fn find(&self, path: &str) -> RouteId {
        let found = self.routes.get().and_then(|routes| routes.index.at(path).ok());
        RouteId(found.map(|found| *found.value))
    }

    pub fn route(&self, id: RouteId) -> &Route {
        let known = id.0.and_then(|id| self.routes.get()?.routes.get(id));
        known.unwrap_or(&self.unmatched)
    }

    /// To be held while a request is answered.
    pub fn begin(&self) -> InFlight<'_> {
        InFlight { metrics: self, _present: self.in_flight.enter(), is_answered: false }
    }

    /// Those with a request, and the unmatched.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        let known = self.routes.get().into_iter().flat_map(|routes| &routes.routes);
        known.filter(|route| route.requests().next().is_some()).chain([&self.unmatched])
    }
}

/// Where a method stands in [`METHODS`].
fn known_method(method: &Method) -> Option<usize> {
    METHODS.iter().position(|known| *known == method.as_str())
}

/// A method as logs and spans name it: an unknown one is `_OTHER`.
pub fn method_name(method: &Method) -> &'static str {
    known_method(method).map_or("_OTHER", |index| METHODS[index])
}

/// A request in flight. Dropped without an answer, it was abandoned: the client has hung up.
#[must_use]
pub struct InFlight<'a> {
    metrics: &'a Metrics,
    _present: GaugeGuard<'a>,
    is_answered: bool,
}

impl InFlight<'_> {
    pub fn answered(mut self, route: RouteId, method: &Method, status: StatusCode, took: Duration) {
        self.is_answered = true;
        let route = self.metrics.route(route);
        let method = known_method(method);
        let status = STATUSES.iter().position(|known| *known == status.as_u16());
        let (method, status) = (method.unwrap_or(METHODS.len()), status.unwrap_or(STATUSES.len()));
        route.requests[method][status].add(1);
        route.duration.observe(took);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.metrics.abandoned.add(1);
        }
    }
}

/// The requests of one route.
#[derive(Debug, Default)]
pub struct Route {
    pattern: Option<String>,
    requests: [[Counter; STATUSES.len() + 1]; METHODS.len() + 1],
    pub duration: Histogram,
}

impl Route {
    /// `None` where no route is for the path.
    pub fn known_pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }

    pub fn pattern(&self) -> &str {
        self.known_pattern().unwrap_or("unmatched")
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
