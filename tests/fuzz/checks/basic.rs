//! The credentials of HTTP Basic (RFC 7617).

use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use doorward::fields::Password;
use doorward::http::credentials::basic;

/// As a whole header, and as what a client would encode.
pub fn check(data: &[u8]) {
    if let Ok(header) = HeaderValue::from_bytes(data)
        && let Some((name, password)) = read(&header)
    {
        // Whatever was read is read again from the plainest spelling of it.
        let plain = STANDARD.encode([name.as_bytes(), b":", &password].concat());
        assert_eq!(read_text(&format!("Basic {plain}")), Some((name, password)));
        let text = header.to_str().expect("only text is read");
        let (scheme, _) = text.split_once(' ').expect("a scheme and a value");
        assert!(scheme.eq_ignore_ascii_case("basic"));
    }

    // What is not UTF-8 is ISO 8859-1, in which each byte is the code point of that number.
    let latin1 = || data.iter().map(|&byte| char::from_u32(byte.into()).expect("below 256"));
    let text = std::str::from_utf8(data).map_or_else(|_| latin1().collect(), str::to_owned);
    let expected = text.find(':').map(|colon| {
        let password = Password::claimed(&text[colon + 1..]);
        (text[..colon].to_owned(), password.expose().to_vec())
    });
    let padded = STANDARD.encode(data);
    for header in [
        format!("Basic {padded}"),
        format!("bASIC  {padded} "),
        format!("basic {}", STANDARD_NO_PAD.encode(data)),
        format!("Basic {}", URL_SAFE.encode(data)),
        format!("Basic {}", URL_SAFE_NO_PAD.encode(data)),
    ] {
        assert_eq!(read_text(&header), expected, "{header}");
    }
    for header in [format!("Bearer {padded}"), format!("Basic{padded}"), padded] {
        assert_eq!(read_text(&header), None, "{header}");
    }
    // Two readers could take two different ones.
    let mut twice = HeaderMap::new();
    twice.append("authorization", HeaderValue::from_static("Basic YTpi"));
    twice.append("authorization", HeaderValue::from_static("Basic YTpi"));
    assert!(basic(&twice).is_err());
}

fn read_text(header: &str) -> Option<(String, Vec<u8>)> {
    read(&HeaderValue::from_str(header).expect("base64 is visible ASCII"))
}

fn read(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", header.clone());
    let (name, password) = basic(&headers).expect("one header is no mistake")?;
    Some((name, password.expose().to_vec()))
}
