//! What `GET /metrics` answers, read as strictly as the format (Prometheus text, 0.0.4) and its
//! naming rules allow.

use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Scrape {
    /// Kind and name of every family.
    pub families: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has to end");
        let mut page = Self { families: BTreeMap::new(), samples: BTreeMap::new() };
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (name, help) = line.strip_prefix("# HELP ").unwrap().split_once(' ').unwrap();
            assert!(is_name(name) && !help.is_empty() && !help.contains('\\'), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            check_name(name, kind);
            let twice = page.families.insert(name.to_owned(), kind.to_owned());
            assert!(twice.is_none(), "{name} comes twice");
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                page.sample(name, kind, line);
            }
            if kind == "histogram" {
                page.check_histogram(name);
            }
        }
        page
    }

    #[track_caller]
    fn sample(&mut self, family: &str, kind: &str, line: &str) {
        let end = line.find(['{', ' ']).unwrap();
        let (name, rest) = line.split_at(end);
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} under {family}"));
        let suffixes: &[&str] =
            if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{line}");
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest),
            None => (Labels::new(), rest),
        };
        let value = value.strip_prefix(' ').unwrap();
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        assert!(value.starts_with(|c: char| c.is_ascii_digit()), "{line}");
        assert!(value.chars().all(is_number), "{line}");
        let sample = (name.to_owned(), labels);
        let twice = self.samples.insert(sample, value.parse().unwrap());
        assert!(twice.is_none(), "{line} comes twice");
    }

    /// Buckets grow with their bounds, and the last one is the count.
    #[track_caller]
    fn check_histogram(&self, family: &str) {
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for ((_, labels), value) in self.named(&format!("{family}_bucket")) {
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap();
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            series.entry(labels).or_default().push((bound, *value));
        }
        for (labels, mut buckets) in series {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            assert!(buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1));
            let (bound, last) = buckets.last().unwrap();
            assert!(bound.is_infinite(), "{family} {labels:?}");
            let of = |suffix: &str| self.samples[&(format!("{family}{suffix}"), labels.clone())];
            assert!((of("_count") - last).abs() < 0.5, "{family} {labels:?}");
            assert!(of("_sum") > 0.0 || *last < 0.5, "{family} {labels:?}");
        }
    }

    fn named(&self, name: &str) -> impl Iterator<Item = (&(String, Labels), &f64)> {
        self.samples.iter().filter(move |((known, _), _)| known == name)
    }

    pub fn series(&self) -> usize {
        self.samples.len()
    }

    /// Every value that a label has.
    pub fn label_values(&self, label: &str) -> Vec<&str> {
        let mut values: Vec<_> =
            self.samples.keys().filter_map(|(_, labels)| labels.get(label)).collect();
        values.sort();
        values.dedup();
        values.into_iter().map(String::as_str).collect()
    }

    /// The sum of all samples of that name with these labels; `None` where there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |own: &Labels| {
            labels.iter().all(|(label, value)| own.get(*label).is_some_and(|own| own == value))
        };
        let values: Vec<f64> =
            self.named(name).filter(|((_, own), _)| fits(own)).map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    /// Fails unless the value is larger than it was by this whole number.
    #[track_caller]
    pub fn assert_grown(&self, since: &Self, name: &str, labels: &[(&str, &str)], by: u32) {
        let before = since.find(name, labels).unwrap_or(0.0);
        let grown = self.get(name, labels) - before;
        assert!((grown - f64::from(by)).abs() < 0.5, "{name} {labels:?}: {grown} and not {by}");
    }

    /// Fails unless the value is this whole number.
    #[track_caller]
    pub fn assert(&self, name: &str, labels: &[(&str, &str)], value: u32) {
        let found = self.find(name, labels);
        assert_eq!(found, Some(f64::from(value)), "{name} {labels:?}");
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The naming rules: who it belongs to, and a unit or `total` at its end.
#[track_caller]
fn check_name(name: &str, kind: &str) {
    assert!(name.starts_with("doorward_") || name.starts_with("process_"), "{name}");
    assert_eq!(kind == "counter", name.ends_with("_total"), "{name} {kind}");
    assert!(["counter", "gauge", "histogram"].contains(&kind), "{name} {kind}");
    assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
    for reserved in ["_bucket", "_sum", "_count"] {
        assert!(!name.ends_with(reserved), "{name}");
    }
    for scaled in ["_ms", "_milliseconds", "_kilobytes", "_percent"] {
        assert!(!name.contains(scaled), "{name}: base units");
    }
}

/// The labels up to the brace, and what follows it.
#[track_caller]
fn labels(mut rest: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    loop {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(name), "{rest}");
        let end = after.find('"').unwrap();
        let value = &after[..end];
        // No label has a value that would have to be escaped: an escape before the quote would show
        // here.
        assert!(!value.is_empty() && !value.contains('\\'), "{rest}");
        assert!(labels.insert(name.to_owned(), value.to_owned()).is_none(), "{rest}");
        match after[end + 1..].split_at(1) {
            (",", more) => rest = more,
            ("}", after) => return (labels, after),
            _ => panic!("{rest}"),
        }
    }
}
