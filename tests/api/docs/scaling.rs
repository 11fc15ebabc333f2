//! `docs/scaling.md` shows the very files that `script/faults --cluster` runs.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::machine::root;

#[test]
fn the_page_shows_every_file_as_it_is() {
    let page = fs::read_to_string(root().join("docs/scaling.md")).unwrap();
    let mut blocks = BTreeSet::new();
    for block in page.split("\n`docs/scaling/").skip(1) {
        let (name, rest) = block.split_once("`:\n\n```").unwrap();
        let (_, rest) = rest.split_once('\n').unwrap();
        let (shown, _) = rest.split_once("```\n").unwrap();
        let file = fs::read_to_string(root().join("docs/scaling").join(name)).unwrap();
        assert_eq!(shown, file, "{name}");
        blocks.insert(name.to_owned());
    }
    let files = fs::read_dir(root().join("docs/scaling")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(blocks, files.collect::<BTreeSet<_>>());
}
