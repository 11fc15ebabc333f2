//! What `doctor` asks the server about itself.

use chrono::{DateTime, Utc};

use super::Db;

/// A PostgreSQL server as it presents itself.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct ServerFacts {
    pub version: String,
    /// 150004 for 15.4.
    pub version_number: i32,
    pub now: DateTime<Utc>,
    /// Doorward's own connections count as left.
    pub connections_left: i64,
    pub is_standby: bool,
    pub may_create_tables: bool,
    pub is_encrypted: bool,
    /// Such as `UTF8`.
    pub encoding: String,
    /// New transactions may not write, unless they ask to.
    pub is_read_only: bool,
    /// The first schema of the search path that is there.
    pub schema: Option<String>,
}

impl Db {
    /// Asks the server.
    pub async fn describe_server(&self) -> sqlx::Result<ServerFacts> {
        let mut conn = self.acquire().await?;
        // An ordinary user sees only the number of other users' connections. Doorward's own count
        // as left.
        sqlx::query_as(
            "with ours as (
                 select count(*) as all,
                     count(*) filter (where application_name = 'doorward') as doorward,
                     count(*) filter (where application_name = 'doorward' and datname = current_database()) as here
                 from pg_stat_activity where usename = current_user
             )
             select current_setting('server_version') as version,
                 current_setting('server_version_num')::integer as version_number,
                 clock_timestamp() as now,
                 least(
                     current_setting('max_connections')::bigint
                         - current_setting('superuser_reserved_connections')::bigint
                         - (select sum(numbackends)::bigint from pg_stat_database) + ours.doorward,
                     (select nullif(rolconnlimit, -1) from pg_roles where rolname = current_user)
                         - ours.all + ours.doorward,
                     (select nullif(datconnlimit, -1) from pg_database where datname = current_database())
                         - (select numbackends from pg_stat_database where datname = current_database()) + ours.here
                 ) as connections_left,
                 pg_is_in_recovery() as is_standby,
                 coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create_tables,
                 coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as is_encrypted,
                 current_setting('server_encoding') as encoding,
                 current_setting('default_transaction_read_only')::boolean as is_read_only,
                 current_schema()::text as schema
             from ours",
        )
        .fetch_one(&mut *conn)
        .await
    }
}
