//! Whether every letter can be written: each is, with its sample.

use std::collections::BTreeSet;

use super::kinds::{KINDS, Kind, Sample, Slot};
use super::{Flaw, Letters, Values};
use crate::mail::Letter;

/// The most bytes of a part: a few more, and Gmail shows the beginning alone.
const MAX_BYTES: usize = 100 * 1024;

/// Names that the layouts have beside those of every template.
const OF_LAYOUTS: [&str; 3] = ["subject", "blocks", "body"];
/// Names that every template has, set or not.
const COMMON: [&str; 6] = ["service", "support", "support_link", "color", "on_color", "edge"];
/// What the engine itself gives.
const OF_ENGINE: [&str; 5] = ["self", "super", "caller", "loop", "varargs"];

/// What stands at the end of the links with which templates are tried: a letter that was written with
/// samples, taken for a template, has their links, and would send everybody to those.
const TRIED: &str = "tried";

/// The letter with the sample of each value, or only of those that it always has. `end` is added to
/// links.
pub(super) fn sample(
    letters: &Letters,
    kind: &Kind,
    with_optional: bool,
    end: &str,
) -> Result<Letter, Flaw> {
    let mut values = Values::new();
    for Slot { name, sample, is_optional } in kind.values {
        if with_optional || !is_optional {
            values = match *sample {
                Sample::Text(text) | Sample::Digits(text) => values.set(name, text),
                Sample::Link(link) => values.set(name, format!("{link}{end}")),
                Sample::Number(number) => values.set(name, number),
            };
        }
    }
    letters.render(kind.word, "<sample@localhost>", "ada@example.com", &values)
}

/// What is wrong with the operator's templates, one flaw a place: a layout's is every letter's.
pub(super) fn check(letters: &Letters) -> Vec<Flaw> {
    let mut flaws: Vec<Flaw> =
        letters.overrides.iter().flat_map(|name| unknown_names(letters, name)).collect();
    let mut without_support = letters.clone();
    without_support.common.retain(|name, _| !name.starts_with("support"));
    for kind in &KINDS {
        let full = sample(letters, kind, true, TRIED);
        let sparse = sample(&without_support, kind, false, TRIED);
        let mut found = match &full {
            Ok(letter) => Vec::from_iter(unfit(letters, kind, letter)),
            Err(flaw) => vec![flaw.clone()],
        };
        found.extend(sparse.err());
        for flaw in found {
            if !flaws.iter().any(|known| known.is_beside(&flaw)) {
                flaws.push(flaw);
            }
        }
    }
    flaws
}

/// Names in a template that it is not given, in whichever branch: what is absent counts as
/// false, so that a mistyped one would never be missed.
fn unknown_names(letters: &Letters, file: &str) -> Vec<Flaw> {
    let Ok(template) = letters.templates.get_template(file) else { return Vec::new() };
    let (stem, end) = file.rsplit_once('.').unwrap_or((file, ""));
    let mut known = BTreeSet::from(COMMON);
    if stem == "layout" || end == "html" {
        known.extend(OF_LAYOUTS);
    }
    // A piece may be any kind's.
    let kinds = KINDS.iter().filter(|kind| kind.word == stem || stem.starts_with('_'));
    known.extend(kinds.flat_map(|kind| kind.values).map(|slot| slot.name));
    let globals: BTreeSet<&str> = letters.templates.globals().map(|(name, _)| name).collect();
    let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
    unknown.retain(|name| {
        let name = name.as_str();
        !(known.contains(name) || globals.contains(name) || OF_ENGINE.contains(&name))
    });
    unknown.sort_unstable();
    let flaw = |name: String| {
        let near = known.iter().find(|known| strsim::osa_distance(known, &name) <= 2);
        let advice = match near {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("there are {}", known.iter().copied().collect::<Vec<_>>().join(", ")),
        };
        let what = format!("it is given no value {name}: {advice}");
        Flaw::new(file, line_of(&name, template.source()), what)
    };
    unknown.into_iter().map(flaw).collect()
}

/// The first line with the name as a word of its own.
fn line_of(name: &str, source: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let has_name = |line: &str| line.split(|c| !is_part(c)).any(|word| word == name);
    source.lines().position(has_name).map(|index| index + 1)
}

/// What is wrong with a letter that could be written. The HTML is made of the text's words: what is
/// wrong with both is told once.
fn unfit(letters: &Letters, kind: &Kind, letter: &Letter) -> Option<Flaw> {
    let file = |end: &str| {
        let own = format!("{}.{end}", kind.word);
        if letters.overrides.contains(&own) { own } else { format!("layout.{end}") }
    };
    let lost = |part: &str| {
        let mut needed = kind.values.iter().filter(|slot| !slot.is_optional);
        let is_there = |link| part.contains(&format!("{link}{TRIED}"));
        needed.find(|slot| matches!(slot.sample, Sample::Link(link) if !is_there(link)))
    };
    let parts = [(&letter.text, "txt"), (&letter.html, "html")];
    parts.into_iter().find_map(|(part, end)| {
        let what = if part.trim().is_empty() {
            "it is empty: write what the letter says".to_owned()
        } else if part.len() > MAX_BYTES {
            let bytes = part.len();
            format!("mail programs cut off a letter of {bytes} bytes: keep it below {MAX_BYTES}")
        } else {
            let Slot { name, .. } = lost(part)?;
            format!(
                "the letter {} has lost its link, without which nobody can do what it asks: give it {{{{ {name} }}}}",
                kind.word
            )
        };
        Some(Flaw::new(&file(end), None, what))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn every_letter_of_ours_can_be_written() {
        let mut letters = Letters::built_in(&Config::read(|_| None).0);
        let files = KINDS.iter().map(|kind| format!("{}.txt", kind.word));
        let layouts = ["layout.txt", "layout.html"].map(str::to_owned);
        letters.overrides = files.chain(layouts).collect();
        assert_eq!(check(&letters), []);
    }
}
