//! What is counted, by whom and how often; read by `GET /metrics`.
//!
//! Written by hand: a request may cost no more than a few atomic additions. The crate `prometheus`
//! would serve too, for a registry and one more dependency.

mod process;
mod requests;
mod text;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use process::write as write_process;
pub use requests::{
    DELAYED, FAILED, InFlight, LETTERS, Metrics, Route, RouteId, SENT, method_name,
};
pub use text::{Exposition, Family, Kind};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The current number of something: each holds a [`GaugeGuard`].
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more, until the guard is dropped.
    pub fn enter(&self) -> GaugeGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self)
    }
}

#[must_use]
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Most names in a [`Tally`].
const MAX_NAMES: usize = 64;

/// Counts by name. Only the program's own names: none comes from a client, so their number is
/// bounded.
#[derive(Debug)]
pub struct Tally([OnceLock<(&'static str, Counter)>; MAX_NAMES]);

impl Default for Tally {
    fn default() -> Self {
        Self([const { OnceLock::new() }; MAX_NAMES])
    }
}

impl Tally {
    pub fn add(&self, name: &'static str) {
        for slot in &self.0 {
            let (known, count) = slot.get_or_init(|| (name, Counter::default()));
            if *known == name {
                return count.add(1);
            }
        }
    }

    /// The counts, with `known` ones even at 0: a series that begins with its first event hides
    /// that one.
    pub fn read(&self, known: impl IntoIterator<Item = &'static str>) -> Vec<(&'static str, u64)> {
        let mut counts: Vec<_> = known.into_iter().map(|name| (name, 0)).collect();
        for (name, count) in self.0.iter().filter_map(OnceLock::get) {
            match counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = count.get(),
                None => counts.push((name, count.get())),
            }
        }
        counts
    }
}

/// The upper bounds of a histogram's buckets: in nanoseconds, and in seconds as they are written.
/// From an answer out of memory to the time after which no client waits.
const BOUNDS: [(u64, &str); 15] = [
    (100_000, "0.0001"),
    (250_000, "0.00025"),
    (500_000, "0.0005"),
    (1_000_000, "0.001"),
    (2_500_000, "0.0025"),
    (5_000_000, "0.005"),
    (10_000_000, "0.01"),
    (25_000_000, "0.025"),
    (50_000_000, "0.05"),
    (100_000_000, "0.1"),
    (250_000_000, "0.25"),
    (500_000_000, "0.5"),
    (1_000_000_000, "1"),
    (2_500_000_000, "2.5"),
    (10_000_000_000, "10"),
];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len() + 1],
    nanoseconds: Counter,
}

impl Histogram {
    pub fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS.partition_point(|(bound, _)| *bound < nanoseconds)].add(1);
        self.nanoseconds.add(nanoseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_written_as_they_are_and_grow() {
        for (nanoseconds, text) in BOUNDS {
            let seconds: f64 = text.parse().expect("a number");
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(nanoseconds));
        }
        assert!(BOUNDS.is_sorted_by(|one, other| one.0 < other.0));
    }

    #[test]
    fn a_tally_that_is_full_goes_on_with_the_names_that_it_has() {
        let tally = Tally::default();
        let names: Vec<&'static str> =
            (0..200).map(|number| &*Box::leak(number.to_string().into_boxed_str())).collect();
        for _ in 0..2 {
            for name in &names {
                tally.add(name);
            }
        }
        let counts = tally.read([]);
        assert_eq!(counts.len(), MAX_NAMES);
        assert!(counts.iter().all(|(_, count)| *count == 2));
        assert_eq!(tally.read(["never"])[0], ("never", 0));
    }
}
