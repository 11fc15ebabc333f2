//! A mail server's replies (RFC 5321, 4.2), spelt as lettre reads them.
//!
//! A reply that lettre cannot read counts as none, and a letter without a reply is sent again. So
//! whatever says its code is passed on as a reply: a code alone, any line end, any character set.

use std::io;

use super::refusal::NO_SMTP;

/// More than any server says: what is longer is no reply.
const MAX_BYTES: usize = 64 * 1024;

/// Of a line, of which lettre takes a thousand bytes.
const MAX_TEXT: usize = 900;

pub(super) fn no_smtp() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, NO_SMTP)
}

/// The first reply as lettre reads it, and where it ends; `None` where more has to come.
pub(super) fn first(raw: &[u8], is_closed: bool) -> io::Result<Option<(String, usize)>> {
    let (mut texts, mut end) = (Vec::new(), 0);
    for line in raw.split_inclusive(|&byte| byte == b'\n') {
        let is_whole = line.ends_with(b"\n");
        if !is_whole && !is_closed {
            break;
        }
        end += line.len();
        match Line::parse(line) {
            Some(Line { code, is_last, text }) => {
                texts.push(text);
                if is_last {
                    // The last line's code counts, where they differ.
                    return Ok(Some((spelt(code, texts), end)));
                }
            }
            // A text that was broken without its code.
            None if is_whole && !texts.is_empty() => {}
            None if is_whole => return Err(no_smtp()),
            None => break,
        }
    }
    match (is_closed, raw.len() > MAX_BYTES) {
        (true, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        (false, true) => Err(no_smtp()),
        (false, false) => Ok(None),
    }
}

fn spelt(code: u16, mut texts: Vec<String>) -> String {
    if code == 250 {
        for text in &mut texts {
            spell_keyword(text);
        }
        if texts[0].trim().is_empty() {
            // The server's name, without which lettre takes no answer to EHLO.
            "-".clone_into(&mut texts[0]);
        }
    }
    let last = texts.len() - 1;
    let line = |(i, text)| format!("{code}{}{text}\r\n", if i == last { ' ' } else { '-' });
    texts.iter().enumerate().map(line).collect()
}

/// What a server offers (RFC 5321, 4.1.1.1) is in any case, and some write `AUTH=LOGIN`, beside the
/// line with a blank or in its place.
fn spell_keyword(text: &mut String) {
    let capitals = text.to_ascii_uppercase();
    match capitals.split(|c: char| c.is_whitespace() || c == '=').next() {
        Some("AUTH") => *text = capitals.replace('=', " "),
        Some("STARTTLS" | "8BITMIME" | "SMTPUTF8") => *text = capitals,
        _ => {}
    }
}

struct Line {
    code: u16,
    is_last: bool,
    text: String,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let (code, rest) = line.trim_ascii_end().split_at_checked(3)?;
        if !matches!(code, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'])
            || rest.first().is_some_and(u8::is_ascii_digit)
        {
            return None;
        }
        let digit = |at: usize| u16::from(code[at] - b'0');
        let code = match digit(1) {
            0..=5 => digit(0) * 100 + digit(1) * 10 + digit(2),
            // Such as 571, which lettre does not know: the first digit is what counts.
            _ => digit(0) * 100 + 50,
        };
        let is_last = rest.first() != Some(&b'-');
        let text = rest.strip_prefix(b"-").unwrap_or(rest).trim_ascii();
        let text = String::from_utf8_lossy(text).replace(char::REPLACEMENT_CHARACTER, "?");
        let text = text[..text.floor_char_boundary(MAX_TEXT)].to_owned();
        Some(Self { code, is_last, text })
    }
}

#[cfg(test)]
mod tests {
    use lettre::transport::smtp::response::Response;

    use super::*;
    use crate::mail::tls;

    fn read(raw: &[u8]) -> io::Result<String> {
        first(raw, true).map(|reply| reply.expect("it has come to its end").0)
    }

    #[test]
    fn every_spelling_of_a_reply_is_understood() {
        for (raw, spelt) in [
            (&b"250 2.0.0 Ok: queued\r\n"[..], "250 2.0.0 Ok: queued\r\n"),
            (b"550\r\n", "550 \r\n"),
            (b"550 \r\n", "550 \r\n"),
            (b"550\n", "550 \r\n"),
            (b"250\r\n", "250 -\r\n"),
            (b"250 Ok\n", "250 Ok\r\n"),
            (b"250 Ok\r\r\n", "250 Ok\r\n"),
            (b"250\tOk\r\n", "250 Ok\r\n"),
            (b"250OK\r\n", "250 OK\r\n"),
            (b"354\r\n", "354 \r\n"),
            (b"220\r\n", "220 \r\n"),
            (b"250-\r\n250-a\r\n250\r\n", "250--\r\n250-a\r\n250 \r\n"),
            (b"550-\r\n550-5.1.1 a\r\n550\r\n", "550-\r\n550-5.1.1 a\r\n550 \r\n"),
            (b"250-a\r\n250 b\r\n", "250-a\r\n250 b\r\n"),
            (b"250-a\nno code\n250 b\n", "250-a\r\n250 b\r\n"),
            (b"250-a\r\n251 b\r\n", "251-a\r\n251 b\r\n"),
            (b"250 gr\xfc\xdfe\r\n", "250 gr??e\r\n"),
            (b"571 5.7.1 no\r\n", "550 5.7.1 no\r\n"),
            // The connection ended where the line should have.
            (b"250 Ok", "250 Ok\r\n"),
            (b"354", "354 \r\n"),
        ] {
            let raw_text = String::from_utf8_lossy(raw);
            assert_eq!(read(raw).expect(&raw_text), spelt, "{raw_text:?}");
            spelt.parse::<Response>().expect(spelt);
        }
        let long = format!("250 {}\r\n", "\u{fc}".repeat(30_000));
        let long = read(long.as_bytes()).expect("long");
        assert!(long.starts_with("250 \u{fc}") && long.len() < 1_000, "{}", long.len());
    }

    #[test]
    fn keywords_are_read_in_any_case_and_form() {
        for (raw, spelt) in [
            ("starttls", "STARTTLS"),
            ("SmtpUtf8", "SMTPUTF8"),
            ("8bitmime", "8BITMIME"),
            ("auth  plain login", "AUTH  PLAIN LOGIN"),
            ("AUTH=LOGIN", "AUTH LOGIN"),
            ("AUTH =LOGIN", "AUTH  LOGIN"),
            ("auth=login plain", "AUTH LOGIN PLAIN"),
            ("authx plain", "authx plain"),
            ("Ok: queued as a=b", "Ok: queued as a=b"),
        ] {
            let reply = read(format!("250-mx\r\n250 {raw}\r\n").as_bytes()).expect(raw);
            assert_eq!(reply, format!("250-mx\r\n250 {spelt}\r\n"));
        }
        assert_eq!(read(b"550 auth=x").expect("a refusal"), "550 auth=x\r\n");
    }

    #[test]
    fn what_is_no_reply_is_none() {
        for raw in ["", "2", "25", "250-", "250-a\r\n", "250-a\r\n25"] {
            let error = read(raw.as_bytes()).expect_err(raw);
            assert!(tls::is_closed(&error), "{raw:?}");
            assert!(first(raw.as_bytes(), false).expect(raw).is_none(), "{raw:?} may go on");
        }
        let endless = "250-a\r\n".repeat(10_000);
        for raw in [
            "HTTP/1.1 400 Bad Request\r\n",
            "\r\n250 a\r\n",
            "2506 a\r\n",
            "150 a\r\n",
            "600\r\n",
            &endless,
        ] {
            let error = first(raw.as_bytes(), false).expect_err("no reply");
            assert_eq!(error.to_string(), NO_SMTP, "{raw:.20?}");
        }
    }
}
