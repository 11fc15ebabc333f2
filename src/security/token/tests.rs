//! Of the three kinds together.

use jsonwebtoken::EncodingKey;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Header;

use super::codec::Envelope;
use super::*;
use crate::security::derive_key;

const ISSUER: &str = "https://auth.example.com";

fn secret(fill: &str) -> SecretString {
    fill.repeat(40).into()
}

fn keys() -> TokenKeys {
    TokenKeys::new(&secret("k"), None, TokenAlgorithm::Es256, ISSUER)
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("valid")
}

fn refresh_claims() -> RefreshClaims {
    RefreshClaims { sub: Uuid::from_u128(1), sid: Uuid::from_u128(2), counter: 3 }
}

pub(super) fn access_claims() -> AccessClaims {
    AccessClaims {
        sub: Uuid::from_u128(1),
        public_id: Uuid::from_u128(1),
        sid: Uuid::from_u128(2),
        jti: "j".to_owned(),
        generation: Some(3),
        amr: vec!["pwd".to_owned()],
        auth_time: Some(1_750_000_000),
        username: "ada".to_owned(),
        email: "a@b.example".to_owned(),
        email_verified: true,
        first_name: String::new(),
        last_name: String::new(),
        role: Role::Admin,
        is_staff: true,
        is_admin: true,
    }
}

#[test]
fn a_token_lives_until_its_last_second_and_not_in_it() {
    let keys = keys();
    let token = keys.issue_refresh(&refresh_claims(), at(0), at(60));
    assert_eq!(keys.open_refresh(&token, at(59)), Ok(refresh_claims()));
    assert_eq!(keys.open_refresh(&token, at(60)), Err(TokenError::Expired));
}

#[test]
fn a_token_that_was_verified_before_expires_all_the_same() {
    let keys = keys();
    let token = keys.issue_access(&access_claims(), at(0), at(60));
    let open = |seconds: i64| {
        let opened = keys.open_access(&token, at(seconds));
        opened.map(|opened| (opened.expires_at, opened.unexpired()))
    };
    assert_eq!(open(60), Ok((at(60), Err(TokenError::Expired))));
    assert!(keys.verified.find(&token).is_none(), "it has expired");
    assert_eq!(open(59), Ok((at(60), Ok(access_claims()))));
    assert!(keys.verified.find(&token).is_some());
    for _ in 0..2 {
        assert_eq!(open(59), Ok((at(60), Ok(access_claims()))));
        assert_eq!(open(60), Ok((at(60), Err(TokenError::Expired))));
    }
}

#[test]
fn a_token_that_was_verified_before_lends_its_signature_to_no_other() {
    let keys = keys();
    let token = keys.issue_access(&access_claims(), at(0), at(60));
    let admin = AccessClaims { sid: Uuid::from_u128(9), ..access_claims() };
    let other = keys.issue_access(&admin, at(0), at(60));
    assert!(keys.open_access(&token, at(1)).is_ok());
    let (_, signature) = token.rsplit_once('.').expect("three parts");
    let (claims, _) = other.rsplit_once('.').expect("three parts");
    let mut forged =
        vec![format!("{claims}.{signature}"), format!("{token} "), token.to_lowercase()];
    for place in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        forged.push(String::from_utf8(bytes).expect("ASCII"));
    }
    for forged in forged {
        assert!(keys.open_access(&forged, at(1)).is_err(), "{forged}");
        assert!(keys.verified.find(&forged).is_none(), "only what is genuine is kept: {forged}");
    }
    assert!(keys.open_access(&other, at(1)).is_ok(), "its own signature is good");
}

#[test]
fn the_same_state_is_the_same_refresh_token() {
    let issue = || keys().issue_refresh(&refresh_claims(), at(0), at(60));
    assert_eq!(issue(), issue());
}

