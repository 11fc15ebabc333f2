//! The words of the letters.

use doorward::mail::{Letter, message};

pub const LINK: &str = "https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIi\
                    OiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU";

pub fn letter() -> Letter {
    message::confirmation(
        "<0198b58f-0c4a-7c3e-b1a2-0123456789ab@accounts.example.com>",
        "ada@example.com",
        "accounts.example.com",
        LINK,
        24,
    )
}

#[test]
fn the_confirmation_says_what_it_is() {
    let letter = letter();
    insta::assert_snapshot!(letter.subject, @"Confirm your e-mail address for accounts.example.com");
    insta::assert_snapshot!(letter.text, @r"
    Please confirm that this e-mail address is yours.

    Somebody, most likely you, gave it for an account at accounts.example.com.
    To confirm it, open this link:

    https://accounts.example.com/api/v1/confirm?token=eyJhbGciOiJIUzI1NiIsInR5cCI6Imxpbmsrand0In0.eyJzdWIiOiIwMTk4YjU4Zi0wYzRhLTdjM2UtYjFhMi0wMTIzNDU2Nzg5YWIifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU

    The link works for 24 hours. If it has run out, sign in and ask for a new
    one.

    If it was not you, there is nothing to do: ignore this mail, and the address
    stays unconfirmed.
    ");
}

#[test]
fn the_notice_of_a_change_says_what_to_do() {
    let letter = notice("ada");
    insta::assert_snapshot!(letter.subject, @"The e-mail address of your account at accounts.example.com is about to change");
    insta::assert_snapshot!(letter.text, @r"
    Your account ada at accounts.example.com is about to get another e-mail
    address: e***@example.org.

    If you asked for this, there is nothing to do. This address stays in use
    until the new one is confirmed.

    If it was not you, somebody knows your password. Sign in and change it now:
    that signs out everyone else. Then set the e-mail address of your account
    back to this one.
    ");
}

fn notice(username: &str) -> Letter {
    message::email_change_notice(
        "<a@b>",
        "ada@example.com",
        "accounts.example.com",
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
    )
    .html;
    assert!(!html.contains("<b>") && !html.contains("?a=\""), "{html}");
    assert_eq!(html.matches("href").count(), 1);
    for remote in ["src=", "url(", "<link", "@import"] {
        assert!(!html.contains(remote), "{remote}");
    }
}

#[test]
fn lines_of_text_are_short_but_links_are_whole() {
    let site = "a-rather-long-name-for-a-service.accounts.subsidiary.example.com";
    let text = message::confirmation("<a@b>", "ada@example.com", site, LINK, 24).text;
    assert!(text.lines().any(|line| line == LINK));
    for line in text.lines().filter(|line| *line != LINK) {
        assert!(line.chars().count() < 78, "{line}");
    }
}
