//! Points in time as people write them.

use jiff::{Timestamp, civil, tz::TimeZone};
use std::fmt;

/// A point in time, nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// A text that names no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no time: {why}; write 2026-07-01T09:00Z, 2026-07-01 09:00 (UTC), 2026-07-01 (UTC), now, or an age such as 2h or 30d"
)]
pub struct BadTime {
    text: String,
    why: String,
}

impl Moment {
    /// The present.
    pub fn now() -> Self {
        Self::from_timestamp(Timestamp::now()).unwrap_or(Self(0))
    }

    /// Parses RFC 3339 (seconds may be left out), what the table shows (`2026-07-01 09:00`, in UTC), a date in UTC, `now`, or
    /// an age such as `30d` before `now`.
    ///
    /// # Errors
    /// Names the text and what can be written instead.
    pub fn parse(text: &str, now: Self) -> Result<Self, BadTime> {
        let bad = |why: String| BadTime { text: text.to_owned(), why };
        if text == "now" {
            return Ok(now);
        }
        if let Ok(age) = identity::duration::parse(text) {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            return now.0.checked_sub(age).map(Self).ok_or_else(|| bad("the age reaches before 1970".into()));
        }
        let parsed = match text.parse::<Timestamp>() {
            Ok(timestamp) => Ok(timestamp),
            // The table's own form: its title says that it is in UTC.
            Err(_) if text.contains(' ') => in_utc(text),
            Err(why) if text.contains(['T', 't']) => Err(why),
            Err(_) => midnight(text),
        };
        let timestamp = parsed.map_err(|e| bad(e.to_string()))?;
        Self::from_timestamp(timestamp).ok_or_else(|| bad("it lies before 1970 or after 2554".into()))
    }

    /// Parses a month such as `2026-07`: its first moment, and the one after its last, UTC.
    ///
    /// # Errors
    /// Names the text.
    pub fn parse_month(text: &str) -> Result<(Self, Self), BadTime> {
        let bad = |why: String| BadTime { text: text.to_owned(), why };
        let first: civil::Date =
            format!("{text}-01").parse().map_err(|_| bad("a month is 2026-07".into()))?;
        let next = first.checked_add(jiff::Span::new().months(1)).map_err(|e| bad(e.to_string()))?;
        let moment = |day: civil::Date| {
            let midnight = day.to_zoned(TimeZone::UTC).map_err(|e| bad(e.to_string()))?.timestamp();
            Self::from_timestamp(midnight).ok_or_else(|| bad("it lies before 1970 or after 2554".into()))
        };
        Ok((moment(first)?, moment(next)?))
    }

    /// Whether it is midnight in UTC.
    pub fn is_midnight(self) -> bool {
        self.0.is_multiple_of(86_400 * 1_000_000_000)
    }

    fn from_timestamp(timestamp: Timestamp) -> Option<Self> {
        u64::try_from(timestamp.as_nanosecond()).ok().map(Self)
    }
}

fn in_utc(text: &str) -> Result<Timestamp, jiff::Error> {
    Ok(text.parse::<civil::DateTime>()?.to_zoned(TimeZone::UTC)?.timestamp())
}

fn midnight(text: &str) -> Result<Timestamp, jiff::Error> {
    Ok(text.parse::<civil::Date>()?.to_zoned(TimeZone::UTC)?.timestamp())
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&record::time::rfc3339(self.0))
    }
}

impl serde::Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A duration in at most two units, such as `2.8s`, `45s`, `12m05s`, `3h07m`, `2d04h`.
pub fn short_duration(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) if seconds < 10 => format!("{seconds}.{}s", ns / 100_000_000 % 10),
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400 * 1_000_000_000;
    const NOW: Moment = Moment(20_000 * DAY);

    #[test]
    fn absolute_and_relative_times_are_understood() {
        let parse = |text| Moment::parse(text, NOW).unwrap();
        assert_eq!(parse("2026-07-01T09:00Z").to_string(), "2026-07-01T09:00:00Z");
        assert_eq!(parse("2026-07-01T09:00:30+02:00").to_string(), "2026-07-01T07:00:30Z");
        assert_eq!(parse("2026-07-01").to_string(), "2026-07-01T00:00:00Z");
        assert_eq!(parse("2026-07-01 09:00").to_string(), "2026-07-01T09:00:00Z");
        assert_eq!(parse("2026-07-01 09:00:05").to_string(), "2026-07-01T09:00:05Z");
        assert_eq!(parse("2026-07-01 09:00+02:00").to_string(), "2026-07-01T07:00:00Z");
        assert_eq!(parse("30d"), Moment(19_970 * DAY));
        assert_eq!(parse("now"), NOW);
    }

    #[test]
    fn nonsense_is_refused_with_advice() {
        for bad in [
            "",
            "yesterday",
            "2026-07-01T09:00",
            "30",
            "-1d",
            "1960-01-01",
            "30000d",
            "2026-13-01",
            "2026-07-01 25:00",
        ] {
            let error = Moment::parse(bad, NOW).unwrap_err().to_string();
            assert!(error.contains("write 2026-07-01T09:00Z"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_month_ends_where_the_next_begins() {
        let (since, until) = Moment::parse_month("2026-12").unwrap();
        assert_eq!([since.to_string(), until.to_string()], ["2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"]);
        assert!(since.is_midnight() && !Moment(1).is_midnight());
        assert!(["2026", "2026-13", "july"].iter().all(|bad| Moment::parse_month(bad).is_err()));
    }

    #[test]
    fn durations_have_two_units() {
        let of = |seconds: u64| short_duration(seconds * 1_000_000_000);
        assert_eq!(
            [of(0), of(45), of(725), of(11_220), of(187_200)],
            ["0.0s", "45s", "12m05s", "3h07m", "2d04h"]
        );
    }
}
