//! The settings that the binary reads at its start: the first admin's, and those in `.env`.

use std::fs;

use crate::harness::app::{PUBLIC_URL, SECRET_KEY};
use crate::harness::cluster::{cluster, new_database};
use crate::harness::home::Home;
use crate::harness::person::{PASSWORD, email_of};

const ADMIN: [(&str, &str); 2] =
    [("ADMIN_EMAIL", "boss@example.com"), ("ADMIN_PASSWORD", PASSWORD)];

#[tokio::test]
async fn the_first_admin_is_made_from_the_settings_once() {
    let (mut home, _) = Home::with_database(&ADMIN).await;
    let service = home.start().await;
    let boss = home.log_in("boss").send().await.expect(200);
    assert_eq!(boss["user"]["role"], "admin");
    assert_eq!(boss["user"]["email_verified"], true);
    service.stop().await;

    // There is one now: other settings make no second one, and take nothing back.
    home.set("ADMIN_EMAIL", "other@example.com");
    home.set("ADMIN_PASSWORD", "another good password");
    let service = home.start().await;
    home.log_in("other").send().await.expect(401);
    let users = home.get("/api/v1/users/?count=true").by(&boss).send().await.expect(200);
    assert_eq!(users["users"].as_array().unwrap().len(), 1);
    service.stop().await;
}

#[tokio::test]
async fn two_instances_at_their_first_start_make_one_admin() {
    let database = new_database().await;
    let homes = [Home::on(&database, &ADMIN).await, Home::on(&database, &ADMIN).await];
    let (first, second) = tokio::join!(homes[0].start(), homes[1].start());
    let boss = homes[0].log_in("boss").send().await.expect(200);
    let users = homes[1].get("/api/v1/users/?role=admin").by(&boss).send().await.expect(200);
    assert_eq!(users["users"].as_array().unwrap().len(), 1);
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn whoever_registered_the_address_before_is_not_made_admin() {
    let (mut home, _) = Home::with_database(&[]).await;
    let service = home.start().await;
    home.newcomer("boss").await;
    service.stop().await;

    for (name, value) in ADMIN {
        home.set(name, value);
    }
    for username in ["", "chief"] {
        home.set("ADMIN_USERNAME", username);
        let service = home.start().await;
        service.wait_for_log("no admin was made").await;
        let boss = home.log_in("boss").send().await.expect(200);
        assert_eq!(
            (&boss["user"]["role"], &boss["user"]["email"]),
            (&"user".into(), &email_of("boss").into())
        );
        home.log_in("chief").send().await.expect(401);
        service.forget_log();
        service.stop().await;
    }
}

#[tokio::test]
async fn a_first_admin_that_is_not_usable_keeps_the_service_from_starting() {
    let (mut home, _) = Home::with_database(&ADMIN).await;
    let mut refused = async |name: &str, value: &str, words: &[&str]| {
        home.set(name, value);
        let said = home.fails(&["serve"], "").await;
        let last = said.trim_end().lines().last().unwrap();
        assert!(words.iter().all(|word| last.contains(word)), "{name}: {said}");
        assert!(!said.contains("hunter"), "{said}");
        let (_, good) = ADMIN.iter().find(|(known, _)| *known == name).unwrap_or(&("", ""));
        home.set(name, good);
    };
    refused("ADMIN_PASSWORD", "hunter2", &["ADMIN_PASSWORD", "8 characters"]).await;
    refused("ADMIN_PASSWORD", "12345678", &["ADMIN_PASSWORD"]).await;
    refused("ADMIN_EMAIL", "boss", &["ADMIN_EMAIL"]).await;
    refused("ADMIN_USERNAME", "no spaces", &["ADMIN_USERNAME"]).await;
    refused("ADMIN_PASSWORD", "", &["ADMIN_EMAIL and ADMIN_PASSWORD go together"]).await;
}

#[tokio::test]
async fn settings_are_read_from_a_file_and_the_process_comes_first() {
    let database = new_database().await;
    let mut home = Home::new(&[]);
    let url = cluster().await.url(&database);
    let file = format!(
        "# A comment.\nDATABASE_URL={url}\nSECRET_KEY=\"{SECRET_KEY}\"\nexport PUBLIC_URL=https://from.the.file\n\
         PORT=1\nADMIN_EMAIL=boss@example.com\nADMIN_PASSWORD='{PASSWORD}'\n"
    );
    fs::write(home.folder().join(".env"), file).unwrap();
    // The home's PORT is in the process's environment.
    let service = home.start().await;
    home.log_in("boss").send().await.expect(200);
    let root = home.get("/").send().await.expect(200);
    assert_eq!(root["links"]["docs"], "https://from.the.file/docs");
    service.stop().await;

    home.set("PUBLIC_URL", PUBLIC_URL);
    let service = home.start().await;
    let root = home.get("/").send().await.expect(200);
    assert_eq!(root["links"]["docs"], format!("{PUBLIC_URL}/docs"));
    service.stop().await;
}

#[tokio::test]
async fn a_level_of_logs_that_there_is_not_silences_nothing() {
    for log in ["verbose", "info,doorward=loud", "nonsense,warn"] {
        let (home, _) = Home::with_database(&[("LOG", log)]).await;
        let service = home.start().await;
        let log = service.stop().await;
        assert!(log.contains("LOG cannot be read") && log.contains("ready"), "{log}");
    }
}
