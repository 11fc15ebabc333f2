//! An operator's own letters: what counts, and what is refused.

use std::fs;
use std::path::Path;

use doorward::config::Config;
use doorward::mail::letters::{KINDS, Letters, Values};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::app::TestApp;
use crate::harness::person::PASSWORD;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn letters_in(folder: &Path) -> Result<Letters, Vec<String>> {
    let folder = folder.to_str().unwrap().to_owned();
    let settings = [("LETTERS_DIR", folder.as_str()), ("APP_NAME", "Acme")];
    let value = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    Letters::new(&Config::from_vars(|name| value(name).map(str::to_owned)).unwrap())
}

fn letters(files: &[(&str, &str)]) -> Letters {
    letters_in(folder(files).path()).unwrap_or_else(|why| panic!("{why:?}"))
}

/// The one complaint about a file with this content.
#[track_caller]
fn refused(name: &str, content: &str) -> String {
    let complaints = letters_in(folder(&[(name, content)]).path()).expect_err(content);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    let complaint = complaints[0].clone();
    assert!(complaint.starts_with("LETTERS_DIR: ") && !complaint.contains('\n'), "{complaint}");
    complaint
}

const LINK: &str = "https://accounts.example.com/api/v1/confirm?token=x";

fn confirmation(letters: &Letters) -> (String, String, String) {
    let values = Values::new().set("link", LINK).set("hours", 24);
    let letter = letters.render("confirmation", "<a@b>", "ada@example.com", &values).unwrap();
    (letter.subject, letter.text, letter.html)
}

#[test]
fn a_kinds_own_words_are_both_of_its_parts() {
    let own = "\u{feff}Subject: Willkommen bei {{ service }}\r\n\r\nFür {{ hours }} Stunden: 3 < 4.\r\n\r\n\
               {{ button(\"Los\", link) }}\r\n";
    let letters = letters(&[("confirmation.txt", own)]);
    assert_eq!(letters.overrides(), ["confirmation.txt"]);
    let (subject, text, html) = confirmation(&letters);
    assert_eq!(subject, "Willkommen bei Acme");
    assert_eq!(text, format!("Für 24 Stunden: 3 < 4.\n\nLos:\n\n{LINK}\n\nAcme\n"));
    assert!(html.contains(">Für 24 Stunden: 3 &#60; 4.</p>"), "{html}");
    assert!(html.contains(&format!("href=\"{LINK}\"")), "{html}");
}

#[test]
fn a_layout_of_ones_own_is_every_letters() {
    let letters = letters(&[
        (
            "layout.html",
            "<html lang=\"de\"><title>{{ subject }}</title>{% include \"_body.html\" %}</html>",
        ),
        (
            "_body.html",
            "{% for block in blocks %}[{{ block.text or block.link or block.code }}]{% endfor %}",
        ),
        ("layout.txt", "{{ body }}\n\n-- {{ service }}, {{ color }}"),
    ]);
    assert!(letters.remarks().is_empty(), "{:?}", letters.remarks());
    let mut all = 0;
    for (kind, letter) in letters.samples() {
        let letter = letter.unwrap();
        assert!(letter.html.starts_with("<html lang=\"de\">"), "{kind}: {}", letter.html);
        assert!(letter.text.ends_with("\n\n-- Acme, #1d4ed8\n"), "{kind}: {}", letter.text);
        all += 1;
    }
    assert_eq!(all, KINDS.len());
    assert!(confirmation(&letters).2.contains(&format!("[{LINK}]")));
}

#[test]
fn html_of_ones_own_takes_the_place_of_a_kinds_and_may_extend_the_layout() {
    let whole = "<p>{{ service }}: <a href=\"{{ link }}\">{{ hours }}</a></p>";
    let (_, text, html) = confirmation(&letters(&[("confirmation.html", whole)]));
    assert_eq!(html, format!("<p>Acme: <a href=\"{LINK}\">24</a></p>\n"));
    assert!(text.starts_with("Please confirm"), "{text}");
    let extending = "{% extends \"layout.html\" %}{% block words %}<p>{{ link }}</p>{% endblock %}";
    let (_, _, html) = confirmation(&letters(&[("confirmation.html", extending)]));
    assert!(html.contains(&format!("<p>{LINK}</p>")) && html.contains("<footer"), "{html}");
}

