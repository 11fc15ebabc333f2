//! What letters say: a file a kind, and one layout for all.
//!
//! A new kind is three things: its words, `KIND.txt` in this folder; an entry in the table of
//! `kinds.rs`, with its values and a sample of each; and what decides when it is sent, a variant of
//! the store's `LetterKind` of the same name with a file in `worker/letters/`, which hands the
//! values over:
//!
//! ```ignore
//! draft.letter(&user.email, &Values::new().set("username", &user.username).set_if("not_me", link))
//! ```
//!
//! `KIND.txt` begins with `Subject: ...` and a blank line; paragraphs follow, with blank lines
//! between them. `{{ button("Words on it", link) }}` and `{{ code(digits) }}` are paragraphs. From
//! this one file come the text and the HTML, of which no value and no word needs escaping: both are
//! plain text until `layout.html` escapes them. Every template has `service`, `support` (optional),
//! `color` and `on_color`; a value that may be absent is asked for by `{% if %}`.
//!
//! THE RULE: a client that signs up gives an address and a name, and the letter goes to that
//! address: what was given must not be in the letter, or the sign-up form is a machine that sends
//! strangers any text in our name. Escaping does not help against that: a first name `cheap pills
//! at evil.example` is a link in most mail programs, and so is the username `www.evil.example`. So
//! a kind for [`Reader::Anybody`] has links, digits and numbers of ours, and no text that somebody
//! chose: the table does not compile with one, and a value that is not in the table reaches no
//! template, an operator's own included. The notice of a change goes only to an address that the
//! account's owner has confirmed, and names the account and, in part, the new address.

mod check;
mod document;
mod flaw;
mod kinds;
mod overrides;

use std::collections::BTreeMap;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use flaw::Flaw;
pub use kinds::{KINDS, Kind, Reader};

use super::Letter;
use crate::config::Config;
use crate::fields::Email;
use document::{Document, one_line};

/// How many steps a template may take: the longest of ours takes some 160.
const FUEL: u64 = 50_000;
/// How deep templates may include each other.
const DEPTH: usize = 50;

/// What stands around the words of each kind.
const LAYOUTS: [(&str, &str); 2] =
    [("layout.html", include_str!("layout.html")), ("layout.txt", include_str!("layout.txt"))];

/// What an address keeps in a `mailto:` link (RFC 6068).
const MAILTO: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'@').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// The templates of all letters, compiled.
#[derive(Clone)]
pub struct Letters {
    templates: Environment<'static>,
    /// What every template is given.
    common: BTreeMap<&'static str, Value>,
    /// The operator's own templates.
    overrides: Vec<String>,
    remarks: Vec<String>,
}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters").field("overrides", &self.overrides).finish_non_exhaustive()
    }
}

/// What a kind's template is given, by name.
#[derive(Clone, Debug, Default)]
pub struct Values(BTreeMap<&'static str, Value>);

impl Values {
    pub fn new() -> Self {
        Self::default()
    }

    /// Text is put on one line.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let value = value.as_str().map(one_line).map_or(value.clone(), Value::from);
        self.0.insert(name, value);
        self
    }

    /// A value that may be absent.
    #[must_use]
    pub fn set_if(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }
}

impl Letters {
    /// Ours, with the operator's own in `LETTERS_DIR` before them. Every kind is tried out; the
    /// error is the complaints about settings and templates, a sentence each that begins with the
    /// setting.
    pub fn new(config: &Config) -> Result<Self, Vec<String>> {
        let mut letters = Self::built_in(config);
        let mut complaints = Vec::new();
        if let Some(support) = &config.support_email {
            match Email::parse(support) {
                Ok(address) => letters.set_support(&address),
                Err(error) => complaints.push(format!(
                    "SUPPORT_EMAIL must be an address such as help@example.com. {}",
                    error.message
                )),
            }
        }
        if let Some(folder) = &config.letters_dir {
            match overrides::read(folder) {
                Ok(found) => {
                    letters.remarks = found.remarks;
                    complaints.extend(letters.add(found.files).iter().map(of_folder));
                }
                Err(why) => complaints.extend(why.iter().map(of_folder)),
            }
        }
        if complaints.is_empty() { Ok(letters) } else { Err(complaints) }
    }

    /// Ours alone, for what sends no letters.
    pub fn built_in(config: &Config) -> Self {
        let mut letters = Self {
            templates: environment(),
            common: BTreeMap::new(),
            overrides: Vec::new(),
            remarks: Vec::new(),
        };
        let color = config.app_color;
        letters.common.extend([
            ("service", Value::from(one_line(&config.app_name))),
            ("color", Value::from(color.to_string())),
            ("on_color", Value::from(color.of_words_on_it().to_string())),
            ("edge", Value::from(color.of_its_edge().to_string())),
        ]);
        for (name, source) in Self::sources() {
            let added = letters.templates.add_template_owned(name, source);
            added.expect("a test tries every template of ours out");
        }
        letters
    }

    fn set_support(&mut self, address: &Email) {
        let address = address.as_str();
        let link = format!("mailto:{}", utf8_percent_encode(address, MAILTO));
        self.common.insert("support", Value::from(address));
        self.common.insert("support_link", Value::from(link));
    }

