//! Sets of numeric ids, written as `"20000-29999"` or `"20000"`.

use identity::Malformed;

/// The lowest uid or gid that any policy can hand to a payload: below it live root and the system accounts.
pub const ID_FLOOR: u32 = 500;

/// An inclusive range of user or group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    low: u32,
    high: u32,
}

impl IdRange {
    /// Parses `N` or `N-M`; both ends count, and `u32::MAX` (the kernel's "no id") is refused.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bad = || Malformed::new("id range", text, "write 20000 or 20000-29999, lower end first");
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let number = |s: &str| s.trim().parse::<u32>().map_err(|_| bad());
        let range = Self { low: number(low)?, high: number(high)? };
        if range.low > range.high || range.high == u32::MAX {
            return Err(bad());
        }
        Ok(range)
    }

    /// Whether the id lies in the range.
    pub fn contains(self, id: u32) -> bool {
        (self.low..=self.high).contains(&id)
    }
}

/// Several ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdSet(Vec<IdRange>);

impl IdSet {
    /// Whether any of the ranges holds the id.
    pub fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|r| r.contains(id))
    }

    /// Whether the set holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<IdRange> for IdSet {
    fn from_iter<I: IntoIterator<Item = IdRange>>(ranges: I) -> Self {
        Self(ranges.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_belong_to_a_range() {
        let r = IdRange::parse("20000-29999").unwrap();
        assert!(r.contains(20000) && r.contains(29999));
        assert!(!r.contains(19999) && !r.contains(30000));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "x", "5-", "30-20", "-5", "4294967295", "1-4294967295", "99999999999"] {
            assert!(IdRange::parse(bad).is_err(), "{bad}");
        }
    }
}
