//! The tables: of this release or not, and open to whom.

use super::Findings;
use crate::store::db::{Rights, Schema, ServerFacts, table_list};

/// What we may do to the tables, and who else reads them.
pub(super) fn rights(rights: &Rights, findings: &mut Findings) {
    if !rights.missing.is_empty() {
        let message = format!(
            "this user may not {}, and calls that have to fail: grant it select, insert, update and delete on every \
             table, as the role that owns them",
            rights.missing.join(", ")
        );
        findings.fail("rights", message);
    }
    if !rights.strangers.is_empty() {
        let (who, tables) = (rights.strangers.join(", "), table_list());
        let message = format!(
            "strangers may read or change tables with password hashes or sessions: {who} may, for whom Supabase and PostgREST \
             answer anybody. As the tables' owner run `revoke all on {tables} from {who}`; better give Doorward a schema or a database of its own, which that program does not serve"
        );
        findings.fail("rights", message);
    }
    if rights.missing.is_empty() && rights.strangers.is_empty() {
        let others = match rights.others.join(", ") {
            none if none.is_empty() => String::new(),
            others => format!("; others that may read: {others}"),
        };
        findings.ok("rights", format!("rows of every table may be read and written{others}"));
    }
}

/// How the schema compares with this release.
pub(super) fn schema(
    schema: Schema,
    is_foreign: bool,
    facts: &ServerFacts,
    findings: &mut Findings,
) {
    const MIGRATE: &str = "`doorward migrate`, or start `doorward serve`, which migrates first";
    match schema {
        _ if facts.schema.is_none() => findings.fail(
            "migrations",
            "search_path leads to no schema that is there and may be used: `create schema` with that name, `grant usage on \
             schema` to this user, or `alter role ... reset search_path`",
        ),
        Schema::Missing if is_foreign => findings.fail(
            "migrations",
            "the schema has tables of another application with the names of ours: give Doorward a database of its own, or \
             a schema that search_path leads to (`alter role ... in database ... set search_path`)",
        ),
        Schema::Missing | Schema::Behind if !facts.may_create_tables => findings.fail(
            "migrations",
            "the schema is not up to date, and this user may not create tables: make it the database's owner, or grant \
             it create on the schema",
        ),
        Schema::Missing => findings.warn("migrations", format!("there are no tables yet: {MIGRATE}")),
        Schema::Behind => {
            findings.warn("migrations", format!("the schema is an older release's: {MIGRATE}"));
        }
        Schema::Current => findings.ok("migrations", "the schema is up to date"),
        Schema::Ahead => findings.warn(
            "migrations",
            "the schema is a newer release's, beside which this one goes on working: deploy the newer one",
        ),
        Schema::OfAnother => findings.fail(
            "migrations",
            "another application keeps its migrations in this schema, and each would take the other's for its own: give \
             Doorward a database of its own, or a schema that search_path leads to",
        ),
        Schema::Shared => findings.warn(
            "migrations",
            "the schema is up to date, and another application keeps its migrations in the same table, which may stop \
             that one: move it to a schema of its own",
        ),
        Schema::Other(version) => findings.fail(
            "migrations",
            format!(
                "migration {version} was another one when it ran, and this release will not start: deploy the release \
                 that migrated this database"
            ),
        ),
    }
}
