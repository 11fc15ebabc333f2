//! Instants.

use chrono::{DateTime, Datelike, SubsecRound, Utc};
use utoipa::openapi::schema::{KnownFormat, SchemaFormat};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::{FieldError, string_schema};

/// An instant in the form of RFC 3339, with its zone; in whole milliseconds, as the database keeps
/// and the API shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant(DateTime<Utc>);

impl Instant {
    pub fn parse(raw: &str) -> Result<Self, FieldError> {
        // In a query a plus that is not escaped is a blank.
        let at = DateTime::parse_from_rfc3339(&raw.replace(' ', "+")).map_err(|_| {
            let message = "Use RFC 3339 with a zone, like 2030-01-02T03:04:05Z.";
            FieldError::new("invalid_format", message)
        })?;
        let at = at.to_utc().trunc_subsecs(3);
        // RFC 3339 has none beyond, a zone can lead there, and PostgreSQL's text has no year 0.
        if !(1..10_000).contains(&at.year()) {
            return Err(FieldError::new("out_of_range", "Use a year from 0001 to 9999."));
        }
        Ok(Self(at))
    }

    pub fn get(self) -> DateTime<Utc> {
        self.0
    }
}

impl PartialSchema for Instant {
    fn schema() -> RefOr<Schema> {
        let schema = string_schema()
            .description(Some("RFC 3339, with a zone."))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples(["2030-01-02T03:04:05Z"]);
        schema.into()
    }
}

impl ToSchema for Instant {}

#[cfg(test)]
mod tests {
    use super::super::code;
    use super::*;

    #[test]
    fn an_instant_has_a_zone_and_whole_milliseconds() {
        let read = |raw| Instant::parse(raw).expect("an instant").get();
        let at = read("2030-01-02T03:04:05.678Z");
        assert_eq!(read("2030-01-02T05:04:05.6789+02:00"), at);
        assert_eq!(read("2030-01-02t03:04:05.678z"), at);
        assert_eq!(read("2030-01-02T05:04:05.678 02:00"), at);
        for bad in
            ["", "2030-01-02", "2030-01-02T03:04:05", "2030-13-02T03:04:05Z", "soon", "1893553445"]
        {
            assert_eq!(code(Instant::parse(bad)), "invalid_format", "{bad}");
        }
        assert_eq!(code(Instant::parse("9999-12-31T23:59:59-01:00")), "out_of_range");
        assert_eq!(code(Instant::parse("0000-06-01T00:00:00Z")), "out_of_range");
        assert_eq!(code(Instant::parse("0001-01-01T00:00:00+01:00")), "out_of_range");
    }
}
