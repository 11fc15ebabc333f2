//! The folder where development keeps its things.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Makes the folder, which no repository takes up, unless it is there. One of another user's is an
/// error: whoever owns it reads the key and the database, and replaces them.
pub fn prepare_data_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    check_owner(folder, &fs::metadata(folder)?)?;
    let ignored = folder.join(".gitignore");
    match fs::symlink_metadata(&ignored) {
        Err(error) if error.kind() == ErrorKind::NotFound => fs::write(ignored, "*\n"),
        known => known.map(drop),
    }
}

/// Fails unless something is this user's or root's.
pub(super) fn check_owner(path: &Path, found: &fs::Metadata) -> io::Result<()> {
    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    if [user, 0].contains(&owner) {
        return Ok(());
    }
    let path = path.display();
    Err(io::Error::other(format!(
        "{path} belongs to user {owner}, and this process runs as user {user}: run as its owner, chown it, or move it \
         away"
    )))
}
