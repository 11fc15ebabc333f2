//! The schema: its migration, and how it compares with this release.

use std::time::Duration;

use sqlx::PgConnection;
use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migrator};

use super::Db;

static MIGRATOR: Migrator = sqlx::migrate!();

/// Advisory lock for migrating. The number is arbitrary but must never change.
const MIGRATION_LOCK: i64 = 0x6d69_6772_6174_6500;

/// How long a blocked migration leaves the table to others before it tries again: shorter than a
/// transaction may stay idle.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    Missing,
    /// Of an older release.
    Behind,
    Current,
    /// Of a newer release, which this one works with.
    Ahead,
    /// This migration differs from the one in this release.
    Other(i64),
    /// Another application keeps its own migrations there, and none of ours has run.
    OfAnother,
    /// Current, beside migrations of another application in the same table.
    Shared,
}

/// How far ahead of this release's a version can be and still be of a later one. Other
/// applications number theirs by date.
const NEWER_AT_MOST: i64 = 100_000;

/// A row of `_sqlx_migrations`.
#[derive(Debug, sqlx::FromRow)]
struct Applied {
    version: i64,
    description: String,
    checksum: Vec<u8>,
}

impl Applied {
    /// Whether it is a migration of this release, though it may have been altered since.
    fn is_ours(&self) -> bool {
        MIGRATOR
            .iter()
            .any(|ours| ours.version == self.version && ours.description == self.description)
    }
}

impl Db {
    /// Brings the schema up to date. One process at a time does so, the others wait. Each migration
    /// is all or nothing. While another session holds a table that it needs, such as a backup that
    /// reads it, it tries again and again, and leaves the table to others in between.
    ///
    /// Where there is nothing to migrate it only reads: a role that may read and write rows, and
    /// nothing else, can serve.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        match self.schema().await? {
            Schema::Current | Schema::Ahead | Schema::Shared => return Ok(()),
            Schema::Missing => self.check_encoding().await?,
            Schema::OfAnother => return Err(MigrateError::Source(OF_ANOTHER.into())),
            Schema::Behind | Schema::Other(_) => {}
        }
        for version in self.missing_versions().await? {
            self.migrate_to(Some(version)).await?;
        }
        // Checks that those applied before are this release's own.
        self.migrate_to(None).await
    }

    /// Fails on a database that cannot hold every name. One that is in use already goes on.
    async fn check_encoding(&self) -> Result<(), MigrateError> {
        let mut conn = self.acquire().await?;
        let encoding: String = sqlx::query_scalar("select current_setting('server_encoding')")
            .fetch_one(&mut *conn)
            .await?;
        if encoding == "UTF8" {
            return Ok(());
        }
        let why = format!(
            "the database is kept in {encoding}, which cannot hold every name: make one with `create database ... \
             template template0 encoding 'UTF8' locale 'C.UTF-8'`"
        );
        Err(MigrateError::Source(why.into()))
    }

    async fn missing_versions(&self) -> sqlx::Result<Vec<i64>> {
        let done = done(&mut *self.acquire().await?).await?.unwrap_or_default();
        let all = MIGRATOR.iter().map(|migration| migration.version);
        Ok(all.filter(|version| done.iter().all(|done| done.version != *version)).collect())
    }

    async fn migrate_to(&self, version: Option<i64>) -> Result<(), MigrateError> {
        let mut tx = self.begin_nestable().await?;
        // Waits for another process that migrates, however long that takes.
        sqlx::raw_sql("set local lock_timeout = 0; set local statement_timeout = 0")
            .execute(&mut *tx)
            .await?;
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut *tx)
            .await?;
        // But not for long for a table: every other statement queues behind one that waits for it.
        // Yet longer than a second, after which PostgreSQL cancels its own autovacuum.
        sqlx::raw_sql("set local lock_timeout = '2s'").execute(&mut *tx).await?;
        // An extension that was made in a schema of its own, as Supabase does, is found there.
        sqlx::query(
            "select set_config('search_path', current_setting('search_path') || ', ' || quote_ident(nspname), true)
             from pg_extension join pg_namespace on pg_namespace.oid = extnamespace
             where extname = 'pg_trgm' and nspname <> all (current_schemas(true))
                 and has_schema_privilege(pg_namespace.oid, 'usage')",
        )
        .execute(&mut *tx)
        .await?;
        // sqlx's own lock belongs to a session, which a pooler does not keep. A newer release may
        // have migrated already while this one is still in service: migrations unknown to this one
        // do not disturb it.
        let migrator = Migrator { locking: false, ignore_missing: true, ..migrator() };
        while let Err(error) = migrator.run_direct(version, &mut *tx, false).await {
            if !is_lock_trouble(&error) {
                return Err(error);
            }
            tracing::warn!(version, "migration: waiting for a table that another session holds");
            // Other migrating processes keep waiting meanwhile: else each would ask for the table
            // in turn.
            tokio::time::sleep(RETRY).await;
        }
        tx.commit().await?;
        Ok(())
    }

    /// How the schema compares with this release.
    pub async fn schema(&self) -> sqlx::Result<Schema> {
        let Some(done) = done(&mut *self.acquire().await?).await? else {
            return Ok(Schema::Missing);
        };
        if !done.is_empty() && !done.iter().any(Applied::is_ours) {
            return Ok(Schema::OfAnother);
        }
        for migration in MIGRATOR.iter() {
            match done.iter().find(|done| done.version == migration.version) {
                None => return Ok(Schema::Behind),
                Some(done) if done.checksum != *migration.checksum => {
                    return Ok(Schema::Other(migration.version));
                }
                Some(_) => {}
            }
        }
        let newest = newest();
        let later = done.iter().filter(|done| done.version > newest);
        Ok(match later.map(|done| done.version - newest > NEWER_AT_MOST).max() {
            None => Schema::Current,
            Some(false) => Schema::Ahead,
            Some(true) => Schema::Shared,
        })
    }

    /// Whether the search in the list of users has its index, which needs `pg_trgm`.
    pub async fn has_search_index(&self) -> sqlx::Result<bool> {
        let mut conn = self.acquire().await?;
        sqlx::query_scalar("select to_regclass('users_search_idx') is not null")
            .fetch_one(&mut *conn)
            .await
    }

    /// Whether the database answers and has every migration that this release needs.
    pub async fn is_migrated(&self) -> sqlx::Result<bool> {
        let done = done(&mut *self.acquire().await?).await?;
        Ok(done.is_some_and(|done| done.iter().any(|done| done.version == newest())))
    }
}

