//! What `Cargo.toml` asks for is used: a crate that no source names costs each build its time, and
//! is one more to trust.

use std::fs;

use crate::harness::machine::{root, rust_files};

/// The names of the crates under a heading, as code writes them.
fn crates(manifest: &str, heading: &str) -> Vec<String> {
    let (_, rest) = manifest.split_once(&format!("\n[{heading}]\n")).unwrap();
    let lines = rest.lines().take_while(|line| !line.starts_with('['));
    let names = lines.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    names.filter(|name| !name.starts_with('#')).map(|name| name.replace('-', "_")).collect()
}

/// What is in these folders, without comments.
fn code(folders: &[&str]) -> String {
    let files = folders.iter().flat_map(|folder| rust_files(&root().join(folder)));
    // A package of its own, with its own manifest.
    let files = files.filter(|file| !file.starts_with(root().join("tests/fuzz/targets")));
    let texts: Vec<_> = files.map(|file| fs::read_to_string(file).unwrap()).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let lines: Vec<_> = lines.filter(|line| !line.trim_start().starts_with("//")).collect();
    lines.join("\n")
}

/// Whether a path begins with the name.
fn is_named(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        !code[..at].ends_with(|before: char| before.is_alphanumeric() || "_:".contains(before))
    })
}

#[test]
fn every_dependency_is_used_by_what_it_is_for() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for (heading, folders, least) in
        [("dependencies", &["src"][..], 30), ("dev-dependencies", &["tests", "benches"], 5)]
    {
        let (crates, code) = (crates(&manifest, heading), code(folders));
        assert!(crates.len() > least, "{heading}: {crates:?}");
        let unused: Vec<_> = crates.iter().filter(|name| !is_named(&code, name)).collect();
        assert!(unused.is_empty(), "{heading} that nothing in {folders:?} names: {unused:?}");
    }
}
