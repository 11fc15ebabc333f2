//! Letters: their words, and the ways they leave the house.
//!
//! A tool: it knows nothing of users, tables or requests. The worker makes a [`Letter`] with
//! [`letters`], hands it to the [`Mailer`], and decides by the answer whether to try again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use lettre::message::Mailbox;

mod advice;
mod conversation;
mod folder;
pub mod letters;
mod memory;
mod mime;
mod refusal;
mod reply;
mod settings;
mod smtp;
mod smtp_url;
mod stream;
mod tls;

pub use advice::advice;
pub use folder::KeptLetter;
pub use memory::SentLetters;
pub use mime::sender;
pub use settings::{Deadlines, Security, SmtpSettings};

use folder::Folder;
use smtp::Smtp;

/// A letter ready to be sent.
///
/// `message_id` is what stands in the header, angle brackets included (`<uuid@host>`). It belongs
/// to the row in the outbox, so a letter that goes out twice has the same one both times, and the
/// recipient's mailbox can merge them.
#[derive(Clone, PartialEq, Eq)]
pub struct Letter {
    pub message_id: String,
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// Shows the id alone: the rest holds an address and a link, which belong in no log.
impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter").field("message_id", &self.message_id).finish_non_exhaustive()
    }
}

/// Why a letter was not sent. The text is for the log: it holds no address, no link, and nothing a
/// server said beyond its codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Another attempt may succeed: the server is away or busy, or our own configuration can be
    /// fixed.
    Transient(String),
    /// This letter will never be taken: its recipient or its content was refused.
    Permanent(String),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Transient(why) | Self::Permanent(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for SendError {}

/// The way letters leave the house. Cloning it gives another handle on the same one.
#[derive(Clone)]
pub enum Mailer {
    /// To a mail server.
    Smtp(Arc<Smtp>),
    /// Into a folder, for development: nothing leaves the machine.
    Folder(Folder),
    /// Into memory, for tests.
    Memory(SentLetters),
    /// Nowhere: no mail server is set, and letters wait in the outbox.
    Off,
}

impl Mailer {
    /// Sends over SMTP, as `from`. Connects only when there is a letter.
    ///
    /// `extra_roots` is a PEM file of certificate authorities to trust besides the public ones
    /// (`SSL_CERT_FILE`). The error is a complaint about that file, in words a person can act on.
    pub fn smtp(
        settings: &SmtpSettings,
        from: Mailbox,
        extra_roots: Option<&Path>,
    ) -> Result<Self, String> {
        let smtp = Smtp::new(settings.clone(), from, extra_roots)?;
        Ok(Self::Smtp(Arc::new(smtp)))
    }

    /// Keeps letters in `folder`, one JSON file each, readable by this user alone. The folder is
    /// made when needed.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self::Folder(Folder::new(folder.into()))
    }

    /// Keeps letters in memory; the handle reads them.
    pub fn memory() -> (Self, SentLetters) {
        let letters = SentLetters::default();
        (Self::Memory(letters.clone()), letters)
    }

    /// True if letters cannot leave at all. The worker then leaves the outbox alone: a letter must
    /// not use up its attempts while no server can take it.
    pub fn is_off(&self) -> bool {
        matches!(self, Self::Off)
    }

    /// Whether letters stay on this machine, for the mailbox page.
    pub fn keeps_letters(&self) -> bool {
        matches!(self, Self::Folder(_))
    }

    /// Sends one letter, in at most 90 seconds ([`Deadlines::letter`]). `Ok` means that the server
    /// has taken responsibility for it.
    ///
    /// A [`SendError::Transient`] does not promise that the letter was *not* sent: a server may
    /// accept it and the answer be lost. Such a letter goes out twice, under one `Message-ID`.
    pub async fn send(&self, letter: &Letter) -> Result<(), SendError> {
        match self {
            Self::Smtp(smtp) => smtp.send(letter).await,
            Self::Folder(folder) => folder.keep(letter).await,
            Self::Memory(letters) => letters.keep(letter),
            Self::Off => Err(SendError::Transient("no mail server is set".to_owned())),
        }
    }

    /// Connects, encrypts, signs in and names the sender as for a letter, each step within
    /// `patience`, and sends none. The error is for the operator.
    pub async fn check(&self, patience: Duration) -> Result<(), SendError> {
        match self {
            Self::Smtp(smtp) => smtp.check(patience).await,
            Self::Folder(_) | Self::Memory(_) | Self::Off => Ok(()),
        }
    }

    /// The newest `limit` letters of a folder mailer, newest first; `None` for every other.
    pub fn kept(&self, limit: usize) -> Option<Vec<KeptLetter>> {
        match self {
            Self::Folder(folder) => Some(folder.newest(limit)),
            Self::Smtp(_) | Self::Memory(_) | Self::Off => None,
        }
    }
}
