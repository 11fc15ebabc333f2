//! What is counted, and how that is written for Prometheus (its text format, version 0.0.4).
//!
//! Written by hand: a request may cost no more than a few atomic additions. Of the libraries for this, one keeps every
//! duration until it is scraped, one locks for each, and all look a series up by the hash of its labels.

use std::fmt::{Display, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

/// Counts by name. Only the program's own names: none comes from a client, so their number is bounded.
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

    /// The counts, with `known` ones even at 0: a series that begins with its first event hides that one.
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

/// The upper bounds of a histogram's buckets: in nanoseconds, and in seconds as they are written. From an answer out
/// of memory to the time after which nobody waits.
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

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a scrape gets.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        Family { text: &mut self.0, name }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(&[], value);
    }

    pub fn into_text(self) -> String {
        self.0
    }
}

/// One metric: its samples follow each other.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        // The total comes first: whatever is observed while this is written is in a bucket before it is in the sum.
        let seconds = Duration::from_nanos(histogram.nanoseconds.get()).as_secs_f64();
        let mut count = 0;
        let bounds = BOUNDS.iter().map(|(_, text)| *text).chain(["+Inf"]);
        for (bucket, bound) in histogram.buckets.iter().zip(bounds) {
            count += bucket.get();
            self.line("_bucket", &[labels, &[("le", bound)]].concat(), count);
        }
        self.line("_sum", labels, seconds);
        self.line("_count", labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (number, (name, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let before = if number == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{value}\"");
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{after} {value}");
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
    fn a_duration_counts_in_the_bucket_that_it_is_the_bound_of_and_in_every_larger_one() {
        let histogram = Histogram::default();
        for milliseconds in [1, 2, 60_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut page = Exposition::default();
        page.family("x_seconds", Kind::Histogram, "X.").histogram(&[("a", "b\"\\\n")], &histogram);
        let text = page.into_text();
        let bucket = |le: &str| {
            let start = format!(r#"x_seconds_bucket{{a="b\"\\\n",le="{le}"}} "#);
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("{start}: {text}")).to_owned()
        };
        let counts = ["0.0005", "0.001", "0.0025", "10", "+Inf"].map(bucket);
        assert_eq!(counts, ["0", "1", "2", "2", "3"]);
        assert!(text.contains("x_seconds_sum{a=\"b\\\"\\\\\\n\"} 60.003\n"), "{text}");
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
