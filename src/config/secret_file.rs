//! The signing key of a development machine.

use std::io::{self, Read as _, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt as _};
use std::path::Path;
use std::{fs, process};

use secrecy::{ExposeSecret, SecretString};

use super::MIN_SECRET_BYTES;
use super::data_folder::check_owner;

/// Made once, kept in `folder/secret_key` for its owner alone.
pub fn development_secret(
    folder: &Path,
    random: impl FnOnce() -> String,
) -> io::Result<SecretString> {
    fs::create_dir_all(folder)?;
    // Of two processes that start together the second takes the first one's key: else each would
    // sign with its own.
    let locked = fs::File::open(folder)?;
    locked.lock()?;
    let path = folder.join("secret_key");
    match kept(&path) {
        Ok(kept) if kept.len() >= MIN_SECRET_BYTES => return Ok(kept.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tracing::info!("SECRET_KEY is not set: making a key, which is kept in {}", path.display());
    let secret = SecretString::from(random());
    // Written aside and renamed: a key that was cut off half way would be another key.
    let draft = folder.join(format!("secret_key.{}", process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(secret.expose_secret().as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    Ok(secret)
}

/// What the file holds, which is closed to others if it was not.
fn kept(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let found = file.metadata()?;
    check_owner(path, &found)?;
    if found.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        tracing::warn!("{} was open to other users: it is not any more", path.display());
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

    #[test]
    fn processes_that_start_together_keep_one_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("new");
        let start = std::sync::Barrier::new(8);
        let keys = std::thread::scope(|scope| {
            let one = |number| {
                let (start, folder) = (&start, &folder);
                scope.spawn(move || {
                    start.wait();
                    let random = || format!("{KEY}{number}");
                    let key = development_secret(folder, random).expect("a key");
                    key.expose_secret().to_owned()
                })
            };
            let threads: Vec<_> = (0..8).map(one).collect();
            threads.into_iter().map(|thread| thread.join().expect("a key")).collect::<Vec<_>>()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 1);
    }
}