#[test]
fn no_kind_passes_for_another_and_no_stranger_passes_at_all() {
    let keys = keys();
    let link = LinkClaims {
        sub: Uuid::from_u128(1),
        email: "a@b.example".into(),
        purpose: LinkPurpose::ConfirmEmail,
    };
    let link = keys.issue_link(&link, at(0), at(60));
    let refresh = keys.issue_refresh(&refresh_claims(), at(0), at(60));
    assert_eq!(keys.open_refresh(&link, at(1)), Err(TokenError::Invalid));
    assert_eq!(keys.open_link(&refresh, at(1)).map(|_| ()), Err(TokenError::Invalid));
    assert!(keys.open_access(&refresh, at(1)).is_err());
    let stranger = TokenKeys::new(&secret("s"), None, TokenAlgorithm::Es256, ISSUER);
    assert_eq!(stranger.open_refresh(&refresh, at(1)), Err(TokenError::Invalid));
    let elsewhere =
        TokenKeys::new(&secret("k"), None, TokenAlgorithm::Es256, "https://other.example.com");
    assert_eq!(elsewhere.open_refresh(&refresh, at(1)), Err(TokenError::Invalid));
}

#[test]
fn a_rotated_secret_logs_nobody_out() {
    let token = keys().issue_refresh(&refresh_claims(), at(0), at(60));
    let rotated = TokenKeys::new(&secret("n"), Some(&secret("k")), TokenAlgorithm::Es256, ISSUER);
    assert_eq!(rotated.open_refresh(&token, at(1)), Ok(refresh_claims()));
    assert_eq!(rotated.jwks()["keys"].as_array().map(Vec::len), Some(4));
}

/// Signs any header and payload with the service's own refresh key.
fn forge(header: &str, payload: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = keys().refresh.keys[0].signing.encoded_signature(&message);
    format!("{message}.{signature}")
}

