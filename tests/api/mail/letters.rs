//! The words of the letters.

use doorward::config::Config;
use doorward::mail::Letter;
use doorward::mail::letters::{KINDS, Letters, Reader, Values, masked};

pub const LINK: &str = "https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIi\
                    OiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU";

/// The letters of a service with these settings.
pub fn letters_of(settings: &[(&str, &str)]) -> Letters {
    let value = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    Letters::new(&Config::from_vars(|name| value(name).map(str::to_owned)).unwrap()).unwrap()
}

/// One of a service by this name.
fn letter_of(service: &str, kind: &str, values: &Values) -> Letter {
    let id = "<0198b58f-0c4a-7c3e-b1a2-0123456789ab@accounts.example.com>";
    letters_of(&[("APP_NAME", service)]).render(kind, id, "ada@example.com", values).unwrap()
}

pub fn confirmation(service: &str, link: &str) -> Letter {
    confirmation_with(service, link, Some("01234567"))
}

fn confirmation_with(service: &str, link: &str, digits: Option<&str>) -> Letter {
    let values = Values::new().set("link", link).set("hours", 24).set_if("digits", digits);
    letter_of(service, "confirmation", &values.set_if("code_minutes", digits.map(|_| 60)))
}

pub fn letter() -> Letter {
    confirmation("Example", LINK)
}

fn notice(service: &str, username: &str, not_me: Option<&str>) -> Letter {
    let values = Values::new().set("username", username).set_if("not_me", not_me);
    let new_address = masked("eve.adams@example.org");
    letter_of(service, "email_change_notice", &values.set("new_address", new_address))
}

fn reset(digits: Option<&str>) -> Letter {
    let values = Values::new().set("link", LINK).set("minutes", 30).set_if("digits", digits);
    letter_of("Example", "reset", &values.set_if("code_minutes", digits.map(|_| 10)))
}

fn changed(not_me: Option<&str>) -> Letter {
    let values = Values::new().set("username", "ada").set_if("not_me", not_me);
    letter_of("Example", "password_changed", &values)
}

fn deleted() -> Letter {
    let values = Values::new().set("username", "ada").set("until", "1 February 2026, 03:04 UTC");
    letter_of("Example", "account_deleted", &values.set("link", LINK))
}

fn restored(not_me: Option<&str>) -> Letter {
    let values = Values::new().set("username", "ada").set_if("not_me", not_me);
    letter_of("Example", "account_restored", &values)
}

