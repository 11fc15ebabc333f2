//! `.env`, and names and values in the environment: what is wrong is told with its place, and no
//! value is shown.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::process::Command;

use crate::harness::home::Home;
use crate::harness::machine::note;

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// What a command says on both of its outputs, and whether it went well.
fn said(command: &mut Command) -> (String, bool) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8(said).unwrap(), output.status.success())
}

/// The one line with which a start is refused.
#[track_caller]
fn refusal(home: &Home) -> String {
    let (said, is_good) = said(&mut home.command(&["serve"]));
    assert!(!is_good && said.lines().count() == 1, "{said}");
    assert!(!said.contains("hunter22") && !said.contains("panicked"), "{said}");
    said.trim_end().strip_prefix("doorward: ").unwrap().to_owned()
}

#[test]
fn a_line_that_cannot_be_read_is_named_and_not_shown() {
    let home = Home::new(&[]);
    for (broken, what) in [
        (
            &b"LOG=info\n\n# A comment.\nSMTP_URL=\"smtps://me:hunter22@x\n\nA=1\n"[..],
            "4 cannot be read: SMTP_URL is not",
        ),
        (b"LOG=info\nhunter22\n", "2 cannot be read: it is not NAME=value"),
        (b"hunter22='\n", "1 cannot be read: it is not NAME=value"),
        (
            b"APP_NAME=hunter22 hunter22\n",
            "1 cannot be read: APP_NAME is not NAME=value, a value with spaces",
        ),
        (b"LOG=info\nSECRET_KEY=hunter22\0hunter22\n", "2 holds a NUL"),
        (b"\0", "1 holds a NUL"),
        (
            b"LOG=info\r\nSECRET_KEY=hunter22\xff\xfe\r\n",
            "2 holds bytes that are no text: save the file as UTF-8",
        ),
        // As an editor of Windows saves it.
        (b"\xff\xfeL\0O\0G\0=\0i\0\n\0", "1 holds bytes that are no text"),
    ] {
        fs::write(home.folder().join(".env"), broken).unwrap();
        let said = refusal(&home);
        assert!(said.starts_with(&format!(".env line {what}")), "{said}");
    }
}

#[test]
fn what_is_no_file_of_this_users_is_refused_with_what_to_do() {
    let home = Home::new(&[]);
    let file = home.folder().join(".env");
    // Docker makes one where a file to be mounted is missing.
    fs::create_dir(&file).unwrap();
    assert!(refusal(&home).starts_with(".env is a folder, where a file"));
    fs::remove_dir(&file).unwrap();
    symlink("nowhere", &file).unwrap();
    assert!(refusal(&home).starts_with(".env is a link to a file that is not there"));
    fs::remove_file(&file).unwrap();
    fs::write(&file, "LOG=hunter22\n").unwrap();
    if !is_root() {
        fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
        assert!(refusal(&home).starts_with(".env may not be read by this user"));
        return note("passed over: only root gives a file away");
    }
    chown(&file, Some(12_345), None).unwrap();
    let said = refusal(&home);
    assert!(said.starts_with(".env belongs to user 12345") && said.contains("chown it"), "{said}");
}

#[test]
fn a_file_in_a_folder_above_is_anybodys_and_not_read() {
    let home = Home::new(&[]);
    fs::write(home.folder().join(".env"), "not a line\n").unwrap();
    let below = home.folder().join("below");
    fs::create_dir(&below).unwrap();
    let (said, is_good) = said(home.command(&["settings"]).current_dir(&below));
    assert!(is_good, "{said}");
}

