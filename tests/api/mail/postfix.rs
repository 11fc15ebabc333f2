//! A strict Postfix as the relay: letters arrive, each once, and what it refuses is told.

use std::time::Duration;

use doorward::mail::{Mailer, SmtpSettings, advice, sender};

use crate::harness::home::Home;
use crate::harness::person::email_of;
use crate::harness::postfix::{PASSWORD, Postfix};
use crate::harness::wait::eventually;
use crate::mail::letters::letter;
use crate::mail::smtp::{letter_to, mailer_at, mailer_with, transient};

const NAMES: [&str; 4] = ["ada", "bob", "cleo", "dan"];

#[tokio::test]
async fn the_services_letters_arrive_in_the_mailbox_each_once() {
    let Some(postfix) = Postfix::start().await else { return };
    let (mut home, _) = Home::with_database(&[]).await;
    home.set("SMTP_URL", &postfix.url());
    home.set("SSL_CERT_FILE", postfix.certificate().to_str().unwrap());
    home.set("MAIL_FROM", "Doorward, Inc. (Auth) <no-reply@example.com>");
    home.set("APP_NAME", "Bücher & Söhne");
    let service = home.start().await;
    for name in NAMES {
        home.register(name).send().await.expect(201);
    }
    eventually("all letters are there", async || postfix.letters().len() >= NAMES.len()).await;
    service.stop().await;

    let letters = postfix.letters();
    let mut to: Vec<_> = letters.iter().map(|letter| header(letter, "To")).collect();
    to.sort_unstable();
    assert_eq!(to, NAMES.map(email_of));
    for letter in &letters {
        assert_eq!(header(letter, "From"), "\"Doorward, Inc. (Auth)\" <no-reply@example.com>");
        assert_eq!(header(letter, "Return-Path"), "<no-reply@example.com>");
        assert!(letter.contains("from auth.example.com (localhost [127.0.0.1])"), "{letter}");
        assert!(letter.contains("/api/v1/confirm?token="), "{letter}");
    }
    let log = postfix.log();
    assert!(log.contains("sasl_method=PLAIN") && !log.contains("reject"), "{log}");
}

#[tokio::test]
async fn what_postfix_takes_and_refuses_is_told() {
    let Some(postfix) = Postfix::start().await else { return };
    let certificate = postfix.certificate();
    let roots = Some(certificate.as_path());
    let mailer = mailer_at(&postfix.url(), roots);
    mailer.check(Duration::from_secs(10)).await.expect("it lets us in");
    for to in ["ada@example.com", "jürgen@example.com", "o'brien+tag@example.com"] {
        mailer.send(&letter_to(to)).await.expect(to);
    }
    eventually("all letters are there", async || postfix.letters().len() >= 3).await;

    let told = async |mailer: &Mailer| {
        let error = mailer.send(&letter()).await.expect_err("it is refused");
        let advice = advice(&error).expect("something can be done");
        format!("{}: {advice}", transient(Err(error)))
    };
    let wrong = postfix.url().replace(PASSWORD, "wrong");
    let said = told(&mailer_at(&wrong, roots)).await;
    assert!(said.starts_with("signing in to the mail server: 535 5.7.8: check user and"), "{said}");
    let anonymous = postfix.url().replace(&format!("doorward@example.com:{PASSWORD}@"), "");
    let said = told(&mailer_at(&anonymous, roots)).await;
    assert!(said.starts_with("naming the recipient: 554 5.7.1: the server has to"), "{said}");
    let plain = postfix.url().replace("?tls=required", "");
    let said = told(&mailer_at(&plain, None)).await;
    assert!(said.ends_with("write ?tls=required after the port in SMTP_URL"), "{said}");
    let said = told(&mailer_at(&anonymous.replace("?tls=required", ""), None)).await;
    assert!(said.starts_with("naming the sender: 530 5.7.0: "), "{said}");
    let said = told(&mailer_at(&postfix.url(), None)).await;
    assert!(said.contains("its certificate is from an authority that is not known"), "{said}");

    let mut settings = SmtpSettings::parse(&postfix.url()).unwrap();
    let bare = Mailer::smtp(&settings, sender("no-reply@localhost").unwrap(), roots);
    let said = told(&bare.unwrap()).await;
    let refused = "naming the sender: 504 5.5.2: the server has to take letters from MAIL_FROM";
    assert!(said.starts_with(refused), "{said}");
    "-no.domain".clone_into(&mut settings.hello);
    let said = told(&mailer_with(&settings, roots)).await;
    assert!(said.contains("501 5.5.2") && said.contains("the host of PUBLIC_URL"), "{said}");
    assert_eq!(postfix.letters().len(), 3);
}

/// The value of a header that is on one line.
fn header<'a>(letter: &'a str, name: &str) -> &'a str {
    let of = |line: &'a str| line.strip_prefix(name)?.strip_prefix(": ");
    letter.lines().find_map(of).unwrap_or_default()
}
