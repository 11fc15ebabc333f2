//! `LETTERS_DIR`: the operator's own templates.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::kinds::KINDS;

/// The most bytes of a file.
const MAX_BYTES: u64 = 64 * 1024;
/// The most letters by which a mistyped name differs.
const NEAR: usize = 2;

/// What the folder has.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// By their names.
    pub(super) files: BTreeMap<String, String>,
    /// What may not have been meant, a sentence each.
    pub(super) remarks: Vec<String>,
}

/// Reads every template of the folder; the error is all complaints about files in it.
pub(super) fn read(folder: &Path) -> Result<Overrides, Vec<String>> {
    let unreadable = |error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "there is nothing".to_owned(),
            io::ErrorKind::NotADirectory => "it is no folder".to_owned(),
            _ => error.to_string(),
        };
        vec![format!(
            "{} cannot be read ({why}): name a folder of letters' templates, or remove the setting",
            folder.display()
        )]
    };
    let entries: io::Result<Vec<_>> = fs::read_dir(folder).map_err(unreadable)?.collect();
    let mut paths: Vec<_> =
        entries.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    let (mut found, mut complaints) = (Overrides::default(), Vec::new());
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Kubernetes keeps what it mounts in hidden folders.
        if name.starts_with('.') {
            continue;
        }
        if !is_template(&name) {
            found.remarks.push(remark(&name));
            continue;
        }
        match content(&path) {
            Ok(text) => drop(found.files.insert(name.into_owned(), text)),
            Err(why) => complaints.push(format!("{name} {why}")),
        }
    }
    if complaints.is_empty() { Ok(found) } else { Err(complaints) }
}

/// Whether a file of this name is read: a kind's, the layout's, or a piece that these include.
fn is_template(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(stem, end)| {
        matches!(end, "txt" | "html")
            && (stem == "layout"
                || stem.starts_with('_')
                || KINDS.iter().any(|kind| kind.word == stem))
    })
}

fn remark(name: &str) -> String {
    let known = KINDS.iter().map(|kind| kind.word).chain(["layout"]);
    let known = known.flat_map(|stem| [format!("{stem}.txt"), format!("{stem}.html")]);
    let nearest = known.min_by_key(|known| strsim::osa_distance(known, name));
    match nearest.filter(|known| strsim::osa_distance(known, name) <= NEAR) {
        Some(meant) => format!("{name} is no letter, and is not read: did you mean {meant}?"),
        None => format!(
            "{name} is no letter, and is not read: `doorward letters` shows all; the name of a piece that others \
             include begins with _"
        ),
    }
}

fn content(path: &Path) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err("is no file, where a template was expected: remove or rename it".to_owned());
    }
    if metadata.len() > MAX_BYTES {
        let bytes = metadata.len();
        return Err(format!("has {bytes} bytes, and a template may have {MAX_BYTES}: shorten it"));
    }
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| "holds bytes that are no text: save it as UTF-8".to_owned())?;
    Ok(text.trim_start_matches('\u{feff}').replace("\r\n", "\n"))
}
