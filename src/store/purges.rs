//! The removal of a user: what is left of one in every table, a batch of rows at a time.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// The user whose removal has been due longest, locked; none that another process is at.
pub async fn claim_next(db: &mut PgConnection, now: DateTime<Utc>) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "select id from users where purge_at <= $1
         order by purge_at limit 1 for update skip locked",
        now
    )
    .fetch_optional(db)
    .await
}

/// This user, locked, if their removal is due.
pub async fn claim(
    db: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!("select id from users where id = $1 and purge_at <= $2 for update", id, now)
        .fetch_optional(db)
        .await
}

/// Deletes at most `most` sessions of the user.
pub async fn delete_sessions(db: &mut PgConnection, user_id: Uuid, most: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with old as materialized (
             select id from sessions where user_id = $1 limit $2 for update skip locked
         )
         delete from sessions where id in (select id from old)",
        user_id,
        most
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Takes from at most `most` of the user's rows in the audit log what is more than ids. What the
/// client named its request may be anything.
pub async fn blank_audit_log(db: &mut PgConnection, user_id: Uuid, most: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with told as materialized (
             select id from audit_log
             where user_id = $1
                 and (num_nonnulls(ip, user_agent, request_id) > 0 or details <> '{}')
             order by id limit $2 for update skip locked
         )
         update audit_log a
         set ip = null, user_agent = null, request_id = null, details = '{}'
         from told where a.id = told.id",
        user_id,
        most
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Likewise from rows about others, whom the user did something to: where from, and by what program.
pub async fn blank_acts(db: &mut PgConnection, user_id: Uuid, most: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "with told as materialized (
             select id from audit_log
             where actor_id = $1 and actor_id is distinct from user_id
                 and num_nonnulls(ip, user_agent, request_id) > 0
             order by id limit $2 for update skip locked
         )
         update audit_log a set ip = null, user_agent = null, request_id = null
         from told where a.id = told.id",
        user_id,
        most
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes letters and challenges for nobody, and invitations that are over, that went to an address
/// of the user's, before the user goes with those that are theirs. Not to one that another user has
/// by now; a test is the operator's own, and an invitation's letter goes when that is over.
pub async fn delete_to_addresses(db: &mut PgConnection, user_id: Uuid) -> sqlx::Result<()> {
    let addresses = sqlx::query_scalar!(
        r#"select address as "address!" from (
             select email_key as address from users where id = $1
             union select lower(pending_email collate "C") from users where id = $1
             union select lower(recipient collate "C") from outbox where user_id = $1
             union select lower(recipient collate "C") from challenges where user_id = $1
         ) known
         where address is not null
             and not exists (select from users where email_key = address and id <> $1)"#,
        user_id
    )
    .fetch_all(&mut *db)
    .await?;
    sqlx::query!(
        r#"delete from challenges
         where user_id is null and lower(recipient collate "C") = any($1)"#,
        &addresses
    )
    .execute(&mut *db)
    .await?;
    // One that is still good is another person's, whoever has typed the address meanwhile.
    sqlx::query!(
        "delete from invitations
         where email_key = any($1) and (accepted_at is not null or revoked_at is not null)",
        &addresses
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"delete from outbox
         where user_id is null and kind not in ('test', 'invitation')
             and lower(recipient collate "C") = any($1)"#,
        &addresses
    )
    .execute(db)
    .await?;
    Ok(())
}
