//! The database: there, new enough, migrated, with room for us.

use tokio::time::timeout;

use super::{Findings, Level, PATIENCE, rehearsal, tables};
use crate::cli::trouble::{UNREACHABLE, advice};
use secrecy::ExposeSecret;

use crate::cli::compose::open_database;
use crate::clock::Clock;
use crate::config::database_url::ignored_parameters;
use crate::config::{Config, Pooler};
use crate::store::db::notifications::Notifications;
use crate::store::db::{Db, Schema, ServerFacts, describe};
use crate::store::{admins, outbox};

/// The oldest PostgreSQL that the tests run on.
const OLDEST_POSTGRES: i32 = 130_000;
/// How far the database's clock may be from ours before an operator should look, in seconds.
const CLOCK_TOLERANCE: i64 = 5;
/// A letter overdue for longer than this has no worker.
const LATE_LETTER_MINUTES: i64 = 10;
/// Connections that should be left for others.
const SPARE_CONNECTIONS: i64 = 10;

pub(super) async fn examine(config: &Config) -> Findings {
    let mut findings = Findings::default();
    let (db, server) = match open_database(config).await {
        Ok(opened) => opened,
        Err(error) => {
            findings.fail("database", error.to_string());
            return findings;
        }
    };
    if server.is_some() {
        findings.ok("database", "a private PostgreSQL under .doorward/");
    }
    parameters(config, &mut findings);
    match timeout(PATIENCE, asked(config, &db, &mut findings)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            findings.fail("database", format!("{}: {}", describe(&error), advice(&error)));
        }
        Err(_) => {
            let message = format!("no answer within {PATIENCE:?}: {UNREACHABLE}");
            findings.fail("database", message);
        }
    }
    // A server that hangs would hang the close, too.
    let _ = timeout(PATIENCE / 10, db.close()).await;
    if let Some(server) = server {
        server.stop().await;
    }
    findings
}

/// Parameters of the URLs that other clients know, and that mean nothing here.
fn parameters(config: &Config, findings: &mut Findings) {
    for (variable, url) in [
        ("DATABASE_URL", &config.database_url),
        ("DATABASE_DIRECT_URL", &config.database_direct_url),
        ("DATABASE_READ_URL", &config.database_read_url),
    ] {
        let Some(url) = url else { continue };
        for (name, remedy) in ignored_parameters(url.expose_secret()) {
            findings.warn("database", format!("{variable}: {name} has no effect here: {remedy}"));
        }
    }
}

async fn asked(config: &Config, db: &Db, findings: &mut Findings) -> sqlx::Result<()> {
    let is_pooled = match config.database_pooler {
        Pooler::Present => true,
        Pooler::Absent => false,
        Pooler::Detect => db.detect_pooler().await?,
    };
    if is_pooled {
        db.assume_pooler();
    } else {
        db.assume_direct();
    }
    let facts = db.describe_server().await?;
    let schema = db.schema().await?;
    let is_in_use = !matches!(schema, Schema::Missing | Schema::OfAnother);
    server(config, db, &facts, is_in_use, findings);
    clock(&facts, findings);
    if is_pooled {
        let message = "a pooler stands in front: no prepared statements are used, and it shares its connections out";
        findings.ok("pooler", message);
        way_past_the_pooler(config, db, findings).await;
    } else {
        findings.ok("pooler", "none in front");
        connections(config, &facts, findings);
    }
    let is_foreign = schema == Schema::Missing && db.has_foreign_tables().await?;
    tables::schema(schema, is_foreign, &facts, findings);
    let is_served = matches!(schema, Schema::Current | Schema::Ahead | Schema::Shared);
    let mut may_read = is_served;
    if is_served || schema == Schema::Behind {
        let rights = db.rights().await?;
        may_read &= !rights.missing.iter().any(|right| right.starts_with("select"));
        tables::rights(&rights, findings);
        // Else what stands in the way is told already.
        let may_write = rights.missing.is_empty() && !facts.is_standby && !facts.is_read_only;
        if is_served && may_write {
            rehearsal::examine(db, findings).await;
        }
    }
    if is_served && !db.has_search_index().await? {
        let message = "without the extension pg_trgm every search in the list of users reads all of them: run `create \
                       extension if not exists pg_trgm` as a user who may, then the `create index users_search_idx` of \
                       migrations/0004_list_indexes.sql, with its schema in search_path";
        findings.warn("search", message);
    }
    // Where DATABASE_URL itself leads to a standby, that is the trouble.
    if !facts.is_standby {
        standby(db, findings).await;
    }
    if may_read {
        admins(config, db, findings).await?;
        letters(config, db, findings).await?;
    }
    Ok(())
}

