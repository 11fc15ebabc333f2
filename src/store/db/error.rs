//! What an error of the database means: to the caller, to a retry, and to the log.

use std::fmt;

use rustls::CertificateError;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// The name of the unique constraint that refused a statement, if one did.
pub fn unique_violation(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()
        .filter(|error| error.is_unique_violation())
        .and_then(|error| error.constraint())
}

/// The text of an error, for people. sqlx adds a line to PostgreSQL's words, which is one of
/// PostgreSQL's source. PostgreSQL quotes the value in messages about bad data (class
/// 22), and that may be a secret. The value that violates a constraint is in the error's detail,
/// which is never shown.
pub fn describe(error: &sqlx::Error) -> String {
    match error.as_database_error().and_then(DatabaseError::code) {
        Some(code) if code.starts_with("22") => format!("the database refused a value: {code}"),
        Some(code) => {
            let message = error.as_database_error().map_or("", DatabaseError::message);
            format!("the database says: {message} ({code})")
        }
        // Our own, wrapped as a driver's.
        None if let sqlx::Error::AnyDriverError(cause) = error => cause.to_string(),
        None => error.to_string(),
    }
}

/// What is wrong with the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateTrouble {
    UnknownAuthority,
    /// It is for other hosts.
    OtherName,
    /// It is an authority's own (CA:TRUE), and no server's.
    IsAuthority,
    /// It has expired, or is not valid yet.
    OutOfTime,
    Other,
}

impl CertificateTrouble {
    /// The trouble behind a failed connection, if it is one.
    pub fn of(error: &sqlx::Error) -> Option<Self> {
        let sqlx::Error::Io(error) = error else { return None };
        let rustls::Error::InvalidCertificate(error) = error.get_ref()?.downcast_ref()? else {
            return None;
        };
        Some(match error {
            // The second: of an authority with a name that is known, and with another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Self::UnknownAuthority
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherName
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::OutOfTime,
            // webpki's own, which rustls has no name for.
            CertificateError::Other(error)
                if format!("{error:?}").contains("CaUsedAsEndEntity") =>
            {
                Self::IsAuthority
            }
            _ => Self::Other,
        })
    }
}

/// Whether only another configuration helps, and no waiting: the server and `sslmode` do not agree,
/// a pooler cannot do transactions, or the tables are out of reach.
pub fn is_hopeless(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Tls(_) | sqlx::Error::Configuration(_))
        || CertificateTrouble::of(error)
            .is_some_and(|trouble| trouble != CertificateTrouble::OutOfTime)
        || is_statement_pooling(error)
        || error
            .as_database_error()
            .and_then(DatabaseError::code)
            .is_some_and(|code| TABLES_OUT_OF_REACH.contains(&code.as_ref()))
}

/// Whether a pooler lends its connections for one statement alone.
pub fn is_statement_pooling(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        error.code().is_some_and(|code| code == "08P01")
            && error.message().contains("statement pooling")
    })
}

/// None of the servers that a URL names is of the kind that is wanted: for a list, one that takes
/// writes, or a standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwantedServer;

impl fmt::Display for UnwantedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no server that answers is of the kind that is wanted")
    }
}

impl std::error::Error for UnwantedServer {}

pub fn is_unwanted_server(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::AnyDriverError(cause) if cause.is::<UnwantedServer>())
}

/// Whether the server lets no more connections in, of anybody or of this user (53300).
pub(super) fn is_full_server(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "53300")
}

/// Whether a pooler refused the settings that a connection asked for at its start: PgBouncer in any
/// mode with 08P01, others with 0A000, "feature not supported", which PostgreSQL itself answers no
/// such start with.
pub fn refuses_settings(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| match error.code().as_deref() {
        Some("08P01") => error.message().contains("startup parameter"),
        code => code == Some("0A000"),
    })
}

/// Whether a statement failed for the values in it or the rows that it met: with others it may fare
/// better.
pub(super) fn depends_on_the_values(error: &sqlx::Error) -> bool {
    if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
        return true;
    }
    // 22 bad data; 55P03 a lock timeout, 40001 and 40P01 a lost race.
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| {
        code.starts_with("22") || ["55P03", "40001", "40P01"].contains(&code.as_ref())
    })
}

/// What PgBouncer says of a connection to the server that had ended when it was lent, or did then.
/// By the same code it refuses clients, who should not try again at once.
const ENDED_BEHIND_PGBOUNCER: [&str; 3] =
    ["invalid server parameter", "server conn crashed?", "server connection closed"];

/// Whether the connection was closed at its other end.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // An administrator, a crash, or the server's end.
            code.starts_with("57P0")
                || code == "08P01"
                    && ENDED_BEHIND_PGBOUNCER.iter().any(|text| error.message().contains(text))
        }),
        _ => false,
    }
}

/// Whether the database was unreachable or could not serve now, as opposed to a faulty statement.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::AnyDriverError(_) => is_unwanted_server(error),
        // 08 connection, 53 resources, 57 operator intervention, 58 system error; 40001 and 40P01 a
        // lost race, 25006 a standby, 55P03 a lock timeout, 55000 a database closed for
        // maintenance; 28 and 3D while it is being set up; 25P03 and 25P04 a transaction that took
        // too long and was ended.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57", "58", "28", "3D"].iter().any(|class| code.starts_with(class))
                || ["40001", "40P01", "25006", "25P03", "25P04", "55P03", "55000"]
                    .contains(&code.as_ref())
                || TABLES_OUT_OF_REACH.contains(&code.as_ref())
                || (code.starts_with("XX") && ends_connection(error.as_ref()))
                || (code == "0A000" && is_recoverys(error.as_ref()))
        }),
        _ => false,
    }
}

/// Whether a character does not exist in the encoding that the database is kept in (22P05).
pub fn cannot_hold(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "22P05")
}

/// Rights, a schema or a table that were taken away, or another application's table in place of
/// ours. No statement of ours meets them otherwise.
const TABLES_OUT_OF_REACH: [&str; 6] = ["3F000", "42501", "42703", "42804", "42883", "42P01"];

/// A standby has no rows of an unlogged table (`limits`), and says so before it can say that it is
/// read-only: a primary that was demoted. The text is in the server's language; the name of the
/// function that looks at a table for the planner is not.
fn is_recoverys(error: &dyn DatabaseError) -> bool {
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| error.routine() == Some("get_relation_info"))
}

/// An internal error (class XX) that ends a connection, or refuses one, is temporary: "could not
/// write init file" while the disk is full. In answer to a statement it is a bug or a damaged
/// table, and has to be seen.
fn ends_connection(error: &dyn DatabaseError) -> bool {
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}
