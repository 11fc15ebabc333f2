//! Tokens that others have made and published: judged by the library as they say, and none of ours.
//! They are the examples of the RFCs, and Project Wycheproof's JWS vectors
//! (`tests/data/wycheproof_jws.json`).

use std::fs;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Validation, crypto, decode, decode_header,
};
use serde_json::Value;

use crate::harness::app::TestApp;
use crate::harness::machine::root;
use crate::tokens::contract::me;

/// RFC 7515, A.1, which is RFC 7519, 3.1, too.
const RFC7515_HS256: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const RFC7515_HS256_KEY: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";

/// RFC 7515, A.3.
const RFC7515_ES256: &str = "eyJhbGciOiJFUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const RFC7515_ES256_KEY: (&str, &str) =
    ("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0");

/// RFC 7515, A.5, which is RFC 7519, 6.1, too.
const RFC7515_NONE: &str = "eyJhbGciOiJub25lIn0.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.";

/// RFC 8037, A.4, by the key of A.1.
const RFC8037_EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
    hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
const RFC8037_SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
const RFC8037_PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

/// "Valid" to Wycheproof, where base64 is read leniently; RFC 7515, 2, has no room for a character
/// beyond the alphabet.
const LENIENT_BASE64: [u64; 2] = [372, 373];

/// "Invalid" to Wycheproof for a padding that got lost: as they stand, they are vector 357 once
/// more, which is valid.
const SAME_AS_357: [u64; 2] = [367, 370];

struct Vector {
    id: u64,
    jws: String,
    is_valid: bool,
    /// The key of its group, where that is an HMAC key.
    hmac_key: Option<Vec<u8>>,
}

fn wycheproof() -> Vec<Vector> {
    let text = fs::read_to_string(root().join("tests/data/wycheproof_jws.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let mut vectors = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        let hmac_key = group["private"]["k"].as_str().map(bytes);
        for test in group["tests"].as_array().unwrap() {
            vectors.push(Vector {
                id: test["tcId"].as_u64().unwrap(),
                jws: test["jws"].as_str().unwrap().to_owned(),
                is_valid: test["result"] == "valid",
                hmac_key: hmac_key.clone(),
            });
        }
    }
    assert_eq!((vectors.len(), &file["numberOfTests"]), (401, &Value::from(401)));
    vectors
}

fn bytes(base64: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(base64).unwrap()
}

/// Whether the library accepts it with the settings that `security::token` has: a payload need not
/// be claims.
fn is_signed(token: &str, key: &DecodingKey, algorithm: Algorithm) -> bool {
    let mut signature_only = Validation::new(algorithm);
    signature_only.required_spec_claims.clear();
    signature_only.validate_exp = false;
    signature_only.validate_aud = false;
    match decode::<Value>(token, key, &signature_only) {
        Ok(_) => true,
        Err(error) => decode_header(token).is_ok() && matches!(error.kind(), ErrorKind::Json(_)),
    }
}

#[test]
fn an_hmac_token_is_accepted_exactly_where_wycheproof_says_so() {
    let vectors = wycheproof();
    let jws = |id| &vectors.iter().find(|vector| vector.id == id).unwrap().jws;
    for id in SAME_AS_357 {
        assert_eq!(jws(id), jws(357));
    }
    let (mut accepted, mut refused) = (0, 0);
    for Vector { id, jws, is_valid, hmac_key } in &vectors {
        let Some(key) = hmac_key else { continue };
        let is_to_be = (*is_valid || SAME_AS_357.contains(id)) && !LENIENT_BASE64.contains(id);
        let is_accepted = is_signed(jws, &DecodingKey::from_secret(key), Algorithm::HS256);
        assert_eq!(is_accepted, is_to_be, "{id}: {jws}");
        if is_accepted { accepted += 1 } else { refused += 1 }
    }
    assert_eq!((accepted, refused), (10, 30));
}

#[test]
fn the_examples_of_the_rfcs_are_signed_and_read_as_they_say() {
    let secret = bytes(RFC7515_HS256_KEY);
    let (message, signature) = RFC7515_HS256.rsplit_once('.').unwrap();
    let signed =
        crypto::sign(message.as_bytes(), &EncodingKey::from_secret(&secret), Algorithm::HS256);
    assert_eq!(signed.unwrap(), signature);
    assert!(is_signed(RFC7515_HS256, &DecodingKey::from_secret(&secret), Algorithm::HS256));

    let (x, y) = RFC7515_ES256_KEY;
    let key = DecodingKey::from_ec_components(x, y).unwrap();
    assert!(is_signed(RFC7515_ES256, &key, Algorithm::ES256));

    let pair = Ed25519KeyPair::from_seed_unchecked(&bytes(RFC8037_SEED)).unwrap();
    assert_eq!(pair.public_key().as_ref(), bytes(RFC8037_PUBLIC));
    let (message, signature) = RFC8037_EDDSA.rsplit_once('.').unwrap();
    assert_eq!(pair.sign(message.as_bytes()).as_ref(), bytes(signature));
    let key = DecodingKey::from_ed_der(&bytes(RFC8037_PUBLIC));
    assert!(is_signed(RFC8037_EDDSA, &key, Algorithm::EdDSA));

    // Whatever it is read with, a token without a signature has none.
    for algorithm in [Algorithm::HS256, Algorithm::EdDSA] {
        assert!(!is_signed(RFC7515_NONE, &DecodingKey::from_secret(b""), algorithm));
        assert!(!is_signed(RFC7515_NONE, &key, algorithm));
    }
}

#[tokio::test]
async fn a_token_that_somebody_else_has_published_opens_nothing() {
    let app = TestApp::start().await;
    let mut tokens: Vec<String> =
        [RFC7515_HS256, RFC7515_ES256, RFC7515_NONE, RFC8037_EDDSA].map(str::to_owned).into();
    tokens.extend(wycheproof().into_iter().map(|vector| vector.jws));
    let post = |path: &str| app.anonymous().call(Method::POST, path);
    for token in &tokens {
        let (access, refresh) = if token.is_empty() {
            ("token_missing", "refresh_token_missing")
        } else {
            ("token_invalid", "refresh_token_invalid")
        };
        me(&app, token).await.assert_error(401, access);
        let bearer = post("/api/v1/users/me").header("authorization", &format!("Bearer {token}"));
        bearer.send().await.assert_error(401, access);
        app.anonymous().refresh_with(token).await.assert_error(401, refresh);
        let logout = post("/api/v1/logout").header("x-refresh-token", token).send().await;
        let refused = if token.is_empty() { "token_missing" } else { refresh };
        logout.assert_error(401, refused);
        let query =
            form_urlencoded::Serializer::new(String::new()).append_pair("token", token).finish();
        let link = format!("/api/v1/confirm?{query}");
        app.anonymous().get(&link).await.assert_error(400, "link_invalid");
    }
    assert_eq!(tokens.len(), 4 + 401);
}
