//! What a client sent, field by field: parsed at the door, all complaints at once.

use serde_json::{Map, Value};

use crate::fields::{FieldError, trimmed};
use crate::http::error::{ApiError, InvalidField};

/// How many unknown fields are complained about, and by how many characters of their names: more
/// would be wasted work.
pub(super) const MAX_UNASKED: usize = 20;
pub(super) const MAX_UNASKED_CHARS: usize = 64;

/// Named values, and what was found wrong with them so far. Fields that the endpoint does not read
/// are ignored; `null` is the same as leaving a field out.
#[derive(Debug)]
pub struct Input {
    values: Map<String, Value>,
    problems: Vec<InvalidField>,
}

impl Input {
    pub fn new(values: Map<String, Value>) -> Self {
        Self { values, problems: Vec::new() }
    }

    /// A string that has to be there, in the form that `parse` asks for.
    pub fn required<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        if matches!(self.values.get(field), None | Some(Value::Null)) {
            self.refuse(field, FieldError::new("required", "This field is required."));
            return None;
        }
        self.optional(field, parse)
    }

    /// A string that may be left out.
    pub fn optional<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, FieldError>,
    ) -> Option<T> {
        let parsed = match self.values.get(field) {
            None | Some(Value::Null) => return None,
            Some(value) if holds_nul(value) => Err(nul_refused()),
            Some(Value::String(raw)) => parse(raw),
            Some(_) => Err(FieldError::new("invalid_type", "This has to be a string.")),
        };
        parsed.map_err(|error| self.refuse(field, error)).ok()
    }

    /// A string as it was sent, for a page that shows it again.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.values.get(field).and_then(Value::as_str)
    }

    /// A yes or no of a query that may be left out: `true` or `false`, in any case, `1` or `0`.
    pub fn flag(&mut self, field: &str) -> Option<bool> {
        self.optional(field, |raw| match raw.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(FieldError::new("invalid_choice", "Use true or false.")),
        })
    }

    /// A yes or no of a body that may be left out.
    pub fn boolean(&mut self, field: &str) -> Option<bool> {
        match self.values.get(field) {
            None | Some(Value::Null) => None,
            Some(Value::Bool(value)) => Some(*value),
            Some(_) => {
                let message = "This has to be true or false.";
                self.refuse(field, FieldError::new("invalid_type", message));
                None
            }
        }
    }

    /// Takes empty values for left out: what a form sends for a field that was not filled in.
    pub fn drop_empty(&mut self) {
        self.values.retain(|_, value| value.as_str().is_none_or(|text| !trimmed(text).is_empty()));
    }

    /// The parameters of a list as they came, but for its cursor: for the link to the next page.
    pub fn given(&mut self, known: &[&'static str]) -> Vec<(&'static str, String)> {
        let names = known.iter().copied().filter(|name| *name != "after");
        names
            .filter_map(|name| Some((name, self.optional(name, |raw| Ok(raw.to_owned()))?)))
            .collect()
    }

    /// Complains about every name that is not one of `known`.
    pub fn refuse_unknown(&mut self, known: &[&str]) {
        let unknown = self.values.keys().filter(|name| !known.contains(&name.as_str()));
        let unknown: Vec<String> = unknown.take(MAX_UNASKED).cloned().collect();
        for name in unknown {
            let shown: String = name.chars().take(MAX_UNASKED_CHARS).collect();
            self.refuse(&shown, unknown_parameter(&shown, known));
        }
    }

    /// Complains about every name if none of them is one of `known`: a mistyped field, or one that
    /// is changed elsewhere, must not look like a change that was made.
    pub fn refuse_if_all_unknown(&mut self, known: &[&str]) {
        if !self.values.keys().any(|name| known.contains(&name.as_str())) {
            self.refuse_unknown(known);
        }
    }

    pub fn refuse(&mut self, field: &str, error: FieldError) {
        // The first complaint about a field is the one that helps.
        if !self.problems.iter().any(|problem| problem.field == field) {
            self.problems.push(InvalidField::new(field, error));
        }
    }

    /// Every complaint, if there is one.
    pub fn check(self) -> Result<(), ApiError> {
        self.finish(|| Some(()))
    }

    /// `value` and the form that holds the rest, or every complaint so far.
    pub fn checked<T>(self, value: Option<T>) -> Result<(T, Self), ApiError> {
        match value {
            Some(value) if self.problems.is_empty() => Ok((value, self)),
            _ => Err(ApiError::invalid(self.problems)),
        }
    }

    /// The checked values, or every complaint.
    ///
    /// `values` gives `None` only if a required field is missing, and that has been complained
    /// about.
    pub fn finish<T>(mut self, values: impl FnOnce() -> Option<T>) -> Result<T, ApiError> {
        // In unknown fields, too; the known ones have already complained, in their own order.
        let values_left = std::mem::take(&mut self.values).into_iter();
        let refused = values_left.filter(|(name, value)| name.contains('\0') || holds_nul(value));
        for (name, _) in refused.take(MAX_UNASKED) {
            let name: String = name.chars().take(MAX_UNASKED_CHARS).collect();
            self.refuse(&name, nul_refused());
        }
        match values() {
            Some(values) if self.problems.is_empty() => Ok(values),
            _ => Err(ApiError::invalid(self.problems)),
        }
    }
}

/// How alike two names have to be, from 0 to 1, for one to be meant by the other.
const ALIKE: f64 = 0.6;

fn unknown_parameter(name: &str, known: &[&str]) -> FieldError {
    let likeness =
        |other: &str| strsim::normalized_damerau_levenshtein(&name.to_lowercase(), other);
    let nearest = known.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    let message = match nearest.filter(|nearest| likeness(nearest) >= ALIKE) {
        Some(nearest) => format!("This is not known here. Is {nearest} meant?"),
        None => format!("This is not known here. There are {}.", known.join(", ")),
    };
    FieldError::new("unknown_parameter", message)
}

/// PostgreSQL's text cannot hold U+0000, and no name or password needs it.
fn nul_refused() -> FieldError {
    FieldError::new("invalid_characters", "The character U+0000 is not allowed.")
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}
