//! Logins: what is read before the password is checked, and what is written afterwards. One
//! statement each, shared by the logins that come together: next to password hashing PostgreSQL
//! finds its caches cold, so every statement counts. Ten round trips of a login
//! became two (4e31c36), 590 us of PostgreSQL's time 200 to 270 (3e790e2).
//!
//! Values that would sway the planner are hidden from it in sub-selects: else it takes its custom
//! plans for better than the generic one and plans every login anew, which takes longer than
//! running the statement.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgConnection;
use sqlx::types::ipnetwork::IpNetwork;
use uuid::Uuid;

use super::db::{Batcher, Db};
use super::users::{User, query_users, user_of};

use crate::network::Network;

/// Who wants to log in: a username or an e-mail address, and where they call from.
#[derive(Clone, Debug)]
pub struct LoginLookup {
    /// In lower case.
    pub login: String,
    pub address: Option<IpAddr>,
    /// The session of a genuine refresh token that the client holds.
    pub device: Option<Uuid>,
}

/// The user, and whether the address or the device has logged in to the account before.
pub type LoginCandidate = (Option<User>, bool);

/// A session that a right password opens.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub id: Uuid,
    pub user_id: Uuid,
    /// The hash that the password was checked against; `None` where another proof opens the
    /// session.
    pub password_hash: Option<SecretString>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub ends_at: DateTime<Utc>,
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    /// What the program calls itself.
    pub device_hash: Option<Vec<u8>>,
    /// Of the call that opens it; several share the statement.
    pub request_id: Option<String>,
    /// The keys of the limits under which the login was counted as an attempt.
    pub counted: Vec<Vec<u8>>,
}

/// The logins of this process.
pub struct Logins {
    db: Db,
    finding: Batcher<LoginLookup, LoginCandidate>,
    opening: Batcher<NewSession, Option<User>>,
}

impl Logins {
    pub fn new(db: Db) -> Self {
        Self { db, finding: Batcher::default(), opening: Batcher::default() }
    }

    /// Finds a user by username or e-mail address, ignoring case, and whether the address or the
    /// device has logged in to the account before, as far as its sessions are kept. A session that
    /// a change of the password, a theft or its owner's word has ended makes neither known.
    pub async fn find(&self, lookup: LoginLookup) -> sqlx::Result<LoginCandidate> {
        let (db, claim) = (self.db.clone(), lookup);
        let find = move |claims: Vec<LoginLookup>| {
            let (db, claims) = (db.clone(), Arc::new(claims));
            async move {
                db.read(|conn| {
                    let claims = Arc::clone(&claims);
                    Box::pin(async move { find_all(conn, &claims).await })
                })
                .await
            }
        };
        self.finding.ask(claim, find).await
    }

    /// Opens a session, refunds the login's counted attempts and records it, but does not log it;
    /// returns the user as they are now. `None`, with nothing done, if the user is gone, has
    /// another hash by now, or may not get in.
    pub async fn open(&self, session: NewSession) -> sqlx::Result<Option<User>> {
        let db = self.db.clone();
        let open = move |sessions: Vec<NewSession>| {
            let (db, sessions) = (db.clone(), Arc::new(sessions));
            async move {
                let is_final = sessions.len() == 1;
                let open = db.write(|conn| {
                    let sessions = Arc::clone(&sessions);
                    Box::pin(async move { open_all(conn, &sessions).await })
                });
                let opened = open.await?.into_iter();
                Ok(opened.map(|user| (user.is_some() || is_final).then_some(user)).collect())
            }
        };
        self.opening.ask(session, open).await
    }
}