async fn admins(config: &Config, db: &Db, findings: &mut Findings) -> sqlx::Result<()> {
    match admins::count(&mut *db.acquire().await?).await? {
        0 if config.first_admin.is_some() => findings.ok(
            "admins",
            "there is none yet: `serve` makes the one of ADMIN_EMAIL, unless its name or its address is taken",
        ),
        0 => findings.ok("admins", "there is none yet: make one with `doorward create-admin`"),
        number => findings.ok("admins", number.to_string()),
    }
    Ok(())
}

/// Whether a worker runs. What a mail server delays is due later, and no sign of that.
async fn letters(config: &Config, db: &Db, findings: &mut Findings) -> sqlx::Result<()> {
    let due = outbox::first_due(&mut *db.acquire().await?).await?;
    let minutes = due.map_or(0, |due| (Clock::system().now() - due).num_minutes());
    if minutes < LATE_LETTER_MINUTES {
        findings.ok("letters", "none is late");
    } else if config.worker_inside {
        let message = format!(
            "the next one has been due for {minutes} minutes: see that an instance runs, and what its log says"
        );
        findings.warn("letters", message);
    } else {
        let message = format!(
            "the next one has been due for {minutes} minutes, and WORKER=off: see that `doorward worker` runs"
        );
        findings.warn("letters", message);
    }
    Ok(())
}

/// Without it the primary does everything, so nothing about it is a failure.
async fn standby(db: &Db, findings: &mut Findings) {
    const UNTIL_THEN: &str = "the primary reads in its place";
    let facts = match db.describe_standby().await {
        Ok(None) => return,
        Ok(Some(facts)) => facts,
        Err(error) => {
            let message = format!(
                "DATABASE_READ_URL leads nowhere, and {UNTIL_THEN}: {}: correct it, or remove it",
                describe(&error)
            );
            return findings.warn("standby", message);
        }
    };
    if facts.is_other_cluster {
        let message = "DATABASE_READ_URL leads to another database's server, and lists may show what is there: correct \
                       it at once";
        findings.fail("standby", message);
    } else if !facts.is_standby {
        let message = format!(
            "DATABASE_READ_URL leads to a server that takes writes, and {UNTIL_THEN}: name a standby, or remove it"
        );
        findings.warn("standby", message);
    } else if facts.is_up_to_date {
        findings.ok("standby", "DATABASE_READ_URL leads to one, and it is as far as the primary");
    } else {
        let age = facts.age.map_or_else(String::new, |age| {
            format!(" (the newest change that it has is {age:.0} s old)")
        });
        let message = format!(
            "DATABASE_READ_URL leads to one that lags by more than a second{age}, and {UNTIL_THEN}: see that it is \
             connected to the primary and has the resources to follow"
        );
        findings.warn("standby", message);
    }
}

