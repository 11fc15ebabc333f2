//! The checks of `tests/fuzz` without a fuzzer: over its seeds, and over what chance makes of them.
//!
//! `FUZZ_ROUNDS` asks for more of that, `FUZZ_SEED` for another beginning.

use std::fs;

use crate::harness::dice::{Dice, number};
use crate::harness::machine::{note, root};

#[path = "../../fuzz/checks/mod.rs"]
pub mod checks;

/// Shown if a check panics.
struct Input<'a>(&'a [u8]);

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            note(&format!("the input was {}", self.0.escape_ascii()));
        }
    }
}

/// Runs a check over every seed, and over `rounds` changes of each.
fn run(name: &str, rounds: u64, check: fn(&[u8])) {
    let seeds = seeds(name);
    let mut dice = Dice(number("FUZZ_SEED", 1));
    for seed in &seeds {
        for round in 0..number("FUZZ_ROUNDS", rounds) {
            let mut data = seed.clone();
            for _ in 0..round.min(1 + dice.roll(4)) {
                let other: &Vec<u8> = dice.pick(&seeds);
                change(&mut data, other, &mut dice);
            }
            let input = Input(&data);
            check(input.0);
        }
    }
}

/// One case a line, with the escapes of a Rust byte string.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(root().join(format!("tests/fuzz/seeds/{name}.txt"))).unwrap();
    text.lines().map(unescape).collect()
}

fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend(plain.as_bytes());
        let (byte, length) = match escape.as_bytes()[0] {
            b'x' => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
            b'n' => (b'\n', 1),
            b'\\' => (b'\\', 1),
            other => panic!("unknown escape \\{} in {line}", char::from(other)),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend(rest.as_bytes());
    bytes
}

/// Puts one byte, or a piece of another seed, into the place of some bytes.
fn change(data: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    let mut place = |length: usize| usize::try_from(dice.roll(length as u64 + 1)).unwrap();
    let start = place(data.len());
    let end = start + place((data.len() - start).min(4));
    let from = place(other.len());
    let to = from + place(other.len() - from);
    let byte = u8::try_from(place(255)).unwrap();
    let flipped = [data.get(start).copied().unwrap_or_default() ^ (1 << place(7))];
    let piece: &[u8] = match place(3) {
        0 => &other[from..to],
        1 => &[],
        2 => &flipped,
        _ => &[byte],
    };
    data.splice(start..end, piece.iter().copied());
}

#[test]
fn credentials_are_what_was_encoded_split_at_the_first_colon() {
    run("basic", 300, checks::basic::check);
}

#[test]
fn addresses_and_names_keep_to_the_rules_and_are_kept_as_typed() {
    run("fields", 300, checks::fields::check);
}

#[test]
fn only_what_our_own_proxy_wrote_says_who_calls() {
    run("forwarded", 300, checks::forwarded::check);
}

#[test]
fn a_body_that_can_be_read_in_two_ways_is_refused() {
    run("json", 300, checks::json::check);
}

#[test]
fn a_cursor_is_good_for_its_own_order_and_a_query_says_what_it_says() {
    run("query", 100, checks::query::check);
}

#[test]
fn no_token_opens_but_those_that_were_issued() {
    run("tokens", 30, checks::tokens::check);
}
