//! A letter as the bytes that travel: RFC 5322 headers, MIME text and HTML.

use lettre::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart};
use url::Host;

use super::{Letter, SendError};
use crate::config::sender;

/// What a conversation with a mail server needs.
pub(super) struct Mail {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) content: Vec<u8>,
}

impl Mail {
    /// A letter that cannot be written as mail will not get better by waiting: every error is
    /// permanent.
    pub(super) fn new(letter: &Letter, from: &Mailbox) -> Result<Self, SendError> {
        let to = address(&letter.to).ok_or_else(|| refuse("the recipient is no mail address"))?;
        let message_id =
            message_id(&letter.message_id).ok_or_else(|| refuse("the Message-ID is not valid"))?;
        let mut builder = Message::builder().from(from.clone());
        if let Some(quoted) = quoted(from) {
            builder = builder.raw_header(quoted);
        }
        let message = builder
            .to(Mailbox::new(None, to.clone()))
            .subject(&letter.subject)
            .date_now()
            .raw_header(message_id)
            .raw_header(auto_submitted())
            .multipart(MultiPart::alternative_plain_html(letter.text.clone(), letter.html.clone()))
            .map_err(|_| refuse("the letter cannot be written as a mail"))?;
        Ok(Self { from: from.email.clone(), to, content: message.formatted() })
    }
}

fn refuse(why: &str) -> SendError {
    SendError::Permanent(why.to_owned())
}

/// An address with its domain in ASCII, which every server takes (RFC 5891). Parsing is what keeps
/// line breaks, and with them headers and commands that a client made up, out of the conversation.
fn address(raw: &str) -> Option<Address> {
    let address: Address = raw.parse().ok()?;
    if address.domain().is_ascii() {
        return Some(address);
    }
    let domain = Host::parse(address.domain()).ok()?.to_string();
    Address::new(address.user(), domain).ok()
}

/// A sender such as `Example, Inc. <no-reply@example.com>`, its domain in ASCII as well.
pub fn sender(raw: &str) -> Option<Mailbox> {
    let (name, email) = sender::parts(raw)?;
    let is_one_line = name.as_ref().is_none_or(|name| !name.contains(char::is_control));
    is_one_line.then_some(Mailbox::new(name, address(email)?))
}

/// The header exactly as given: lettre's own would fold or encode a long one, and the outbox could
/// no longer find the letter by it.
fn message_id(raw: &str) -> Option<HeaderValue> {
    let inner = raw.strip_prefix('<')?.strip_suffix('>')?;
    let (left, right) = inner.split_once('@')?;
    let printable = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'@'))
    };
    (printable(left) && printable(right)).then(|| verbatim("Message-ID", raw))
}

/// The sender with its name in quotes, where it is ASCII and short enough for one line: lettre writes
/// whatever has a comma in it in base 64, which filters take for a spammer's.
fn quoted(from: &Mailbox) -> Option<HeaderValue> {
    let name = from.name.as_ref()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_quotable = |c: char| c.is_ascii_graphic() || c == ' ';
    if name.chars().all(is_plain) || name.len() > 200 || !name.chars().all(is_quotable) {
        return None;
    }
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    Some(verbatim("From", &format!("\"{name}\" <{}>", from.email)))
}

/// RFC 3834: tells out-of-office programs not to answer.
fn auto_submitted() -> HeaderValue {
    verbatim("Auto-Submitted", "auto-generated")
}

fn verbatim(name: &'static str, value: &str) -> HeaderValue {
    let name = HeaderName::new_from_ascii_str(name);
    HeaderValue::dangerous_new_pre_encoded(name, value.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_is_one_line_in_brackets() {
        let long = format!("<{}@{}.example>", "a".repeat(36), "b".repeat(60));
        for good in ["<a@b>", long.as_str()] {
            assert!(message_id(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "a@b",
            "<ab>",
            "<@b>",
            "<a@>",
            "<a@b@c>",
            "<a@b>\r\nBcc: <c@d>",
            "<a b@c>",
            "<ä@b>",
        ] {
            assert!(message_id(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_recipient_cannot_carry_another_header_or_command() {
        for bad in [
            "",
            "ann",
            "@b.example",
            "ann@",
            "ann@b.example\r\nBcc: eve@c.example",
            "ann@b.example\n",
            "ann@b.example>\r\nRCPT TO:<eve@c.example",
            "ann@b.example, eve@c.example",
            "Ann <ann@b.example>",
            "\"a\r\nb\"@b.example",
            "ann@b.example\0",
        ] {
            assert!(address(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_international_domain_is_written_in_ascii() {
        let to = address("ann@bücher.example").map(|address| address.to_string());
        assert_eq!(to.as_deref(), Some("ann@xn--bcher-kva.example"));
        let from = sender("Bücher <no-reply@bücher.example>").expect("a sender");
        assert_eq!(from.email.to_string(), "no-reply@xn--bcher-kva.example");
        assert_eq!(from.name.as_deref(), Some("Bücher"));
    }
}
