//! `letters`: every letter as it would be sent, to be looked at.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use askama::Template;
use clap::Args;

use super::{Failure, print};
use crate::mail::Letter;
use crate::mail::letters::Letters;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder to write to; made where there is none
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write our own templates in place of letters: what to begin with for `LETTERS_DIR`
    #[arg(long)]
    templates: bool,
}

#[derive(Template)]
#[template(path = "cli/letters.html", config = ".askama.toml")]
struct Index<'a> {
    letters: &'a [(&'static str, Letter)],
}

/// Writes the HTML and the text of each kind, and a page that leads to all of them; or our
/// templates. Never to `own`, the folder of the operator's templates, which have the same names.
pub fn letters(
    letters: &Letters,
    own: Option<&Path>,
    arguments: &Arguments,
) -> Result<(), Failure> {
    let folder = &arguments.out;
    let unusable = |error: std::io::Error| {
        let why = match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                "a file is in its place".to_owned()
            }
            _ => error.to_string(),
        };
        format!("{} cannot be written to ({why}): give --out a folder", folder.display())
    };
    fs::create_dir_all(folder).map_err(unusable)?;
    let place = |folder: &Path| folder.canonicalize().ok();
    if own.is_some_and(|own| place(own) == place(folder)) {
        let folder = folder.display();
        return Err(format!(
            "{folder} is LETTERS_DIR, whose templates would be overwritten: give --out another folder"
        )
        .into());
    }
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).map_err(unusable);
    if arguments.templates {
        let mut names = Vec::new();
        for (name, source) in Letters::sources() {
            write(&name, source)?;
            names.push(name);
        }
        let names = names.join(", ");
        return print(&format!("Wrote {names} to {}: LETTERS_DIR takes them.\n", folder.display()));
    }
    let mut written = Vec::new();
    for (kind, letter) in letters.samples() {
        let letter = letter?;
        write(&format!("{kind}.html"), &letter.html)?;
        let text = format!("Subject: {}\n\n{}", letter.subject, letter.text);
        write(&format!("{kind}.txt"), &text)?;
        written.push((kind, letter));
    }
    write("index.html", &Index { letters: &written }.render()?)?;
    let own = match letters.overrides() {
        [] => "all ours".to_owned(),
        own => format!("of LETTERS_DIR: {}", own.join(", ")),
    };
    let words: Vec<_> = written.iter().map(|(kind, _)| *kind).collect();
    print(&format!(
        "Wrote {} letters with made-up values ({own}): {}.\nThey begin at {}.\n",
        written.len(),
        words.join(", "),
        folder.join("index.html").display()
    ))
}
