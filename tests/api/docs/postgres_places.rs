//! Where PostgreSQL's programs are looked for: by the service and by the scripts in the same
//! places.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::machine::root;

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Parent, start of the folder's name and folder inside, as the pattern of a shell.
fn of_the_service() -> BTreeSet<String> {
    let source = read("src/local_postgres/programs.rs");
    let (_, rest) = source.split_once("const PLACES").unwrap();
    let (rows, _) = rest.split_once("];").unwrap();
    let rows = rows.lines().filter(|line| line.trim_start().starts_with("(\""));
    let places = rows.map(|row| {
        let parts: Vec<_> = row.split('"').skip(1).step_by(2).collect();
        let [parent, start, inside] = parts[..] else { panic!("{row}") };
        format!("{parent}/{start}*/{inside}").trim_end_matches('/').to_owned()
    });
    places.collect()
}

fn of_the_scripts() -> BTreeSet<String> {
    let script = read("script/bootstrap");
    let (_, rest) = script.split_once("postgres_folders() {\n    for folder in ").unwrap();
    let (places, _) = rest.split_once("; do").unwrap();
    places.split_whitespace().filter(|word| *word != "\\").map(str::to_owned).collect()
}

#[test]
fn the_service_and_the_scripts_look_for_postgresql_in_the_same_places() {
    let places = of_the_service();
    assert!(places.len() > 5, "{places:?}");
    assert_eq!(places, of_the_scripts());
    for script in ["script/bench", "script/sqlx"] {
        let is_own = places.iter().any(|place| read(script).contains(place));
        assert!(!is_own, "{script} has a list of its own");
    }
}
