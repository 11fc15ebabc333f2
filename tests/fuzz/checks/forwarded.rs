//! `x-forwarded-for`: who calls, behind proxies of our own.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue};
use doorward::http::client::forwarded_for;

/// The first byte says how many proxies are ours; each further line is a header.
pub fn check(data: &[u8]) {
    let Some((hops, lines)) = data.split_first() else { return };
    let hops = usize::from(hops % 5);
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append("x-forwarded-for", value);
    }
    let address = forwarded_for(&headers, hops);
    assert_eq!(forwarded_for(&headers, 0), None, "no proxy is ours");

    // RFC 9110, 5.3: several lines are one list.
    let list = lines.split(|byte| [b'\n', b','].contains(byte)).collect::<Vec<_>>();
    let entry = list.len().checked_sub(hops).and_then(|place| list.get(place));
    let entry = entry.and_then(|entry| std::str::from_utf8(entry).ok()).unwrap_or_default();
    if let Ok(plain) = entry.trim().parse::<IpAddr>() {
        assert_eq!(address, Some(plain), "{entry}");
    }
    if let Some(address) = address {
        let shown = address.to_string();
        let spellings =
            [shown.clone(), format!("[{shown}]"), format!("{shown}:443"), format!("[{shown}]:443")];
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.append("x-forwarded-for", HeaderValue::from_str(text).expect("plain"));
            forwarded_for(&headers, 1)
        };
        assert_eq!(read(&shown), Some(address));
        assert_eq!(read(entry), Some(address), "that entry alone");
        assert!(spellings.iter().filter(|text| read(text) == Some(address)).count() >= 3);
    }

    // Whatever the client itself sends stands further left and changes nothing.
    if list.len() >= hops {
        let mut forged = HeaderMap::new();
        forged.append("x-forwarded-for", HeaderValue::from_static("6.6.6.6, [::1]:80,, x"));
        for value in headers.get_all("x-forwarded-for") {
            forged.append("x-forwarded-for", value.clone());
        }
        assert_eq!(forwarded_for(&forged, hops), address);
    }
}