#[test]
fn no_name_of_a_stranger_reaches_a_letter_to_an_address_that_is_not_confirmed() {
    for name in ["username", "first_name", "last_name", "new_address"] {
        let own = format!("Subject: Hello\n\n{{{{ link }}}}\n\nDear {{{{ {name} }}}},\n");
        let complaint = refused("confirmation.txt", &own);
        assert!(complaint.contains("confirmation.txt line 5: "), "{complaint}");
        assert!(complaint.contains(&format!("no value {name}")), "{complaint}");
    }
}

#[test]
fn a_template_that_cannot_be_used_is_refused_by_file_and_line() {
    const LOOP: &str =
        "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    for (name, content, words) in [
        ("confirmation.txt", "Subject: x\n\n{{ link }}\n\n{{ hours ", "line 5: syntax error"),
        ("confirmation.txt", "Subject: x\n\n{{ link }}\n{% if hours %}", "line 4: syntax error"),
        (
            "confirmation.txt",
            "Subject: x\n\n{{ lnk }}",
            "line 3: it is given no value lnk: did you mean link?",
        ),
        (
            "confirmation.txt",
            "Subject: x\n\n{{ link }}\n{% if hour %}x{% endif %}",
            "line 4: it is given no value hour",
        ),
        ("confirmation.txt", "Subject: x\n\n{{ link.host.name }}", "line 3: "),
        ("confirmation.txt", "Subject: x\n\n{{ link|loud }}", "line 3: unknown filter"),
        ("confirmation.txt", "Hello\n\n{{ link }}", "line 1: the first line has to be the subject"),
        (
            "confirmation.txt",
            "\nSubject: x\n\n{{ link }}",
            "line 1: the first line has to be the subject",
        ),
        ("confirmation.txt", "Subject: \n\n{{ link }}", "line 1: the subject is empty"),
        ("confirmation.txt", "Subject: a\nb\n\n{{ link }}", "line 2: the subject has a line break"),
        (
            "confirmation.txt",
            "Subject: {{ \"a\\nb\" }}\n\n{{ link }}",
            "line 2: the subject has a line break",
        ),
        (
            "confirmation.txt",
            "Subject: x\n\nNothing to click.\n",
            "confirmation.txt: the letter confirmation has lost its link",
        ),
        ("confirmation.txt", "Subject: x\n\n", "line 1: there is nothing behind the subject"),
        ("confirmation.txt", "", "line 1: the first line has to be the subject"),
        ("confirmation.html", " \n", "confirmation.html: "),
        ("confirmation.html", "<p>{{ button(\"x\", link) }}</p>", "line 1: "),
        (
            "reset.txt",
            "Subject: x\n\n{{ link }}\n{{ code(digits) }}",
            "line 4: a value stands here that not every such letter has",
        ),
        ("layout.txt", "{{ body }} {{ support }}", "line 1: a value stands here"),
        ("layout.txt", "{{ service }}", "layout.txt: the letter confirmation has lost its link"),
        (
            "layout.html",
            "<p>\n{{ service }}</p>",
            "layout.html: the letter confirmation has lost its link",
        ),
        ("layout.html", "{{ blocks }} {{ username }}", "line 1: it is given no value username"),
        (
            "password_changed.txt",
            "Subject: x\n\n\n{% include \"../../etc/passwd\" %}",
            "line 4: it asks for a file that is none of LETTERS_DIR's",
        ),
        (
            "password_changed.txt",
            "Subject: x\n\n\n{% include \"/etc/passwd\" %}",
            "line 4: it asks for a file",
        ),
        (
            "password_changed.txt",
            "Subject: x\n\n{% include \"password_changed.txt\" %}",
            "password_changed.txt line 3: ",
        ),
        ("password_changed.txt", &format!("Subject: x\n\n{LOOP}"), "line 3: it takes too long"),
        (
            "password_changed.txt",
            "Subject: x\n\n{{ \"x\" * 200000 }}",
            "mail programs cut off a letter of 200007 bytes",
        ),
    ] {
        let complaint = refused(name, content);
        assert!(complaint.contains(name) && complaint.contains(words), "{content:?}: {complaint}");
    }
}

