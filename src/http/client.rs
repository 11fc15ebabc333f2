//! Who calls: the address behind the proxies that we trust, and the program.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};

use crate::account::client::ClientInfo;
use crate::state::AppState;

/// The other end of the connection, with what the listener knows about it; added to each request.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo {
    pub address: SocketAddr,
    /// All connections but the ones kept for health checks are taken.
    pub is_over_cap: bool,
    /// We and a proxy before us could read the request differently (request smuggling).
    pub is_ambiguous: bool,
}

impl ConnectionInfo {
    /// Whether the connection ends with its first answer.
    pub fn ends_with_answer(&self) -> bool {
        self.is_ambiguous || self.is_over_cap
    }
}

impl From<SocketAddr> for ConnectionInfo {
    fn from(address: SocketAddr) -> Self {
        Self { address, is_over_cap: false, is_ambiguous: false }
    }
}

/// Longest user agent that is kept, in characters.
const MAX_USER_AGENT_CHARS: usize = 300;

impl FromRequestParts<AppState> for ClientInfo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        let hops = state.config.trusted_proxy_hops;
        let ip = client_address(&parts.headers, parts.extensions.get(), hops);
        let device_hash = device_id(&parts.headers).map(|id| state.devices.of(id));
        Ok(Self { ip, user_agent: user_agent(&parts.headers), device: None, device_hash })
    }
}

/// What a frontend made once and kept, to be told from other devices: 16 to 64 characters of a URL's
/// alphabet. Anything else, and a header that is given twice, counts as none.
fn device_id(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all("x-device-id").iter();
    let (Some(id), None) = (given.next(), given.next()) else { return None };
    let is_one = |id: &&str| {
        (16..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    id.to_str().ok().filter(is_one)
}

/// What the client's program calls itself, as much of it as is kept.
pub fn user_agent(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(agent.chars().take(MAX_USER_AGENT_CHARS).collect())
}

/// The address that a request comes from, behind `hops` proxies of our own.
pub fn client_address(
    headers: &HeaderMap,
    peer: Option<&ConnectionInfo>,
    hops: usize,
) -> Option<IpAddr> {
    let ip = forwarded_for(headers, hops).or(peer.map(|peer| peer.address.ip()));
    ip.map(|ip| ip.to_canonical())
}

/// The entry written by the outermost of our own `hops` proxies, counted from the right, because
/// whatever stands further left is only the client's claim.
pub fn forwarded_for(headers: &HeaderMap, hops: usize) -> Option<IpAddr> {
    if hops == 0 {
        return None;
    }
    // As bytes: a client's entry that is not text must not hide what our proxy wrote after it.
    let values = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    let entries: Vec<&[u8]> = values.flat_map(|value| value.split(|&b| b == b',')).collect();
    let entry = entries[entries.len().checked_sub(hops)?..].first()?;
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_proxies_are_believed() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6, 203.0.113.7".parse().expect("valid"));
        headers.append("x-forwarded-for", "[2001:db8::1]:443".parse().expect("valid"));
        let at = |hops| forwarded_for(&headers, hops).map(|ip| ip.to_string());
        assert_eq!(at(0), None);
        assert_eq!(at(1).as_deref(), Some("2001:db8::1"));
        assert_eq!(at(2).as_deref(), Some("203.0.113.7"));
        assert_eq!(at(3).as_deref(), Some("6.6.6.6"));
        assert_eq!(at(4), None);
        assert_eq!(forwarded_for(&HeaderMap::new(), 1), None);
        let mut blinded = HeaderMap::new();
        let value = HeaderValue::from_bytes(b"\xff, 203.0.113.7").expect("a header value");
        blinded.append("x-forwarded-for", value);
        assert_eq!(forwarded_for(&blinded, 1), "203.0.113.7".parse().ok());
    }
}
