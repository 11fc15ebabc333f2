//! Who may read and write the tables, for `doctor`.

use super::Db;

/// What each table has to be open to, for us.
const NEEDED: [&str; 4] = ["select", "insert", "update", "delete"];

/// Roles for whom a program that faces the internet reads tables (`PostgREST`, as Supabase and Neon run it).
const PUBLIC_ROLES: [&str; 4] = ["anon", "anonymous", "authenticated", "web_anon"];

/// The tables of the schema, as far as they are there.
#[derive(Clone, Debug)]
pub struct Rights {
    /// What this user may not do, as `insert on users`.
    pub missing: Vec<String>,
    /// `public` or roles that stand for strangers, who may read a table.
    pub strangers: Vec<String>,
    /// Other roles that may, superusers and the owner left out.
    pub others: Vec<String>,
}

impl Db {
    pub async fn rights(&self) -> sqlx::Result<Rights> {
        let mut conn = self.acquire().await?;
        let missing = sqlx::query_scalar(
            "select privilege || ' on ' || name
             from unnest(array['users', 'sessions', 'outbox', 'audit_log', 'limits']) name,
                 unnest($1::text[]) privilege
             where not has_table_privilege(to_regclass(name)::oid, privilege)
             order by name, privilege",
        )
        .bind(NEEDED.map(str::to_owned).to_vec())
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
                 where oid = any (array[to_regclass('users'), to_regclass('sessions'),
                         to_regclass('outbox'), to_regclass('audit_log')]::oid[])
                     and has_schema_privilege(role, relnamespace, 'usage')
                     and has_any_column_privilege(role, oid, 'select')
                     and (name = 'public' or not pg_has_role(role, relowner, 'member'))
                     -- Where rows are secured and no policy shows any, a right shows nothing.
                     and (not relrowsecurity
                         or exists (select from pg_policy where polrelid = table_of_ours.oid))
             )
             order by name",
        )
        .fetch_all(&mut *conn)
        .await?;
        let is_stranger = |name: &String| name == "public" || PUBLIC_ROLES.contains(&&**name);
        let (strangers, others) = readers.into_iter().partition(is_stranger);
        Ok(Rights { missing, strangers, others })
    }

    /// Whether a table of the schema has our table's name, and none of our columns.
    pub async fn has_foreign_users(&self) -> sqlx::Result<bool> {
        let mut conn = self.acquire().await?;
        sqlx::query_scalar(
            "select to_regclass('users') is not null and not exists (
                 select from pg_attribute
                 where attrelid = to_regclass('users') and attname = 'password_hash'
             )",
        )
        .fetch_one(&mut *conn)
        .await
    }
}