#[test]
fn a_flaw_in_a_piece_is_told_by_the_pieces_own_line() {
    let own = [
        ("test.txt", "Subject: x\n\n{% include \"_end.txt\" %}"),
        ("_end.txt", "One\n\n{{ service|loud }}"),
    ];
    let complaints = letters_in(folder(&own).path()).unwrap_err();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(
        complaints[0].starts_with("LETTERS_DIR: _end.txt line 3: unknown filter"),
        "{complaints:?}"
    );
}

#[test]
fn every_flaw_is_told_at_once_and_each_once() {
    let own = [
        ("confirmation.txt", "Hello"),
        ("reset.txt", "Subject: {{ nobody }}"),
        ("layout.html", "{{ blocks }}{{ nothing }}"),
    ];
    let complaints = letters_in(folder(&own).path()).unwrap_err();
    for file in ["confirmation.txt", "reset.txt", "layout.html"] {
        let about = complaints.iter().filter(|complaint| complaint.contains(file)).count();
        assert!((1..=2).contains(&about), "{file}: {complaints:?}");
    }
}

#[test]
fn a_file_that_is_no_letter_is_pointed_out_and_a_hidden_one_is_not() {
    let own = [
        ("confirmaton.txt", "x"),
        ("layout.htm", "x"),
        ("README.md", "x"),
        (".confirmation.txt.swp", "x"),
        ("_piece.txt", "x"),
    ];
    let folder = folder(&own);
    fs::create_dir(folder.path().join("old")).unwrap();
    let letters = letters_in(folder.path()).unwrap();
    let remarks = letters.remarks();
    assert_eq!(remarks.len(), 4, "{remarks:?}");
    let has = |start: &str, end: &str| {
        assert!(remarks.iter().any(|it| it.starts_with(start) && it.contains(end)), "{remarks:?}");
    };
    has("confirmaton.txt ", "did you mean confirmation.txt?");
    has("layout.htm ", "did you mean layout.html?");
    has("README.md ", "`doorward letters` shows all");
    has("old ", "is not read");
}

#[test]
fn a_folder_or_a_file_that_cannot_be_read_is_told() {
    let folder = folder(&[("confirmation.txt", "x")]);
    let [nothing, file] = ["nothing", "confirmation.txt"].map(|name| folder.path().join(name));
    for (path, words) in [(nothing, "there is nothing"), (file, "it is no folder")] {
        let complaints = letters_in(&path).unwrap_err();
        assert!(complaints.len() == 1 && complaints[0].contains(words), "{complaints:?}");
    }
    fs::write(folder.path().join("confirmation.txt"), b"Subject: \xff").unwrap();
    fs::write(folder.path().join("reset.txt"), "x".repeat(70_000)).unwrap();
    fs::create_dir(folder.path().join("test.txt")).unwrap();
    let complaints = letters_in(folder.path()).unwrap_err();
    assert_eq!(complaints.len(), 3, "{complaints:?}");
    for words in
        ["confirmation.txt holds bytes", "reset.txt has 70000 bytes", "test.txt is no file"]
    {
        assert!(complaints.iter().any(|complaint| complaint.contains(words)), "{complaints:?}");
    }
}

#[tokio::test]
async fn a_letter_whose_template_fails_when_it_is_sent_waits_and_the_log_has_no_value() {
    let own = "Subject: x\n\n{{ username }}\n{% if username != \"ada\" %}\n{{ username + 1 }}\n{% endif %}";
    let folder = folder(&[("password_changed.txt", own)]);
    let app = TestApp::with(&[("LETTERS_DIR", folder.path().to_str().unwrap())]).await;
    let eve = app.user("evelyn").await;
    let body = json!({ "old_password": PASSWORD, "new_password": "another good password" });
    eve.put("/api/v1/users/me/change_password", &body).await.assert_ok(200);
    assert!(app.deliver_mail().await.is_empty());
    let sql = "select last_error from outbox where kind = 'password_changed' and failed_at is null";
    let error: String = sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap();
    assert!(error.contains("it cannot be written: password_changed.txt line 5: "), "{error}");
    assert!(!error.contains("evelyn"), "{error}");
}
