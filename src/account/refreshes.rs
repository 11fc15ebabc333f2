//! Refreshes: what becomes of a refresh token, the current one or an older one.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::account::Error;
use crate::account::client::ClientInfo;
use crate::account::sessions::{IDLE_LIFETIME, TokenPair, issue_pair};
use crate::limits::{Attempt, REFRESH, Refusal};
use crate::network::Network;
use crate::security::token::RefreshClaims;
use crate::state::AppState;
use crate::store::audit::{Event, EventKind};
use crate::store::db::Tx;
use crate::store::refreshes::{self, BURST, Refreshes, Rotated, Rotation};
use crate::store::sessions;
use crate::store::users::User;

/// For this long after a token was replaced it yields the current pair: a page with many calls, or
/// tabs that refresh at once, log their user out however quickly the refreshes follow each other.
const GRACE: TimeDelta = TimeDelta::seconds(20);
/// For this long the token before the current one yields the current pair while that is unused: its
/// answer was lost. Not for good: where access tokens go to other backends alone a pair is never
/// seen in use, and a thief's copy would never be noticed.
const UNSEEN: TimeDelta = TimeDelta::minutes(10);

/// What became of a refresh token.
#[derive(Debug)]
pub enum Refreshed {
    Pair(Box<(User, TokenPair)>),
    /// Replaced too long ago: a copy of it is in use elsewhere. The session has ended.
    Reused,
    /// The session or the user is gone.
    Ended,
}