#[test]
fn the_confirmation_says_what_it_is() {
    let letter = letter();
    insta::assert_snapshot!(letter.subject, @"Confirm your e-mail address for Example");
    insta::assert_snapshot!(letter.text, @r"
    Please confirm that this e-mail address is yours.

    Somebody, most likely you, gave it for an account at Example.

    Confirm this address:

    https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIiOiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU

    Or type this code where you gave the address:

    0123 4567

    The link works for 24 hours, the code for 60 minutes. If they have run out, sign in and ask for new ones. Give the code to nobody and type it nowhere else.

    If it was not you, there is nothing to do: ignore this mail, and the address stays unconfirmed.

    Example
    ");
    assert!(letter.html.contains("<strong>0123 4567</strong>"), "{}", letter.html);
    let late = confirmation_with("Example", LINK, None);
    assert!(!late.text.contains("code") && !late.html.contains("<strong>"), "{}", late.text);
    assert!(late.text.contains("If it has run out, sign in and ask for a new one."));
}

#[test]
fn the_notice_of_a_change_says_what_to_do() {
    let letter = notice("Example", "ada", None);
    insta::assert_snapshot!(letter.subject, @"The e-mail address of your account at Example is about to change");
    insta::assert_snapshot!(letter.text, @r"
    Your account ada at Example is about to get another e-mail address: e***@example.org.

    If you asked for this, there is nothing to do. This address stays in use until the new one is confirmed.

    If it was not you, somebody knows your password. Sign in and change it now: that signs out everyone else. Then set the e-mail address of your account back to this one.

    Example
    ");
    let told = notice("Example", "ada", Some(LINK)).text;
    assert!(told.contains(&format!("This was not me:\n\n{LINK}\n")), "{told}");
    assert!(!told.contains("set the e-mail address"), "{told}");
}

#[test]
fn a_letter_that_tells_of_a_new_password_has_a_way_to_say_that_it_was_not_me() {
    let told = changed(None);
    insta::assert_snapshot!(told.text, @r"
    The password of your account ada at Example was changed. Whoever was signed in elsewhere is signed out.

    If it was you, there is nothing to do.

    If it was not you, ask for a new password where you sign in: the letter comes to this address.

    Example
    ");
    assert!(!told.html.contains("href"), "{}", told.html);
    let told = changed(Some(LINK));
    assert!(told.text.contains(&format!("This was not me:\n\n{LINK}\n")), "{}", told.text);
    assert!(told.html.contains(&format!("href=\"{LINK}\"")), "{}", told.html);
}

#[test]
fn a_letter_tells_of_a_deletion_and_of_the_way_back() {
    let told = deleted();
    insta::assert_snapshot!(told.subject, @"Your account at Example is deleted");
    insta::assert_snapshot!(told.text.replace(LINK, "LINK"), @r"
    Your account ada at Example is deleted, as was asked for. Whoever was signed in is signed out, and nobody can sign in.

    Until 1 February 2026, 03:04 UTC this can be taken back.

    Restore my account:

    LINK

    After that everything of the account is removed for good. If that is what you want, there is nothing to do.

    If it was not you who asked for this, restore the account, and then set a new password: somebody knows the old one.

    Example
    ");
    let back = restored(None);
    insta::assert_snapshot!(back.subject, @"Your account at Example is restored");
    assert!(back.text.contains("You can sign in again.") && !back.html.contains("href"));
    assert!(restored(Some(LINK)).text.contains(&format!("This was not me:\n\n{LINK}\n")));
}

#[test]
fn a_code_is_shown_in_two_groups_and_left_out_where_there_is_none() {
    let letter = reset(Some("01234567"));
    insta::assert_snapshot!(letter.text.replace(LINK, "LINK"), @r"
    Somebody, most likely you, asked for a new password for your account at Example.

    Set a new password:

    LINK

    Or type this code where you asked for this letter:

    0123 4567

    The link works for 30 minutes, the code for 10, and each of them once. Give the code to nobody and type it nowhere else: whoever has it can set your password.

    If it was not you, there is nothing to do: your password stays as it is.

    Example
    ");
    assert!(letter.html.contains("<strong>0123 4567</strong>"), "{}", letter.html);
    let late = reset(None);
    assert!(!late.text.contains("code") && !late.html.contains("<strong>"), "{}", late.text);
    assert!(late.text.contains("The link works for 30 minutes, and once."), "{}", late.text);
}

#[test]
fn html_is_escaped_loads_nothing_and_links_only_to_the_link() {
    let html = notice("Example", "<script>\"&'", None).html;
    assert!(
        !html.contains("<script>") && !html.contains("eve.adams") && !html.contains("href"),
        "{html}"
    );
    assert!(html.contains("Your account &#60;script&#62;&#34;&#38;&#39; at"), "{html}");

    let html = confirmation("a.example", "https://a.example/?a=\"><b>&c=d").html;
    assert!(!html.contains("<b>") && !html.contains("?a=\""), "{html}");
    assert_eq!(html.matches("href").count(), 1);
    for remote in ["src=", "url(", "<link", "@import", "<script"] {
        assert!(!html.contains(remote), "{remote}");
    }
}

/// Ours, with every value and with as few as there may be.
fn all() -> Vec<Letter> {
    let test = letter_of("X", "test", &Values::new());
    vec![
        letter(),
        confirmation_with("Example", LINK, None),
        notice("Example", "ada", None),
        notice("Example", "ada", Some(LINK)),
        changed(None),
        changed(Some(LINK)),
        deleted(),
        restored(None),
        restored(Some(LINK)),
        reset(None),
        reset(Some("12345678")),
        test,
    ]
}

#[test]
fn a_paragraph_is_one_line_and_a_link_has_one_of_its_own() {
    for letter in all() {
        for paragraph in letter.text.trim_end().split("\n\n") {
            assert!(!paragraph.contains('\n') && !paragraph.trim().is_empty(), "{}", letter.text);
            assert!(!paragraph.contains("  ") && paragraph.trim() == paragraph, "{paragraph}");
        }
        assert!(letter.text.ends_with('\n') && !letter.text.ends_with("\n\n"));
        let mut links = letter.text.lines().filter(|line| line.contains("://"));
        assert!(links.all(|line| line == LINK), "{}", letter.text);
    }
    assert!(letter().text.lines().any(|line| line == LINK));
}

#[test]
fn html_has_the_same_words_a_language_a_title_and_no_empty_paragraph() {
    for letter in all() {
        let html = &letter.html;
        assert!(html.starts_with("<!doctype html>\n<html lang=\"en\">"), "{html}");
        assert!(html.contains(&format!("<title>{}</title>", letter.subject)), "{html}");
        assert!(!html.contains("\"></p>") && !html.contains("\n\n"), "{html}");
        for paragraph in letter.text.trim_end().split("\n\n").filter(|it| !it.ends_with(':')) {
            assert!(html.contains(&format!(">{paragraph}</")), "{paragraph} in {html}");
        }
    }
}

#[test]
fn the_services_name_is_text_in_every_letter() {
    let name = "Bücher & <b>Söhne</b>";
    for letter in [
        confirmation(name, LINK),
        notice(name, "ada", None),
        letter_of(name, "test", &Values::new().set("number", 1)),
    ] {
        assert!(letter.subject.contains(name) && letter.text.contains(name), "{}", letter.text);
        assert!(
            letter.html.contains("Bücher &#38; &#60;b&#62;Söhne&#60;/b&#62;"),
            "{}",
            letter.html
        );
    }
}

#[test]
fn a_value_makes_neither_a_header_nor_a_paragraph() {
    let letter = notice("Example", "ada\r\nBcc: eve@example.com\n\nCall us: 1", None);
    assert_eq!(letter.subject.lines().count(), 1);
    let plain = notice("Example", "ada", None);
    assert_eq!(letter.text.lines().count(), plain.text.lines().count(), "{}", letter.text);
}

#[test]
fn help_and_the_colour_of_buttons_are_settings() {
    let with = |settings: &[(&str, &str)]| {
        let letters = letters_of(settings);
        let mut samples = letters.samples();
        samples.find(|(kind, _)| *kind == "confirmation").unwrap().1.unwrap()
    };
    let plain = with(&[]);
    assert!(plain.html.contains("background: #1d4ed8; color: #ffffff"), "{}", plain.html);
    assert!(!plain.html.contains("mailto:"), "{}", plain.html);
    let own =
        with(&[("APP_NAME", "Acme"), ("APP_COLOR", "#FFD400"), ("SUPPORT_EMAIL", "a&b@x.example")]);
    assert!(own.html.contains("background: #ffd400; color: #000000"), "{}", own.html);
    assert!(own.html.contains("href=\"mailto:a%26b@x.example\""), "{}", own.html);
    assert!(own.html.contains(">a&#38;b@x.example</a>"), "{}", own.html);
    assert!(own.text.ends_with("\n\nAcme: a&b@x.example\n"), "{}", own.text);
}

#[test]
fn what_goes_to_an_address_that_is_not_confirmed_has_no_words_of_anybodys() {
    let words: Vec<_> =
        KINDS.iter().filter(|kind| kind.reader == Reader::Anybody).map(|kind| kind.word).collect();
    assert_eq!(
        words,
        ["confirmation", "reset", "invitation"],
        "does it say what a stranger chose?"
    );
}
