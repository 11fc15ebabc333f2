//! The parts of a document: its sections, and the rows of its tables.

use std::fs;

use super::machine::root;

pub fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The text under a heading, up to the next one.
pub fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let (_, rest) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap()
}

/// The first cells of a table's rows, heading and rule left out.
pub fn rows(section: &str) -> Vec<Vec<&str>> {
    let lines = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    lines.skip(1).map(|line| line.split(" | ").map(str::trim).collect()).collect()
}

pub fn in_backticks(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}
