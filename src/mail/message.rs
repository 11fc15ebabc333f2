//! The words of every letter. The templates lie in `templates/`.
//!
//! A client that signs up gives an address and a name, and the letter goes to that address: what
//! was given must not be in the letter, or the sign-up form is a machine that sends strangers any
//! text in our name. Escaping does not help against that: a first name `cheap pills at
//! evil.example` is a link in most mail programs, and so is the username `www.evil.example`. So the
//! confirmation holds nothing that its cause could choose. The notice of a change goes only to an
//! address that the account's owner has confirmed, and names the account and, in part, the new
//! address.

use askama::Template;

use super::Letter;

/// The letter with the link that confirms an address. `service` is what people know it by. The link
/// works for `hours`.
pub fn confirmation(message_id: &str, to: &str, service: &str, link: &str, hours: i64) -> Letter {
    #[derive(Template)]
    #[template(path = "mail/templates/confirmation.txt", config = ".askama.toml")]
    struct Text<'a> {
        service: &'a str,
        link: &'a str,
        hours: i64,
    }

    #[derive(Template)]
    #[template(path = "mail/templates/confirmation.html", config = ".askama.toml")]
    struct Html<'a> {
        service: &'a str,
        link: &'a str,
        hours: i64,
    }

    Letter {
        message_id: message_id.to_owned(),
        to: to.to_owned(),
        subject: format!("Confirm your e-mail address for {service}"),
        text: text(&Text { service, link, hours }),
        html: rendered(&Html { service, link, hours }),
    }
}

/// Tells the confirmed address `to` that its account is about to get `new_address`, which is shown
/// in part.
pub fn email_change_notice(
    message_id: &str,
    to: &str,
    service: &str,
    username: &str,
    new_address: &str,
) -> Letter {
    #[derive(Template)]
    #[template(path = "mail/templates/email_change_notice.txt", config = ".askama.toml")]
    struct Text<'a> {
        service: &'a str,
        username: &'a str,
        new_address: &'a str,
    }

    #[derive(Template)]
    #[template(path = "mail/templates/email_change_notice.html", config = ".askama.toml")]
    struct Html<'a> {
        service: &'a str,
        username: &'a str,
        new_address: &'a str,
    }

    let new_address = &masked(new_address);
    Letter {
        message_id: message_id.to_owned(),
        to: to.to_owned(),
        subject: format!("The e-mail address of your account at {service} is about to change"),
        text: text(&Text { service, username, new_address }),
        html: rendered(&Html { service, username, new_address }),
    }
}

/// What stands in the letter that resets a password.
#[derive(Clone, Copy, Debug)]
pub struct Reset<'a> {
    pub message_id: &'a str,
    pub to: &'a str,
    pub service: &'a str,
    pub link: &'a str,
    /// How many minutes the link works.
    pub minutes: i64,
    /// Eight digits, and for how many minutes they are good.
    pub code: Option<(&'a str, i64)>,
}

/// The letter with the link and the code that reset a password. Whoever asked for it may be a
/// stranger: it holds nothing of the account.
pub fn reset(reset: &Reset<'_>) -> Letter {
    #[derive(Template)]
    #[template(path = "mail/templates/reset.txt", config = ".askama.toml")]
    struct Text<'a> {
        letter: &'a Reset<'a>,
        code: Option<(String, i64)>,
    }

    #[derive(Template)]
    #[template(path = "mail/templates/reset.html", config = ".askama.toml")]
    struct Html<'a> {
        letter: &'a Reset<'a>,
        code: Option<(String, i64)>,
    }

    let code = reset.code.map(|(code, minutes)| {
        let (first, last) = code.split_at_checked(4).unwrap_or((code, ""));
        (format!("{first} {last}"), minutes)
    });
    Letter {
        message_id: reset.message_id.to_owned(),
        to: reset.to.to_owned(),
        subject: format!("Set a new password for {}", reset.service),
        text: text(&Text { letter: reset, code: code.clone() }),
        html: rendered(&Html { letter: reset, code }),
    }
}

