//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::time::Duration;

use super::{BOUNDS, Histogram};

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
        // The total comes first: whatever is observed while this is written is in a bucket before
        // it is in the sum.
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
}