#[test]
fn a_well_signed_token_is_still_checked_to_the_letter() {
    let keys = keys();
    let kid = &keys.refresh.keys[0].kid;
    let header = format!(r#"{{"alg":"HS256","typ":"rt+jwt","kid":"{kid}"}}"#);
    let ids = r#""sub":"00000000-0000-0000-0000-000000000001","sid":"00000000-0000-0000-0000-000000000002""#;
    let (iat, exp) = (at(0).timestamp(), at(60).timestamp());
    let named = format!(r#""iss":"{ISSUER}","aud":"{ISSUER}",{ids}"#);
    let good = format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp}}}"#);
    let open = |header: &str, payload: &str| keys.open_refresh(&forge(header, payload), at(1));
    assert_eq!(open(&header, &good), Ok(refresh_claims()));

    for bad_header in [
        r#"{"alg":"HS256","typ":"rt+jwt"}"#.to_owned(),
        r#"{"alg":"HS256","typ":"rt+jwt","kid":"0000000000000000"}"#.to_owned(),
        header.replace("HS256", "none"),
        header.replace("HS256", "HS512"),
        header.replace("rt+jwt", "JWT"),
        header.replace("rt+jwt", "at+jwt"),
        header.replace('}', r#","crit":["exp"]}"#),
        header.replace('}', r#","jku":"https://evil.example"}"#),
        header.replace('}', r#","alg":"HS256"}"#),
    ] {
        assert_eq!(open(&bad_header, &good), Err(TokenError::Invalid), "{bad_header}");
    }
    for bad_payload in [
        format!(r#"{{{named},"counter":3,"iat":{iat}}}"#),
        format!(r#"{{{named},"counter":3,"exp":{exp}}}"#),
        format!(r#"{{{named},"iat":{iat},"exp":{exp}}}"#),
        format!(r#"{{{named},"counter":"3","iat":{iat},"exp":{exp}}}"#),
        format!(r#"{{{named},"counter":3,"iat":{iat},"exp":"{exp}"}}"#),
        format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp}.5}}"#),
        format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp},"exp":{exp}}}"#),
        format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp},"nbf":{exp}}}"#),
        format!(r#"{{{named},"counter":3,"iat":{iat},"exp":{exp},"nbf":"x"}}"#),
        format!(r#"{{{named},"counter":-1,"iat":{iat},"exp":{exp}}}"#),
        format!(r#"{{{named},"counter":{},"iat":{iat},"exp":{exp}}}"#, 1_i64 << 31),
        format!(r#"{{"iss":"{ISSUER}",{ids},"counter":3,"iat":{iat},"exp":{exp}}}"#),
        good.replace("\"aud\":\"https", "\"aud\":\"http"),
        "[]".to_owned(),
    ] {
        assert_eq!(open(&header, &bad_payload), Err(TokenError::Invalid), "{bad_payload}");
    }
    let with_nbf = good.replace("\"counter\"", &format!("\"nbf\":{iat},\"counter\""));
    assert_eq!(open(&header, &with_nbf), Ok(refresh_claims()));
    let token = forge(&header, &good);
    for mangled in [
        format!("{token}A"),
        format!("{token}."),
        format!(".{token}"),
        token.replace('.', ". "),
        String::new(),
    ] {
        assert_eq!(keys.open_refresh(&mangled, at(1)), Err(TokenError::Invalid), "{mangled}");
    }
}

/// Byte for byte: neither Ed25519 nor HMAC leaves the signature a choice, as ECDSA does.
#[test]
fn a_token_is_the_one_that_the_library_issues() {
    fn assert_same<C: Clone + Serialize>(set: &KeySet, claims: &C, key: &EncodingKey) {
        let mut header = Header::new(set.keys[0].algorithm);
        header.typ = Some(set.kind.typ.to_owned());
        header.kid = Some(set.keys[0].kid.clone());
        let envelope = Envelope {
            iss: ISSUER.to_owned(),
            aud: ISSUER.to_owned(),
            iat: at(0).timestamp(),
            exp: at(60).timestamp(),
            nbf: None,
            claims: claims.clone(),
        };
        let token = jsonwebtoken::encode(&header, &envelope, key).expect("signs");
        assert_eq!(set.issue(claims, at(0), at(60)), token);
    }
    let keys = TokenKeys::new(&secret("k"), None, TokenAlgorithm::EdDsa, ISSUER);
    let seed = derive_key(&secret("k"), ACCESS.keys[1].info);
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed");
    let pkcs8 = pair.to_pkcs8v1().expect("a pair of keys");
    let access = AccessClaims {
        username: "\u{e4}\"\\\u{1f600}".to_owned(),
        last_name: "x".repeat(1_000),
        ..access_claims()
    };
    assert_same(&keys.access, &access, &EncodingKey::from_ed_der(pkcs8.as_ref()));
    let key = EncodingKey::from_secret(derive_key(&secret("k"), REFRESH.keys[0].info).as_slice());
    assert_same(&keys.refresh, &refresh_claims(), &key);
}

#[test]
fn keys_are_derived_as_documented() {
    // Computed with Python: HKDF(SHA256, 32, salt=None, info), P-256, Ed25519, SHA-256, HMAC.
    let secret = "doorward-test-vector-0123456789abcdef".to_owned().into();
    let keys = TokenKeys::new(&secret, None, TokenAlgorithm::Es256, ISSUER);
    assert_eq!(keys.jwks()["keys"][0]["x"], "IbGluSjVruW84kHvTD7A9P4oXGP6AQGE9rRj-X3SS84");
    assert_eq!(keys.jwks()["keys"][0]["y"], "-S8wNHFk6stRViIXdEVuB5fLZTzLWWvTO6jH0x4JXRQ");
    assert_eq!(keys.jwks()["keys"][1]["x"], "LhisWpwnwHGF_a6kWkdzU47ZMIVStxQ1gux_EAGJ4gE");
    assert_eq!(keys.access.keys[0].kid, "973e12ac6bcc109c");
    assert_eq!(keys.access.keys[1].kid, "1c20203279a0d119");
    assert_eq!(keys.refresh.keys[0].kid, "fc61a4ca033499cb");
    assert_eq!(keys.link.keys[0].kid, "93254602947f178d");
    // Instances of two releases issue the same one for the same state of a session.
    assert_eq!(
        keys.issue_refresh(&refresh_claims(), at(0), at(60)),
        "eyJ0eXAiOiJydCtqd3QiLCJhbGciOiJIUzI1NiIsImtpZCI6ImZjNjFhNGNhMDMzNDk5Y2IifQ.eyJpc3MiOiJodHRwczov\
         L2F1dGguZXhhbXBsZS5jb20iLCJhdWQiOiJodHRwczovL2F1dGguZXhhbXBsZS5jb20iLCJpYXQiOjE4MDAwMDAwMDAsImV\
         4cCI6MTgwMDAwMDA2MCwic3ViIjoiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAxIiwic2lkIjoiMDAwMD\
         AwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAyIiwiY291bnRlciI6M30.dui8hgfar4gw7dAc5O0U4rHCkaKOX6GKW\
         Yon3jaMtOw"
    );
}
