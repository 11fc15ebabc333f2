//! `MAIL_FROM`: whatever a name has in it, letters have it whole.

use doorward::mail::{Mailer, SmtpSettings, sender};

use crate::harness::home::Home;
use crate::harness::smtp_sink::SmtpSink;
use crate::mail::letters::letter;

#[tokio::test]
async fn the_senders_name_arrives_whole_whatever_is_in_it() {
    let sink = SmtpSink::start().await;
    for (raw, header, name) in [
        (
            "Doorward, Inc. <a@b.example>",
            Some("\"Doorward, Inc.\" <a@b.example>"),
            "Doorward, Inc.",
        ),
        ("Doorward (Test): x; y <a@b.example>", None, "Doorward (Test): x; y"),
        ("The \"Door\" \\ Co. <a@b.example>", None, "The \"Door\" \\ Co."),
        (
            "\"Doorward, Inc.\" <a@b.example>",
            Some("\"Doorward, Inc.\" <a@b.example>"),
            "Doorward, Inc.",
        ),
        ("Bücher, Söhne & 門番 🚪 <a@b.example>", None, "Bücher, Söhne & 門番 🚪"),
        ("me@home.example <a@b.example>", None, "me@home.example"),
        ("Doorward <a@b.example>", Some("Doorward <a@b.example>"), "Doorward"),
    ] {
        let settings = SmtpSettings::parse(&sink.url()).expect("the sink's URL is good");
        let from = sender(raw).expect(raw);
        let mailer = Mailer::smtp(&settings, from, None).expect("no roots");
        mailer.send(&letter()).await.expect("the sink accepts");
        let mail = sink.received().pop().unwrap();
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).expect("a mail");
        let from = parsed.from().expect("a sender");
        let addresses: Vec<_> = from.iter().map(|from| (from.name(), from.address())).collect();
        assert_eq!(addresses, [(Some(name), Some("a@b.example"))], "{raw}");
        assert!(mail.data.is_ascii() && mail.from == "a@b.example");
        if let Some(header) = header {
            assert_eq!(mail.headers("from"), [header]);
        }
    }
    for raw in
        ["Doorward", "A <a@b.example>, B <c@d.example>", "Door\nward <a@b.example>", "<a@b>, c@d"]
    {
        assert!(sender(raw).is_none(), "{raw:?}");
    }
}

/// Without quotes as `docker run --env-file` hands it on, with them as `.env` wants a value with
/// spaces.
#[tokio::test]
async fn the_senders_name_is_the_services_too() {
    let sink = SmtpSink::start().await;
    let (mut home, _) = Home::with_database(&[]).await;
    home.set("SMTP_URL", &sink.url());
    let in_file = home.folder().join(".env");
    for (name, variable, file) in [
        ("Doorward, Inc. (Auth)", "Doorward, Inc. (Auth) <no-reply@example.com>", ""),
        ("The Door, Ltd.", "", "MAIL_FROM='The Door, Ltd. <no-reply@example.com>'\n"),
    ] {
        home.set("MAIL_FROM", variable);
        std::fs::write(&in_file, file).unwrap();
        let service = home.start().await;
        let before = sink.received().len();
        home.register(&format!("user{before}")).send().await.expect(201);
        let mail = sink.wait_for(before + 1).await.remove(before);
        assert_eq!(mail.headers("from"), [format!("\"{name}\" <no-reply@example.com>")]);
        assert_eq!(mail.subject(), format!("Confirm your e-mail address for {name}"));
        service.stop().await;
    }
}
