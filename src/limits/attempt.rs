//! Attempts: what a limit counts, and about whom.

use std::net::IpAddr;

use serde_json::json;
use uuid::Uuid;

use super::{Limit, PASSWORD, REFRESH, Refusal};
use crate::network::Network;
use crate::store::audit::{Event, EventKind};

/// Something tried: the limit that counts it, and whom it is about.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub(super) limit: &'static Limit,
    pub(super) subject: String,
}

impl Attempt {
    /// By one client: an IPv4 address, or the /64 that an IPv6 client has all to itself.
    pub fn by_address(limit: &'static Limit, ip: Option<IpAddr>) -> Self {
        Self { limit, subject: text(ip.map(Network::client)) }
    }

    /// By one IPv6 /48; none of an IPv4 address, which has no more to itself than itself.
    pub fn by_network(limit: &'static Limit, ip: Option<IpAddr>) -> Option<Self> {
        let ip = ip.map(|ip| ip.to_canonical()).filter(IpAddr::is_ipv6)?;
        Some(Self { limit, subject: format!("network {}", text(Some(Network::line(ip)))) })
    }

    /// On an account (its id, or the name that was given for none) from a block of addresses: /24,
    /// /48.
    pub fn on_account_from(limit: &'static Limit, account: &str, ip: Option<IpAddr>) -> Self {
        Self { limit, subject: format!("{account} {}", text(ip.map(Network::block))) }
    }

    /// On a username as typed, by one client: known without asking the database. One with a token
    /// of a session may be known to the account where others of its address are not.
    pub fn as_typed(
        limit: &'static Limit,
        login: &str,
        ip: Option<IpAddr>,
        device: Option<Uuid>,
    ) -> Self {
        let client = text(ip.map(Network::client));
        let device = device.map(|id| id.to_string()).unwrap_or_default();
        let subject = format!("typed {} {client} {device}", login.to_ascii_lowercase());
        Self { limit, subject }
    }

    pub fn on(limit: &'static Limit, subject: &str) -> Self {
        Self { limit, subject: subject.to_owned() }
    }

    /// The event of its refusal, with nothing of the subject but an id that it begins with.
    pub(super) fn refused(&self, refusal: Refusal) -> Event {
        let details = json!({ "limit": refusal.limit, "until": refusal.until });
        let event = Event::new(EventKind::RateLimited).with(details);
        match self.subject.split(' ').next().map(Uuid::try_parse) {
            Some(Ok(id)) if [REFRESH.name, PASSWORD.name].contains(&self.limit.name) => {
                event.in_session(id)
            }
            Some(Ok(id)) => event.on(id),
            _ => event,
        }
    }
}

/// The subject of a login: the same for all spellings of a name. An account has one for its
/// username and one for its e-mail address: the end of a shared budget would tell which address
/// belongs to which name.
pub fn account_subject(user: Option<Uuid>, login: &str) -> String {
    let half = if login.contains('@') { "email" } else { "username" };
    user.map_or_else(
        || format!("nobody {}", login.to_ascii_lowercase()),
        |id| format!("{id} {half}"),
    )
}

/// A part of keys in the database: with another text a release would not find what the one before
/// it has counted.
fn text(network: Option<Network>) -> String {
    network.map_or_else(|| "nowhere".to_owned(), |network| format!("{:x}", network.prefix()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LOGIN_ACCOUNT, LOGIN_ADDRESS};

    #[test]
    fn addresses_count_by_what_one_client_has() {
        let subject = |ip: &str| Attempt::by_address(&LOGIN_ADDRESS, ip.parse().ok()).subject;
        let block =
            |ip: &str| Attempt::on_account_from(&LOGIN_ACCOUNT, "a", ip.parse().ok()).subject;
        assert_eq!(subject("203.0.113.7"), subject("::ffff:203.0.113.7"));
        assert_ne!(subject("203.0.113.7"), subject("203.0.113.8"));
        assert_eq!(block("203.0.113.7"), block("203.0.113.8"));
        assert_ne!(block("203.0.113.7"), block("203.0.114.7"));
        assert_eq!(subject("2001:db8:1:2:3::1"), subject("2001:db8:1:2:ffff::2"));
        assert_ne!(subject("2001:db8:1:2::1"), subject("2001:db8:1:3::1"));
        assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:3::1"));
        assert_ne!(block("2001:db8:1::1"), block("2001:db8:2::1"));
    }

    #[test]
    fn all_spellings_of_a_name_are_one_account() {
        assert_eq!(account_subject(None, "ADA"), account_subject(None, "ada"));
        let id = Uuid::now_v7();
        assert_eq!(account_subject(Some(id), "ada"), account_subject(Some(id), "Ada"));
        assert_ne!(account_subject(Some(id), "ada"), account_subject(Some(id), "ada@example.com"));
    }
}