#[tokio::test]
async fn names_that_are_no_settings_and_second_ones_are_told_by_the_start_and_by_doctor() {
    let (home, _) = Home::with_database(&[]).await;
    let file = "\u{feff}SMTP_ULR=smtps://me:hunter22@mail.example\n\nAPP_NAME=First\nAPP_NAME='hunter22'\n\
                POSTGRES_PASSWORD=hunter22\nc29tZXRoaW5nc2VjcmV0=\nOTEL_RESOURCE_ATTRIBUTES=a=b\n\
                METRICS_TOKEN=0a1b2c3d4e5f$hunter22 ";
    fs::write(home.folder().join(".env"), file).unwrap();
    let remarks = [
        ".env line 1: SMTP_ULR is no setting: did you mean SMTP_URL?",
        ".env line 4: APP_NAME is defined again: line 3 counts",
        ".env line 5: POSTGRES_PASSWORD is no setting, and is not read",
        ".env line 6: a name is no setting",
        ".env line 8: METRICS_TOKEN holds a $ that stood for another variable: put single quotes",
    ];
    let doctor = String::from_utf8(home.run(&["doctor"], "").await.stdout).unwrap();
    // The token is too short without its second half.
    let start =
        said(home.command(&["serve"]).env("METRICS_TOKEN", "0a1b2c3d4e5f6a7b").env("PORT", "x")).0;
    for remark in remarks {
        assert!(doctor.contains(&format!("warn  settings    {remark}")), "{remark}: {doctor}");
        assert!(start.contains(&format!("  - {remark}")), "{remark}: {start}");
    }
    for said in [&doctor, &start] {
        assert!(!said.contains("hunter22") && !said.contains("c29t"), "{said}");
        assert!(!said.contains("OTEL"), "{said}");
    }
    assert!(doctor.contains("know the service as First"), "{doctor}");

    fs::write(home.folder().join(".env"), "CORS_ORIGIN=https://app.example.com\n").unwrap();
    let open = Permissions::from_mode(0o666);
    fs::set_permissions(home.folder().join(".env"), open).unwrap();
    let log = home.start().await.stop().await;
    assert!(log.contains("every user of this machine may write to .env: chmod o-w .env"), "{log}");
    assert!(
        log.contains(
            "settings: .env line 1: CORS_ORIGIN is no setting: did you mean CORS_ORIGINS?"
        ),
        "{log}"
    );
}

#[test]
fn the_environment_is_looked_at_for_what_was_mistyped_and_for_what_is_no_text() {
    let home = Home::new(&[]);
    let mut serve = home.command(&["serve"]);
    let said_of_name = said(
        serve.env("DATABSE_URL", "postgres://me:hunter22@x/y").env("DOORWARD_ENV", "production"),
    )
    .0;
    assert!(
        said_of_name
            .contains("DATABSE_URL in the environment is no setting: did you mean DATABASE_URL?"),
        "{said_of_name}"
    );
    assert!(!said_of_name.contains("hunter22"), "{said_of_name}");
    let mut serve = home.command(&["serve"]);
    let (said, is_good) =
        said(serve.env("SMTP_URL", OsStr::from_bytes(b"smtps://me:hunter22\xff@x")));
    assert!(
        !is_good && said.starts_with("doorward: SMTP_URL in the environment holds bytes"),
        "{said}"
    );
    assert!(!said.contains("hunter22"), "{said}");
}

#[tokio::test]
async fn every_setting_is_listed_with_where_its_value_comes_from_and_no_secret() {
    let (home, _) = Home::with_database(&[("SMTP_URL", "smtps://me:hunter22@mail.example")]).await;
    fs::write(
        home.folder().join(".env"),
        "APP_NAME=Acme\nLOG=\nCORS_ORIGINS=nonsense\nADMIN_PASSWORD=hunter22\nPORT=1\n",
    )
    .unwrap();
    let list = home.succeeds(&["settings"], "").await;
    let line = |name: &str| {
        let mut lines = list.lines().filter(|line| line.split(' ').next() == Some(name));
        let line = lines.next().unwrap_or_else(|| panic!("{name}: {list}"));
        assert_eq!(lines.next(), None, "{name}");
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    for name in doorward::config::VARIABLES {
        assert!(line(name).contains("; default: "), "{name}");
    }
    assert_eq!(list.lines().count(), doorward::config::VARIABLES.len() + 1);
    assert!(line("APP_NAME").starts_with(".env Acme # "), "{list}");
    assert!(line("LOG").starts_with("default - # "), "{list}");
    assert!(line("PORT").starts_with(&format!("environment {} # ", home.port())), "{list}");
    assert!(
        line("AUDIT_LOG_DAYS").starts_with("default - # how long")
            && line("AUDIT_LOG_DAYS").ends_with("default: 365")
    );
    for secret in ["SMTP_URL", "DATABASE_URL", "SECRET_KEY"] {
        assert!(line(secret).starts_with("environment (not shown) # "), "{list}");
    }
    assert!(line("ADMIN_PASSWORD").starts_with(".env (not shown) # "), "{list}");
    assert!(
        !list.contains("hunter22") && !list.contains(crate::harness::app::SECRET_KEY),
        "{list}"
    );
}
