//! The direction of the house: a module uses only lower floors.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::harness::machine::{root, rust_files};

/// Where a module lives: its floor, and its line in `src/lib.rs`.
#[derive(Clone, Copy, Debug)]
struct Place {
    floor: u32,
    line: usize,
}

#[test]
fn no_module_reaches_sideways_or_up() {
    let places = read_map();
    assert!(places.len() > 15, "the map is being read: {places:?}");
    let mut paths = 0;
    let mut wrong = Vec::new();
    for (module, place) in &places {
        for file in files_of(module) {
            let text = std::fs::read_to_string(&file).unwrap();
            for (at, _) in text.match_indices("crate::") {
                for target in targets(&text[at + "crate::".len()..]) {
                    paths += 1;
                    let Some(other) = places.get(&target) else {
                        wrong.push(format!("{}: crate::{target} is not in lib.rs", file.display()));
                        continue;
                    };
                    let is_own = target == *module;
                    let is_lower = other.floor < place.floor;
                    // The shared floor is a list of its own, and the front assembles.
                    let is_listed_lower = other.floor == place.floor
                        && (place.floor == 5 || (place.floor == 3 && other.line > place.line));
                    if !(is_own || is_lower || is_listed_lower) {
                        wrong.push(format!("{}: {module} uses {target}", file.display()));
                    }
                }
            }
        }
    }
    assert!(paths > 100, "the sources are being read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names that follow `crate::`: one, or those in braces.
fn targets(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ => {}
        }
        if let Some(part) = parts.last_mut().filter(|_| c != ',') {
            part.push(c);
        }
    }
    parts.iter().map(|part| name(part)).filter(|name| !name.is_empty()).collect()
}

fn read_map() -> HashMap<String, Place> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut floor = 0;
    let mut places = HashMap::new();
    for (line, content) in text.lines().enumerate() {
        if let Some(number) =
            content.strip_prefix("// ").and_then(|rest| rest.chars().next()?.to_digit(10))
        {
            floor = number;
        }
        if let Some(name) = content.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'))
        {
            assert!((1..=5).contains(&floor), "{name} stands on no floor");
            places.insert(name.to_owned(), Place { floor, line });
        } else {
            let is_text = content.is_empty() || content.starts_with("//");
            assert!(is_text, "lib.rs holds the map and nothing else: {content}");
        }
    }
    places
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let file = root().join(format!("src/{module}.rs"));
    if file.exists() {
        files.push(file);
    }
    files.extend(rust_files(&root().join("src").join(module)));
    assert!(!files.is_empty(), "{module} has no file");
    files
}
