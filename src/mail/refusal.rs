//! What a mail server's refusal means: try again, or give up.
//!
//! Giving up is for what concerns this letter alone: its recipient does not exist, its content is
//! malformed. Whatever concerns *us* (the password, the sender's address, a quota, the server's own
//! trouble) holds for every letter alike and can be fixed, so the letter waits. When in doubt it
//! waits too: waiting costs a few more attempts, giving up wrongly costs the letter.

use std::error::Error as _;
use std::{fmt, io};

use lettre::transport::smtp::Error;

use super::{SendError, tls};

/// How far a conversation had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Name, TCP, TLS, greeting, EHLO.
    Connecting,
    StartTls,
    SigningIn,
    /// MAIL FROM.
    Sender,
    /// RCPT TO.
    Recipient,
    /// DATA and the letter itself.
    Content,
}

impl Stage {
    pub(super) const ALL: [Self; 6] = [
        Self::Connecting,
        Self::StartTls,
        Self::SigningIn,
        Self::Sender,
        Self::Recipient,
        Self::Content,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting to the mail server",
            Self::StartTls => "asking the mail server for TLS",
            Self::SigningIn => "signing in to the mail server",
            Self::Sender => "naming the sender",
            Self::Recipient => "naming the recipient",
            Self::Content => "handing over the letter",
        })
    }
}

pub(super) const NO_STARTTLS: &str = "it offers no STARTTLS";
pub(super) const NO_LOGIN: &str = "it offers no login";
pub(super) const LOGIN_AFTER_TLS: &str = "it offers a login after STARTTLS at the earliest";
pub(super) const NO_KNOWN_LOGIN: &str = "it offers no login by PLAIN or LOGIN";
pub(super) const BAD_HELLO: &str = "it does not take the name by which we greet it (EHLO)";
pub(super) const NO_UTF8: &str = "it takes no address outside ASCII (SMTPUTF8)";
/// Of a letter that was handed over in full: another attempt may bring it a second time.
pub(super) const OUTCOME_UNKNOWN: &str = "whether it took the letter is not known";

/// Of a letter that was not begun, as too little time was left for its answer.
pub(super) const TOO_SLOW: &str = "the mail server was too slow to be given the letter";

pub(super) const NO_SMTP: &str = "it gave an answer that is no SMTP";

