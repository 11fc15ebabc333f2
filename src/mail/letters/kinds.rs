//! The table of kinds: what each is called, whom it goes to, and what its template is given.

/// One kind of letter.
#[derive(Debug)]
pub struct Kind {
    /// Its name: of its files, and in the outbox.
    pub word: &'static str,
    pub reader: Reader,
    pub(super) source: &'static str,
    pub(super) values: &'static [Slot],
}

/// Whom a kind goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Whoever has an address that somebody typed: nothing that a stranger chose may be in it.
    Anybody,
    /// The owner of an account, at an address that was confirmed; or the operator.
    Owner,
}

/// A value that a template is given, beside those of every letter.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub(super) name: &'static str,
    pub(super) sample: Sample,
    /// Whether a letter may be without it: its template asks by `{% if %}`.
    pub(super) is_optional: bool,
}

/// What stands for a value where letters are tried out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sample {
    /// Words that somebody may have chosen.
    Text(&'static str),
    /// A link of ours. A letter that has to have it is none without.
    Link(&'static str),
    /// Digits of ours.
    Digits(&'static str),
    Number(i64),
}

impl Slot {
    const fn of(name: &'static str, sample: Sample) -> Self {
        Self { name, sample, is_optional: false }
    }

    const fn optional(self) -> Self {
        Self { is_optional: true, ..self }
    }
}

const fn text(name: &'static str, sample: &'static str) -> Slot {
    Slot::of(name, Sample::Text(sample))
}

const fn link(name: &'static str, sample: &'static str) -> Slot {
    Slot::of(name, Sample::Link(sample))
}

const fn digits(name: &'static str, sample: &'static str) -> Slot {
    Slot::of(name, Sample::Digits(sample))
}

const fn number(name: &'static str, sample: i64) -> Slot {
    Slot::of(name, Sample::Number(sample))
}

/// A link as long as they are.
macro_rules! sample_link {
    ($path:literal) => {
        concat!(
            "https://accounts.example.com/api/v1/",
            $path,
            "?token=eyJhbGciOiJIUzI1NiIsInR5cCI6InNhbXBsZStqd3QifQ.eyJzdWIiOiIwMTk4YjU4Zi0wYzRhLTdjM2",
            "UtYjFhMi0wMTIzNDU2Nzg5YWIiLCJlbWFpbCI6ImFkYUBleGFtcGxlLmNvbSJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
        )
    };
}

/// Where "this was not me" leads.
const NOT_ME: Slot = link("not_me", sample_link!("not_me")).optional();

/// Every kind.
pub static KINDS: [Kind; TABLE.len()] = TABLE;

const TABLE: [Kind; 10] = [
    Kind {
        word: "confirmation",
        reader: Reader::Anybody,
        source: include_str!("confirmation.txt"),
        values: &[
            link("link", sample_link!("confirm")),
            number("hours", 24),
            digits("digits", "12345678").optional(),
            number("code_minutes", 60).optional(),
        ],
    },
    Kind {
        word: "reset",
        reader: Reader::Anybody,
        source: include_str!("reset.txt"),
        values: &[
            link("link", sample_link!("password/reset")),
            number("minutes", 30),
            digits("digits", "12345678").optional(),
            number("code_minutes", 10).optional(),
        ],
    },
    Kind {
        word: "invitation",
        reader: Reader::Anybody,
        source: include_str!("invitation.txt"),
        values: &[link("link", sample_link!("invitations")), number("hours", 72)],
    },
    Kind {
        word: "email_change_notice",
        reader: Reader::Owner,
        source: include_str!("email_change_notice.txt"),
        values: &[
            text("username", "ada"),
            text("new_address", "c***@example.org"),
            number("by_staff", 1).optional(),
            NOT_ME,
        ],
    },
    Kind {
        word: "password_changed",
        reader: Reader::Owner,
        source: include_str!("password_changed.txt"),
        values: &[text("username", "ada"), NOT_ME],
    },
    Kind {
        word: "new_device",
        reader: Reader::Owner,
        source: include_str!("new_device.txt"),
        values: &[
            text("username", "ada"),
            text("at", "2 January 2026, 03:04 UTC"),
            text("device", "Firefox on Windows"),
            text("ip", "203.0.113.7").optional(),
            number("more", 2).optional(),
            NOT_ME,
        ],
    },
    Kind {
        word: "account_deleted",
        reader: Reader::Owner,
        source: include_str!("account_deleted.txt"),
        values: &[
            text("username", "ada"),
            text("until", "1 February 2026, 03:04 UTC"),
            link("link", sample_link!("restore")),
        ],
    },
    Kind {
        word: "account_restored",
        reader: Reader::Owner,
        source: include_str!("account_restored.txt"),
        values: &[text("username", "ada"), NOT_ME],
    },
    Kind {
        word: "ban_lifted",
        reader: Reader::Owner,
        source: include_str!("ban_lifted.txt"),
        values: &[text("username", "ada")],
    },
    Kind {
        word: "test",
        reader: Reader::Owner,
        source: include_str!("test.txt"),
        values: &[number("number", 1).optional()],
    },
];

/// The rule, held where the table is compiled: see the module's head.
const _: () = {
    let mut kind = 0;
    while kind < TABLE.len() {
        let (is_to_anybody, values) =
            (matches!(TABLE[kind].reader, Reader::Anybody), TABLE[kind].values);
        let mut slot = 0;
        while slot < values.len() {
            assert!(
                !(is_to_anybody && matches!(values[slot].sample, Sample::Text(_))),
                "a letter to an address that is not confirmed may hold nothing that a stranger chose"
            );
            slot += 1;
        }
        kind += 1;
    }
};

impl Kind {
    /// The kind with this name.
    pub fn called(word: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.word == word)
    }

    /// The names of its values, and whether a letter may be without each.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.values.iter().map(|slot| (slot.name, slot.is_optional))
    }
}
