//! Mailers without a mail server: a folder, memory, and none at all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use doorward::mail::{Mailer, SendError};

use crate::mail::letters::{LINK, letter};
use crate::mail::smtp::{letter_to, transient};

#[tokio::test]
async fn a_folder_keeps_letters_newest_first_and_for_the_owner_alone() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join(".doorward/mailbox");
    let mailer = Mailer::folder(&folder);
    assert!(mailer.kept(10).expect("it is a folder mailer").is_empty());
    for i in 0..5 {
        mailer.send(&letter_to(&format!("user{i}@example.com"))).await.expect("the folder is ours");
    }
    std::fs::write(folder.join("zzz.json"), "no letter").expect("our folder");

    let kept = mailer.kept(3).expect("it is a folder mailer");
    let recipients: Vec<_> = kept.iter().map(|letter| letter.to.as_str()).collect();
    assert_eq!(recipients, ["user4@example.com", "user3@example.com", "user2@example.com"]);
    assert_eq!(kept[0].links, [LINK]);
    assert_eq!(kept[0].message_id, letter().message_id);
    assert!(kept[0].at.timestamp() > 1_700_000_000);

    let mode =
        |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).expect("our folder").flatten() {
        if entry.file_name() != "zzz.json" {
            assert_eq!(mode(&entry.path()), 0o600);
            assert!(entry.path().extension().is_some_and(|end| end == "json"));
        }
    }
}

#[tokio::test]
async fn memory_keeps_letters_and_fails_when_told() {
    let (mailer, sent) = Mailer::memory();
    sent.fail_next(SendError::Transient("later".to_owned()));
    transient(mailer.send(&letter()).await);
    mailer.send(&letter()).await.expect("only one failure was asked for");
    assert_eq!(sent.take(), [letter()]);
    assert!(sent.take().is_empty());
    assert!(mailer.kept(1).is_none());
}

#[tokio::test]
async fn without_a_server_letters_wait() {
    assert!(Mailer::Off.is_off());
    transient(Mailer::Off.send(&letter()).await);
}
