//! Rows that the service has to remove.

use sqlx::{AssertSqlSafe, Executor as _};

use crate::scenarios::Target;
use crate::stage::{AUDIT_LOG_DAYS, Failure, Stage, USER_ID};

/// What is removed once it is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    Sessions,
    AuditRows,
}

impl Stage {
    /// Puts old rows into the database (`rows` sessions, or what is missing in the audit log), and
    /// starts the service anew: the first that it does is to remove them.
    pub async fn begin_cleaning_up(&mut self, old: Old, rows: u64) -> Result<(), Failure> {
        match old {
            Old::Sessions => {
                let insert = format!(
                    "insert into sessions (id, user_id, created_at, expires_at, ends_at)
                     select gen_random_uuid(), {}, now() - interval '99 days', now() - interval '60 days', now() - interval '9 days'
                     from generate_series(1, $2) n",
                    USER_ID.replace("$1", "1 + n % $1")
                );
                let insert = sqlx::query(AssertSqlSafe(insert)).bind(i64::try_from(self.users)?);
                insert.bind(i64::try_from(rows)?).execute(&self.pool).await?;
            }
            Old::AuditRows => {
                let missing = self.audit_rows.saturating_sub(self.old_rows(old).await?);
                let insert = format!(
                    "insert into audit_log (at, event, user_id, session_id, ip)
                     select now() - interval '60 days' + n * interval '1 millisecond', 'login', {},
                         gen_random_uuid(), '10.0.0.0'::inet + n % 1000000
                     from generate_series(1, $2) n",
                    USER_ID.replace("$1", "1 + n * 7919 % $1")
                );
                let insert = sqlx::query(AssertSqlSafe(insert)).bind(i64::try_from(self.users)?);
                insert.bind(i64::try_from(missing)?).execute(&self.pool).await?;
                self.audit_log_days = "30";
            }
        }
        self.restart(Target::Doorward).await?;
        Ok(())
    }

    pub async fn old_rows(&self, old: Old) -> Result<u64, Failure> {
        let count = match old {
            Old::Sessions => {
                "select count(*) from sessions where expires_at < now() - interval '30 days'"
            }
            Old::AuditRows => {
                "select count(*) from audit_log where at < now() - interval '30 days'"
            }
        };
        Ok(sqlx::query_scalar::<_, i64>(count).fetch_one(&self.pool).await?.try_into()?)
    }

    /// Leaves the service nothing more to do: the sessions are removed, and the rows of the audit
    /// log, which are many, are young enough again.
    pub async fn end_cleaning_up(&mut self, old: Old) -> Result<(), Failure> {
        match old {
            Old::Sessions => {
                let rest = "delete from sessions where expires_at < now() - interval '30 days'";
                self.pool.execute(rest).await?;
                self.pool.execute("vacuum sessions").await?;
            }
            Old::AuditRows => {
                self.audit_log_days = AUDIT_LOG_DAYS;
                self.restart(Target::Doorward).await?;
            }
        }
        Ok(())
    }
}
