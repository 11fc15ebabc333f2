//! What an error of the database means: to the caller, to a retry, and to the log.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// The name of the unique constraint that refused a statement, if one did.
pub fn unique_violation(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()
        .filter(|error| error.is_unique_violation())
        .and_then(|error| error.constraint())
}

/// The text of an error for the log. PostgreSQL quotes the value in messages about bad data (class
/// 22), and that may be a secret. The value that violates a constraint is in the error's detail,
/// which is never shown.
pub fn describe(error: &sqlx::Error) -> String {
    match error.as_database_error().and_then(DatabaseError::code) {
        Some(code) if code.starts_with("22") => format!("the database refused a value: {code}"),
        // Our own, wrapped as a driver's.
        _ if let sqlx::Error::AnyDriverError(cause) = error => cause.to_string(),
        _ => error.to_string(),
    }
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
        // 08 connection, 53 resources, 57 operator intervention, 58 system error; 40001 and 40P01 a
        // lost race, 25006 a standby, 55P03 a lock timeout, 55000 a database closed for
        // maintenance; 28 and 3D while it is being set up; 25P03 a transaction that was idle for
        // too long and was ended.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57", "58", "28", "3D"].iter().any(|class| code.starts_with(class))
                || ["40001", "40P01", "25006", "25P03", "55P03", "55000"].contains(&code.as_ref())
                || (code.starts_with("XX") && ends_connection(error.as_ref()))
                || (code == "0A000" && is_recoverys(error.as_ref()))
        }),
        _ => false,
    }
}

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
