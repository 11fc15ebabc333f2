//! `doorward letters`, and what an operator's own letters do to a start.

use std::collections::BTreeSet;
use std::fs;

use doorward::mail::letters::KINDS;

use crate::harness::home::Home;
use crate::harness::smtp_sink::SmtpSink;
use crate::process::doctor::good;

#[tokio::test]
async fn letters_are_written_to_be_looked_at() {
    let settings = [("APP_NAME", "Acme & Söhne"), ("APP_COLOR", "#0f766e")];
    let mut home = Home::new(&settings);
    let said = home.succeeds(&["letters", "--out", "new/letters"], "").await;
    assert!(said.contains(&format!("Wrote {} letters", KINDS.len())), "{said}");
    assert!(said.contains("new/letters/index.html"), "{said}");
    let folder = home.folder().join("new/letters");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let written: BTreeSet<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut expected = BTreeSet::from(["index.html".to_owned()]);
    for kind in &KINDS {
        let (html, text) = (format!("{}.html", kind.word), format!("{}.txt", kind.word));
        assert!(read(&html).contains("Acme &#38; Söhne"), "{}", kind.word);
        assert!(read(&text).starts_with("Subject: "), "{}", read(&text));
        assert!(read(&text).contains("Acme & Söhne"), "{}", read(&text));
        for name in [html, text] {
            assert!(read("index.html").contains(&format!("href=\"{name}\"")), "{name}");
            expected.insert(name);
        }
    }
    assert_eq!(written, expected);
    assert!(read("confirmation.html").contains("background: #0f766e; color: #ffffff"));

    // The operator's own, once there is one.
    fs::create_dir(home.folder().join("own")).unwrap();
    let own = "Subject: Bei {{ service }}\n\n{{ button(\"Ja\", link) }}\n";
    fs::write(home.folder().join("own/confirmation.txt"), own).unwrap();
    home.set("LETTERS_DIR", "own");
    let said = home.succeeds(&["letters", "--out", "new/letters"], "").await;
    assert!(said.contains("of LETTERS_DIR: confirmation.txt"), "{said}");
    assert!(read("confirmation.txt").starts_with("Subject: Bei Acme & Söhne\n\nJa:\n\nhttps://"));
}

#[tokio::test]
async fn letters_that_were_written_to_be_looked_at_are_no_templates() {
    let mut home = Home::new(&[]);
    home.succeeds(&["letters", "--out", "seen"], "").await;
    home.set("LETTERS_DIR", "seen");
    let said = home.fails(&["letters", "--out", "again"], "").await;
    assert!(said.contains("confirmation") && said.contains("lost its link"), "{said}");
    // Ours are written as templates, and taken as such; the folder of one's own is not written to.
    home.set("LETTERS_DIR", "");
    let said = home.succeeds(&["letters", "--templates", "--out", "own"], "").await;
    assert!(said.contains("layout.html") && said.contains("reset.txt"), "{said}");
    home.set("LETTERS_DIR", "own");
    let said = home.succeeds(&["letters", "--out", "seen"], "").await;
    assert!(said.contains("of LETTERS_DIR: ") && said.contains(" confirmation.txt"), "{said}");
    for out in ["own", "./own/../own"] {
        let said = home.fails(&["letters", "--out", out], "").await;
        assert!(said.contains("is LETTERS_DIR"), "{said}");
    }
    let own = fs::read_to_string(home.folder().join("own/reset.txt")).unwrap();
    assert!(own.contains("{{ link }}") || own.contains(", link)"), "{own}");
}

#[tokio::test]
async fn letters_need_a_folder_to_be_written_to() {
    let home = Home::new(&[]);
    fs::write(home.folder().join("file"), "kept").unwrap();
    for out in ["file", "file/below"] {
        let said = home.fails(&["letters", "--out", out], "").await;
        assert!(said.contains(out) && said.contains("give --out a folder"), "{said}");
    }
    assert_eq!(fs::read_to_string(home.folder().join("file")).unwrap(), "kept");
}

#[tokio::test]
async fn a_broken_letter_keeps_the_service_from_starting_and_a_mistyped_name_does_not() {
    let (mut home, _, _sink) = good().await;
    fs::create_dir(home.folder().join("own")).unwrap();
    let file = home.folder().join("own/reset.txt");
    home.set("LETTERS_DIR", "own");
    home.set("APP_COLOR", "blue");
    home.set("SUPPORT_EMAIL", "nobody");
    fs::write(&file, "Subject: x\n\n{{ lnik }}\n").unwrap();
    for command in ["serve", "worker"] {
        let said = home.fails(&[command], "").await;
        assert!(
            said.contains("LETTERS_DIR: reset.txt line 3: it is given no value lnik"),
            "{said}"
        );
        assert!(said.contains("APP_COLOR must be #"), "{said}");
        assert!(said.contains("SUPPORT_EMAIL must be an address"), "{said}");
    }
    let out = home.run(&["doctor"], "").await;
    let report = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(1), "{report}");
    assert!(report.contains("FAIL  letters     LETTERS_DIR: reset.txt line 3: "), "{report}");
    assert!(report.contains("FAIL  letters     SUPPORT_EMAIL must be"), "{report}");

    home.set("APP_COLOR", "");
    home.set("SUPPORT_EMAIL", "");
    fs::rename(&file, home.folder().join("own/rset.txt")).unwrap();
    let out = home.run(&["doctor"], "").await;
    let report = String::from_utf8(out.stdout).unwrap();
    assert!(report.contains("warn  letters     LETTERS_DIR: rset.txt is no letter"), "{report}");
    assert!(report.contains("ok    letters     all "), "{report}");
    let service = home.start().await;
    service.wait_for_log("did you mean reset.txt?").await;
    service.forget_log();
    service.stop().await;
}

#[tokio::test]
async fn a_letter_of_ones_own_is_what_is_sent() {
    let sink = SmtpSink::start().await;
    let (mut home, _) = Home::with_database(&[]).await;
    home.set("SMTP_URL", &sink.url());
    home.set("MAIL_FROM", "Acme <no-reply@example.com>");
    home.set("SSL_CERT_FILE", sink.certificate().to_str().unwrap());
    fs::create_dir(home.folder().join("own")).unwrap();
    let own = "Subject: {{ service }}?\n\nBitte: {{ button(\"Ja\", link) }}\n";
    fs::write(home.folder().join("own/confirmation.txt"), own).unwrap();
    home.set("LETTERS_DIR", "own");
    let service = home.start().await;
    home.register("ada").send().await.expect(201);
    service.wait_for_log("a letter was sent").await;
    let mail = sink.received().pop().unwrap();
    assert_eq!(mail.subject(), "Acme?");
    assert!(mail.text().starts_with("Bitte:\n\nJa:\n\nhttps://"), "{}", mail.text());
    assert!(mail.html().contains(">Bitte:</p>"), "{}", mail.html());
    service.stop().await;
}
