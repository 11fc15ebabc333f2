//! `doctor`, on a good set-up and on broken ones: what is wrong, how to mend it, and in time. With
//! `--nocapture` the tests print what the operator reads.

use serde_json::Value;

use crate::harness::cluster::{cluster, new_database};
use crate::harness::home::Home;
use crate::harness::machine::{free_port, note};
use crate::harness::marks::Marks;
use crate::harness::smtp_sink::{Encryption, Kind, Mode, SmtpSink};

const KEY: &str = "Zq7dN1ubF5wKx0rTg8sYh3jQm6vPc2LaEi9oUeBnR4k=";
const LOGIN: (&str, &str) = ("smtp-user-zq51", "smtp-password-zq52");
pub const DATABASE_PASSWORD: &str = "database-password-zq53";

/// What `doctor` said.
pub struct Report {
    code: Option<i32>,
    pub text: String,
    findings: Vec<Value>,
}

impl Report {
    /// Runs it twice, for people and for programs: both are told the same, and neither a secret.
    pub async fn of(what: &str, home: &Home, arguments: &[&str]) -> Self {
        let arguments_for_people = [&["doctor"], arguments].concat();
        let (for_people, for_programs) =
            tokio::join!(home.run(&arguments_for_people, ""), home.run(&["doctor", "--json"], ""));
        let text = String::from_utf8(for_people.stdout).unwrap();
        let (code, findings) = (for_people.status.code(), &for_programs.stdout);
        let findings: Vec<Value> = serde_json::from_slice(findings).unwrap();
        let said = String::from_utf8(for_people.stderr).unwrap();
        note(&format!("--- {what}\n{text}{said}exit code {}\n", code.unwrap()));
        let failed = findings.iter().filter(|finding| finding["level"] == "fail").count();
        if arguments.is_empty() {
            assert_eq!(for_programs.status.code(), code);
            assert_eq!(text.lines().count(), findings.len(), "{text}");
            for (line, finding) in text.lines().zip(&findings) {
                let field = |name: &str| finding[name].as_str().unwrap();
                let level = line.split(' ').next().unwrap().to_lowercase();
                assert_eq!(level, field("level"));
                assert!(line[6..].starts_with(field("check")), "{line}");
                // How many connections are left is another number a moment later.
                let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
                assert!(words(line).ends_with(&words(field("message"))), "{line}");
            }
            assert_eq!(code, Some(i32::from(failed > 0)), "{text}");
        }
        let mut marks = Marks::default();
        for secret in [KEY, LOGIN.0, LOGIN.1, DATABASE_PASSWORD, "public-url-zq54"] {
            marks.add(secret);
        }
        marks.assert_not_in(&format!(
            "{text}{said}{}",
            String::from_utf8_lossy(&for_programs.stdout)
        ));
        assert!(!said.contains("panicked"), "{said}");
        Self { code, text, findings }
    }

    /// Fails unless this is one of the findings.
    #[track_caller]
    pub fn assert_has(&self, level: &str, check: &str, words: &str) {
        let found = self.findings.iter().any(|finding| {
            finding["level"] == level
                && finding["check"] == check
                && finding["message"].as_str().unwrap().contains(words)
        });
        assert!(found, "{level} {check} {words}: {}", self.text);
        assert_eq!(self.code, Some(i32::from(level == "fail")));
    }

    /// Fails unless exactly these are not well, each with these words in its line, and every other
    /// check is.
    #[track_caller]
    pub fn assert_troubles(&self, expected: &[(&str, &str, &str)]) {
        let troubles: Vec<_> =
            self.findings.iter().filter(|finding| finding["level"] != "ok").collect();
        assert_eq!(troubles.len(), expected.len(), "{}", self.text);
        for (finding, (level, check, words)) in troubles.iter().zip(expected) {
            assert_eq!(
                (&finding["level"], &finding["check"]),
                (&(*level).into(), &(*check).into())
            );
            assert!(finding["message"].as_str().unwrap().contains(words), "{words}: {finding}");
        }
        let fails = expected.iter().any(|(level, ..)| *level == "fail");
        assert_eq!(self.code, Some(i32::from(fails)));
    }
}

pub async fn mail_server(tls: Encryption) -> SmtpSink {
    SmtpSink::of(Kind { tls, login: Some(LOGIN), ..Kind::default() }).await
}

/// A home in production on a database, with nothing wrong.
pub async fn good_home(database: &str, sink: &SmtpSink) -> Home {
    let mut home = Home::on(database, &[("SECRET_KEY", KEY), ("RATE_LIMITS", "on")]).await;
    let url = cluster().await.url(database);
    home.set("DATABASE_URL", &url.replacen('@', &format!(":{DATABASE_PASSWORD}@"), 1));
    home.set("CORS_ORIGINS", "https://app.example.com, https://admin.example.com");
    home.set("TRUSTED_PROXY_HOPS", "1");
    home.set("SMTP_URL", &sink.url());
    home.set("MAIL_FROM", "Doorward <no-reply@example.com>");
    home.set("SSL_CERT_FILE", sink.certificate().to_str().unwrap());
    home
}

