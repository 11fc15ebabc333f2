//! What `.github/SECURITY.md` promises can be looked up: each requirement once, and files and tests
//! that exist.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::machine::{root, rust_files};
use crate::harness::markdown::{in_backticks, rows};

/// How many requirements of levels 1 and 2 each chapter of ASVS 5.0.0 has, from the first one on.
const REQUIREMENTS: [usize; 17] = [27, 11, 19, 10, 9, 35, 18, 7, 7, 29, 14, 9, 13, 9, 13, 16, 7];

fn document() -> String {
    fs::read_to_string(root().join(".github/SECURITY.md")).unwrap()
}

/// The rows of every table: number, what it asks for, whether it is met, where, and the test.
fn table(document: &str) -> Vec<Vec<&str>> {
    let sections = document.split("\n### V").skip(1);
    sections.flat_map(rows).filter(|row| row[0].starts_with(|c: char| c.is_ascii_digit())).collect()
}

#[test]
fn each_requirement_of_the_two_levels_is_there_once() {
    let document = document();
    let mut found: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let text = document.split_once("\n### V1 ").unwrap().1;
    // In the first cell of a row, or in a paragraph on what is not applicable.
    let lists = table(&document).into_iter().map(|row| row[0]);
    let paragraphs = text.split("\n\n").filter(|part| part.trim().starts_with("Not applicable"));
    for number in lists.chain(paragraphs).flat_map(|list| list.split([',', ' ', '\n', ':', ';'])) {
        let number = number.trim_end_matches('.');
        let parts: Vec<_> = number.split('.').map(str::parse::<usize>).collect();
        if let [Ok(chapter), Ok(_), Ok(_)] = parts[..] {
            found.entry(chapter).or_default().push(number);
        }
    }
    for (index, expected) in REQUIREMENTS.iter().enumerate() {
        let mut numbers = found.remove(&(index + 1)).unwrap();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!((numbers.len(), all), (*expected, *expected), "V{}: {numbers:?}", index + 1);
    }
    assert_eq!(REQUIREMENTS.iter().sum::<usize>(), 253);
}

#[test]
fn every_file_and_every_test_that_is_named_exists() {
    let document = document();
    let tests: String = [rust_files(&root().join("tests")), rust_files(&root().join("src"))]
        .concat()
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let (mut files, mut names) = (0, 0);
    for row in table(&document) {
        let [number, _, met, place, test] = row[..] else { panic!("{row:?}") };
        assert!(["yes", "part", "host", "no"].contains(&met), "{number}: {met}");
        assert!(!place.is_empty() && !test.is_empty(), "{number}");
        for name in in_backticks(place).filter(|name| name.contains('.') && !name.contains(' ')) {
            let exists = root().join(name).exists() || root().join("src").join(name).exists();
            assert!(exists, "{number}: {name}");
            files += 1;
        }
        for name in in_backticks(test).filter(|name| !name.contains('/')) {
            let is_test = tests.contains(&format!("fn {name}()"));
            assert!(is_test, "{number}: {name}");
            names += 1;
        }
    }
    assert!(files > 90 && names > 80, "{files} files, {names} tests");
}
