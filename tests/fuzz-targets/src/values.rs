//! Names, ranges and durations.

use crate::assert_one_line;
use identity::{AccountName, Dn, Fqan, duration};
use policy::callers::CallerPattern;
use policy::ids::IdRange;
use policy::ports::PortRange;

/// All small parsers on the same text.
pub fn values(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    ports(text);
    if let Ok(range) = IdRange::parse(text) {
        assert!(!range.contains(u32::MAX), "the kernel's \"no id\" is in {text:?}");
    }
    if let Ok(span) = duration::parse(text) {
        let (digits, unit) = text.split_at(text.len() - 1);
        let seconds: u128 = digits.parse().expect("digits");
        let factor = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)].iter().find(|(u, _)| *u == unit);
        assert_eq!(u128::from(span.as_secs()), seconds * factor.expect("a known unit").1);
    }
    names(text);
    let line = identity::one_line(text);
    assert!(line.len() <= 500 && line.bytes().all(|b| (b' '..=b'~').contains(&b)));
    assert_eq!(identity::one_line(&line), line);
    assert_eq!(record::text::printable(data, 100).find(char::is_control), None);
}

fn ports(text: &str) {
    let Ok(range) = PortRange::parse(text) else { return };
    assert!(1024 <= range.low() && range.low() <= range.high());
    assert_eq!(PortRange::parse(&range.to_string()), Ok(range));
    for size in [0, 1, 7, 10, 1000, u16::MAX] {
        let mut next = u32::from(range.low());
        for block in range.blocks(size) {
            assert_eq!(block.count(), usize::from(size.max(1)));
            assert_eq!(u32::from(block.low()), next, "blocks of {size} in {range}");
            next = u32::from(block.high()) + 1;
        }
        assert!(next <= u32::from(range.high()) + 1);
        assert!(u32::from(range.high()) + 1 - next < u32::from(size.max(1)), "a block was left out");
    }
}

fn names(text: &str) {
    match Dn::parse(text) {
        Ok(dn) => assert!(dn.as_str() == text && text.starts_with('/') && text.is_ascii()),
        Err(why) => assert_one_line(&why.to_string()),
    }
    match Fqan::parse(text) {
        Ok(fqan) => assert!(text[1..].starts_with(fqan.vo())),
        Err(why) => assert_one_line(&why.to_string()),
    }
    match AccountName::parse(text) {
        Ok(name) => {
            assert!(!text.contains(['/', ':', '\n', ' ']) && !text.starts_with(['-', '.']));
            assert!(CallerPattern::parse(text).is_ok_and(|p| p.matches(&name)));
        }
        Err(why) => assert_one_line(&why.to_string()),
    }
    if let Ok(CallerPattern::Pool(base)) = CallerPattern::parse(text) {
        assert!(!CallerPattern::Pool(base.clone()).matches(&base), "a pool without a number");
    }
}