fn newest() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

const OF_ANOTHER: &str = "another application keeps its migrations in this schema, and each would take the other's for \
     its own: give Doorward a database of its own, or a schema that search_path leads to";

/// The applied migrations; `None` if there never was one. Those of another application count only in
/// the schema that our tables would be made in, and not in one behind it in `search_path`.
async fn done(conn: &mut PgConnection) -> sqlx::Result<Option<Vec<Applied>>> {
    let places = sqlx::query_as(
        "select to_regclass('_sqlx_migrations') is not null,
             to_regclass(quote_ident(current_schema()) || '._sqlx_migrations') is not null",
    );
    let (is_anywhere, is_here): (bool, bool) = places.fetch_one(&mut *conn).await?;
    if !is_anywhere {
        return Ok(None);
    }
    let done = "select version, description, checksum from _sqlx_migrations where success";
    let done: Vec<Applied> = sqlx::query_as(done).fetch_all(conn).await?;
    let is_elsewhere_and_theirs = !is_here && !done.iter().any(Applied::is_ours);
    Ok(Some(done).filter(|_| !is_elsewhere_and_theirs))
}

/// Whether waiting for a lock timed out, or ended as a deadlock.
fn is_lock_trouble(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error
        .as_database_error()
        .and_then(DatabaseError::code)
        .is_some_and(|code| code == "55P03" || code == "40P01")
}

fn migrator() -> Migrator {
    Migrator { migrations: MIGRATOR.migrations.clone(), ..Migrator::DEFAULT }
}
