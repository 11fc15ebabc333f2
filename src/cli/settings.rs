//! `settings`: every setting on a line, with where its value comes from.

use super::sources::{Source, Sources};
use super::{Failure, print};
use crate::config::{SETTINGS, Setting};

/// The most characters of a value on its line.
const WIDTH: usize = 40;

/// Prints all settings. No secret is shown, and nothing is checked: see `doctor`.
pub fn settings(sources: &Sources) -> Result<(), Failure> {
    let heading = format!("{:<28} {:<12} {}\n", "SETTING", "SET BY", "VALUE, AND WHAT IT IS");
    let lines = SETTINGS.iter().map(|setting| line(setting, sources));
    print(&(heading + &lines.collect::<String>()))
}

fn line(setting: &Setting, sources: &Sources) -> String {
    let Setting { name, default, about, is_secret } = setting;
    let source = sources.of(name);
    let value = sources.value(name).filter(|_| source != Source::Default);
    let value = value.map_or_else(|| "-".to_owned(), |value| shown(value.trim(), *is_secret));
    format!("{name:<28} {source:<12} {value}  # {about}; default: {default}\n")
}

/// A value that may be shown, on one line: a URL may have a password before its `@`, whichever
/// setting it was written to.
fn shown(value: &str, is_secret: bool) -> String {
    if is_secret || value.split_once("://").is_some_and(|(_, rest)| rest.contains('@')) {
        return "(not shown)".to_owned();
    }
    let mut shown: String =
        value.chars().take(WIDTH).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.chars().nth(WIDTH).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_value_is_shown_unless_a_password_may_be_in_it() {
        assert_eq!(shown("10", false), "10");
        assert_eq!(shown("https://auth.example.com", false), "https://auth.example.com");
        assert_eq!(shown("a\nb", false), "a b");
        assert_eq!(shown(&"x".repeat(50), false), "x".repeat(40) + "…");
        for hidden in [("10", true), ("https://me:hunter22@example.com", false)] {
            assert_eq!(shown(hidden.0, hidden.1), "(not shown)");
        }
    }
}
