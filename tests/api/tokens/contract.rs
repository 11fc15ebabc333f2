//! The tokens as the contract has them: what they say, how long they are good, and who decides in
//! the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Method;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::harness::answer::Answer;
use crate::harness::app::{PUBLIC_URL, SECRET_KEY, TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::forge::{self, Key};
use crate::harness::person::{PASSWORD, Person, email_of};
use crate::harness::races::at_once;

const OLD_SECRET: &str = "the secret of last year, which is long enough";

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
            "iat": iat, "exp": iat + 1800, "gen": 0,
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
async fn a_change_of_the_algorithm_logs_nobody_out() {
    let database = new_database().await;
    let es256 = TestApp::on(&database, &[]).await;
    let settings = [("TOKEN_ALGORITHM", "EdDSA")];
    let eddsa = TestApp::at(&database, &settings, es256.clock.clone()).await;
    let mut ada = es256.newcomer("ada").await;
    assert_eq!(forge::read(ada.access_token()).0["alg"], "ES256");
    for (app, alg, key) in [
        (&eddsa, "EdDSA", Key::access_eddsa(SECRET_KEY)),
        (&es256, "ES256", Key::access(SECRET_KEY)),
        (&eddsa, "EdDSA", Key::access_eddsa(SECRET_KEY)),
    ] {
        ada.app = app.clone();
        ada.get("/api/v1/users/me").await.assert_ok(200);
        ada.refresh().await.assert_ok(200);
        let header = forge::read(ada.access_token()).0;
        assert_eq!(header, json!({ "alg": alg, "typ": "at+jwt", "kid": key.kid }));
        for app in [&es256, &eddsa] {
            me(app, ada.access_token()).await.assert_ok(200);
            me(app, &key.token(&contract_claims(&ada))).await.assert_ok(200);
        }
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
async fn a_change_of_the_secret_logs_nobody_out() {
    let database = new_database().await;
    let old = TestApp::on(&database, &[("SECRET_KEY", OLD_SECRET)]).await;
    let settings = [("SECRET_KEY_PREVIOUS", OLD_SECRET)];
    let new = TestApp::at(&database, &settings, old.clock.clone()).await;
    let mut ada = old.newcomer("ada").await;
    let link = link_in(&old.letter_to(&email_of("ada")).await);

    // All three kinds of the old secret, at the new instance.
    ada.app = new.clone();
    ada.get("/api/v1/users/me").await.assert_ok(200);
    new.anonymous().get(&link).await.assert_ok(200);
    let before = ada.refresh.clone().unwrap();
    ada.refresh().await.assert_ok(200);
    ada.get("/api/v1/users/me").await.assert_ok(200);
    for (token, kid) in [
        (ada.access_token(), Key::access(SECRET_KEY).kid),
        (ada.refresh_token(), Key::refresh(SECRET_KEY).kid),
    ] {
        assert_eq!(forge::read(token).0["kid"], json!(kid), "the new secret signs");
    }
    // What was asked of both instances at once is one lineage still.
    let again = ada.refresh_with(&before).await;
    assert_eq!(again.assert_ok(200)["refresh_token"], ada.refresh_token());
    // An instance that does not know the new secret yet refuses its tokens, and ends nothing.
    ada.app = old.clone();
    ada.get("/api/v1/users/me").await.assert_error(401, "token_invalid");
    let refused = ada.refresh_with(ada.refresh_token()).await;
    refused.assert_error(401, "refresh_token_invalid");
    // Without the previous secret its tokens are nobody's.
    let after = TestApp::at(&database, &[], old.clock.clone()).await;
    let bob = old.newcomer("bob").await;
    let link = link_in(&old.letter_to(&email_of("bob")).await);
    me(&after, bob.access_token()).await.assert_error(401, "token_invalid");
    let refused = after.anonymous().refresh_with(bob.refresh_token()).await;
    refused.assert_error(401, "refresh_token_invalid");
    after.anonymous().get(&link).await.assert_error(400, "link_invalid");
    ada.app = after;
    ada.refresh().await.assert_ok(200);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_algorithm_under_load_refuses_no_call() {
    let database = new_database().await;
    let old = TestApp::on(&database, &[]).await;
    let settings = [("TOKEN_ALGORITHM", "EdDSA")];
    let new = TestApp::at(&database, &settings, old.clock.clone()).await;
    // Two places behind a balancer: one instance after the other is replaced while people call.
    let places = Arc::new([old.clone(), old.clone()].map(RwLock::new));
    let made = Arc::new(AtomicUsize::new(0));
    let changed = Arc::new(AtomicBool::new(false));
    let calls = at_once(8, |number| {
        let (places, made, old) = (Arc::clone(&places), Arc::clone(&made), old.clone());
        let changed = Arc::clone(&changed);
        async move {
            let mut person = old.newcomer(&format!("user{number}")).await;
            let algorithm =
                |person: &Person| forge::read(person.access_token()).0["alg"].to_string();
            let mut algorithms = BTreeSet::from([algorithm(&person)]);
            // However fast one is, it calls before, during and after; fewer refreshes than the limit.
            let (mut refreshes, mut afterwards) = (0, 0);
            for round in 0.. {
                let is_changed = changed.load(Ordering::SeqCst);
                made.fetch_add(1, Ordering::SeqCst);
                person.app = places[round % 2].read().await.clone();
                person.get("/api/v1/users/me").await.assert_ok(200);
                if round % 3 == 0 && (refreshes < 14 || is_changed) {
                    person.refresh().await.assert_ok(200);
                    refreshes += 1;
                }
                algorithms.insert(algorithm(&person));
                afterwards += usize::from(is_changed);
                if afterwards == 12 {
                    break;
                }
            }
            algorithms.len()
        }
    });
    let change = async {
        for (place, calls) in places.iter().zip([100, 200]) {
            while made.load(Ordering::SeqCst) < calls {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            *place.write().await = new.clone();
        }
        changed.store(true, Ordering::SeqCst);
    };
    let (seen, ()) = tokio::join!(calls, change);
    assert_eq!(seen, [2; 8], "everybody met both");
}
