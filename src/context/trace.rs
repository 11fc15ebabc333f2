//! `traceparent` of W3C Trace Context: the caller's trace that a request belongs to.

use std::fmt;

/// Parsed from its header, never kept as text: what is logged is formatted from the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    pub parent_id: u64,
    pub is_sampled: bool,
}

/// Never zero; 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TraceContext {
    /// `None` where the specification (level 1, section 3.2) says to ignore it. A later version may
    /// append fields; the first four keep their meaning.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (head, rest) = header.split_at_checked(55)?;
        let [version, trace_id, parent_id, flags] =
            [&head[..2], &head[3..35], &head[36..52], &head[53..]].map(hexadecimal);
        let (version, flags) = (version?, flags?);
        let is_divided = [2, 35, 52].iter().all(|&at| head[at] == b'-');
        let has_good_end = rest.is_empty() || (version > 0 && rest[0] == b'-');
        let trace_id = trace_id.filter(|id| *id != 0)?;
        let parent_id = parent_id.filter(|id| *id != 0).and_then(|id| u64::try_from(id).ok())?;
        (is_divided && has_good_end && version != 0xff).then_some(Self {
            trace_id: TraceId(trace_id),
            parent_id,
            is_sampled: flags & 1 == 1,
        })
    }
}

/// Lower case alone, as the specification asks; a sign, which Rust's own parser would take, is no
/// digit.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn parse(version: &str, rest: &str) -> Option<TraceContext> {
        TraceContext::parse(format!("{version}-{rest}").as_bytes())
    }

    #[test]
    fn the_specifications_example_is_read_and_written_as_it_was() {
        let context = parse("00", &format!("{TRACE}-{PARENT}-01")).expect("valid");
        assert_eq!(context.trace_id.to_string(), TRACE);
        assert_eq!((context.parent_id, context.is_sampled), (0x00f0_67aa_0ba9_02b7, true));
        let small = format!("{:032x}-{:016x}-00", 1, 1);
        let small = parse("00", &small).expect("valid");
        assert_eq!(small.trace_id.to_string(), format!("{:032x}", 1));
        assert!(!small.is_sampled);
        // Flags that this version does not know.
        assert!(parse("00", &format!("{TRACE}-{PARENT}-ff")).expect("valid").is_sampled);
    }

    #[test]
    fn a_version_to_come_may_have_more_at_its_end() {
        let good = format!("{TRACE}-{PARENT}-00");
        for (version, rest) in [("cc", ""), ("01", "-what-the-future-brings"), ("fe", "-")] {
            assert!(parse(version, &format!("{good}{rest}")).is_some(), "{version} {rest}");
        }
        for (version, rest) in
            [("00", "-"), ("00", "-more"), ("01", "more"), ("01", "0"), ("ff", "")]
        {
            assert!(parse(version, &format!("{good}{rest}")).is_none(), "{version} {rest}");
        }
    }

    #[test]
    fn whatever_else_is_ignored() {
        let good = format!("00-{TRACE}-{PARENT}-01");
        assert!(TraceContext::parse(good.as_bytes()).is_some());
        for length in 0..good.len() {
            assert_eq!(TraceContext::parse(&good.as_bytes()[..length]), None, "{length}");
        }
        for at in 0..good.len() {
            for byte in [b'-', b'g', b'F', b'+', b' ', b'_', b'"', b'\n', 0, 0x80, 0xff] {
                let mut bad = good.clone().into_bytes();
                if bad[at] != byte {
                    bad[at] = byte;
                    assert_eq!(TraceContext::parse(&bad), None, "{at} {byte}");
                }
            }
        }
        let (no_trace, no_parent) = ("0".repeat(32), "0".repeat(16));
        assert_eq!(parse("00", &format!("{no_trace}-{PARENT}-01")), None);
        assert_eq!(parse("00", &format!("{TRACE}-{no_parent}-01")), None);
    }
}
