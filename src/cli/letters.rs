//! `letters`: every letter as it would be sent, to be looked at.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

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
}

#[derive(Template)]
#[template(path = "cli/letters.html", config = ".askama.toml")]
struct Index<'a> {
    letters: &'a [(&'static str, Letter)],
}

/// Writes the HTML and the text of each kind, and a page that leads to all of them.
pub fn letters(letters: &Letters, arguments: &Arguments) -> Result<(), Failure> {
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
    let mut written = Vec::new();
    for (kind, letter) in letters.samples() {
        let letter = letter?;
        fs::write(folder.join(format!("{kind}.html")), &letter.html).map_err(unusable)?;
        let text = format!("Subject: {}\n\n{}", letter.subject, letter.text);
        fs::write(folder.join(format!("{kind}.txt")), text).map_err(unusable)?;
        written.push((kind, letter));
    }
    let index = folder.join("index.html");
    fs::write(&index, Index { letters: &written }.render()?).map_err(unusable)?;
    let own = match letters.overrides() {
        [] => "all ours".to_owned(),
        own => format!("of LETTERS_DIR: {}", own.join(", ")),
    };
    let words: Vec<_> = written.iter().map(|(kind, _)| *kind).collect();
    print(&format!(
        "Wrote {} letters with made-up values ({own}): {}.\nThey begin at {}.\n",
        written.len(),
        words.join(", "),
        index.display()
    ))
}