/// As [`Logins::find`], for all of `claims`, in their order.
///
/// No username contains `@` and every address does, so one query serves both. The left join always
/// yields a row, so that sessions are looked up for an unknown user too, and the answer takes
/// equally long.
pub async fn find_all(
    db: &mut PgConnection,
    claims: &[LoginLookup],
) -> sqlx::Result<Vec<Option<LoginCandidate>>> {
    let logins: Vec<&str> = claims.iter().map(|claim| claim.login.as_str()).collect();
    // Of each network the first and the last address: a range, which an index can find.
    let (first, last): (Vec<_>, Vec<_>) = claims
        .iter()
        .map(|claim| {
            let network = claim.address.map(Network::client);
            network.map(|net| (IpNetwork::from(net.first), IpNetwork::from(net.last))).unzip()
        })
        .unzip();
    let devices: Vec<Option<Uuid>> = claims.iter().map(|claim| claim.device).collect();
    let rows = query_users!(
        r#"select claim.number as "number!", "#
            + COLUMNS
            + r#",
               exists (
                   select from sessions s
                   where s.user_id = coalesce(u.id, '00000000-0000-0000-0000-000000000000')
                       and s.ip between claim.first and claim.last
                       and s.end_reason is distinct from 'password_changed'
                       and s.end_reason is distinct from 'password_reset'
                       and s.end_reason is distinct from 'refresh_token_reused'
                       and s.end_reason is distinct from 'not_me'
               ) or exists (
                   select from sessions s
                   where s.id = claim.device and s.user_id = u.id
                       and s.end_reason is distinct from 'password_changed'
                       and s.end_reason is distinct from 'password_reset'
                       and s.end_reason is distinct from 'refresh_token_reused'
                       and s.end_reason is distinct from 'not_me'
               ) as "is_known!"
           from unnest((select $1::text[]), (select $2::inet[]), (select $3::inet[]),
                   (select $4::uuid[]))
               with ordinality as claim (login, first, last, device, number)
           left join users u on u.username_key = claim.login or u.email_key = claim.login"#,
        &logins as &[&str],
        &first as &[Option<IpNetwork>],
        &last as &[Option<IpNetwork>],
        &devices as &[Option<Uuid>],
    )
    .fetch_all(db)
    .await?;
    let mut found = vec![None; claims.len()];
    for row in rows {
        let (number, is_known) = (row.number, row.is_known);
        let user = || Some(user_of!(row?));
        // They count from 1.
        let place = usize::try_from(number - 1).ok().and_then(|index| found.get_mut(index));
        *place.ok_or(sqlx::Error::RowNotFound)? = Some((user(), is_known));
    }
    Ok(found)
}

/// The statement of [`open_all`], apart from the values that it is given.
macro_rules! open_statement {
    ($($value:expr),* $(,)?) => {
        query_users!(
            r#"with
               -- The sessions to open.
               asked as materialized (
                   select * from unnest(
                       (select $1::uuid[]), (select $2::uuid[]), (select $3::text[]),
                       (select $4::timestamptz[]), (select $5::timestamptz[]),
                       (select $6::timestamptz[]), (select $7::inet[]), (select $8::text[]),
                       (select $12::text[]), (select $13::bytea[])
                   ) as asked (
                       session_id, user_id, hash, opened_at, expires_at, ends_at, ip, user_agent,
                       request_id, device_hash
                   )
               ),
               -- Of one session: the user, after a wait for the row's lock, with what may have
               -- changed meanwhile asked again: the hash if a password opens the session, and
               -- whether the account may get in.
               waited_for as (
                   select asked.*, u as person
                   from asked join users u on u.id = asked.user_id
                       and (asked.hash is null or u.password_hash = asked.hash)
                       and u.deleted_at is null and (u.banned_at is null or u.banned_until <= now())
                       and (asked.hash is null or u.reset_required_at is null)
                   where (select $9::boolean) for no key update of u
               ),
               -- Of several sessions: the users whose rows can be locked without a wait.
               at_hand as (
                   select asked.*, u as person
                   from asked join users u on u.id = asked.user_id
                       and (asked.hash is null or u.password_hash = asked.hash)
                       and u.deleted_at is null and (u.banned_at is null or u.banned_until <= now())
                       and (asked.hash is null or u.reset_required_at is null)
                   where not (select $9::boolean) for no key update of u skip locked
               ),
               -- One of the two is empty. A user is read from here, as the lock found the row: the
               -- table, read once more, would show the row as it was before a wait.
               present as (
                   select * from waited_for union all select * from at_hand
               ),
               -- A run whose answer was lost has opened the session already: then the rest of this
               -- statement records and refunds nothing a second time.
               opened as (
                   insert into sessions
                       (id, user_id, created_at, expires_at, ends_at, ip, user_agent, device_hash)
                   select session_id, user_id, opened_at, expires_at, ends_at, ip, user_agent,
                       device_hash
                   from present
                   on conflict (id) do nothing
                   returning id
               ),
               -- The audit log's rows: one for an account, an address and a minute.
               recorded as (
                   insert into audit_log as a
                       (at, event, user_id, actor_id, session_id, ip, count, minute, request_id,
                           user_agent, off_clock)
                   select min(opened_at), 'login', user_id, user_id, (array_agg(session_id))[1], ip,
                       count(*), date_trunc('minute', opened_at), (array_agg(request_id))[1],
                       (array_agg(user_agent))[1],
                       nullif(abs(extract(epoch from min(opened_at) - now())) > 30, false)
                   from present where session_id in (select id from opened)
                   group by user_id, ip, date_trunc('minute', opened_at)
                   on conflict (user_id, event, ip, minute) where minute is not null
                   do update set count = a.count + excluded.count
               ),
               -- How much each limit gets back: an attempt for each session.
               refunds as (
                   select key, count(*) as times
                   from unnest((select $10::bytea[]), (select $11::uuid[])) as counted (key, session_id)
                   where session_id in (select id from opened) group by key
               ),
               -- The limits' rows, locked in one order everywhere, so that no two statements deadlock.
               locked as (
                   select l.key, times from limits l join refunds on refunds.key = l.key order by l.key
                   for no key update of l
               ),
               -- What was counted is taken back; a level that has drained meanwhile stays at zero.
               refunded as (
                   update limits l set level = greatest(0, level - times)
                   from locked where l.key = locked.key
               )
               select u.session_id, "# + COLUMNS
                + " from (select session_id, (person).* from present) u",
            $($value),*
        )
    };
}

