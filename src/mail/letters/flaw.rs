//! What is wrong with a template, and where.

use std::error::Error as _;
use std::fmt;

use minijinja::{Error, ErrorKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    file: String,
    line: Option<usize>,
    what: String,
    /// The same, without what could be a value.
    short: String,
}

impl Flaw {
    pub(super) fn new(file: &str, line: impl Into<Option<usize>>, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { file: file.to_owned(), line: line.into(), short: what.clone(), what }
    }

    /// The error where it arose: that of an include, and not of the file around it.
    pub(super) fn of(error: &Error, file: &str) -> Self {
        let (mut place, mut cause) = (error, error);
        while let Some(inner) = cause.source().and_then(|inner| inner.downcast_ref::<Error>()) {
            cause = inner;
            if cause.name().is_some() {
                place = cause;
            }
        }
        let short = words(cause.kind());
        let what = match cause.detail().filter(|_| is_telling(cause.kind())) {
            Some(detail) => format!("{short}: {detail}"),
            None => short.clone(),
        };
        Self { file: place.name().unwrap_or(file).to_owned(), line: place.line(), what, short }
    }

    /// Whether both are in one place.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        self.file == other.file && self.line == other.line
    }

    /// Without what could be a value, for a log.
    #[must_use]
    pub fn without_values(&self) -> Self {
        Self { what: self.short.clone(), ..self.clone() }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{} line {line}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

impl std::error::Error for Flaw {}

/// Whether the error's own detail says more than we do.
fn is_telling(kind: ErrorKind) -> bool {
    !matches!(kind, ErrorKind::OutOfFuel | ErrorKind::UndefinedError)
}

fn words(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::OutOfFuel => "it takes too long to write: see that its loops end".to_owned(),
        ErrorKind::UndefinedError => {
            "a value stands here that not every such letter has: put {% if %} around it".to_owned()
        }
        ErrorKind::TemplateNotFound => {
            "it asks for a file that is none of LETTERS_DIR's (of its pieces the names begin with _)".to_owned()
        }
        kind => kind.to_string(),
    }
}
