//! The port range that the site's firewall lets through, and its division into blocks.
//!
//! | looking for | see |
//! |---|---|
//! | what a payload finds in its environment | [`variables`] |
//! | what else on a node takes ports | [`node`] |

pub mod node;
pub mod variables;

use identity::Malformed;
use std::fmt;

/// An inclusive range of unprivileged TCP ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    low: u16,
    high: u16,
}

const WHAT: &str = "port range";

impl PortRange {
    /// Parses `40000-40999`, or what Globus takes: `40000,40999`, with blanks around the numbers.
    ///
    /// # Errors
    /// Globus itself takes the next best port without a word where the range is malformed; so each error names its rule.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let separator = if text.contains(',') { ',' } else { '-' };
        Self::between(text, separator, "write both ends: 40000-40999 or 40000,40999")
    }

    /// Parses the value of `GLOBUS_TCP_PORT_RANGE` and its kind: `40000,40999`, blanks allowed.
    ///
    /// # Errors
    /// For everything that Globus ignores silently (a dash, one number, the ends reversed, letters), and for what it
    /// takes and misuses (ports beyond 65535, privileged ports).
    pub fn parse_globus(text: &str) -> Result<Self, Malformed> {
        Self::between(text, ',', "Globus ignores it silently: write 40000,40999, with a comma")
    }

    fn between(text: &str, separator: char, both: &'static str) -> Result<Self, Malformed> {
        let bad = |rule| Malformed::new(WHAT, text, rule);
        let (low, high) = text.split_once(separator).ok_or_else(|| bad(both))?;
        let (low, high) = (number(text, low, both)?, number(text, high, both)?);
        if low > high {
            return Err(bad("it is reversed, and Globus would ignore it: the lower end comes first"));
        }
        if high > u32::from(u16::MAX) {
            return Err(bad("no port is beyond 65535; Globus would wrap around and bind another one"));
        }
        if low < 1024 {
            return Err(bad("ports below 1024 are privileged: use 1024 to 65535"));
        }
        let port = |n: u32| u16::try_from(n).map_err(|_| bad(both));
        Ok(Self { low: port(low)?, high: port(high)? })
    }

    /// A range from `low` to `high`; `None` when it is empty or reaches below 1024.
    pub fn new(low: u16, high: u16) -> Option<Self> {
        (1024 <= low && low <= high).then_some(Self { low, high })
    }

    /// A range of ends that are written in the program.
    pub(crate) const fn from_ends((low, high): (u16, u16)) -> Self {
        assert!(1024 <= low && low <= high, "a range of our own is well formed");
        Self { low, high }
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

    /// Whether the port lies in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }

    /// Whether all of `other` lies in the range.
    pub fn covers(self, other: PortRange) -> bool {
        self.low <= other.low && other.high <= self.high
    }

    /// Whether the two have a port in common.
    pub fn meets(self, other: PortRange) -> bool {
        self.low <= other.high && other.low <= self.high
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

/// A whole number without sign; blanks around it are Globus's habit. What has too many digits is beyond every port.
fn number(text: &str, part: &str, both: &'static str) -> Result<u32, Malformed> {
    let part = part.trim_matches([' ', '\t']);
    if part.is_empty() || !part.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Malformed::new(WHAT, text, both));
    }
    Ok(part.parse().unwrap_or(u32::MAX))
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

/// Which ports the sockets of one payload may have, and what holds when the host cannot keep them there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortWall {
    /// The payload's own; `None`: it has none.
    pub lease: Option<PortRange>,
    /// Ports of loopback addresses are free.
    pub loopback: bool,
    /// Nothing runs without the wall.
    pub required: bool,
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
    fn forms_of_globus_are_taken() {
        for text in ["40000,40010", " 40000 , 40010 ", "40000,\t40010", "40000-40010", " 40000 - 40010 "] {
            assert_eq!(PortRange::parse(text).unwrap().to_string(), "40000-40010", "{text}");
        }
        assert_eq!(PortRange::parse("40000,40000").unwrap().count(), 1);
        assert_eq!(PortRange::parse_globus(" 40000 , 40002 ").unwrap().globus(), "40000,40002");
    }

    #[test]
    fn what_globus_would_misread_is_refused_with_the_rule() {
        for (bad, rule) in [
            ("40000", "both ends"),
            ("", "both ends"),
            ("40000 40002", "both ends"),
            ("abc,def", "both ends"),
            ("40000,+40010", "both ends"),
            ("40000,40010,40020", "both ends"),
            ("-5-40010", "both ends"),
            ("40005-40000", "reversed"),
            ("40005,40000", "reversed"),
            ("40000-70000", "beyond 65535"),
            ("40000,99999999999999999999", "beyond 65535"),
            ("80,90", "privileged"),
            ("1023-40000", "privileged"),
        ] {
            let why = PortRange::parse(bad).unwrap_err().to_string();
            assert!(why.contains(rule), "{bad}: {why}");
            assert!(PortRange::parse_globus(bad).is_err(), "{bad}");
        }
        let dash = PortRange::parse_globus("40000-40002").unwrap_err().to_string();
        assert!(dash.contains("ignores it silently") && dash.contains("with a comma"), "{dash}");
    }
}
