//! Another algorithm or another secret: nobody is logged out, and no call is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::RwLock;

use crate::harness::app::{SECRET_KEY, TestApp, link_in};
use crate::harness::cluster::new_database;
use crate::harness::forge::{self, Key};
use crate::harness::person::{Person, email_of};
use crate::harness::races::at_once;
use crate::tokens::contract::{OLD_SECRET, contract_claims, me};

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
