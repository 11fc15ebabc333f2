//! Trouble with the database, and what an operator can do about it.

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

use super::Failure;
use crate::store::db::{
    CertificateTrouble, describe, is_statement_pooling, is_unwanted_server, refuses_settings,
};

/// A failure as its reader should see it: a database's in its own words, with what to do.
pub fn explained(failure: Failure) -> Failure {
    if let Some(error) = failure.downcast_ref::<sqlx::Error>() {
        return format!("the database cannot be used: {}: {}", describe(error), advice(error))
            .into();
    }
    match failure.downcast_ref::<MigrateError>() {
        Some(error) => not_migrated(error),
        None => failure,
    }
}

/// Why the schema could not be brought up to date.
pub fn not_migrated(error: &MigrateError) -> Failure {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            let words = describe(error);
            let advice = match error.as_database_error().and_then(DatabaseError::code).as_deref() {
                Some("42501") => NOT_OURS,
                Some("42P07" | "42710") => FOREIGN,
                _ => advice(error),
            };
            format!("the database cannot be migrated: {words}: {advice}").into()
        }
        MigrateError::Source(why) => why.to_string().into(),
        MigrateError::VersionMismatch(version) => format!(
            "the database cannot be migrated: migration {version} was another one when it ran: deploy the release that \
             migrated this database; where another application keeps its tables in this schema, give Doorward a database \
             of its own"
        )
        .into(),
        error => format!("the database cannot be migrated: {error}").into(),
    }
}

const NOT_OURS: &str = "run `doorward migrate` as the role that owns the tables; for a first start this role has to be the \
     database's owner, or may create in the schema";

const FOREIGN: &str = "another application's tables are in this schema: give Doorward a database of its own, or a schema that \
     search_path leads to";

fn certificate_advice(trouble: CertificateTrouble) -> &'static str {
    match trouble {
        CertificateTrouble::UnknownAuthority => {
            "its certificate is of an authority that is not known here: name the PEM file of that authority in \
             sslrootcert"
        }
        CertificateTrouble::OtherName => {
            "its certificate is for other names: write the host in DATABASE_URL as the certificate has it, or \
             sslmode=verify-ca, which checks the authority alone"
        }
        CertificateTrouble::IsAuthority => {
            "its certificate is an authority's own (CA:TRUE), and not a server's: make the server one with CA:FALSE \
             that the authority signs, and name the authority in sslrootcert"
        }
        CertificateTrouble::OutOfTime => {
            "its certificate has expired, or is not valid yet: renew it there, and see that both clocks are right"
        }
        CertificateTrouble::Other => {
            "its certificate cannot be used: see that it is a server's, of a kind in use today"
        }
    }
}

pub const UNREACHABLE: &str = "see that PostgreSQL runs there, that host and port in DATABASE_URL lead to it, and that this \
     machine may reach it";

const POOL_MODE: &str =
    "PgBouncer lends a connection for one statement alone: set its pool_mode to transaction";

/// What the operator can do about an error of the database.
pub fn advice(error: &sqlx::Error) -> &'static str {
    if refuses_settings(error) {
        return "a pooler stands in front and refuses a setting: set DATABASE_POOLER=on, and leave options out of \
                DATABASE_URL";
    }
    if is_unwanted_server(error) {
        return "of the servers that DATABASE_URL names none takes writes, or of those of DATABASE_READ_URL none is a standby: \
                see pg_is_in_recovery() and default_transaction_read_only there";
    }
    if is_statement_pooling(error) {
        return POOL_MODE;
    }
    if let Some(trouble) = CertificateTrouble::of(error) {
        return certificate_advice(trouble);
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let says = |words: &str| error.to_string().contains(words);
    match (error, code.as_deref()) {
        (_, Some("28000")) if says("pg_hba.conf") => {
            "the server lets no such connection in: add a line for this user, database and machine to its pg_hba.conf, \
             or allow this machine where the provider keeps that list; some want sslmode=require in DATABASE_URL"
        }
        (_, Some("08P01")) if says("does not exist") || says("no such database") => {
            "create the database, or correct its name in DATABASE_URL and in PgBouncer's list"
        }
        (_, Some("08P01")) if !(says("password") || says("auth") || says("no such user")) => {
            "PgBouncer refuses: see its log"
        }
        (_, Some("28P01" | "28000" | "08P01")) => {
            "check user and password in DATABASE_URL, where special characters are percent-encoded"
        }
        (_, Some("42501")) if says("denied for database") => {
            "grant this user connect on the database, as the role that owns it"
        }
        (_, Some("42501")) if says("row-level security") => {
            "rows are secured from this user: make it the tables' owner, give it a policy, or `alter table ... disable row \
             level security`"
        }
        (_, Some("42501")) => {
            "grant this user select, insert, update and delete on every table, and select on _sqlx_migrations, as the \
             role that owns them"
        }
        (_, Some("3D000")) => "create the database, or correct its name in DATABASE_URL",
        (_, Some("53300")) => {
            "every connection is taken: end what holds them, raise max_connections, or put PgBouncer in front"
        }
        (_, Some("55000")) => {
            "allow connections to it: `alter database ... allow_connections true`"
        }
        (_, Some("3F000" | "42703" | "42804" | "42883" | "42P01")) => {
            "the tables are not as migrating left them: give back what was renamed or dropped, or restore a back-up"
        }
        (_, Some(code)) if code.starts_with("23") || code == "P0001" => {
            "something stands in the tables that is not Doorward's: a trigger, a constraint or a column that somebody added"
        }
        (_, Some("55P03" | "57014")) => {
            "somebody holds a lock on the tables for long: look into pg_stat_activity, and end that session"
        }
        (_, Some("57P03")) => "PostgreSQL is starting or stopping: try again in a moment",
        (sqlx::Error::Tls(_) | sqlx::Error::Configuration(_), _) => {
            "server and sslmode in DATABASE_URL do not agree: switch TLS on there, or, where nobody is on the way, write \
             sslmode=disable"
        }
        (_, Some(_)) => "DATABASE_URL leads to a server that does not serve us",
        _ => UNREACHABLE,
    }
}
