//! Access tokens that are almost right, most of them signed by the right key.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::app::{PUBLIC_URL, SECRET_KEY, TestApp};
use crate::harness::forge::Key;
use crate::tokens::contract::{contract_claims, me};

const OTHER_SECRET: &str = "some secret that is not the one of the tests";

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one line a forgery")]
async fn an_access_token_that_is_not_exactly_right_is_none() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    for (key, others) in [
        (Key::access(SECRET_KEY), Key::access(OTHER_SECRET)),
        (Key::access_eddsa(SECRET_KEY), Key::access_eddsa(OTHER_SECRET)),
    ] {
        let alg = key.header()["alg"].clone();
        let claims = contract_claims(&ada);
        let with_header = |name: &str, value: Value| {
            let mut header = key.header();
            header[name] = value;
            key.sign(&header.to_string(), &claims.to_string())
        };
        let with = |name: &str, value: Value| {
            let mut claims = claims.clone();
            claims[name] = value;
            key.token(&claims)
        };
        let without = |name: &str| {
            let mut claims = claims.clone();
            claims.as_object_mut().unwrap().remove(name).unwrap();
            key.token(&claims)
        };
        let good = key.token(&claims);
        let (head, rest) = good.split_once('.').unwrap();
        let (payload, signature) = rest.split_once('.').unwrap();
        let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());

        let mut forged = vec![
            with_header("alg", json!("none")),
            with_header("alg", json!("HS256")),
            with_header("alg", json!(if alg == "ES256" { "EdDSA" } else { "ES256" })),
            with_header("alg", json!("eddsa")),
            with_header("typ", json!("JWT")),
            with_header("typ", json!("rt+jwt")),
            with_header("typ", json!("AT+JWT")),
            with_header("typ", json!("application/at+jwt")),
            with_header("kid", json!("0000000000000000")),
            with_header("kid", json!(key.kid.to_uppercase())),
            with_header("kid", json!(Key::refresh(SECRET_KEY).kid)),
            with_header("kid", json!(null)),
            with_header("crit", json!(["exp"])),
            with_header("crit", json!([])),
            with_header("b64", json!(false)),
            with_header("jwk", json!({ "kty": "OKP" })),
            with_header("jku", json!("https://evil.example/jwks.json")),
            with_header("cty", json!("JWT")),
            key.sign(&json!({ "alg": alg, "kid": key.kid }).to_string(), &claims.to_string()),
            key.sign(&json!({ "alg": alg, "typ": "at+jwt" }).to_string(), &claims.to_string()),
            key.sign("[]", &claims.to_string()),
            // Another key, under its own name and under ours.
            others.token(&claims),
            others.sign(&key.header().to_string(), &claims.to_string()),
            Key::refresh(SECRET_KEY).token(&claims),
            Key::refresh(SECRET_KEY).sign(&key.header().to_string(), &claims.to_string()),
            // The public key is no secret: nobody may sign with it.
            Key::hmac_of(key.public_key(), "at+jwt").token(&claims),
            Key::hmac_of(key.public_key(), "at+jwt").sign(
                &json!({ "alg": "HS256", "typ": "at+jwt", "kid": key.kid }).to_string(),
                &claims.to_string(),
            ),
            Key::hmac_of(key.public_key(), "at+jwt")
                .sign(&key.header().to_string(), &claims.to_string()),
            // No signature, half of one, another one's, and other ways to cut a token.
            format!("{head}.{payload}."),
            format!("{head}.{payload}"),
            format!("{head}.{payload}.{}", &signature[..43]),
            format!("{head}.{}", bob.access_token().split_once('.').unwrap().1),
            format!("{head}..{signature}"),
            format!("{good}=="),
            format!("{good}."),
            format!("{good}.{signature}"),
            format!("{good}\t"),
            ".".to_owned(),
            "..".to_owned(),
            // Not now, not from here, not for here.
            with("nbf", json!(iat + 1)),
            with("nbf", json!("now")),
            with("iss", json!("https://evil.example")),
            with("iss", json!(format!("{PUBLIC_URL}/"))),
            with("aud", json!("https://evil.example")),
            with("aud", json!([PUBLIC_URL])),
            // Somebody under another's name.
            with("public_id", json!(bob.id())),
            with("sub", json!(bob.id())),
            with("sub", json!("ada")),
            with("sid", json!("x")),
            with("role", json!("owner")),
            with("gen", json!("0")),
            with("gen", json!(0.5)),
            key.sign(&key.header().to_string(), "[]"),
            key.sign(&key.header().to_string(), "null"),
            key.sign(
                &key.header().to_string(),
                &format!(r#"{{"exp":{exp},{}"#, &claims.to_string()[1..]),
            ),
            key.sign(
                &key.header().to_string(),
                &format!(r#"{{"sub":"{}",{}"#, bob.id(), &claims.to_string()[1..]),
            ),
        ];
        for (name, value) in claims.as_object().unwrap() {
            forged.push(without(name));
            // A value of another type: no claim is read for more than it is.
            forged.push(with(name, Value::Null));
            forged.push(with(name, json!([value])));
            forged.push(with(
                name,
                if value.is_string() { json!(1) } else { json!(value.to_string()) },
            ));
        }
        for name in ["iat", "exp"] {
            forged.push(with(name, json!(1e9 + 0.5)));
            forged.push(with(name, json!(u64::MAX)));
        }
        assert!(forged.len() > 100);
        for token in &forged {
            let answer = me(&app, token).await;
            let reading =
                token.split('.').take(2).filter_map(|part| URL_SAFE_NO_PAD.decode(part).ok());
            let reading: Vec<_> =
                reading.map(|part| String::from_utf8_lossy(&part).into_owned()).collect();
            assert_eq!(
                (answer.status.as_u16(), answer.code()),
                (401, "token_invalid"),
                "{reading:?}"
            );
            assert_eq!(
                answer.header("www-authenticate"),
                Some(r#"Bearer realm="doorward", error="invalid_token""#)
            );
        }
        me(&app, &good).await.assert_ok(200);
    }
}
