//! What came of a fault, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::check::Letters;
use crate::harness::machine::note;
use crate::history::{INVARIANTS, Invariant, Operation};

#[derive(Default)]
pub struct Report {
    pub name: &'static str,
    pub took: Duration,
    pub done: usize,
    pub refused: usize,
    pub put_off: usize,
    pub unknown: usize,
    pub slowest: Option<Operation>,
    /// Before the fault.
    pub calls_a_second: f64,
    pub without_a_write: Option<Duration>,
    /// From the end of the fault.
    pub first_done: Option<Duration>,
    pub letters: Letters,
    pub broken: BTreeMap<Invariant, Vec<String>>,
    /// Why it could not be run, or not to its end.
    pub left_out: Option<String>,
    pub failed: Option<String>,
}

impl Report {
    pub fn left_out(name: &'static str, why: &str) -> Self {
        // Where all checks have to run, one that does not is a failure; but nobody else has an
        // older release at hand.
        let is_failure = std::env::var_os("CI").is_some() && !why.starts_with("DOORWARD_PREVIOUS");
        let failed = is_failure.then(|| why.to_owned());
        Self { name, left_out: Some(why.to_owned()), failed, ..Self::default() }
    }

    pub fn is_good(&self) -> bool {
        self.broken.is_empty() && self.failed.is_none()
    }

    /// Says how it went, as soon as it is known.
    pub fn tell(&self, number: usize, of: usize) {
        let verdict = match (&self.left_out, &self.failed) {
            (Some(why), _) => format!("left out: {why}"),
            (None, Some(why)) => format!("FAILED: {why}"),
            (None, None) if self.broken.is_empty() => "all kept".to_owned(),
            (None, None) => "BROKEN".to_owned(),
        };
        note(&format!(
            "[{number}/{of}] {:22} {:5.1} s  {verdict}",
            self.name,
            self.took.as_secs_f64()
        ));
        if let Some(slowest) = &self.slowest {
            note(&format!("    slowest: {} in {:.1?}", slowest.what, slowest.took()));
        }
        for (invariant, how) in &self.broken {
            for one in how.iter().take(5) {
                note(&format!("    {invariant:?}: {one}"));
            }
            if how.len() > 5 {
                note(&format!("    {invariant:?}: and {} more", how.len() - 5));
            }
        }
    }

    fn line(&self) -> String {
        if let Some(why) = &self.left_out {
            return format!("{:22} left out: {why}", self.name);
        }
        let seconds = |duration: Duration| format!("{:.1}", duration.as_secs_f64());
        let mut line = format!(
            "{:22} {:>5} {:>7.0} {:>6} {:>7} {:>7} {:>7} {:>8} {:>7} {:>8} {:>7} {:>6}  ",
            self.name,
            seconds(self.took),
            self.calls_a_second,
            self.done,
            self.refused,
            self.put_off,
            self.unknown,
            self.without_a_write.map(seconds).unwrap_or_default(),
            self.slowest.as_ref().map(|slowest| seconds(slowest.took())).unwrap_or_default(),
            self.first_done.map(seconds).unwrap_or_default(),
            self.letters.sent,
            self.letters.copies,
        );
        for (invariant, _, _) in INVARIANTS {
            let mark = match (&self.failed, self.broken.contains_key(&invariant)) {
                (Some(_), _) => "?",
                (None, true) => "NO",
                (None, false) => "+",
            };
            let _ = write!(line, " {mark:>4}");
        }
        line
    }
}

/// One line a run, and what the columns mean.
pub fn table(reports: &[Report]) -> String {
    let mut table = format!(
        "\n{:22} {:>5} {:>7} {:>6} {:>7} {:>7} {:>7} {:>8} {:>7} {:>8} {:>7} {:>6}  ",
        "fault",
        "s",
        "calls/s",
        "ok",
        "refused",
        "put off",
        "unknown",
        "no write",
        "slowest",
        "first ok",
        "letters",
        "copies"
    );
    for (_, short, _) in INVARIANTS {
        let _ = write!(table, " {short:>4}");
    }
    for report in reports {
        let _ = write!(table, "\n{}", report.line());
    }
    table.push('\n');
    for (_, short, meaning) in INVARIANTS {
        let _ = write!(table, "\n{short:>5}  {meaning}");
    }
    table.push('\n');
    table
}
