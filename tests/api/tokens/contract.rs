//! The tokens as the contract has them: what they say, how long they are good, and who decides in
//! the end.

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use serde_json::{Value, json};

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, SECRET_KEY, TestApp};
use crate::harness::forge::{self, Key};
use crate::harness::person::{PASSWORD, Person};

pub const OLD_SECRET: &str = "the secret of last year, which is long enough";

/// `GET /users/me` with this access token.
pub async fn me(app: &TestApp, token: &str) -> Answer {
    app.anonymous()
        .call(Method::GET, "/api/v1/users/me")
        .header("x-access-token", token)
        .send()
        .await
}

/// The claims that the contract names and no other, for a session that exists.
pub fn contract_claims(person: &Person) -> Value {
    let (_, claims) = forge::read(person.access_token());
    let mut minted = json!({ "jti": "made elsewhere" });
    for name in [
        "iss",
        "aud",
        "sub",
        "public_id",
        "sid",
        "iat",
        "exp",
        "username",
        "email",
        "email_verified",
        "first_name",
        "last_name",
        "role",
        "is_staff",
        "is_admin",
    ] {
        minted[name] = claims[name].clone();
    }
    minted
}

#[tokio::test]
async fn an_access_token_says_what_the_contract_says() {
    let app = TestApp::start().await;
    let body = json!({
        "username": "Ada", "email": "ada@example.com", "password": PASSWORD,
        "first_name": "Ada", "last_name": "Lovelace",
    });
    app.anonymous().post("/api/v1/users/", &body).await.assert_ok(201);
    let ada = app.log_in("ada", PASSWORD).await;
    let (header, claims) = forge::read(ada.access_token());
    let kid = Key::access(SECRET_KEY).kid;
    assert_eq!(header, json!({ "alg": "ES256", "typ": "at+jwt", "kid": kid }));
    let iat = app.clock.now().timestamp();
    assert_eq!(
        claims,
        json!({
            "iss": PUBLIC_URL, "aud": PUBLIC_URL, "sub": ada.id(), "public_id": ada.id(),
            "sid": claims["sid"].as_str().unwrap(), "jti": claims["jti"].as_str().unwrap(),
            "iat": iat, "exp": iat + 1800, "gen": 0, "amr": ["pwd"], "auth_time": iat,
            "username": "Ada", "email": "ada@example.com", "email_verified": false,
            "first_name": "Ada", "last_name": "Lovelace",
            "role": "user", "is_staff": false, "is_admin": false,
        })
    );
    let again = app.log_in("ada", PASSWORD).await;
    let (_, other) = forge::read(again.access_token());
    assert_ne!((&other["sid"], &other["jti"]), (&claims["sid"], &claims["jti"]));
    assert_ne!(other["jti"], claims["jti"]);

    let (header, claims) = forge::read(ada.refresh_token());
    assert_eq!(header["alg"], "HS256");
    assert_eq!(header["kid"], json!(Key::refresh(SECRET_KEY).kid));
    assert_eq!((&claims["sub"], &claims["counter"]), (&json!(ada.id()), &json!(0)));
    assert_eq!(claims["exp"], iat + 30 * 86_400);
}

/// Both public keys of a secret, that of `ES256` first.
fn jwks(secret: &str) -> [Value; 2] {
    let (key, eddsa) = (Key::access(secret), Key::access_eddsa(secret));
    let point = key.public_key();
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    [
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": key.kid,
            "x": encoded(&point[1..33]), "y": encoded(&point[33..]),
        }),
        json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": eddsa.kid,
            "x": encoded(&eddsa.public_key()),
        }),
    ]
}

#[tokio::test]
async fn the_key_set_is_what_everybody_derives_from_the_secret() {
    let ([es256, eddsa], [old_es256, old_eddsa]) = (jwks(SECRET_KEY), jwks(OLD_SECRET));
    for (settings, expected) in [
        (&[][..], vec![&es256, &eddsa]),
        (&[("TOKEN_ALGORITHM", "EdDSA")], vec![&eddsa, &es256]),
        (&[("SECRET_KEY_PREVIOUS", OLD_SECRET)], vec![&es256, &eddsa, &old_es256, &old_eddsa]),
        (
            &[("SECRET_KEY_PREVIOUS", OLD_SECRET), ("TOKEN_ALGORITHM", "eddsa")],
            vec![&eddsa, &es256, &old_es256, &old_eddsa],
        ),
    ] {
        let app = TestApp::with(settings).await;
        let answer = app.anonymous().get("/.well-known/jwks.json").await;
        assert_eq!(answer.json, json!({ "keys": expected }));
    }
}

