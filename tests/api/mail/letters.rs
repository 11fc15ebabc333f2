//! The words of the letters.

use doorward::mail::{Letter, message};

pub const LINK: &str = "https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIi\
                    OiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU";

pub fn letter() -> Letter {
    message::confirmation(
        "<0198b58f-0c4a-7c3e-b1a2-0123456789ab@accounts.example.com>",
        "ada@example.com",
        "Example",
        LINK,
        24,
        Some(("01234567", 60)),
    )
}

#[test]
fn the_confirmation_says_what_it_is() {
    let letter = letter();
    insta::assert_snapshot!(letter.subject, @"Confirm your e-mail address for Example");
    insta::assert_snapshot!(letter.text, @r"
    Please confirm that this e-mail address is yours.

    Somebody, most likely you, gave it for an account at Example. To confirm it, open this link:

    https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIiOiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU

    Or type this code where you gave the address:

    0123 4567

    The link works for 24 hours, the code for 60 minutes. If they have run out, sign in and ask for new ones. Give the code to nobody and type it nowhere else.

    If it was not you, there is nothing to do: ignore this mail, and the address stays unconfirmed.
    ");
    let late = message::confirmation("<a@b>", "ada@example.com", "Example", LINK, 24, None);
    insta::assert_snapshot!(late.text, @r"
    Please confirm that this e-mail address is yours.

    Somebody, most likely you, gave it for an account at Example. To confirm it, open this link:

    https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIiOiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU

    The link works for 24 hours. If it has run out, sign in and ask for a new one.

    If it was not you, there is nothing to do: ignore this mail, and the address stays unconfirmed.
    ");
    assert!(letter.html.contains("0123 4567") && !late.html.contains("code"));
}

#[test]
fn the_notice_of_a_change_says_what_to_do() {
    let letter = notice("ada");
    insta::assert_snapshot!(letter.subject, @"The e-mail address of your account at Example is about to change");
    insta::assert_snapshot!(letter.text, @r"
    Your account ada at Example is about to get another e-mail address: e***@example.org.

    If you asked for this, there is nothing to do. This address stays in use until the new one is confirmed.

    If it was not you, somebody knows your password. Sign in and change it now: that signs out everyone else. Then set the e-mail address of your account back to this one.
    ");
}

fn notice(username: &str) -> Letter {
    message::email_change_notice(
        "<a@b>",
        "ada@example.com",
        "Example",
        username,
        "eve.adams@example.org",
    )
}

#[test]
fn html_is_escaped_loads_nothing_and_links_only_to_the_link() {
    let html = notice("<script>\"&'").html;
    assert!(
        !html.contains("<script>") && !html.contains("eve.adams") && !html.contains("href"),
        "{html}"
    );

    let html = message::confirmation(
        "<a@b>",
        "ada@example.com",
        "a.example",
        "https://a.example/?a=\"><b>&c=d",
        24,
        None,
    )
    .html;
    assert!(!html.contains("<b>") && !html.contains("?a=\""), "{html}");
    assert_eq!(html.matches("href").count(), 1);
    for remote in ["src=", "url(", "<link", "@import"] {
        assert!(!html.contains(remote), "{remote}");
    }
}

#[test]
fn a_paragraph_is_one_line_and_a_link_has_one_of_its_own() {
    for letter in [letter(), notice("ada"), message::test("<a@b>", "ada@example.com", "X", None)] {
        for paragraph in letter.text.trim_end().split("\n\n") {
            assert!(!paragraph.contains('\n'), "{paragraph}");
        }
        assert!(letter.text.ends_with('\n') && !letter.text.ends_with("\n\n"));
    }
    assert!(letter().text.lines().any(|line| line == LINK));
}

#[test]
fn the_services_name_is_text_in_every_letter() {
    let name = "Bücher & <b>Söhne</b>";
    for letter in [
        message::confirmation("<a@b>", "ada@example.com", name, LINK, 24, None),
        message::email_change_notice("<a@b>", "ada@example.com", name, "ada", "b@example.com"),
        message::test("<a@b>", "ada@example.com", name, Some(1)),
    ] {
        assert!(letter.subject.contains(name) && letter.text.contains(name), "{}", letter.text);
        assert!(
            letter.html.contains("Bücher &#38; &#60;b&#62;Söhne&#60;/b&#62;"),
            "{}",
            letter.html
        );
    }
}