/// Why a step of the conversation did not come to what it was for.
#[derive(Debug)]
pub(super) enum Failure {
    /// The reply is another than the step is for: with 4 and 5 at its beginning a refusal.
    Refused { code: u16, text: String },
    /// No reply, in words of ours.
    Other(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Other(tls::describe(&error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let source = error.source();
        if let Some(code) = error.status() {
            // The reply's text.
            let text = source.map(ToString::to_string).unwrap_or_default();
            return Self::Refused { code: code.into(), text };
        }
        // Lettre's other words repeat the server's.
        let below = source.and_then(|source| source.downcast_ref());
        Self::Other(below.map_or_else(|| NO_SMTP.to_owned(), tls::describe))
    }
}

/// Why a step failed, as the worker and the operator read it.
pub(super) fn judge(stage: Stage, failure: Failure) -> SendError {
    match failure {
        Failure::Refused { code, text } => refused(stage, code, &text),
        Failure::Other(why) => SendError::Transient(format!("{stage}: {why}")),
    }
}

/// Never the server's own words: they may name the recipient.
fn refused(stage: Stage, code: u16, text: &str) -> SendError {
    let status = EnhancedStatus::leading(text);
    let mut why = match status {
        Some(status) => format!("{stage}: {code} {status}"),
        None => format!("{stage}: {code}"),
    };
    // Servers tell of it as late as at RCPT: "Helo command rejected: need fully-qualified hostname".
    if code >= 500 && own_words(text).contains("helo ") {
        why = format!("{why}: {BAD_HELLO}");
    }
    let about_this_letter = matches!(stage, Stage::Recipient | Stage::Content)
        && code >= 500
        && !can_be_mended(stage, code, status, text);
    if about_this_letter { SendError::Permanent(why) } else { SendError::Transient(why) }
}

/// True if a 5xx reply to RCPT or DATA speaks of us or of the server rather than of this one
/// letter.
fn can_be_mended(stage: Stage, code: u16, status: Option<EnhancedStatus>, text: &str) -> bool {
    // Command unknown or out of place; not signed in (RFC 4954); a full mailbox, or at RCPT too
    // many recipients (552: to be taken as 452, RFC 5321, 4.5.3.1.10).
    if matches!(code, 500 | 502 | 503 | 530 | 534 | 535 | 538 | 552) {
        return true;
    }
    // Subject 0 is "other or undefined", which says no more than no status.
    let Some(EnhancedStatus(_, subject @ 1.., detail)) = status else {
        // The recipient was taken before the letter itself is refused, and every letter has much
        // the same words: with SendGrid, Amazon SES and Mailgun it is the sender or the account
        // that is not in order.
        return stage == Stage::Content || speaks_of_us(text);
    };
    match subject {
        1 => matches!(detail, 7 | 8),  // The sender's address.
        2 => !matches!(detail, 1 | 3), // But a mailbox that is closed or takes no letter so long. Outlook: 5.2.252.
        3 | 7 => true, // The server itself; policy: relaying, SPF and DKIM, reputation (RFC 7372).
        4 => detail == 5, // A limit is reached: with Gmail, the day's.
        5 => detail != 0, // The protocol; but Outlook says 5.5.0 of a mailbox that does not exist.
        _ => false,
    }
}

/// Whether a reply to RCPT without an enhanced status names the sender, the account or the server
/// that we are rather than the recipient. Servers repeat the recipient's address, which any client
/// may have chosen: it is passed over.
fn speaks_of_us(text: &str) -> bool {
    const WORDS: [&str; 18] = [
        "relay",
        "authenticat",
        "authoriz",
        "verified",
        "sender",
        "from address",
        "sandbox",
        "suspend",
        "paus",
        "limit",
        "quota",
        "prohibit",
        "blacklist",
        "blocklist",
        "blocked",
        "helo",
        "spf",
        "rcpthosts",
    ];
    let text = own_words(text);
    WORDS.iter().any(|word| text.contains(word))
}

/// In small letters, without what may be an address.
fn own_words(text: &str) -> String {
    let words = text.split_whitespace().filter(|word| !word.contains('@'));
    words.collect::<Vec<_>>().join(" ").to_ascii_lowercase()
}

/// RFC 3463: `5.1.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EnhancedStatus(u16, u16, u16);

impl EnhancedStatus {
    fn leading(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().next()?.split('.');
        let mut next = || -> Option<u16> { numbers.next()?.parse().ok() };
        let status = Self(next()?, next()?, next()?);
        numbers.next().is_none().then_some(status)
    }
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mends(stage: Stage, code: u16, text: &str) -> bool {
        can_be_mended(stage, code, EnhancedStatus::leading(text), text)
    }

    #[test]
    fn what_concerns_one_letter_is_final() {
        for (code, text) in [
            (550, "5.1.1 <x@y.example>: no such user"),
            (550, "no such user here"),
            (501, "5.1.3 Bad recipient address syntax"),
            (550, "5.2.1 The account is disabled"),
            (550, "5.2.3 Message size exceeds fixed maximum"),
            (550, "5.4.1 Recipient address rejected: Access denied"),
            (550, "<paus.limit@relay.example>: no such user"),
            (550, "5.0.0 no such user"),
            (551, "User not local"),
            (553, "5.1.2 no such domain"),
            (554, "Transaction failed"),
            (556, "5.1.10 Recipient address has null MX"),
            (550, "5.5.0 Requested action not taken: mailbox unavailable"),
        ] {
            assert!(!mends(Stage::Recipient, code, text), "{code} {text}");
        }
        assert!(!mends(Stage::Content, 554, "5.6.0 content not accepted"));
    }

    #[test]
    fn what_concerns_us_or_the_server_is_not() {
        for (code, text) in [
            (530, "5.7.0 Authentication Required"),
            (535, "5.7.8 Username and Password not accepted"),
            (534, "5.7.9 Application-specific password required"),
            (554, "5.7.1 <x@y.example>: Relay access denied"),
            (550, "relay not permitted"),
            (550, "Sender verify failed"),
            (550, "account suspended"),
            (550, "Administrative prohibition"),
            (553, "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
            (550, "5.7.26 This mail has been blocked because the sender is unauthenticated"),
            (550, "5.4.5 Daily user sending limit exceeded"),
            (553, "5.1.8 Sender address rejected"),
            (552, "5.2.2 mailbox full"),
            (554, "Message rejected: Email address is not verified."),
            (503, "5.5.1 bad sequence of commands"),
            (554, "5.3.5 system incorrectly configured"),
        ] {
            for stage in [Stage::Recipient, Stage::Content] {
                assert!(mends(stage, code, text), "{code} {text}");
            }
        }
        for (code, text) in [
            (550, "The from address does not match a verified Sender Identity."),
            (554, "Access denied: User is not authorized to perform ses:SendRawEmail"),
            (554, "Sandbox subdomains are for test purposes only."),
            (554, "5.2.252 SendAsDenied; x@y.example not allowed to send as z@y.example"),
            (
                554,
                "5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied",
            ),
            (554, "Transaction failed"),
            (554, "5.0.0 Service unavailable"),
        ] {
            assert!(mends(Stage::Content, code, text), "{code} {text}");
        }
    }

    #[test]
    fn an_enhanced_status_is_three_numbers() {
        assert_eq!(EnhancedStatus::leading("5.1.10 x"), Some(EnhancedStatus(5, 1, 10)));
        for text in ["", "5.1", "5.1.1.1 x", "x@5.1.1", "no 5.1.1"] {
            assert_eq!(EnhancedStatus::leading(text), None, "{text}");
        }
    }
}
