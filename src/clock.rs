//! The wall clock: nothing else in the crate asks the system for the time of day.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::Serializer;

/// Where `now` comes from. Cloning a fixed clock gives the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Fixed(Arc<AtomicI64>),
}

impl Clock {
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `at` until a test advances it.
    pub fn fixed(at: DateTime<Utc>) -> Self {
        Self(Source::Fixed(Arc::new(AtomicI64::new(at.timestamp_millis()))))
    }

    /// The present instant in whole milliseconds: what the API shows is what the database keeps.
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
            Source::System => Utc::now().trunc_subsecs(3),
            Source::Fixed(millis) => DateTime::from_timestamp_millis(millis.load(Ordering::SeqCst))
                .expect("a fixed clock is set from a valid instant and moved by small steps"),
        }
    }

    /// Moves a fixed clock forward; the system's cannot be moved.
    pub fn advance(&self, by: TimeDelta) {
        match &self.0 {
            Source::System => panic!("only a fixed clock can be advanced"),
            Source::Fixed(millis) => {
                millis.fetch_add(by.num_milliseconds(), Ordering::SeqCst);
            }
        }
    }
}

/// As [`rfc3339`], of an instant that may be missing.
pub fn rfc3339_or_none<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => rfc3339(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// Writes an instant as RFC 3339 in UTC with milliseconds, `2026-01-02T03:04:05.678Z`; for
/// `serialize_with`.
pub fn rfc3339<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&in_rfc3339(*at))
}

/// As [`rfc3339`] writes it.
pub fn in_rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
