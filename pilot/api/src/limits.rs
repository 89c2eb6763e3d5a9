//! Limits of a payload: which one it reached, by how much more it is tried again, and how it is warned before its time is over.

use crate::words::{UnknownWord, unknown_word};
use serde::{Deserialize, Serialize};
use std::fmt;
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// One more try gets at most this many times as much.
const MOST: u32 = 10;

/// How many times as much memory or disk the next try gets, in hundredths: above 1, at most 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Factor(u32);

impl Factor {
    /// Reads `2x`, `1.5x` or `2`.
    ///
    /// # Errors
    /// One line with the remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: write a factor above 1 and up to {MOST}, such as 2x or 1.5x");
        let number = text.strip_suffix('x').unwrap_or(text);
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 2 {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let part: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
        let hundredths = whole.checked_mul(100).and_then(|w| w.checked_add(part)).ok_or_else(wrong)?;
        if (101..=MOST * 100).contains(&hundredths) { Ok(Self(hundredths)) } else { Err(wrong()) }
    }

    /// So many times this amount.
    #[must_use]
    pub fn of(self, amount: u64) -> u64 {
        u64::try_from(u128::from(amount) * u128::from(self.0) / 100).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:02}", self.0 / 100, self.0 % 100);
        write!(f, "{}x", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl TryFrom<String> for Factor {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Factor> for String {
    fn from(factor: Factor) -> Self {
        factor.to_string()
    }
}

/// Which limit.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = UnknownWord, parse_err_fn = unknown_word)]
pub enum LimitKind {
    /// Elapsed time, in seconds.
    Walltime,
    /// Resident memory of all processes, in bytes.
    Memory,
    /// What lies in the working directory, in bytes.
    Disk,
}

/// A limit that a payload has reached: which, how much it may use, how much it had used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitReached {
    /// Which.
    pub kind: LimitKind,
    /// What it asked for.
    pub allowed: u64,
    /// What it had used when it was ended; it may have needed more.
    pub used: u64,
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, allowed, used } = *self;
        if kind == LimitKind::Walltime {
            return write!(f, "walltime of {allowed} s is over; ask for more with --walltime");
        }
        // A quarter above what was used: it was ended on its way up.
        let ask = amount(used.max(allowed).saturating_add(used.max(allowed) / 4));
        let (used, allowed) = (amount(used), amount(allowed));
        write!(f, "used {used} of {kind} and may use {allowed}; ask for --{kind} {ask}, or --retry-{kind} 2x")
    }
}

/// Bytes as `--memory` takes them, rounded up to the next mebibyte.
#[must_use]
pub fn amount(bytes: u64) -> String {
    format!("{}M", bytes.div_ceil(1 << 20))
}

/// What a payload is sent before its time is over. Only its first process gets it; one that does not catch it dies of it.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE", parse_err_ty = UnknownWord, parse_err_fn = unknown_word)]
#[allow(missing_docs)]
pub enum WarnSignal {
    #[default]
    Usr1,
    Usr2,
    Int,
    Hup,
    Term,
}

impl WarnSignal {
    /// Whether it is the one that nobody has to name.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_above_one_and_read_as_they_are_written() {
        for (text, of_1000, shown) in
            [("2x", 2000, "2x"), ("1.5x", 1500, "1.5x"), ("3", 3000, "3x"), ("1.05", 1050, "1.05x")]
        {
            let factor = Factor::parse(text).unwrap();
            assert_eq!((factor.of(1000), factor.to_string().as_str()), (of_1000, shown));
            assert_eq!(Factor::parse(&factor.to_string()), Ok(factor));
        }
        for bad in
            ["", "x", "1", "1x", "0.5x", "10.01", "11x", "-2", "2xx", "1.234", "1.", ".5", "99999999999x"]
        {
            assert!(Factor::parse(bad).unwrap_err().contains("2x"), "{bad}");
        }
        assert_eq!(Factor::parse("10").unwrap().of(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_verdict_names_the_limit_what_was_used_and_what_to_ask_for() {
        let said = LimitReached { kind: LimitKind::Memory, allowed: 100 << 20, used: 120 << 20 }.to_string();
        assert_eq!(said, "used 120M of memory and may use 100M; ask for --memory 150M, or --retry-memory 2x");
        let said = LimitReached { kind: LimitKind::Disk, allowed: 1 << 20, used: (1 << 20) + 1 }.to_string();
        assert!(said.contains("--disk 2M") && said.contains("--retry-disk 2x"), "{said}");
        let said = LimitReached { kind: LimitKind::Walltime, allowed: 60, used: 61 }.to_string();
        assert!(said.contains("60 s") && said.contains("--walltime"), "{said}");
    }
}