/// The same on a new database, and its name.
pub async fn good() -> (Home, String, SmtpSink) {
    let (database, sink) = (new_database().await, mail_server(Encryption::Implicit).await);
    (good_home(&database, &sink).await, database, sink)
}

#[tokio::test]
async fn a_good_set_up_is_good_and_no_letter_is_sent_unless_asked_for() {
    let (home, _, sink) = good().await;
    let report = Report::of("good", &home, &[]).await;
    report.assert_troubles(&[]);
    let checks: Vec<&str> =
        report.findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    for check in [
        "settings",
        "secret",
        "public url",
        "cors",
        "proxies",
        "database",
        "clock",
        "pooler",
        "connections",
        "migrations",
        "mail",
    ] {
        assert!(checks.contains(&check), "{check}: {checks:?}");
    }
    assert!(sink.received().is_empty());

    let report = Report::of("good, and a letter", &home, &["--send-to", "you@example.com"]).await;
    assert_eq!(report.code, Some(0));
    assert_eq!(sink.received().len(), 1);
    assert_eq!(sink.received()[0].to, ["you@example.com"]);
    sink.behave(Mode::RefuseRecipient("550 5.1.1 no such user"));
    let report = Report::of("a letter refused", &home, &["--send-to", "you@example.com"]).await;
    assert_eq!(report.code, Some(1));
    assert!(report.text.contains("FAIL  mail") && report.text.contains("check the address"));
}

#[tokio::test]
async fn each_setting_that_is_wrong_or_unwise_is_named_with_how_to_mend_it() {
    let (mut home, _, _sink) = good().await;
    for (name, value, level, check, words) in [
        ("SECRET_KEY", "", "fail", "settings", "SECRET_KEY is not set"),
        ("SECRET_KEY", "short", "fail", "settings", "openssl rand -base64 48"),
        (
            "SECRET_KEY",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "fail",
            "settings",
            "too weak",
        ),
        ("SECRET_KEY", "let-me-in-1-let-me-in-1-let-me-in-1-", "fail", "settings", "too weak"),
        ("SECRET_KEY", "change-me-1-change-me-1-change-me-1-", "fail", "settings", "placeholder"),
        ("SECRET_KEY", "a secret that somebody has thought of", "warn", "secret", "openssl rand"),
        (
            "SECRET_KEY",
            " Zq7dN1ubF5wKx0rTg8sYh3jQm6vPc2LaEi9oUeBnR4k=",
            "warn",
            "secret",
            "white space",
        ),
        ("SECRET_KEY_PREVIOUS", KEY, "warn", "secret", "remove it"),
        (
            "PUBLIC_URL",
            "auth.example.com",
            "fail",
            "settings",
            "PUBLIC_URL must be an absolute URL",
        ),
        (
            "PUBLIC_URL",
            "https://me:public-url-zq54@auth.example.com",
            "fail",
            "settings",
            "must not hold a user",
        ),
        (
            "PUBLIC_URL",
            "https://localhost:8000",
            "warn",
            "public url",
            "the name that browsers use",
        ),
        ("APP_NAME", "Acme\nBcc: x", "fail", "settings", "APP_NAME must be"),
        ("CONFIRM_URL", "https://a.example/#/c", "fail", "settings", "must hold no fragment"),
        ("CORS_ORIGINS", "*", "fail", "settings", "any page of the web"),
        ("CORS_ORIGINS", "https://app.example.com/app", "fail", "settings", "nothing else"),
        ("CORS_ORIGINS", "http://app.example.com", "warn", "cors", "is not https"),
        ("CORS_ORIGINS", "http://localhost.example.com", "warn", "cors", "is not https"),
        (
            "DATABASE_URL",
            "postgres://localhost/x?sslmode=no-verify",
            "fail",
            "database",
            "has an sslmode that is not disable",
        ),
        (
            "DATABASE_URL",
            "postgres://ann:%ff@localhost/x",
            "fail",
            "database",
            "no UTF-8 behind a %",
        ),
        ("TRUSTED_PROXY_HOPS", "one", "fail", "settings", "a whole number from 0 to 16"),
        ("TRUSTED_PROXY_HOPS", "0", "warn", "proxies", "share one address"),
        ("RATE_LIMITS", "off", "fail", "limits", "Remove it"),
        ("METRICS_TOKEN", "fifteen-letters", "fail", "settings", "16 or more random"),
        ("METRICS_TOKEN", "abababababababababab", "warn", "metrics", "openssl rand"),
        ("LOG", "doorward=loud", "warn", "settings", "LOG cannot be read"),
        ("ADMIN_EMAIL", "boss@example.com", "fail", "settings", "go together"),
        ("DATABASE_URL", "mysql://localhost/x", "fail", "database", "must start with postgres://"),
        (
            "SMTP_URL",
            "smtp://user:smtp-password-zq52@mail.example",
            "fail",
            "settings",
            "in the clear",
        ),
        ("MAIL_FROM", "nobody", "fail", "settings", "MAIL_FROM must be a sender"),
        ("SSL_CERT_FILE", "/nowhere.pem", "fail", "settings", "cannot be read"),
        ("SMTP_URL", "", "warn", "mail", "set SMTP_URL and MAIL_FROM"),
    ] {
        let before = home.setting(name);
        home.set(name, value);
        let report = Report::of(&format!("{name}={value:.12}"), &home, &[]).await;
        report.assert_has(level, check, words);
        home.set(name, &before);
    }
    home.set("PUBLIC_URL", "http://auth.example.com");
    let report = Report::of("http in production", &home, &[]).await;
    report.assert_troubles(&[("fail", "public url", "write https://")]);
    home.set("ADMIN_EMAIL", "boss@example.com");
    home.set("ADMIN_PASSWORD", "12345678");
    Report::of("a first admin", &home, &[]).await.assert_has("fail", "first admin", "common");
}