/// The session cache listens on a connection of its own, which no transaction pooler keeps.
async fn way_past_the_pooler(config: &Config, db: &Db, findings: &mut Findings) {
    let Some(direct) = db.direct_options().filter(|_| config.session_cache) else {
        if config.session_cache {
            let message = "every request reads the database: set DATABASE_DIRECT_URL, past the pooler, to spare it most";
            findings.ok("pooler", message);
        }
        return;
    };
    let heard = async { Notifications::listen(direct, &[]).await?.hears(db).await };
    match heard.await {
        Ok(true) => findings.ok("pooler", "DATABASE_DIRECT_URL leads past it"),
        Ok(false) => findings.warn(
            "pooler",
            "DATABASE_DIRECT_URL leads to a pooler or to another database, and every request reads the database: \
             correct it, or remove it",
        ),
        Err(error) => {
            let message = format!(
                "DATABASE_DIRECT_URL leads nowhere, and every request reads the database: {}: correct it, or remove it",
                describe(&error)
            );
            findings.warn("pooler", message);
        }
    }
}

fn server(config: &Config, db: &Db, facts: &ServerFacts, is_in_use: bool, findings: &mut Findings) {
    let version = format!("PostgreSQL {}", facts.version);
    if facts.version_number < OLDEST_POSTGRES {
        findings.fail("database", format!("{version} is too old: use 13 or later"));
    } else if facts.is_standby {
        let message = format!("{version} is a standby and takes no writes: use the primary's URL");
        findings.fail("database", message);
    } else if facts.is_read_only {
        let message = format!(
            "{version} refuses writes, since default_transaction_read_only is on: `alter database` or `alter role ... \
             reset default_transaction_read_only`, once whoever set it agrees; a full disk may be the reason"
        );
        findings.fail("database", message);
    } else if facts.encoding != "UTF8" {
        let what_next = if is_in_use { "move the rows there by `pg_dump`" } else { "use that one" };
        let message = format!(
            "{version} keeps this database in {}, which cannot hold every name: make one with `create database ... \
             template template0 encoding 'UTF8' locale 'C.UTF-8'`, {what_next}, and correct DATABASE_URL",
            facts.encoding
        );
        // What is there is served, and a name that does not fit is refused.
        findings.add("database", if is_in_use { Level::Warn } else { Level::Fail }, message);
    } else if config.is_production() && db.is_remote() && !facts.is_encrypted {
        let message = format!(
            "{version} answers without TLS: whoever is on the way reads along. Add ?sslmode=require to DATABASE_URL, or \
             verify-full with its certificate, unless the network is yours alone"
        );
        findings.warn("database", message);
    } else {
        let how = if facts.is_encrypted { "over TLS" } else { "on this machine" };
        let how = if db.is_remote() && !facts.is_encrypted { "without TLS" } else { how };
        findings.ok("database", format!("{version} answers, {how}"));
    }
}

fn clock(facts: &ServerFacts, findings: &mut Findings) {
    let seconds = (facts.now - Clock::system().now()).num_seconds();
    if seconds.abs() <= CLOCK_TOLERANCE {
        return findings.ok("clock", "the database's clock agrees with ours");
    }
    let how = if seconds > 0 { "ahead of" } else { "behind" };
    let message = format!(
        "the database's clock is {} s {how} ours, and one of the two is wrong: set both by NTP. Tokens and links begin \
         and end by ours",
        seconds.abs()
    );
    findings.warn("clock", message);
}

fn connections(config: &Config, facts: &ServerFacts, findings: &mut Findings) {
    // One more listens to what changes.
    let listening = i64::from(config.session_cache || config.worker_inside);
    let (left, wanted) =
        (facts.connections_left, i64::from(config.database_connections) + listening);
    let room = format!("{left} are left for us, and each process takes up to {wanted}");
    if left < wanted {
        let message = format!("{room}: lower DATABASE_CONNECTIONS, or put PgBouncer in front");
        findings.fail("connections", message);
    } else if left < wanted + SPARE_CONNECTIONS {
        let message = format!(
            "{room}, which leaves few for a second one and for others: lower DATABASE_CONNECTIONS, or put PgBouncer in \
             front"
        );
        findings.warn("connections", message);
    } else {
        findings.ok("connections", room);
    }
}
