//! The mailer of development: letters are kept in a folder, and the mailbox page shows them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::{Letter, SendError};

/// A letter as it lies in the folder, and as `/dev/mailbox` shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLetter {
    pub at: DateTime<Utc>,
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
    pub message_id: String,
    /// The URLs that stand in the text, in their order.
    pub links: Vec<String>,
}

/// A folder of letters, one JSON file each. The folder is for this user alone, and so is each file:
/// letters hold links that confirm an address.
#[derive(Clone)]
pub struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) async fn keep(&self, letter: &Letter) -> Result<(), SendError> {
        self.write(letter).await.map_err(|error| {
            SendError::Transient(format!("the mail folder cannot be written: {error}"))
        })
    }

    /// The newest letters, newest first. A file that is no letter is passed over.
    pub(super) fn newest(&self, limit: usize) -> Vec<KeptLetter> {
        let Ok(entries) = std::fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .collect();
        paths.sort_unstable_by(|a, b| b.cmp(a));
        let letters = paths.iter().filter_map(|path| read(path));
        letters.take(limit).collect()
    }

    /// Written under another name first, so that no reader meets half a letter.
    async fn write(&self, letter: &Letter) -> io::Result<()> {
        let folder = &self.0;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).await?;
        // It may have been there before, open to others.
        fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).await?;

        // A version 7 id begins with the time: the names sort by it, and no two letters share one.
        let id = Uuid::now_v7();
        let json = serde_json::to_vec_pretty(&KeptLetter::new(letter, time_of(id)))?;
        let unfinished = folder.join(format!("{id}.unfinished"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .await?;
        file.write_all(&json).await?;
        file.flush().await?;
        fs::rename(&unfinished, folder.join(format!("{id}.json"))).await
    }
}

impl KeptLetter {
    fn new(letter: &Letter, at: DateTime<Utc>) -> Self {
        Self {
            at,
            to: letter.to.clone(),
            subject: letter.subject.clone(),
            text: letter.text.clone(),
            html: letter.html.clone(),
            message_id: letter.message_id.clone(),
            links: links(&letter.text),
        }
    }
}

fn read(path: &Path) -> Option<KeptLetter> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn time_of(id: Uuid) -> DateTime<Utc> {
    id.get_timestamp()
        .and_then(|at| {
            let (seconds, nanoseconds) = at.to_unix();
            DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
        })
        .unwrap_or_default()
}

/// The URLs in a text, without the punctuation of the sentence around them.
fn links(text: &str) -> Vec<String> {
    text.split_whitespace()
        .filter_map(|word| Some(&word[word.find("https://").or_else(|| word.find("http://"))?..]))
        .map(|url| url.trim_end_matches(['.', ',', ';', ':', '!', ')', '>', '"', '\'']))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_without_the_sentence_around_them() {
        let text = "Open https://a.example/confirm?token=x.y-z_, or (http://127.0.0.1:8000/).\nNothing else.";
        assert_eq!(
            links(text),
            ["https://a.example/confirm?token=x.y-z_", "http://127.0.0.1:8000/"]
        );
    }
}