#[tokio::test]
async fn all_that_is_wrong_is_said_in_one_run() {
    let mut home =
        Home::new(&[("DATABASE_URL", "postgres://doorward:database-password-zq53@127.0.0.1:1/x")]);
    for (name, value) in [
        ("SECRET_KEY", "short"),
        ("CORS_ORIGINS", "*"),
        ("TRUSTED_PROXY_HOPS", "one"),
        ("MAIL_FROM", "a@example.com"),
        ("SMTP_URL", "smtps://smtp-user-zq51:smtp-password-zq52@localhost:1"),
    ] {
        home.set(name, value);
    }
    Report::of("nearly everything", &home, &[]).await.assert_troubles(&[
        ("fail", "settings", "PUBLIC_URL is not set"),
        ("fail", "settings", "SECRET_KEY is too weak"),
        ("fail", "settings", "CORS_ORIGINS"),
        ("fail", "settings", "TRUSTED_PROXY_HOPS"),
        ("fail", "limits", "RATE_LIMITS=off"),
        ("fail", "database", "Connection refused"),
        ("fail", "mail", "check host and port in SMTP_URL"),
    ]);
}

#[tokio::test]
async fn a_mail_server_that_will_not_do_is_told_apart_by_what_is_wrong() {
    let (mut home, _, sink) = good().await;
    let starttls = mail_server(Encryption::StartTls).await;
    let plain = mail_server(Encryption::None).await;
    let closed = format!("smtps://u:{}@localhost:{}", LOGIN.1, free_port());
    let certificate = sink.certificate();
    let certificate = certificate.to_str().unwrap();
    for (url, trusted, words) in [
        (closed, certificate, "check host and port in SMTP_URL"),
        (
            sink.url().replace("zq52", "zq52-not"),
            certificate,
            "check user and password in SMTP_URL",
        ),
        (sink.url(), "", "SSL_CERT_FILE"),
        (starttls.url(), certificate, "SSL_CERT_FILE"),
        (format!("{}?tls=required", plain.url()), certificate, "no STARTTLS"),
    ] {
        home.set("SMTP_URL", &url);
        home.set("SSL_CERT_FILE", trusted);
        let report = Report::of(&format!("mail: {words}"), &home, &[]).await;
        report.assert_troubles(&[("fail", "mail", words)]);
    }
    for sink in [&sink, &starttls, &plain] {
        assert!(sink.received().is_empty());
    }
}

#[tokio::test]
async fn a_mail_server_in_the_clear_on_another_machine_is_warned_of() {
    let (mut home, _, _sink) = good().await;
    let plain = SmtpSink::start().await;
    // An address by which Linux reaches itself, and that is not known to be this machine's.
    home.set("SMTP_URL", &format!("smtp://0.0.0.0:{}?tls=none", plain.port));
    let report = Report::of("mail in the clear", &home, &[]).await;
    report.assert_troubles(&[("warn", "mail", "cross the network in the clear")]);
    let service = home.start().await;
    service.wait_for_log("cross the network in the clear").await;
    service.stop().await;

    home.set("SMTP_URL", "smtp://user:smtp-password-zq52@mail.example?tls=none");
    let report = Report::of("a password in the clear", &home, &[]).await;
    report.assert_has("fail", "settings", "would send the password to another machine");
}
