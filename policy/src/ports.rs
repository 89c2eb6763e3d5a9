//! The port range that the site's firewall lets through, and its division into blocks.

use identity::Malformed;
use std::fmt;

/// An inclusive range of unprivileged TCP ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    low: u16,
    high: u16,
}

impl PortRange {
    /// Parses `40000-40999`. Ports below 1024 and above 65535 are refused: Globus silently wraps the latter.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bad =
            || Malformed::new("port range", text, "write 40000-40999, lower end first, from 1024 to 65535");
        let (low, high) = text.split_once('-').ok_or_else(bad)?;
        let port = |s: &str| s.parse::<u16>().map_err(|_| bad());
        Self::new(port(low)?, port(high)?).ok_or_else(bad)
    }

    /// A range from `low` to `high`; `None` when it is empty or reaches below 1024.
    pub fn new(low: u16, high: u16) -> Option<Self> {
        (1024 <= low && low <= high).then_some(Self { low, high })
    }

    /// First port.
    pub fn low(self) -> u16 {
        self.low
    }

    /// Last port.
    pub fn high(self) -> u16 {
        self.high
    }

    /// How many ports there are.
    pub fn count(self) -> usize {
        usize::from(self.high - self.low) + 1
    }

    /// Cuts the range into equal blocks of `size` ports; a remainder too small for a block stays unused.
    pub fn blocks(self, size: u16) -> impl Iterator<Item = PortRange> {
        let size = size.max(1);
        let count = self.count() / usize::from(size);
        (0..count).filter_map(move |n| {
            let low = self.low + u16::try_from(n).ok()? * size;
            Self::new(low, low + (size - 1))
        })
    }

    /// The value of `GLOBUS_TCP_PORT_RANGE`: Globus reads `low,high` and nothing else.
    pub fn globus(self) -> String {
        format!("{},{}", self.low, self.high)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fill_the_range_without_overlap() {
        let blocks: Vec<_> = PortRange::parse("40000-40024").unwrap().blocks(10).collect();
        assert_eq!(
            blocks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["40000-40009", "40010-40019"]
        );
    }

    #[test]
    fn the_last_port_can_be_used() {
        let blocks: Vec<_> = PortRange::parse("65530-65535").unwrap().blocks(3).collect();
        assert_eq!(blocks.last().unwrap().high(), 65535);
    }

    #[test]
    fn what_globus_would_misread_is_refused() {
        for bad in ["40000", "40005-40000", "40000-70000", "80-90", "40000,40010", "40000 - 40010", ""] {
            assert!(PortRange::parse(bad).is_err(), "{bad}");
        }
    }
}
