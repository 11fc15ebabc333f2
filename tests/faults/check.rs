//! What people were told against what the database and the mail server hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::harness::app::PUBLIC_URL;
use crate::harness::smtp_sink::SmtpSink;
use crate::history::{History, Invariant};
use crate::load::Pair;
use crate::virtual_user::VirtualUser;

/// How long the letters may take once the mail server is well and their time has come.
const DELIVERY: Duration = Duration::from_secs(30);

/// What the letters came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Letters {
    pub sent: usize,
    /// Copies beyond the first.
    pub copies: usize,
}

async fn texts(db: &PgPool, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(db).await.unwrap()
}

/// Statements that find what must not be; each row names one.
const NEVER: [(Invariant, &str, &str); 11] = [
    (
        Invariant::Unique,
        "a name or an address twice",
        "select lower(username) from users group by 1 having count(*) > 1
         union all select lower(email) from users group by 1 having count(*) > 1",
    ),
    (
        Invariant::Admin,
        "no admin",
        "select 'none' where not exists (select from users where role = 'admin')",
    ),
    (
        Invariant::Letters,
        "not exactly one letter",
        "select username from users left join outbox on user_id = users.id
         where username not in ('boss', 'deputy') group by 1 having count(outbox.id) <> 1",
    ),
    (
        Invariant::Letters,
        "a letter that is not the one of a registration or of a new device",
        "select username from users join outbox on user_id = users.id
         where kind not in ('confirmation', 'new_device') or recipient <> email
             or failed_at is not null",
    ),
    (
        Invariant::Letters,
        "a new device that was told to an address that is not confirmed, or too often",
        "select username from users join outbox on user_id = users.id where kind = 'new_device'
         group by users.id having users.email_verified_at is null or count(*) > 3",
    ),
    (
        Invariant::Audit,
        "not registered exactly once",
        "select username from users left join audit_log on user_id = users.id and event = 'registered'
         where username not in ('boss', 'deputy') group by 1 having count(audit_log.id) <> 1",
    ),
    (
        Invariant::Audit,
        "registered, but not there",
        "select user_id::text from audit_log
         where event = 'registered' and not exists (select from users where users.id = user_id)",
    ),
    (
        Invariant::Audit,
        "a session without exactly one login",
        "select sessions.id::text from sessions
         left join audit_log on session_id = sessions.id and event = 'login'
         group by 1 having count(audit_log.id) <> 1",
    ),
    (
        Invariant::Audit,
        "a login without a session",
        "select session_id::text from audit_log
         where event = 'login' and not exists (select from sessions where sessions.id = session_id)",
    ),
    (
        Invariant::Audit,
        "an end that nobody asked for",
        "select coalesce(end_reason, 'none') from sessions where ended_at is not null
         and coalesce(end_reason, '') not in ('logout', 'password_changed')",
    ),
    (
        Invariant::Lineage,
        "a thief where there was none",
        "select coalesce(session_id::text, '?') from audit_log where event = 'refresh_token_reused'",
    ),
];

/// Holds what the database says against what everybody was told.
pub async fn database(db: &PgPool, people: &[VirtualUser], history: &History) {
    for (invariant, what, sql) in NEVER {
        for row in texts(db, sql).await {
            history.broken(invariant, format!("{what}: {row}"));
        }
    }
    let sql = "select username, email from users";
    let users: BTreeMap<String, String> =
        sqlx::query_as(sql).fetch_all(db).await.unwrap().into_iter().collect();
    let addresses: BTreeSet<_> = users.values().collect();
    let changed = "select username from users
                   where exists (select from audit_log where user_id = users.id and event = 'password_changed')";
    let changed: BTreeSet<_> = texts(db, changed).await.into_iter().collect();
    for person in people {
        for account in &person.accounts {
            if users.get(&account.name) != Some(&account.email) {
                let said = format!("{} was acknowledged and is not there", account.name);
                history.broken(Invariant::Registrations, said);
            }
            if account.has_new_password && !changed.contains(&account.name) {
                let said = format!("{} has a new password, of which nothing is said", account.name);
                history.broken(Invariant::Audit, said);
            }
        }
        for email in person.refused.iter().filter(|email| addresses.contains(email)) {
            history.broken(Invariant::Registrations, format!("{email} was refused and is there"));
        }
        if let Some(phone) = &person.phone {
            one_lineage(db, &phone.pair, history).await;
        }
        for pair in &person.ended {
            let sid = pair.generation().0;
            let sql = "select ended_at is not null from sessions where id = $1";
            let ended: Option<bool> =
                sqlx::query_scalar(sql).bind(sid).fetch_optional(db).await.unwrap();
            if ended != Some(true) {
                history.broken(Invariant::Lineage, format!("{sid} was ended and has not"));
            }
        }
    }
}

/// The token that a client holds is the living one of its session.
async fn one_lineage(db: &PgPool, pair: &Pair, history: &History) {
    let (sid, counter) = pair.generation();
    let sql = "select counter from sessions where id = $1 and ended_at is null";
    let living: Option<i64> = sqlx::query_scalar(sql).bind(sid).fetch_optional(db).await.unwrap();
    if living != Some(counter) {
        let how = format!("session {sid}: the token says {counter}, the database {living:?}");
        history.broken(Invariant::Lineage, how);
    }
}

/// Waits for the letters that have to come, and holds them against what was to be sent.
pub async fn letters(db: &PgPool, sink: &SmtpSink, history: &History) -> Letters {
    let waiting = "select format('%s (%s attempts, due %s after %s, %s)', recipient, attempts, next_attempt_at, now(), last_error)
                   from outbox where sent_at is null and failed_at is null";
    let start = Instant::now();
    let mut left = texts(db, waiting).await;
    while !left.is_empty() {
        if start.elapsed() > DELIVERY {
            history.broken(Invariant::Letters, format!("not sent: {left:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        // A try that failed is followed by another one a minute later, and a claim by one that died
        // runs out after two minutes. That is passed over here, once whoever is still at it has had
        // the time to be done.
        if start.elapsed() > Duration::from_secs(2) {
            let now =
                "update outbox set next_attempt_at = now() where attempts > 0 and sent_at is null
                       and next_attempt_at > now() + interval '3 seconds'";
            sqlx::query(now).execute(db).await.unwrap();
        }
        left = texts(db, waiting).await;
    }
    let host = PUBLIC_URL.trim_start_matches("https://");
    let mut received = BTreeMap::<String, Vec<String>>::new();
    for letter in sink.received() {
        let id = letter.headers("message-id").concat();
        received.entry(id).or_default().extend(letter.to);
    }
    let sql = "select id, recipient from outbox";
    let rows: Vec<(Uuid, String)> = sqlx::query_as(sql).fetch_all(db).await.unwrap();
    let mut expected = BTreeMap::new();
    for (id, recipient) in rows {
        expected.insert(format!("<{id}@{host}>"), recipient);
    }
    for (id, recipient) in &expected {
        if !received.contains_key(id) {
            history.broken(Invariant::Letters, format!("{recipient} has no letter"));
        }
    }
    let mut letters = Letters { sent: received.len(), copies: 0 };
    for (id, to) in received {
        letters.copies += to.len() - 1;
        let recipient = expected.get(&id);
        if to.iter().any(|to| Some(to) != recipient) {
            let said = format!("{id} went to {to:?}, and was for {recipient:?}");
            history.broken(Invariant::Letters, said);
        }
    }
    letters
}
