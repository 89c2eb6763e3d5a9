//! Durations as people write them: `10s`, `5m`, `2h`, `7d`.

use crate::Malformed;
use std::time::Duration;

/// Parses a whole number and one of the units `s`, `m`, `h`, `d`.
pub fn parse(text: &str) -> Result<Duration, Malformed> {
    let bad = || Malformed::new("duration", text, "write a whole number and a unit: 10s, 5m, 2h or 7d");
    let unit = match text.chars().last().ok_or_else(bad)? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(bad()),
    };
    let number = text[..text.len() - 1].parse::<u64>().map_err(|_| bad())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_known() {
        let seconds = |s| parse(s).unwrap().as_secs();
        assert_eq!([seconds("10s"), seconds("5m"), seconds("2h"), seconds("7d")], [10, 300, 7200, 604_800]);
    }

    #[test]
    fn a_missing_unit_or_overflow_is_refused() {
        for bad in
            ["", "10", "s", "1.5h", "-3s", "10 s", "99999999999999999999d", "213503982334602d", "5\u{fc}"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