/// Exchanges a refresh token for the newest pair of its session. Only new pairs count as refreshes.
pub async fn exchange(
    state: &AppState,
    claims: &RefreshClaims,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Refreshed, Error> {
    // A recent refusal is repeated without asking the database: of this token, since those before
    // it yield the current pair all the same.
    let attempt = Attempt::on(&REFRESH, &format!("{} {}", claims.sid, claims.counter));
    if let Some(refusal) = state.limits.refused_before(std::slice::from_ref(&attempt), now) {
        return Err(Error::RateLimited { refusal, now });
    }
    if let Some(renewed) = renew(state, claims, client, now).await? {
        return Ok(Refreshed::Pair(renewed));
    }
    let mut tx = state.db.begin().await?;
    let exchanged = settle(state, &mut tx, claims, client, now).await;
    if exchanged.is_ok() {
        state.commit(tx, claims.sub).await?;
    }
    if let Err(Error::RateLimited { refusal, now }) = &exchanged {
        state.limits.refuse(&attempt, *refusal, *now, |event| state.log(event));
    }
    exchanged
}

/// Exchanges the current refresh token for the next pair of its session; `None` for any other one,
/// which [`settle`] decides about. In one statement; after a repeated one [`settle`] yields the
/// same pair. Cached sessions stay valid: only their lifetime grows.
async fn renew(
    state: &AppState,
    claims: &RefreshClaims,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Option<Box<(User, TokenPair)>>, Error> {
    let (id, user_id, counter) = (claims.sid, claims.sub, claims.counter);
    let Some(rotation) = rotation(state, client, now) else { return Ok(None) };
    let renewed =
        state.db.write(|db| Box::pin(refreshes::renew(db, id, user_id, counter, rotation))).await?;
    Ok(renewed.map(|renewed| renewed_pair(state, id, renewed, now)))
}

/// Decides about a refresh token, current or not.
async fn settle(
    state: &AppState,
    tx: &mut Tx,
    claims: &RefreshClaims,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> Result<Refreshed, Error> {
    let (id, user_id) = (claims.sid, claims.sub);
    let found = refreshes::find_for_refresh(tx, id, user_id, now).await?;
    let Some((refreshes, user)) = found else { return Ok(Refreshed::Ended) };
    match judge(&refreshes, claims.counter, now) {
        Standing::Current => {
            let renewed = match rotation(state, client, now) {
                Some(by) => refreshes::renew(tx, id, user_id, claims.counter, by).await?,
                None => None,
            };
            let Some(renewed) = renewed else {
                return Err(Error::RateLimited { refusal: refusal(state, &refreshes, now), now });
            };
            Ok(Refreshed::Pair(renewed_pair(state, id, renewed, now)))
        }
        Standing::Recent { is_unseen } => {
            if is_unseen {
                refreshes::set_successor_given(tx, id, now).await?;
            }
            record_if_elsewhere(state, tx, claims, &refreshes, client, now).await?;
            let counter = refreshes.counter;
            let refresh = RefreshClaims { sub: user_id, sid: id, counter };
            let rotated_at = refreshes.rotated_at.unwrap_or(now);
            let times = [rotated_at, refreshes.expires_at];
            let pair = issue_pair(state, &user, &refresh, &refreshes.authentication, times, now);
            Ok(Refreshed::Pair(Box::new((user, pair))))
        }
        Standing::Old => {
            let kind = EventKind::RefreshTokenReused;
            sessions::revoke(tx, id, user_id, kind.as_str(), now).await?;
            let event = Event::new(kind).on(user_id).in_session(id).from(client.ip);
            state.record(tx, event, now).await?;
            Ok(Refreshed::Reused)
        }
    }
}

/// Whether [`exchange`] would end the session because of this token.
pub async fn is_reused(
    state: &AppState,
    claims: &RefreshClaims,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let (id, user_id) = (claims.sid, claims.sub);
    let find = state.db.read(|db| Box::pin(refreshes::find_refreshes(db, id, user_id, now)));
    let is_old = |(refreshes, _): (Refreshes, User)| {
        matches!(judge(&refreshes, claims.counter, now), Standing::Old)
    };
    Ok(find.await?.is_some_and(is_old))
}

/// What a refresh writes; `None` where the limit forbids every one.
fn rotation(state: &AppState, client: &ClientInfo, now: DateTime<Utc>) -> Option<Rotation> {
    let most = state.limits.most(&REFRESH);
    let rotation = Rotation { now, expires_at: now + IDLE_LIFETIME, ip: client.ip, most };
    Some(rotation).filter(|_| most != Some(0))
}

fn renewed_pair(
    state: &AppState,
    id: Uuid,
    renewed: Rotated,
    now: DateTime<Utc>,
) -> Box<(User, TokenPair)> {
    let Rotated { counter, rotated_at, expires_at, authentication, user } = renewed;
    let refresh = RefreshClaims { sub: user.id, sid: id, counter };
    let pair = issue_pair(state, &user, &refresh, &authentication, [rotated_at, expires_at], now);
    Box::new((user, pair))
}

/// The refusal of a refresh that came too soon after so many others.
fn refusal(state: &AppState, refreshes: &Refreshes, now: DateTime<Utc>) -> Refusal {
    let most = state.limits.most(&REFRESH).and_then(|most| usize::try_from(most).ok());
    let last = most.and_then(|most| most.checked_sub(1));
    let oldest = last.and_then(|last| refreshes.replaced_at.iter().rev().nth(last));
    Refusal { limit: REFRESH.name, until: oldest.map_or(now, |at| now.min(*at)) + BURST }
}

/// A pair that is asked for once more from another place may be in a thief's hands: its owner can
/// see it.
async fn record_if_elsewhere(
    state: &AppState,
    tx: &mut Tx,
    claims: &RefreshClaims,
    refreshes: &Refreshes,
    client: &ClientInfo,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let is_same = |(one, other)| Network::client(one) == Network::client(other);
    if refreshes.rotated_ip.zip(client.ip).is_none_or(is_same) {
        return Ok(());
    }
    let event = Event::new(EventKind::RefreshTokenRepeated).on(claims.sub).in_session(claims.sid);
    let details = json!({ "refreshed_from": refreshes.rotated_ip });
    state.record(tx, event.from(client.ip).with(details), now).await
}

/// How a refresh token stands in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is the current one, or one that this database has not reached: tokens are genuine, so it
    /// was issued, before a fail-over to a standby that had not received it yet.
    Current,
    /// It was replaced a moment ago, or its answer was lost: it yields the current pair.
    /// `is_unseen`: that pair has not been seen in use.
    Recent { is_unseen: bool },
    /// It ends the session.
    Old,
}

fn judge(refreshes: &Refreshes, presented: i64, now: DateTime<Utc>) -> Standing {
    let Refreshes { counter, successor_used, rotated_at, .. } = *refreshes;
    let later = usize::try_from(counter - presented).unwrap_or(0);
    if later == 0 {
        return Standing::Current;
    }
    let within = |at: Option<DateTime<Utc>>, time| at.is_some_and(|at| at > now - time);
    let is_unseen = !successor_used && within(rotated_at, UNSEEN);
    if (later == 1 && is_unseen) || within(good_until(refreshes, later), GRACE) {
        Standing::Recent { is_unseen }
    } else {
        Standing::Old
    }
}

/// Until when the token was good that is so many refreshes before the current one, if that is
/// known: until it was replaced; or until it gave out an unused pair once more, since two tabs ask
/// again after a lost answer, and one of them may use the pair before the other asks.
fn good_until(refreshes: &Refreshes, later: usize) -> Option<DateTime<Utc>> {
    let Refreshes { rotated_at, successor_given_at, .. } = *refreshes;
    let mut newest_first = refreshes.replaced_at.iter().rev().copied();
    // The release before refreshes without a word in the list.
    let is_up_to_date = newest_first.clone().next() >= rotated_at;
    match newest_first.nth(later - 1) {
        at if is_up_to_date => at,
        _ if later == 1 => rotated_at.max(successor_given_at),
        _ => None,
    }
}
