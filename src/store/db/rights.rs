//! Who may read and write the tables, for `doctor`.

use super::Db;

/// Every table of ours.
const TABLES: [&str; 7] =
    ["audit_log", "challenges", "invitations", "limits", "outbox", "sessions", "users"];

/// What each table has to be open to, for us.
const NEEDED: [&str; 4] = ["select", "insert", "update", "delete"];

/// Roles for whom a program that faces the internet reads tables (`PostgREST`, as Supabase and Neon run it).
const PUBLIC_ROLES: [&str; 4] = ["anon", "anonymous", "authenticated", "web_anon"];

/// The tables of the schema, as far as they are there.
#[derive(Clone, Debug)]
pub struct Rights {
    /// What this user may not do, as `insert on users`.
    pub missing: Vec<String>,
    /// `public` or roles that stand for strangers, who may read or change a table.
    pub strangers: Vec<String>,
    /// Other roles that may, superusers and the owner left out.
    pub others: Vec<String>,
}

/// Every table of ours, as SQL lists them.
pub fn table_list() -> String {
    TABLES.join(", ")
}

impl Db {
    pub async fn rights(&self) -> sqlx::Result<Rights> {
        let mut conn = self.acquire().await?;
        let missing = sqlx::query_scalar(
            "select privilege || ' on ' || name
             from unnest($2::text[]) name, unnest($1::text[]) privilege
             where not has_table_privilege(to_regclass(name)::oid, privilege)
             order by name, privilege",
        )
        .bind(NEEDED.map(str::to_owned).to_vec())
        .bind(TABLES.map(str::to_owned).to_vec())
        .fetch_all(&mut *conn)
        .await?;
        let readers: Vec<String> = sqlx::query_scalar(
            "with readers (role, name) as (
                 select 'public', 'public'
                 union all
                 select rolname::text, rolname::text from pg_roles
                 where not rolsuper and rolname <> current_user and rolname !~ '^pg_'
             )
             select name from readers
             where exists (
                 select from pg_class table_of_ours
                 where oid = any (select to_regclass(name)::oid from unnest($1::text[]) name)
                     and has_schema_privilege(role, relnamespace, 'usage')
                     and (has_any_column_privilege(role, oid, 'select, insert, update')
                         or has_table_privilege(role, oid, 'delete, truncate, trigger'))
                     and (name = 'public' or not pg_has_role(role, relowner, 'member'))
                     -- Where rows are secured and no policy shows any, a right shows nothing.
                     and (not relrowsecurity
                         or exists (select from pg_policy where polrelid = table_of_ours.oid))
             )
             order by name",
        )
        .bind(TABLES.map(str::to_owned).to_vec())
        .fetch_all(&mut *conn)
        .await?;
        let is_stranger = |name: &String| name == "public" || PUBLIC_ROLES.contains(&&**name);
        let (strangers, others) = readers.into_iter().partition(is_stranger);
        Ok(Rights { missing, strangers, others })
    }

    /// Whether a table of the schema that ours would be made in has one of our tables' names.
    pub async fn has_foreign_tables(&self) -> sqlx::Result<bool> {
        let mut conn = self.acquire().await?;
        sqlx::query_scalar(
            "select exists (
                 select from pg_class
                 where relnamespace = to_regnamespace(quote_ident(current_schema()))
                     and relname = any ($1)
             )",
        )
        .bind(TABLES.map(str::to_owned).to_vec())
        .fetch_one(&mut *conn)
        .await
    }
}