    /// Takes an operator's templates in, and tries all letters out; what is wrong with them.
    fn add(&mut self, files: BTreeMap<String, String>) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        for (name, source) in files {
            self.overrides.push(name.clone());
            if let Err(error) = self.templates.add_template_owned(name.clone(), source) {
                flaws.push(Flaw::of(&error, &name));
            }
        }
        if flaws.is_empty() { check::check(self) } else { flaws }
    }

    /// What may not have been meant in `LETTERS_DIR`, a sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The names of the operator's own templates.
    pub fn overrides(&self) -> &[String] {
        &self.overrides
    }

    /// The letter of the kind with this name. An error only where a template of the operator's
    /// works with its sample and not with these values.
    pub fn render(
        &self,
        word: &str,
        message_id: &str,
        to: &str,
        values: &Values,
    ) -> Result<Letter, Flaw> {
        let kind = Kind::called(word)
            .ok_or_else(|| Flaw::new(&format!("{word}.txt"), None, "there is no such kind"))?;
        let mut context = self.common.clone();
        for (name, value) in &values.0 {
            let is_known = kind.values().any(|(known, _)| known == *name);
            debug_assert!(is_known, "{name} is not in the table of {word}");
            if is_known {
                context.insert(name, value.clone());
            }
        }
        let file = format!("{word}.txt");
        let rendered = self.fill(&file, &context)?;
        let document =
            Document::parse(&rendered).map_err(|(line, what)| Flaw::new(&file, line, what))?;
        context.insert("subject", Value::from(&document.subject));
        context.insert("blocks", document.blocks());
        let own = format!("{word}.html");
        let has_own = self.overrides.contains(&own);
        let html = self.fill(if has_own { &own } else { "layout.html" }, &context)?;
        context.insert("body", Value::from(document.text()));
        let text = self.fill("layout.txt", &context)?;
        Ok(Letter {
            message_id: message_id.to_owned(),
            to: to.to_owned(),
            subject: document.subject,
            text: format!("{}\n", text.trim()),
            html: format!("{}\n", html.trim()),
        })
    }

    /// Our own templates, by the names of their files.
    pub fn sources() -> impl Iterator<Item = (String, &'static str)> {
        let kinds = KINDS.iter().map(|kind| (format!("{}.txt", kind.word), kind.source));
        kinds.chain(LAYOUTS.map(|(name, source)| (name.to_owned(), source)))
    }

    /// Every kind with its sample, by name.
    pub fn samples(&self) -> impl Iterator<Item = (&'static str, Result<Letter, Flaw>)> {
        KINDS.iter().map(|kind| (kind.word, check::sample(self, kind, true, "")))
    }

    fn fill(&self, name: &str, context: &BTreeMap<&'static str, Value>) -> Result<String, Flaw> {
        let context = Value::from_pairs(context.iter().map(|(name, value)| (*name, value.clone())));
        let filled = self.templates.get_template(name).and_then(|it| it.render(context));
        filled.map_err(|error| Flaw::of(&error, name))
    }
}

fn of_folder(complaint: &impl fmt::Display) -> String {
    let complaint = complaint.to_string();
    let end = if complaint.ends_with('?') { "" } else { "." };
    format!("LETTERS_DIR: {complaint}{end}")
}

/// Templates with no way out: they include what was added, and nothing else.
fn environment() -> Environment<'static> {
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    templates.set_syntax(syntax.expect("the usual marks are no two the same"));
    templates.set_fuel(Some(FUEL));
    templates.set_recursion_limit(DEPTH);
    templates.set_formatter(escaped);
    templates.add_function("button", |state: &State, label: String, link: String| {
        in_text(state, "button").map(|()| document::button(&label, &link))
    });
    templates.add_function("code", |state: &State, digits: String| {
        in_text(state, "code").map(|()| document::code(&digits))
    });
    templates
}

fn in_text(state: &State, function: &str) -> Result<(), Error> {
    if *state.auto_escape() == AutoEscape::None {
        return Ok(());
    }
    let what = format!("{function}() is for KIND.txt: in HTML write the element itself");
    Err(Error::new(ErrorKind::InvalidOperation, what))
}

/// Escapes what HTML needs. The engine's own way escapes `/` as well, and a filter that reads the
/// source would find no link.
fn escaped(output: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if *state.auto_escape() != AutoEscape::Html || value.is_safe() {
        return minijinja::escape_formatter(output, state, value);
    }
    let text = value.to_string();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        let (before, from) = rest.split_at(at);
        output.write_str(before)?;
        let number = from.as_bytes()[0];
        write!(output, "&#{number};")?;
        rest = &from[1..];
    }
    Ok(output.write_str(rest)?)
}

/// `ada@example.com` as `a***@example.com`: enough to recognise one's own, too little to learn
/// another's.
pub fn masked(address: &str) -> String {
    let (local, domain) = address.rsplit_once('@').unwrap_or((address, ""));
    let first: String = local.chars().take(1).collect();
    format!("{first}***@{domain}")
}
