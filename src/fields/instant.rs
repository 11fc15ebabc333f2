//! Instants.

use chrono::{DateTime, Datelike, Utc};

use super::FieldError;

/// Reads an instant of RFC 3339, which names its zone.
pub fn parse_instant(raw: &str) -> Result<DateTime<Utc>, FieldError> {
    // In a query a plus that is not escaped is a blank.
    let read = DateTime::parse_from_rfc3339(&raw.replace(' ', "+"));
    let at = read.ok().map(|at| at.with_timezone(&Utc));
    // PostgreSQL's text knows no year 0.
    at.filter(|at| (1..=9999).contains(&at.year())).ok_or_else(|| {
        let text = "Use an instant with its zone, such as 2026-01-02T03:04:05Z.";
        FieldError::new("invalid_format", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_names_its_zone() {
        let at = |raw: &str| parse_instant(raw).map(|at| at.to_rfc3339());
        for same in
            ["2026-01-02T03:04:05Z", "2026-01-02T05:04:05+02:00", "2026-01-02t05:04:05 02:00"]
        {
            assert_eq!(at(same).as_deref(), Ok("2026-01-02T03:04:05+00:00"), "{same}");
        }
        for bad in [
            "",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "1767323045",
            "yesterday",
            "2026-13-02T03:04:05Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:30:00-01:00",
        ] {
            assert_eq!(super::super::code(at(bad)), "invalid_format", "{bad}");
        }
    }
}
