//! Admins: the last one who can get in stays.

use sqlx::PgConnection;
use uuid::Uuid;

/// Advisory lock for taking an admin's role away. The number is arbitrary but must never change.
const ADMINS_LOCK: i64 = 0x6164_6d69_6e73;

/// The ids of all admins who can get in, under an advisory lock until the transaction ends, so that the caller's
/// decision about the last admin stands. Row locks would not do: a row demoted while a transaction
/// waits for it stays locked but leaves the list, and then two transactions lock the rest in
/// different orders.
pub async fn list_for_update(db: &mut PgConnection) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query!("select pg_advisory_xact_lock($1)", ADMINS_LOCK).execute(&mut *db).await?;
    sqlx::query_scalar!(
        "select id from users
         where role = 'admin' and deleted_at is null
             and (banned_at is null or banned_until <= now())"
    )
    .fetch_all(db)
    .await
}

pub async fn count(db: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from users where role = 'admin'"#)
        .fetch_one(db)
        .await
}