#[tokio::test]
async fn a_token_with_the_claims_of_the_contract_alone_is_accepted() {
    let app = TestApp::start().await;
    let mut ada = app.user("ada").await;
    let claims = contract_claims(&ada);
    assert_eq!(claims.get("gen"), None);
    let key = Key::access(SECRET_KEY);
    let minted = key.token(&claims);
    assert_eq!(me(&app, &minted).await.assert_ok(200)["user"], ada.user);
    // More than the contract asks for does not matter, in any order.
    let mut more = json!({ "scope": "all", "nested": { "role": "admin" } });
    more.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    more["nbf"] = claims["iat"].clone();
    me(&app, &key.token(&more)).await.assert_ok(200);
    // It goes with the refresh token of its session, and is of no generation: it replaces nobody's
    // token.
    let call = app.anonymous().call(Method::POST, "/api/v1/refresh");
    let call = call.header("x-access-token", &minted);
    let refreshed = call.header("x-refresh-token", ada.refresh_token()).send().await;
    refreshed.assert_ok(200);
    me(&app, &minted).await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(1));
    ada.refresh().await.assert_ok(200);
    app.clock.advance(TimeDelta::minutes(29));
    me(&app, &minted).await.assert_error(401, "token_expired");
}

#[tokio::test]
async fn time_is_kept_to_the_second_without_leeway() {
    let app = TestApp::start().await;
    let ada = app.user("ada").await;
    let key = Key::access(SECRET_KEY);
    let now = app.clock.now().timestamp();
    let with = |exp: i64, nbf: Option<i64>| {
        let mut claims = contract_claims(&ada);
        claims["exp"] = json!(exp);
        claims["nbf"] = json!(nbf);
        key.token(&claims)
    };
    for (exp, nbf, code) in [
        (now + 1, None, ""),
        (now + 1, Some(now), ""),
        (now + 100_000_000_000, Some(0), ""),
        (now, None, "token_expired"),
        (now - 1, None, "token_expired"),
        (0, None, "token_expired"),
        (-1, None, "token_expired"),
        (i64::MIN, None, "token_expired"),
        (now + 10, Some(now + 1), "token_invalid"),
        (now, Some(now + 1), "token_invalid"),
    ] {
        let answer = me(&app, &with(exp, nbf)).await;
        assert_eq!(answer.code(), code, "exp {exp}, nbf {nbf:?}");
        assert_eq!(answer.json.get("expired").is_some(), code == "token_expired");
    }
}

#[tokio::test]
async fn a_good_token_of_a_session_that_is_not_there_is_told_so() {
    let app = TestApp::start().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let key = Key::access(SECRET_KEY);
    let unknown = "01900000-0000-7000-8000-000000000000";
    let bobs = contract_claims(&bob);
    for (sub, sid) in [
        (json!(ada.id()), json!(unknown)),
        (json!(unknown), contract_claims(&ada)["sid"].clone()),
        // A session serves its own user alone.
        (json!(ada.id()), bobs["sid"].clone()),
    ] {
        let mut claims = contract_claims(&ada);
        (claims["sub"], claims["public_id"], claims["sid"]) = (sub.clone(), sub, sid);
        me(&app, &key.token(&claims)).await.assert_error(401, "session_ended");
    }
    // The same for refresh tokens.
    let (_, mut claims) = forge::read(ada.refresh_token());
    claims["sid"] = bobs["sid"].clone();
    let mixed = Key::refresh(SECRET_KEY).token(&claims);
    ada.refresh_with(&mixed).await.assert_error(401, "session_ended");
    bob.clone().refresh().await.assert_ok(200);
}

#[tokio::test]
async fn a_token_says_who_and_the_database_says_whether() {
    let app = TestApp::start().await;
    let boss = app.admin().await;
    let ada = app.user("ada").await;
    let path = format!("/api/v1/users/{}", ada.id());
    let set_role = async |role: &str| {
        boss.put(&format!("{path}?role={role}"), &json!({})).await.assert_ok(200);
    };
    ada.get("/api/v1/users/").await.assert_error(403, "forbidden");
    set_role("Admin").await;
    // The same token, which still says `user`.
    ada.get("/api/v1/users/").await.assert_ok(200);
    let user = ada.get("/api/v1/users/me").await.assert_ok(200)["user"].clone();
    assert_eq!((&user["role"], &user["is_admin"]), (&json!("admin"), &json!(true)));
    let admins_token = ada.clone().refresh().await.assert_ok(200)["token"].clone();
    assert_eq!(forge::read(admins_token.as_str().unwrap()).1["is_admin"], true);
    set_role("User").await;
    // And one that still says `admin`, made by whoever has the key.
    let mut claims = contract_claims(&ada);
    (claims["role"], claims["is_admin"]) = (json!("admin"), json!(true));
    let mut other = ada.clone();
    for token in [admins_token.as_str().unwrap(), &Key::access(SECRET_KEY).token(&claims)] {
        other.access = Some(token.to_owned());
        other.get("/api/v1/users/").await.assert_error(403, "forbidden");
        other.delete(&format!("/api/v1/users/{}", boss.id())).await.assert_error(403, "forbidden");
    }
    ada.put("/api/v1/users/me", &json!({ "first_name": "Ada" })).await.assert_ok(200);
    let user = me(&app, other.access_token()).await.assert_ok(200)["user"].clone();
    assert_eq!((&user["first_name"], &user["role"]), (&json!("Ada"), &json!("user")));
    boss.delete(&path).await.assert_ok(200);
    other.get("/api/v1/users/me").await.assert_error(401, "session_ended");
}
