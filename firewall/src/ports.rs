//! Sets of ports: disjoint inclusive ranges in ascending order.

use serde_json::Value;
use std::fmt;

/// Ports from 1 to 65535. Ranges neither overlap nor touch, so that equal sets are equal values.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// The ranges, in ascending order.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of these ranges together, in whatever order they come; sorted once, so that many cost little more than few.
    pub fn merged(mut all: Vec<(u16, u16)>) -> Self {
        all.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (low, high) in all {
            match merged.last_mut() {
                Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
                _ => merged.push((low, high)),
            }
        }
        Self(merged)
    }

    /// Those that are not in the other.
    pub fn without(&self, other: &Self) -> Self {
        let mut left = self.0.clone();
        for &(low, high) in &other.0 {
            left = left.into_iter().flat_map(|range| outside(range, low, high)).collect();
        }
        Self(left)
    }

    /// As the interface shows them: integers, and ranges as `a..b`.
    pub fn to_json(&self) -> Vec<Value> {
        let one = |&(low, high): &(u16, u16)| match low == high {
            true => Value::from(low),
            false => Value::from(format!("{low}..{high}")),
        };
        self.0.iter().map(one).collect()
    }
}

/// What of a range lies outside `low..=high`: nothing, one part or two.
fn outside((a, b): (u16, u16), low: u16, high: u16) -> Vec<(u16, u16)> {
    let below = (low > a).then(|| (a, b.min(low - 1)));
    let above = (high < b).then(|| (a.max(high + 1), b));
    if high < a || b < low { vec![(a, b)] } else { below.into_iter().chain(above).collect() }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (low, high)) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "," })?;
            if low == high { write!(f, "{low}")? } else { write!(f, "{low}..{high}")? }
        }
        Ok(())
    }
}

/// Ports as somebody wrote them, and what is to be said about how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The ports.
    pub ports: Ports,
    /// Spellings that were understood and are not the interface's own.
    pub hints: Vec<String>,
}

const ACCEPTED: &str =
    "write a port from 1 to 65535, a range such as 8000..8010, or several in a list or with blanks between";

impl Written {
    /// An integer, a text with ports and ranges between blanks or commas, or a list of both.
    ///
    /// # Errors
    /// What is wrong and what would be accepted.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let mut reading = Reading::default();
        match value {
            Value::Array(all) => all.iter().try_for_each(|one| reading.add(one))?,
            one => reading.add(one)?,
        }
        if reading.ranges.is_empty() {
            return Err(format!("names no port; {ACCEPTED}"));
        }
        Ok(Self { ports: Ports::merged(reading.ranges), hints: reading.hints })
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    ranges: Vec<(u16, u16)>,
    hints: Vec<String>,
}

impl Reading {
    fn add(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Number(number) => {
                let port = number.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
                let port = port.ok_or_else(|| format!("{number} is no port; {ACCEPTED}"))?;
                self.take(port, port);
                Ok(())
            }
            Value::String(text) => {
                let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty());
                words.into_iter().try_for_each(|word| self.word(word))
            }
            other => Err(format!("{} is no port; {ACCEPTED}", crate::openings::shown(other))),
        }
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let bad = |why: &str| format!("{:?} {why}; {ACCEPTED}", crate::openings::cut(word));
        let splits = [("..", false), ("-", true), (":", true)];
        let split = splits.iter().find_map(|(sign, odd)| Some((word.split_once(sign)?, *odd)));
        let Some(((low, high), odd)) = split else {
            let port = number(word).ok_or_else(|| bad("is no port"))?;
            self.take(port, port);
            return Ok(());
        };
        let (Some(low), Some(high)) = (number(low), number(high)) else {
            return Err(bad("is no range of ports"));
        };
        if low > high {
            return Err(bad("ends before it begins"));
        }
        if odd {
            self.hints.push(format!(
                "port: {word} was taken as {low}..{high}, which is how ranges are written here"
            ));
        }
        self.take(low, high);
        Ok(())
    }

    fn take(&mut self, low: u16, high: u16) {
        self.ranges.push((low, high));
    }
}

/// Digits only: `u16` would also take a plus sign.
fn number(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ports(value: Value) -> String {
        Written::parse(&value).unwrap().ports.to_string()
    }

    #[test]
    fn every_form_of_the_interface_is_read() {
        assert_eq!(ports(json!(22)), "22");
        assert_eq!(ports(json!("22")), "22");
        assert_eq!(ports(json!("22 80 8000..8010")), "22,80,8000..8010");
        assert_eq!(ports(json!("22,80, 443")), "22,80,443");
        assert_eq!(ports(json!([22, "40000..40010", "80 81"])), "22,80..81,40000..40010");
        assert_eq!(ports(json!([8001, "8000..8005", 8006])), "8000..8006");
        assert_eq!(ports(json!("1..65535")), "1..65535");
    }

    #[test]
    fn other_spellings_of_ranges_are_read_with_a_hint() {
        for text in ["8000-8010", "8000:8010"] {
            let written = Written::parse(&json!(text)).unwrap();
            assert_eq!(written.ports.to_string(), "8000..8010");
            assert!(written.hints[0].contains("8000..8010"), "{:?}", written.hints);
        }
        assert!(Written::parse(&json!("8000..8010")).unwrap().hints.is_empty());
    }

    #[test]
    fn everything_else_is_refused_with_what_would_be_accepted() {
        let bad = [
            json!(0),
            json!(65536),
            json!(-1),
            json!(22.5),
            json!(""),
            json!([]),
            json!("+22"),
            json!("22-"),
            json!("..80"),
            json!("90..80"),
            json!("0..5"),
            json!("1..65536"),
            json!("ssh"),
            json!(true),
            json!({"a": 1}),
            json!([[22]]),
            json!("1..2..3"),
            json!(null),
            json!("22; drop"),
        ];
        for value in bad {
            let reason = Written::parse(&value).expect_err(&value.to_string());
            assert!(reason.contains("8000..8010"), "{value}: {reason}");
        }
    }

    #[test]
    fn as_many_as_there_are_can_be_named_one_by_one() {
        let odd: Vec<u32> = (0..32768).map(|n| 2 * n + 1).collect();
        assert_eq!(Written::parse(&json!(odd)).unwrap().ports.ranges().len(), 32768);
    }

    #[test]
    fn sets_are_added_and_taken_away() {
        let set = |text: &str| Written::parse(&json!(text)).unwrap().ports;
        assert_eq!(set("1..10").without(&set("3..4 10")).to_string(), "1..2,5..9");
        assert_eq!(set("1..10").without(&set("1..65535")), Ports::default());
        assert_eq!(set("5").without(&set("6")).to_string(), "5");
        assert_eq!(set("65530..65535").without(&set("65535")).to_string(), "65530..65534");
        assert_eq!(set("4..6 65535 1..3 2").to_string(), "1..6,65535");
    }
}
