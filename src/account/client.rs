//! Who calls, as a value: `http/client.rs` reads it from a request.

use std::net::IpAddr;

use uuid::Uuid;

use crate::network::Network;
use crate::security::password::Requester;

/// Who calls, as far as the network tells.
#[derive(Clone, Debug, Default)]
pub struct ClientInfo {
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    /// The session of a genuine refresh token that came along with a login, ended or not: the
    /// program has logged in before, wherever it calls from now.
    pub device: Option<Uuid>,
    /// A keyed hash of what the program calls itself (`x-device-id`), which proves nothing.
    pub device_hash: Option<Vec<u8>>,
}

impl ClientInfo {
    /// As a requester of the hashing queue. `is_known`: the client has logged in to the account
    /// before.
    pub fn requester(&self, is_known: bool) -> Requester {
        // By the line: else one home connection could fill the queue with a job from each of its
        // networks.
        let key = self.ip.map_or(0, |ip| Network::line(ip).number());
        Requester { key, is_known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_at_home_waits_in_one_place_for_a_hash() {
        let key = |ip: &str| {
            let ip = Some(ip.parse().expect("an address"));
            ClientInfo { ip, ..ClientInfo::default() }.requester(false).key
        };
        assert_eq!(key("2001:db8:1:1::1"), key("2001:db8:1:ffff::2"));
        assert_ne!(key("2001:db8:1::1"), key("2001:db8:2::1"));
        assert_eq!(key("203.0.113.7"), key("::ffff:203.0.113.7"));
        assert_ne!(key("203.0.113.7"), key("203.0.113.8"));
    }
}
