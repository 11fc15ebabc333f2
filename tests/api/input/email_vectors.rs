//! Dominic Sayers' table of addresses (`tests/data/isemail.json`) against ours.

use doorward::fields::Email;

use crate::harness::machine::{note, root};

/// Each address with the diagnosis that the table gives it.
fn addresses() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("tests/data/isemail.json")).unwrap();
    let mut addresses: Vec<(String, String)> = serde_json::from_str(&text).unwrap();
    // The table's own test adds these two.
    addresses.push(("test@[\0".into(), "errExpectingDTEXT".into()));
    addresses.push(("(\0)test@example.com".into(), "errExpectingCTEXT".into()));
    addresses
}

/// What is taken is an address that any mail server understands without a second thought: `valid`,
/// whether or not a DNS knows the domain. Refused, though somebody may read mail there, is what is
/// right for SMTP but unusual (`rfc5321`: quoted local parts, address literals, a top level domain
/// by itself or of digits), what would have to be rewritten for SMTP (`cfws`: comments, folded
/// lines), what is out of date (`deprecated`), and what only RFC 5322's widest reading allows
/// (`rfc5322`). White space around an address is no part of it, whatever the table thinks of it.
fn is_to_be_taken(address: &str, diagnosis: &str) -> bool {
    let is_plain = diagnosis == "valid" || diagnosis.starts_with("dnsWarn");
    // The table takes `test@io`, because DNS knows that domain: here every domain has two labels.
    is_plain && address.rsplit_once('@').is_some_and(|(_, domain)| domain.contains('.'))
}

#[test]
fn an_address_is_taken_exactly_where_it_is_plain_and_valid() {
    let addresses = addresses();
    let diagnosis_of = |address: &str| addresses.iter().find(|(other, _)| other == address);
    let mut taken = 0;
    for (as_typed, _) in &addresses {
        let address = as_typed.trim();
        let diagnosis =
            diagnosis_of(address).map_or("not in the table", |(_, diagnosis)| diagnosis);
        let is_taken = Email::parse(as_typed).is_ok_and(|email| email.as_str() == address);
        assert_eq!(is_taken, is_to_be_taken(address, diagnosis), "{as_typed:?} is {diagnosis}");
        taken += usize::from(is_taken);
    }
    note(&format!("{taken} of {} addresses taken", addresses.len()));
    assert_eq!((taken, addresses.len()), (45, 187));
}
