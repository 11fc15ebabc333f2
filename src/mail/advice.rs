//! What an operator can do about a letter that does not go.

use super::refusal::{
    BAD_HELLO, LOGIN_AFTER_TLS, NO_KNOWN_LOGIN, NO_LOGIN, NO_STARTTLS, NO_UTF8, OUTCOME_UNKNOWN,
    Stage, TOO_SLOW,
};
use super::{SendError, tls};

/// What the operator can do about an error of the mailer, by its words; `None` where that is nobody's
/// to mend but the server's.
pub fn advice(error: &SendError) -> Option<&'static str> {
    let text = error.to_string();
    let says = |words: &str| text.contains(words);
    if let Some((_, remedy)) = REMEDIES.iter().find(|(words, _)| says(words)) {
        return Some(remedy);
    }
    let failed_at = Stage::ALL.into_iter().find(|stage| text.starts_with(&stage.to_string()))?;
    let code = text.split([' ', ':']).find_map(|word| {
        word.parse::<u16>().ok().filter(|code| word.len() == 3 && (200..600).contains(code))
    });
    Some(match (failed_at, code) {
        (_, Some(400..=499)) => {
            "the server asks to be tried again later, and letters are: look into it if that goes on for hours"
        }
        (Stage::SigningIn, _) => {
            "check user and password in SMTP_URL, where a % of the password's own before two digits is %25; Gmail \
             wants an app password, not the account's own, and Microsoft 365 has to allow SMTP AUTH for the mailbox"
        }
        (Stage::Connecting, Some(501 | 504)) => GREETING,
        (Stage::Connecting, Some(_)) => {
            "the server does not talk to this machine: look whether it takes letters from this address, and what it \
             logged"
        }
        (Stage::Connecting | Stage::StartTls, _) => {
            "check host and port in SMTP_URL, smtps:// for 465 and smtp:// with ?tls=required for 587, and that this \
             machine may reach it: many hosters block SMTP"
        }
        (Stage::Sender | Stage::Recipient | Stage::Content, _) => {
            "the server has to take letters from MAIL_FROM: check that sender, that the provider has verified it and \
             the account may send, and user and password in SMTP_URL"
        }
    })
}

const GREETING: &str = "the server wants to know us by a domain: we say the host of PUBLIC_URL, so set that to the \
                        name that browsers use";

/// By words of ours, the narrower before the wider.
const REMEDIES: [(&str, &str); 15] = [
    (
        tls::UNKNOWN_AUTHORITY,
        "let the server send its whole chain; where its authority is your own or it signed itself, name that \
         certificate's PEM file in SSL_CERT_FILE",
    ),
    (
        tls::OTHER_NAME,
        "write the host in SMTP_URL as the certificate has it, or issue one for that host",
    ),
    (
        tls::EXPIRED,
        "let the server have a new certificate; if that date is to come, set this machine's clock",
    ),
    (
        tls::NOT_YET,
        "set this machine's clock, or let the server have a certificate that holds today",
    ),
    (
        tls::OF_AUTHORITY,
        "issue the server one of its own (openssl req -x509 -addext basicConstraints=critical,CA:FALSE) and name its \
         PEM file in SSL_CERT_FILE",
    ),
    (tls::CERTIFICATE, "let the server have a certificate that other mail programs trust as well"),
    (
        OUTCOME_UNKNOWN,
        "the letter is sent again under the same Message-ID, by which many mailboxes know the two for one",
    ),
    (
        TOO_SLOW,
        "look at what keeps the server: it gets 30 seconds for a step, and a minute for all before the letter itself",
    ),
    (LOGIN_AFTER_TLS, "write ?tls=required after the port in SMTP_URL"),
    (
        NO_KNOWN_LOGIN,
        "let the server offer PLAIN or LOGIN, which are all that Doorward speaks, or take a relay that does",
    ),
    (
        NO_LOGIN,
        "take the server's port for submission, mostly 587 or 465; or leave user and password out of SMTP_URL, if it \
         takes letters from this machine without",
    ),
    (
        NO_STARTTLS,
        "the server has no STARTTLS on this port: take the port that has, mostly 587, or smtps:// and 465",
    ),
    (
        tls::NO_TLS,
        "write smtp:// with ?tls=required for STARTTLS, mostly on 587; smtps:// is for TLS from the first byte, mostly \
         on 465",
    ),
    (BAD_HELLO, GREETING),
    (
        NO_UTF8,
        "take a MAIL_FROM whose part before the @ is ASCII, or a server that offers SMTPUTF8",
    ),
];
