//! E-mail addresses, usernames and names.

use doorward::fields::{Email, Name, Username};

/// As one of each, and as a change to a good one.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for candidate in [
        text.to_owned(),
        format!("{text}@example.com"),
        format!("ada@{text}"),
        format!("ada@{text}.com"),
        format!("ada{text}@example.com"),
    ] {
        if let Ok(email) = Email::parse(&candidate) {
            assert_email(&email);
            assert_email_of(&email, &candidate);
        }
    }
    if let Ok(username) = Username::parse(text) {
        assert_eq!(username.as_str(), bare(text), "kept as typed");
        assert_username(&username);
    }
    if let Ok(name) = Name::parse(text) {
        assert_name(&name);
        assert_name_of(&name, text);
    }
}

/// Without the white space and the marks around it that nobody sees.
pub fn bare(text: &str) -> &str {
    const MARKS: &str = "\u{61c}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\
        \u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}";
    text.trim_matches(|c: char| c.is_whitespace() || MARKS.contains(c))
}

/// An address is kept as it was typed, but for a domain of another script.
pub fn assert_email_of(email: &Email, typed: &str) {
    let typed = bare(typed);
    let (local, domain) = typed.rsplit_once('@').expect("an @");
    if domain.is_ascii() {
        assert_eq!(email.as_str(), typed, "kept as typed");
        return;
    }
    let kept = email.as_str().strip_prefix(local).and_then(|rest| rest.strip_prefix('@'));
    let kept = kept.expect("the local part is kept as typed");
    assert_eq!(kept, kept.to_ascii_lowercase(), "{typed:?}");
    // Written once more in that form it is the same one.
    assert_eq!(Email::parse(&format!("{local}@{kept}")).as_ref(), Ok(email));
}

/// A name is kept in NFC, which changes nothing of ASCII.
pub fn assert_name_of(name: &Name, typed: &str) {
    if typed.is_ascii() {
        assert_eq!(name.as_str(), typed.trim());
    }
    assert!(name.as_str().is_empty() || !bare(typed).is_empty(), "{typed:?} cannot be seen");
}

pub fn assert_email(email: &Email) {
    let text = email.as_str();
    assert!(text.len() <= 254 && text.is_ascii(), "{text:?}");
    assert!(!text.contains(|c: char| c.is_ascii_control() || " ,;:<>()[]\\\"".contains(c)));
    let (local, domain) = text.split_once('@').expect("an @");
    assert!(!domain.contains('@') && (1..=64).contains(&local.len()), "{text:?}");
    assert!(domain.contains('.') && domain.split('.').all(|label| !label.is_empty()), "{text:?}");
    assert_eq!(email.local_part(), local);
    assert_eq!(Email::parse(text).as_ref(), Ok(email));
    // In any case it is the same address.
    assert!(Email::parse(&text.to_ascii_uppercase()).is_ok(), "{text:?}");
    // Whom a letter is sent to.
    let address: lettre::Address = text.parse().expect("an address that a letter can have");
    assert_eq!(AsRef::<str>::as_ref(&address), text);
    for copied in [format!("{text} "), format!("\n{text}\r\n"), format!("\u{202a}{text}\u{200b}")] {
        assert_eq!(Email::parse(&copied).as_ref(), Ok(email), "{copied:?}");
    }
    for broken in [
        format!("{text}\0"),
        format!("{text}."),
        format!("{text}@example.com"),
        format!("{text},{text}"),
        format!(".{text}"),
        format!("<{text}>"),
        format!("x {text}"),
        format!("x\u{200b}{text}"),
        format!("{}{text}", "a".repeat(65)),
    ] {
        assert!(Email::parse(&broken).is_err(), "{broken:?}");
    }
}

pub fn assert_username(username: &Username) {
    let text = username.as_str();
    assert!((3..=64).contains(&text.len()), "{text:?}");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    assert!(text.chars().all(is_plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric()));
    assert_eq!(Username::parse(text).as_ref(), Ok(username));
    assert_eq!(username.key(), text.to_lowercase());
    for (other, same_key) in [text.to_ascii_uppercase(), text.to_ascii_lowercase()]
        .iter()
        .map(|other| (Username::parse(other), username.key()))
    {
        assert_eq!(other.expect("reserved in no case or in every").key(), same_key);
    }
    // Nobody's name is somebody else's address.
    assert!(Email::parse(text).is_err(), "{text:?}");
}

pub fn assert_name(name: &Name) {
    let text = name.as_str();
    assert!(text.chars().count() <= 100 && text == text.trim(), "{text:?}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert_eq!(Name::parse(text).as_ref(), Ok(name));
}
