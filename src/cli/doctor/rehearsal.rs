//! A registration and a login, rehearsed: written as the service would, and rolled back. What no
//! catalogue tells shows here: row security, a trigger of somebody's, a lock that nobody lets go.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::Findings;
use crate::cli::trouble::advice;
use crate::clock::Clock;
use crate::config::limits::{Allowances, LOGIN_ADDRESS};
use crate::fields::{Email, Name, Role, Username};
use crate::store::audit::{self, Event, EventKind};
use crate::store::challenges::{self, ChallengeKind, NewChallenge};
use crate::store::db::{Db, describe};
use crate::store::limits;
use crate::store::logins::{self, NewSession};
use crate::store::outbox::{self, LetterKind, NewLetter};
use crate::store::users::{self, NewUser};

pub(super) async fn examine(db: &Db, findings: &mut Findings) {
    match rehearse(db, Clock::system().now()).await {
        Ok(()) => {
            findings.ok("writing", "a registration and a login were rehearsed, and rolled back");
        }
        Err(error) => {
            let message =
                format!("nobody can register or log in: {}: {}", describe(&error), advice(&error));
            findings.fail("writing", message);
        }
    }
}

async fn rehearse(db: &Db, now: DateTime<Utc>) -> sqlx::Result<()> {
    let (id, name) = (Uuid::now_v7(), Name::default());
    let text = format!("doctor-{}", &id.simple().to_string()[20..]);
    let usable = "a name of letters and digits is usable";
    let username = Username::parse(&text).expect(usable);
    let email = Email::parse(&format!("{text}@example.com")).expect(usable);
    let user = NewUser {
        id,
        username: &username,
        email: &email,
        email_verified_at: None,
        first_name: &name,
        last_name: &name,
        role: Role::User,
        password_hash: &String::new().into(),
    };
    let mut tx = db.begin().await?;
    let allowance = Allowances::default()[&LOGIN_ADDRESS];
    limits::reserve(&mut tx, &[id.as_bytes().to_vec()], &[allowance], now).await?;
    users::insert(&mut tx, &user, now).await?;
    let letter = NewLetter {
        kind: LetterKind::Confirmation,
        user_id: Some(id),
        recipient: email.as_str(),
        data: json!({}),
        challenge_id: None,
    };
    outbox::insert(&mut tx, &[letter], now).await?;
    let challenge = NewChallenge {
        id: Uuid::now_v7(),
        kind: ChallengeKind::Reset,
        letter_id: Uuid::now_v7(),
        recipient: email.as_str().to_owned(),
        ip: None,
        created_at: now,
        expires_at: now + TimeDelta::days(1),
    };
    challenges::insert_with_letter(&mut tx, &challenge).await?;
    audit::insert(&mut tx, &Event::new(EventKind::Registered).on(id), now).await?;
    let session = NewSession {
        device_hash: None,
        id: Uuid::now_v7(),
        user_id: id,
        password_hash: None,
        created_at: now,
        expires_at: now + TimeDelta::days(1),
        ends_at: now + TimeDelta::days(1),
        ip: None,
        user_agent: None,
        request_id: None,
        counted: Vec::new(),
    };
    logins::open_all(&mut tx, &[session]).await?;
    tx.rollback().await
}