/// Tells the user `username` at their confirmed address `to` that their password was changed.
pub fn password_changed(message_id: &str, to: &str, service: &str, username: &str) -> Letter {
    #[derive(Template)]
    #[template(path = "mail/templates/password_changed.txt", config = ".askama.toml")]
    struct Text<'a> {
        service: &'a str,
        username: &'a str,
    }

    #[derive(Template)]
    #[template(path = "mail/templates/password_changed.html", config = ".askama.toml")]
    struct Html<'a> {
        service: &'a str,
        username: &'a str,
    }

    Letter {
        message_id: message_id.to_owned(),
        to: to.to_owned(),
        subject: format!("The password of your account at {service} was changed"),
        text: text(&Text { service, username }),
        html: rendered(&Html { service, username }),
    }
}

/// What stands in the letter that tells of a deletion.
#[derive(Clone, Copy, Debug)]
pub struct AccountDeleted<'a> {
    pub message_id: &'a str,
    pub to: &'a str,
    pub service: &'a str,
    pub username: &'a str,
    /// Takes the deletion back.
    pub link: &'a str,
    /// Until when that is good, as people say it.
    pub until: &'a str,
}

/// Tells the user at their confirmed address that their account is deleted.
pub fn account_deleted(letter: &AccountDeleted<'_>) -> Letter {
    #[derive(Template)]
    #[template(path = "mail/templates/account_deleted.txt", config = ".askama.toml")]
    struct Text<'a> {
        service: &'a str,
        username: &'a str,
        link: &'a str,
        until: &'a str,
    }

    #[derive(Template)]
    #[template(path = "mail/templates/account_deleted.html", config = ".askama.toml")]
    struct Html<'a> {
        service: &'a str,
        username: &'a str,
        link: &'a str,
        until: &'a str,
    }

    let &AccountDeleted { message_id, to, service, username, link, until } = letter;
    Letter {
        message_id: message_id.to_owned(),
        to: to.to_owned(),
        subject: format!("Your account at {service} is deleted"),
        text: text(&Text { service, username, link, until }),
        html: rendered(&Html { service, username, link, until }),
    }
}

/// Tells the user `username` at their confirmed address `to` that their account is restored.
pub fn account_restored(message_id: &str, to: &str, service: &str, username: &str) -> Letter {
    #[derive(Template)]
    #[template(path = "mail/templates/account_restored.txt", config = ".askama.toml")]
    struct Text<'a> {
        service: &'a str,
        username: &'a str,
    }

    #[derive(Template)]
    #[template(path = "mail/templates/account_restored.html", config = ".askama.toml")]
    struct Html<'a> {
        service: &'a str,
        username: &'a str,
    }

    Letter {
        message_id: message_id.to_owned(),
        to: to.to_owned(),
        subject: format!("Your account at {service} is restored"),
        text: text(&Text { service, username }),
        html: rendered(&Html { service, username }),
    }
}

/// A letter by which an operator sees that mail goes out; `number` tells several of them apart.
pub fn test(message_id: &str, to: &str, service: &str, number: Option<u32>) -> Letter {
    #[derive(Template)]
    #[template(path = "mail/templates/test.html", config = ".askama.toml")]
    struct Html<'a> {
        words: &'a str,
    }

    let which = number.map_or_else(String::new, |number| format!(", number {number},"));
    let words =
        format!("This letter{which} shows that {service} can send mail. Nothing needs to be done.");
    Letter {
        message_id: message_id.to_owned(),
        to: to.to_owned(),
        subject: format!("A test letter from {service}"),
        text: format!("{words}\n"),
        html: rendered(&Html { words: &words }),
    }
}

/// A paragraph is one line, however long: a mail program breaks lines where its window ends, and
/// ours, broken before that, would be short and long by turns.
fn text(template: &impl Template) -> String {
    format!("{}\n", rendered(template).trim())
}

fn rendered(template: &impl Template) -> String {
    template.render().expect("writing strings and numbers into a string does not fail")
}

/// `ada@example.com` as `a***@example.com`: enough to recognise one's own, too little to learn
/// another's.
fn masked(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let first: String = local.chars().take(1).collect();
    format!("{first}***@{domain}")
}
