//! Logins: what is read before the password is checked, and what is written afterwards. One statement each: next to
//! password hashing PostgreSQL finds its caches cold, so every round trip counts.
//!
//! Values that would sway the planner are hidden from it in sub-selects: else it takes its custom plans for better than
//! the generic one and plans every login anew, which takes longer than running the statement.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::ipnetwork::IpNetwork;
use uuid::Uuid;

use super::Tx;
use super::audit::Event;
use super::users::User;
use crate::fields::Role;

/// Finds a user by username or e-mail address, ignoring case, and whether `address` has logged in to the account
/// before, as far as its sessions are kept.
///
/// No username contains `@` and every address does, so one query serves both. The left join always yields a row, so
/// that sessions are looked up for an unknown user too, and the answer takes equally long.
pub async fn find(
    db: &mut PgConnection,
    login: &str,
    address: Option<IpAddr>,
) -> sqlx::Result<(Option<User>, bool)> {
    // An IPv6 client has a /64 to itself and changes within it.
    let prefix = if address.is_some_and(|ip| ip.is_ipv6()) { 64 } else { 32 };
    let network = address.and_then(|ip| IpNetwork::new(ip, prefix).ok());
    // Its first and last address: a range, which an index can find.
    let (first, last) = (network.map(|net| net.network()), network.map(|net| net.broadcast()));
    let row = sqlx::query!(
        r#"select u.id as "id?", u.username as "username?", u.email as "email?", u.email_verified_at, u.pending_email,
               u.first_name as "first_name?", u.last_name as "last_name?", u.role as "role?: Role",
               u.password_hash as "password_hash?", u.created_at as "created_at?", u.modified_at as "modified_at?",
               exists (
                   select from sessions s
                   where s.user_id = coalesce(u.id, '00000000-0000-0000-0000-000000000000')
                       and s.ip between (select $2::inet) and (select $3::inet)
               ) as "is_known!"
           from (values (1)) as one left join users u on u.username_key = $1 or u.email_key = $1"#,
        login.to_ascii_lowercase(),
        first.map(IpNetwork::from),
        last.map(IpNetwork::from),
    )
    .fetch_one(db)
    .await?;
    let user = || {
        Some(User {
            id: row.id?,
            username: row.username?,
            email: row.email?,
            email_verified_at: row.email_verified_at,
            pending_email: row.pending_email,
            first_name: row.first_name?,
            last_name: row.last_name?,
            role: row.role?,
            password_hash: row.password_hash?,
            created_at: row.created_at?,
            modified_at: row.modified_at?,
        })
    };
    Ok((user(), row.is_known))
}

/// A session that a right password opens.
#[derive(Clone, Debug)]
pub struct NewSession<'a> {
    pub id: Uuid,
    pub user_id: Uuid,
    /// The hash that the password was checked against.
    pub password_hash: &'a str,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub ip: Option<IpAddr>,
    pub user_agent: Option<&'a str>,
}

/// Opens a session, refunds the login's counted attempts and records it; returns the user as they are now. `None`, with
/// nothing done, if the user is gone or has another hash by now.
///
/// Locks the user's row, so that a concurrent password change either sees this session and ends it, or is seen here:
/// after a wait for the lock the hash is compared again. Harmless when repeated.
pub async fn open(
    tx: &mut Tx,
    session: &NewSession<'_>,
    counted: &[Vec<u8>],
) -> sqlx::Result<Option<User>> {
    let event = Event {
        name: "login",
        user_id: Some(session.user_id),
        actor_id: Some(session.user_id),
        session_id: Some(session.id),
        ip: session.ip,
        ..Event::default()
    };
    let user = sqlx::query_as!(
        User,
        r#"with present as (
               select * from users where id = $2 and password_hash = $3 for no key update
           ), opened as (
               insert into sessions (id, user_id, created_at, expires_at, ends_at, ip, user_agent)
               select $1, id, $4, $5, $6, $7, $8 from present
               on conflict (id) do nothing
               returning id, user_id, created_at, ip
           ), recorded as (
               insert into audit_log (at, event, user_id, actor_id, session_id, ip)
               select created_at, $9, user_id, user_id, id, ip from opened
           ), locked as (
               select key from limits where key = any((select $10::bytea[])::bytea[]) and exists (select from opened)
               order by key for no key update
           ), given_back as (
               update limits l set level = greatest(0, level - 1) from locked where l.key = locked.key
           )
           select id as "id!", username as "username!", email as "email!", email_verified_at, pending_email,
               first_name as "first_name!", last_name as "last_name!", role as "role!: Role",
               password_hash as "password_hash!", created_at as "created_at!", modified_at as "modified_at!"
           from present"#,
        session.id,
        session.user_id,
        session.password_hash,
        session.created_at,
        session.expires_at,
        session.ends_at,
        session.ip.map(IpNetwork::from),
        session.user_agent,
        event.name,
        counted,
    )
    .fetch_optional(&mut **tx)
    .await?;
    if user.is_some() {
        tx.log_once_committed(event);
    }
    Ok(user)
}
