//! What `docs/decisions.md` speaks of is there.

use std::fs;

use crate::harness::machine::root;
use crate::harness::markdown::in_backticks;

#[test]
fn every_file_that_a_decision_names_exists() {
    let document = fs::read_to_string(root().join("docs/decisions.md")).unwrap();
    let mut files = 0;
    for name in in_backticks(&document).filter(|name| !name.contains(' ')) {
        if name.contains('/') || name.strip_suffix(".rs").is_some() {
            let exists = root().join(name).exists() || root().join("src").join(name).exists();
            assert!(exists, "{name}");
            files += 1;
        }
    }
    assert!(files > 15, "{files} files");
}
