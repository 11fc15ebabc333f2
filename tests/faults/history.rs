//! What was asked, when, and how it was answered.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What the caller of one operation knows afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// 2xx.
    Done,
    /// 4xx: nothing was changed.
    Refused,
    /// 503: try again. Whether anything was changed is not known, for a commit's own answer may
    /// have been lost.
    PutOff,
    /// No answer, or not the service's own.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub what: &'static str,
    pub start: Instant,
    pub end: Instant,
    pub outcome: Outcome,
}

impl Operation {
    pub fn took(&self) -> Duration {
        self.end - self.start
    }

    /// All do but those that ask who they are, or who there is.
    pub fn writes(&self) -> bool {
        !self.what.starts_with("me") && self.what != "list"
    }
}

/// What must hold whatever breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    OnlyUnavailable,
    NoHang,
    Registrations,
    Lineage,
    Unique,
    Admin,
    Letters,
    Audit,
    Resources,
    Recovery,
}

pub const INVARIANTS: [(Invariant, &str, &str); 10] = [
    (
        Invariant::OnlyUnavailable,
        "503",
        "no 5xx but 503, and nobody is refused who was in the right",
    ),
    (Invariant::NoHang, "hang", "every answer within 10 s"),
    (Invariant::Registrations, "reg", "whoever was registered can log in, nobody else can"),
    (
        Invariant::Lineage,
        "line",
        "one living lineage a session; everybody goes on with what they hold",
    ),
    (Invariant::Unique, "uniq", "names and addresses are unique"),
    (Invariant::Admin, "adm", "an admin remains"),
    (
        Invariant::Letters,
        "mail",
        "every registration has its letter: none lost, every copy the same one",
    ),
    (Invariant::Audit, "aud", "the audit log says what happened, and nothing else"),
    (Invariant::Resources, "res", "memory and descriptors return"),
    (Invariant::Recovery, "back", "it works again by itself"),
];

/// The record of one fault.
pub struct History {
    operations: Mutex<Vec<Operation>>,
    broken: Mutex<BTreeMap<Invariant, Vec<String>>>,
}

impl History {
    pub fn new() -> Self {
        Self { operations: Mutex::default(), broken: Mutex::default() }
    }

    pub fn record(&self, operation: Operation) {
        self.operations.lock().unwrap().push(operation);
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap().clone()
    }

    pub fn broken(&self, invariant: Invariant, how: impl Into<String>) {
        self.broken.lock().unwrap().entry(invariant).or_default().push(how.into());
    }

    pub fn all_broken(&self) -> BTreeMap<Invariant, Vec<String>> {
        self.broken.lock().unwrap().clone()
    }

    pub fn count(&self, outcome: Outcome) -> usize {
        self.operations().iter().filter(|operation| operation.outcome == outcome).count()
    }

    pub fn slowest(&self) -> Option<Operation> {
        self.operations().into_iter().max_by_key(Operation::took)
    }

    /// How many calls were begun in each of the five seconds before `instant`.
    pub fn calls_a_second(&self, instant: Instant) -> f64 {
        let operations = self.operations().into_iter();
        let own = operations
            .filter(|one| one.start < instant && instant - one.start < Duration::from_secs(5));
        f64::from(u32::try_from(own.count()).unwrap()) / 5.0
    }

    /// The longest time that ended after `instant` and in which nobody was told that something was written.
    pub fn longest_without_a_write(&self, instant: Instant) -> Option<Duration> {
        let operations = self.operations().into_iter();
        let written = operations.filter(|one| one.outcome == Outcome::Done && one.writes());
        let mut ends: Vec<_> = written.map(|one| one.end).collect();
        ends.sort();
        let gaps = ends.windows(2).filter(|pair| pair[1] >= instant);
        gaps.map(|pair| pair[1] - pair[0]).max()
    }

    /// How long after `instant` the first operation was begun that was done.
    pub fn first_done_after(&self, instant: Instant) -> Option<Duration> {
        let operations = self.operations().into_iter();
        let done = operations.filter(|one| one.outcome == Outcome::Done && one.start >= instant);
        done.map(|one| one.end - instant).min()
    }
}
