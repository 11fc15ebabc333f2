//! Networks of IP addresses, and which addresses lead to this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The network that an IP address belongs to, so that its addresses can be counted as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address.
    pub last: IpAddr,
    prefix: u128,
}

impl Network {
    /// What one client has to itself: an IPv4 address, or an IPv6 /64, within which it changes.
    pub fn client(ip: IpAddr) -> Self {
        Self::of(ip, 32, 64)
    }

    /// A block of clients that one owner may hold: /24, or an IPv6 /48.
    pub fn block(ip: IpAddr) -> Self {
        Self::of(ip, 24, 48)
    }

    /// One line at home, which may have 65,536 IPv6 networks: an IPv4 address, or an IPv6 /48.
    pub fn line(ip: IpAddr) -> Self {
        Self::of(ip, 32, 48)
    }

    /// The network of the first `v4_bits` or `v6_bits` of an address. An IPv4 address inside IPv6
    /// (`::ffff:203.0.113.7`) counts as the IPv4 address that it is.
    fn of(ip: IpAddr, v4_bits: u32, v6_bits: u32) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => {
                let hosts = u32::MAX.checked_shr(v4_bits).unwrap_or(0);
                let first = u32::from(ip) & !hosts;
                Self {
                    first: Ipv4Addr::from(first).into(),
                    last: Ipv4Addr::from(first | hosts).into(),
                    prefix: first.checked_shr(u32::BITS - v4_bits).unwrap_or(0).into(),
                }
            }
            IpAddr::V6(ip) => {
                let hosts = u128::MAX.checked_shr(v6_bits).unwrap_or(0);
                let first = u128::from(ip) & !hosts;
                Self {
                    first: Ipv6Addr::from(first).into(),
                    last: Ipv6Addr::from(first | hosts).into(),
                    prefix: first.checked_shr(u128::BITS - v6_bits).unwrap_or(0),
                }
            }
        }
    }

    /// The bits that all addresses of the network share, as a number.
    pub fn prefix(self) -> u128 {
        self.prefix
    }

    /// The lowest address as a number. Unlike prefixes, those of IPv4 and IPv6 networks differ.
    pub fn number(self) -> u128 {
        match self.first {
            IpAddr::V4(ip) => u32::from(ip).into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

/// Whether a host that this process connects to is this machine. A name below `localhost` is not:
/// a resolver may send it elsewhere.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(ip: &str, v4_bits: u32, v6_bits: u32) -> Network {
        Network::of(ip.parse().expect("an address"), v4_bits, v6_bits)
    }

    #[test]
    fn a_network_has_a_first_and_a_last_address() {
        for (ip, v4_bits, v6_bits, first, last) in [
            ("203.0.113.7", 32, 64, "203.0.113.7", "203.0.113.7"),
            ("203.0.113.7", 24, 48, "203.0.113.0", "203.0.113.255"),
            ("::ffff:203.0.113.7", 24, 48, "203.0.113.0", "203.0.113.255"),
            ("203.0.113.7", 0, 0, "0.0.0.0", "255.255.255.255"),
            ("2001:db8:1:2::9", 32, 64, "2001:db8:1:2::", "2001:db8:1:2:ffff:ffff:ffff:ffff"),
            ("2001:db8::9", 32, 128, "2001:db8::9", "2001:db8::9"),
            ("2001:db8::9", 0, 0, "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let network = network(ip, v4_bits, v6_bits);
            let ends = (network.first.to_string(), network.last.to_string());
            assert_eq!(ends, (first.to_owned(), last.to_owned()), "{ip}");
        }
    }

    #[test]
    fn the_prefixes_that_keys_of_limits_hold_stay_what_they_are() {
        let text = |ip, v4_bits, v6_bits| format!("{:x}", network(ip, v4_bits, v6_bits).prefix());
        assert_eq!(text("203.0.113.7", 32, 64), "cb007107");
        assert_eq!(text("::ffff:10.0.113.7", 24, 48), "a0071");
        assert_eq!(text("2001:db8:1:2::9", 32, 64), "20010db800010002");
        assert_eq!(text("2001:db8:1:2::9", 24, 48), "20010db80001");
    }

    #[test]
    fn networks_of_the_two_families_have_different_numbers() {
        assert_eq!(network("203.0.113.7", 32, 48).number(), 0xcb00_7107);
        assert_eq!(network("2001:db8:1:2::9", 32, 48).number(), 0x2001_0db8_0001 << 80);
    }

    #[test]
    fn a_name_below_localhost_may_be_another_machine() {
        for host in ["localhost", "127.8.8.8", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["mail.localhost", "localhost.example", "10.0.0.1", "::", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
