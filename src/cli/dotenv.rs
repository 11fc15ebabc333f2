//! `.env`: read before anything else, and what is wrong with it in words that show no value.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt as _;
use std::{env, iter};

use super::Failure;
use crate::config::{SETTINGS, VARIABLES, meant_by};

/// In the folder where the process runs. None above it is looked for: that may be anybody's.
const FILE: &str = ".env";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the file has given.
#[derive(Debug, Default)]
pub struct DotEnv {
    /// Names that it defines, and the environment does not.
    pub names: Vec<String>,
    /// What its writer may not have meant, a sentence each.
    pub remarks: Vec<String>,
}

/// Reads `.env` into the environment, which wins over the file. A missing file is no error; one
/// that cannot be read, is another user's, or has a line that is none, is.
pub fn load() -> Result<DotEnv, Failure> {
    let Some((mut text, is_open)) = read()? else { return Ok(DotEnv::default()) };
    // The library takes a blank at the very end for the beginning of a word.
    text.push(b'\n');
    let mut found = parse(&text)?;
    if is_open {
        let remark = format!("every user of this machine may write to {FILE}: chmod o-w {FILE}");
        found.remarks.push(remark);
    }
    dotenvy::from_read(text.as_slice()).map_err(|error| unreadable(&error, b""))?;
    Ok(found)
}

/// Whoever writes the file decides whose database gets everybody's passwords: that may be this user
/// and root, and nobody else. With the text, whether everybody may write to it all the same, as a
/// file system without permissions says of each.
fn read() -> Result<Option<(Vec<u8>, bool)>, Failure> {
    let complaint = |why: &str| Failure::from(format!("{FILE} {why}"));
    let unreadable = |error: &io::Error| match error.kind() {
        ErrorKind::PermissionDenied => {
            complaint("may not be read by this user: chmod u+r .env, or chown it")
        }
        _ => complaint(&format!("cannot be read: {error}")),
    };
    let mut file = match File::open(FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if fs::symlink_metadata(FILE).is_ok() {
                Err(complaint("is a link to a file that is not there: mend the link, or remove it"))
            } else {
                Ok(None)
            };
        }
        Err(error) => return Err(unreadable(&error)),
    };
    let metadata = file.metadata().map_err(|error| unreadable(&error))?;
    if metadata.is_dir() {
        return Err(complaint(
            "is a folder, where a file of NAME=value lines was expected: remove or rename it",
        ));
    }
    let user = rustix::process::geteuid().as_raw();
    if ![user, 0].contains(&metadata.uid()) {
        let owner = metadata.uid();
        return Err(complaint(&format!(
            "belongs to user {owner}, and is read only if it is this user's ({user}) or root's: chown it, or run as \
             its owner"
        )));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(|error| unreadable(&error))?;
    Ok(Some((text, metadata.mode() & 0o002 != 0)))
}

fn parse(text: &[u8]) -> Result<DotEnv, Failure> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
    for (number, line) in iter::zip(1.., &lines) {
        let what = match std::str::from_utf8(line) {
            Err(_) => "bytes that are no text: save the file as UTF-8",
            Ok(line) if line.contains('\0') => "a NUL character, which no value can: remove it",
            Ok(_) => continue,
        };
        return Err(format!("{FILE} line {number} holds {what}").into());
    }
    let read = Cell::new(0);
    let mut pairs = dotenvy::from_read_iter(LineByLine { rest: text, read: &read });
    let (mut lines_of, mut remarks) = (BTreeMap::new(), Vec::new());
    loop {
        // Where the next pair begins: the library passes over empty lines and comments.
        let is_empty = |line: &&&[u8]| matches!(line.trim_ascii().first(), None | Some(b'#'));
        let start = read.get() + lines[read.get()..].iter().take_while(is_empty).count();
        let line = start + 1;
        let (name, value) = match pairs.next() {
            None => break,
            Some(Ok(pair)) => pair,
            Some(Err(error)) => {
                let why = unreadable(&error, lines.get(start).copied().unwrap_or_default());
                return Err(format!("{FILE} line {line} cannot be read: {why}").into());
            }
        };
        let raw = lines[start..read.get()].concat();
        let again = lines_of.get(&name).map(|first| {
            format!("{} is defined again: line {first} counts, remove one of the two", shown(&name))
        });
        let unknown = unknown(&name).filter(|_| again.is_none());
        let found = [again, unknown, substituted(&name, &value, &raw)];
        remarks
            .extend(found.into_iter().flatten().map(|what| format!("{FILE} line {line}: {what}")));
        lines_of.entry(name).or_insert(line);
    }
    let names = lines_of.into_keys().filter(|name| env::var_os(name).is_none()).collect();
    Ok(DotEnv { names, remarks })
}

/// Hands out no more than one line at a time, and counts them: the library's errors have no number.
struct LineByLine<'a> {
    rest: &'a [u8],
    read: &'a Cell<usize>,
}

impl Read for LineByLine<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.rest.iter().position(|b| *b == b'\n').map_or(self.rest.len(), |at| at + 1);
        let (piece, rest) = self.rest.split_at(end.min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(piece);
        self.read.set(self.read.get() + usize::from(piece.ends_with(b"\n")));
        self.rest = rest;
        Ok(piece.len())
    }
}

/// The library's own words would show the line, and a line may hold a password.
fn unreadable(error: &dotenvy::Error, line: &[u8]) -> String {
    let dotenvy::Error::LineParse(..) = error else { return error.to_string() };
    let name = line.split(|b| *b == b'=').next().unwrap_or_default();
    let name = String::from_utf8_lossy(name);
    let name = name.trim().trim_start_matches("export ").trim_start();
    let what = if VARIABLES.contains(&name) { name } else { "it" };
    format!(
        "{what} is not NAME=value, a value with spaces or a $ is not in single quotes, or a quote is not closed"
    )
}

/// A name that is no setting, unless another program's.
fn unknown(name: &str) -> Option<String> {
    if VARIABLES.contains(&name) || name.starts_with("OTEL_") {
        return None;
    }
    let name = shown(name);
    Some(match meant_by(&name) {
        Some(meant) => format!("{name} is no setting: did you mean {meant}?"),
        None => format!("{name} is no setting, and is not read: `doorward settings` lists all"),
    })
}

/// A name as it may be shown: what looks like none may be a piece of a value on several lines.
fn shown(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if is_plain || meant_by(name).is_some() { name.to_owned() } else { "a name".to_owned() }
}

/// A `$` outside of single quotes stands for another variable, and for nothing where there is none.
fn substituted(name: &str, value: &str, raw: &[u8]) -> Option<String> {
    let is_secret = SETTINGS.iter().any(|setting| setting.name == name && setting.is_secret);
    let dollars = |bytes: &[u8]| bytes.split(|b| *b == b'$').count();
    let is_less = dollars(value.as_bytes()) < dollars(raw);
    (is_secret && is_less).then(|| {
        format!("{name} holds a $ that stood for another variable: put single quotes around the value if it is a part \
             of it")
    })
}