/// As [`Logins::open`], for all of `sessions`, in their order. One alone waits for a user whose row
/// another transaction has locked; among several, such a user is passed over as if they were gone,
/// so that the other logins need not wait.
///
/// Locks the users' rows, so that a concurrent password change either sees this session and ends
/// it, or is seen here: after a wait for the lock the hash is compared again. Harmless when
/// repeated.
pub async fn open_all(
    db: &mut PgConnection,
    sessions: &[NewSession],
) -> sqlx::Result<Vec<Option<User>>> {
    fn column<'a, T>(sessions: &'a [NewSession], value: impl Fn(&'a NewSession) -> T) -> Vec<T> {
        sessions.iter().map(value).collect()
    }
    let counted =
        || sessions.iter().flat_map(|s| s.counted.iter().map(|key| (s.id, key.as_slice())));
    let (counted_by, counted): (Vec<Uuid>, Vec<&[u8]>) = counted().unzip();
    let rows = open_statement!(
        &column(sessions, |s| s.id),
        &column(sessions, |s| s.user_id),
        &column(sessions, |s| s.password_hash.as_ref().map(ExposeSecret::expose_secret))
            as &[Option<&str>],
        &column(sessions, |s| s.created_at),
        &column(sessions, |s| s.expires_at),
        &column(sessions, |s| s.ends_at),
        &column(sessions, |s| s.ip.map(IpNetwork::from)) as &[Option<IpNetwork>],
        &column(sessions, |s| s.user_agent.as_deref()) as &[Option<&str>],
        sessions.len() == 1,
        &counted as &[&[u8]],
        &counted_by,
        &column(sessions, |s| s.request_id.as_deref()) as &[Option<&str>],
        &column(sessions, |s| s.device_hash.as_deref()) as &[Option<&[u8]>],
    )
    .fetch_all(db)
    .await?;
    // Of a CTE PostgreSQL does not say that its columns are never null, as all of these are.
    let users = rows.into_iter().filter_map(|row| Some((row.session_id?, user_of!(row?))));
    let mut users: HashMap<Uuid, User> = users.collect();
    Ok(sessions.iter().map(|session| users.remove(&session.id)).collect())
}
