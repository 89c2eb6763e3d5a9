//! A record as a row of the index. Pure.

use super::journal::{Head, Place};
use super::reduce::NOT_KEPT;
use crate::filter;
use record::{Opened, Record, Role, State};

/// Kinds of texts that stand once in the index and are named by number in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Host = 1,
    Dn = 2,
    Vo = 3,
    /// All FQANs of a record, separated by line ends: few sets come up again and again.
    Fqans = 4,
    Account = 5,
    Pilot = 6,
    Batch = 7,
    Parent = 8,
    Ce = 9,
    Reason = 10,
}

/// What the index holds of a record, besides the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) n: i64,
    pub(super) id: Vec<u8>,
    pub(super) tail: Option<i64>,
    pub(super) place: Place,
    pub(super) state: i64,
    pub(super) role: i64,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) uid: Option<i64>,
    pub(super) cred: Option<i64>,
    pub(super) exit: Option<i64>,
    pub(super) wall_us: i64,
    pub(super) cpu_us: i64,
    pub(super) cpus: i64,
    pub(super) mem: i64,
    pub(super) texts: [(Kind, Option<String>); 10],
}

impl Row {
    pub(super) fn of(record: &Record, head: &Head, place: Place) -> Self {
        let opened = record.opened.as_deref();
        let subject = filter::subject(record);
        let usage = record.usage.clone().unwrap_or_default();
        let some = |text: Option<&str>| text.filter(|t| !t.is_empty()).map(str::to_owned);
        let fqans = subject.map(|s| s.fqans.join("\n"));
        Self {
            n: int(head.n),
            id: id_bytes(&record.id),
            tail: tail(&record.id),
            place,
            state: state_number(record.state),
            role: role_number(opened.map_or(Role::Payload, |o| o.role)),
            start: int(record.start_unix_ns()),
            // What takes no time holds its one moment.
            end: int(record.end_unix_ns.unwrap_or(u64::MAX).max(record.start_unix_ns().saturating_add(1))),
            uid: filter::uid(record).filter(|uid| *uid != NOT_KEPT).map(i64::from),
            cred: cred_range(filter::credential(record)).map(|(low, _)| low),
            exit: exit_number(record),
            wall_us: int(usage.wall_ns / 1000),
            cpu_us: int(usage.cpu_user_us.saturating_add(usage.cpu_sys_us)),
            cpus: i64::from(cpus(opened)),
            mem: int(usage.mem_peak_bytes.unwrap_or(0)),
            texts: [
                (Kind::Host, some(Some(filter::host(record)))),
                (Kind::Dn, some(subject.map(|s| s.dn.as_str()))),
                (Kind::Vo, some(subject.and_then(|s| s.vo.as_deref()))),
                (Kind::Fqans, some(fqans.as_deref())),
                (Kind::Account, some(filter::account(record))),
                (Kind::Pilot, some(opened.and_then(|o| o.pilot_dn.as_deref()))),
                (Kind::Batch, some(filter::batch(record).map(|b| b.jobid.as_str()))),
                (Kind::Parent, some(opened.and_then(|o| o.parent_id.as_deref()))),
                (Kind::Ce, some(opened.and_then(|o| o.ce.as_deref()))),
                (Kind::Reason, some(record.denied.as_ref().map(|d| d.reason.as_str()))),
            ],
        }
    }
}

/// Processors that the payload could use; one where nobody said.
pub(crate) fn cpus(opened: Option<&Opened>) -> u32 {
    opened.and_then(|o| o.claimed.as_ref()).and_then(|c| c.cpus).filter(|n| *n > 0).unwrap_or(1)
}

/// As SQLite keeps numbers; what does not fit lies beyond every question.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn state_number(state: State) -> i64 {
    match state {
        State::Running => 0,
        State::Closed => 1,
        State::Lost => 2,
        State::Denied => 3,
    }
}

pub(super) fn role_number(role: Role) -> i64 {
    match role {
        Role::Payload => 0,
        Role::Pilot => 1,
        Role::Probe => 2,
    }
}

/// Exit code; signals count from 1000.
fn exit_number(record: &Record) -> Option<i64> {
    let of_refusal = record.denied.as_ref().map(|d| i64::from(d.code));
    let exit = record.exit.as_ref();
    let of_session = || exit.and_then(|e| e.code.map(i64::from).or(e.signal.map(|s| 1000 + i64::from(s))));
    of_refusal.or_else(of_session)
}

/// The bytes of a UUID, which sort as its text does and take half the room; other ids as they are.
pub(super) fn id_bytes(id: &str) -> Vec<u8> {
    let hex: Vec<u8> = id.bytes().filter(|b| *b != b'-').collect();
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let byte = |pair: &[u8]| Some((nibble(pair[0])? << 4) | nibble(pair[1])?);
    let is_uuid = id.len() == 36 && hex.len() == 32;
    let bytes = is_uuid.then(|| hex.chunks(2).map(byte).collect::<Option<Vec<u8>>>()).flatten();
    // Only the usual form can be told again from its bytes.
    bytes.filter(|bytes| id_text(bytes) == id).unwrap_or_else(|| id.as_bytes().to_vec())
}

/// The text of an id.
pub(super) fn id_text(bytes: &[u8]) -> String {
    if bytes.len() != 16 {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// The last eight characters, which lists show, as a number.
pub(super) fn tail(id: &str) -> Option<i64> {
    let tail = id.get(id.len().checked_sub(8)?..)?;
    u32::from_str_radix(tail, 16).ok().map(i64::from)
}

/// The numbers of all credentials whose SHA-256 begins so, first and last; the first 16 digits count.
pub(super) fn cred_range(hex: &str) -> Option<(i64, i64)> {
    let digits: String = hex.chars().take(16).collect();
    if digits.is_empty() {
        return None;
    }
    let number = |fill: &str| {
        let padded = digits.clone() + &fill.repeat(16 - digits.len());
        // The sign bit is turned, so that numbers sort as digits do.
        Some((u64::from_str_radix(&padded, 16).ok()? ^ (1 << 63)).cast_signed())
    };
    Some((number("0")?, number("f")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_were() {
        for id in [
            "019fb000-0000-7000-8000-00000000aaaa",
            "019FB000-0000-7000-8000-00000000AAAA",
            "a1",
            "01JZ2K7Q8M",
        ] {
            assert_eq!(id_text(&id_bytes(id)), id);
        }
        assert_eq!(id_bytes("019fb000-0000-7000-8000-00000000aaaa").len(), 16);
        assert_eq!(tail("019fb000-0000-7000-8000-00000000aaaa"), Some(0xaaaa));
        assert_eq!(tail("a1"), None);
    }

    #[test]
    fn credentials_are_ordered_as_their_digits() {
        let (low, high) = cred_range("8").unwrap();
        let inside = |hex: &str| cred_range(hex).is_some_and(|(n, _)| (low..=high).contains(&n));
        assert!(inside("8000000000000000ff") && inside("8fffffffffffffff00"));
        assert!(!inside("7fffffffffffffff") && !inside("9000000000000000"));
        assert_eq!(cred_range("xyz"), None);
    }
}
