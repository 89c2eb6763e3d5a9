//! Which records a question means.
//!
//! Intervals are compared by overlap, never by end: accounts are reused, and who held one is a matter of time. They are
//! half-open: a session holds its account from its start until just before its end, so that one moment has one holder.

use crate::when::Moment;
use record::{Record, State, Subject};
use serde::Serialize;

/// Whether the site let the call through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A session was opened.
    Allowed,
    /// The call was refused.
    Denied,
}

/// All conditions must hold; those that are left out hold for every record.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Filter {
    /// Subject of the payload, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dn: Option<String>,
    /// Virtual organisation, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vo: Option<String>,
    /// Beginning of any of the payload's FQANs, up to a `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fqan: Option<String>,
    /// Account name, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Uid of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Host, by full or short name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Beginning of the credential's SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cred_sha256: Option<String>,
    /// Not over before this moment.
    #[serde(rename = "since_utc", skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    /// Begun before this moment.
    #[serde(rename = "until_utc", skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
    /// Begun and not over at this moment.
    #[serde(rename = "at_utc", skip_serializing_if = "Option::is_none")]
    pub at: Option<Moment>,
    /// Not over yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub running: bool,
    /// Let through or refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

impl Filter {
    /// Whether the record is meant.
    pub fn matches(&self, record: &Record) -> bool {
        let subject = subject(record);
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|w| found == Some(w));
        is(&self.dn, subject.map(|s| s.dn.as_str()))
            && is(&self.vo, subject.and_then(|s| s.vo.as_deref()))
            && is(&self.account, account(record))
            && self.uid.is_none_or(|wanted| uid(record) == Some(wanted))
            && self.host.as_deref().is_none_or(|wanted| same_host(wanted, host(record)))
            && self.fqan.as_deref().is_none_or(|wanted| subject.is_some_and(|s| has_fqan(s, wanted)))
            && self.cred_sha256.as_deref().is_none_or(|wanted| credential(record).starts_with(wanted))
            && (!self.running || record.state == State::Running)
            && self.decision.is_none_or(|wanted| wanted == decision(record))
            && self.overlaps(record)
    }

    fn overlaps(&self, record: &Record) -> bool {
        let start = record.start_unix_ns();
        // A refusal takes no time: it counts at its one moment.
        let last = |end: u64| if end > start { end - 1 } else { start };
        let ends_after = |moment: Moment| record.end_unix_ns.is_none_or(|end| last(end) >= moment.0);
        self.since.is_none_or(ends_after)
            && self.until.is_none_or(|until| start < until.0)
            && self.at.is_none_or(|at| start <= at.0 && ends_after(at))
    }
}

/// Whether the call was let through.
pub fn decision(record: &Record) -> Decision {
    if record.denied.is_some() { Decision::Denied } else { Decision::Allowed }
}

/// Whose work it is, or would have been.
pub fn subject(record: &Record) -> Option<&Subject> {
    let opened = record.opened.as_ref().map(|o| &o.payload);
    opened.or(record.denied.as_ref().and_then(|d| d.payload.as_ref()))
}

/// The account that was, or would have been, used.
pub fn account(record: &Record) -> Option<&str> {
    let opened = record.opened.as_ref().map(|o| o.account.as_str());
    opened.or(record.denied.as_ref().and_then(|d| d.account.as_deref()))
}

/// Its uid.
pub fn uid(record: &Record) -> Option<u32> {
    let opened = record.opened.as_ref().map(|o| o.uid);
    opened.or(record.denied.as_ref().and_then(|d| d.uid))
}

/// The worker node.
pub fn host(record: &Record) -> &str {
    let opened = record.opened.as_ref().map(|o| o.host.as_str());
    opened.or(record.denied.as_ref().map(|d| d.host.as_str())).unwrap_or_default()
}

fn credential(record: &Record) -> &str {
    let opened = record.opened.as_ref().map(|o| o.cred_sha256.as_str());
    opened.or(record.denied.as_ref().and_then(|d| d.cred_sha256.as_deref())).unwrap_or_default()
}

/// Names are the same when they are equal, or when one is short and the other begins with it.
fn same_host(wanted: &str, found: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let one_is_short = !wanted.contains('.') || !found.contains('.');
    wanted.eq_ignore_ascii_case(found) || (one_is_short && short(wanted) == short(found))
}

/// `/cms` means `/cms` and all below it, but not `/cmsfoo`.
fn has_fqan(subject: &Subject, wanted: &str) -> bool {
    let wanted = wanted.trim_end_matches('/');
    let below = |fqan: &String| {
        fqan.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    subject.fqans.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::Opened;

    fn session(start: u64, end: Option<u64>) -> Record {
        let payload = Subject {
            dn: "/CN=Ada".into(),
            fqans: vec!["/cms/analysis/Role=user".into()],
            vo: Some("cms".into()),
            ..Subject::default()
        };
        let opened = Opened {
            host: "wn042.example.org".into(),
            account: "cms017".into(),
            uid: 51017,
            start_unix_ns: start,
            cred_sha256: "abcdef".into(),
            payload,
            ..Opened::default()
        };
        Record {
            id: "a1".into(),
            state: if end.is_some() { State::Closed } else { State::Running },
            path: "a1.jsonl".into(),
            opened: Some(Box::new(opened)),
            denied: None,
            pid: None,
            usage: None,
            end_unix_ns: end,
            exit: None,
            clock_stepped: false,
            estimated: false,
            torn: false,
            amended: None,
        }
    }

    #[test]
    fn the_start_of_a_session_belongs_to_it_and_the_end_does_not() {
        let at = |t| Filter { at: Some(Moment(t)), ..Filter::default() };
        let found = |t| at(t).matches(&session(100, Some(200)));
        assert_eq!([found(99), found(100), found(199), found(200)], [false, true, true, false]);
        assert!(at(100).matches(&session(100, Some(100))), "what takes no time is at its moment");
        assert!(at(u64::MAX).matches(&session(100, None)), "what runs has no end");
    }

    #[test]
    fn a_window_finds_what_overlaps_it() {
        let within = |since, until| Filter {
            since: Some(Moment(since)),
            until: Some(Moment(until)),
            ..Filter::default()
        };
        let found = |since, until| within(since, until).matches(&session(100, Some(200)));
        assert!(found(120, 130) && found(50, 101) && found(199, 300));
        assert!(!found(50, 100) && !found(200, 300));
    }

    #[test]
    fn hosts_match_by_full_or_short_name_only() {
        let found =
            |name: &str| Filter { host: Some(name.into()), ..Filter::default() }.matches(&session(1, None));
        assert!(found("wn042") && found("wn042.example.org") && found("WN042"));
        assert!(!found("wn04") && !found("wn042.example.com") && !found("wn042.example"));
    }

    #[test]
    fn an_fqan_means_itself_and_all_below() {
        let found =
            |fqan: &str| Filter { fqan: Some(fqan.into()), ..Filter::default() }.matches(&session(1, None));
        assert!(
            found("/cms") && found("/cms/") && found("/cms/analysis") && found("/cms/analysis/Role=user")
        );
        assert!(!found("/cm") && !found("/cms/ana") && !found("/cms/Role=user"));
    }

    #[test]
    fn every_condition_must_hold() {
        let right = Filter {
            dn: Some("/CN=Ada".into()),
            vo: Some("cms".into()),
            account: Some("cms017".into()),
            uid: Some(51017),
            cred_sha256: Some("abc".into()),
            decision: Some(Decision::Allowed),
            running: true,
            ..Filter::default()
        };
        assert!(right.matches(&session(1, None)));
        assert!(!right.matches(&session(1, Some(2))), "not running");
        let wrong = [
            Filter { dn: Some("/CN=Bob".into()), ..right.clone() },
            Filter { vo: Some("atlas".into()), ..right.clone() },
            Filter { account: Some("cms018".into()), ..right.clone() },
            Filter { uid: Some(1), ..right.clone() },
            Filter { cred_sha256: Some("abd".into()), ..right.clone() },
            Filter { decision: Some(Decision::Denied), ..right },
        ];
        assert!(wrong.iter().all(|filter| !filter.matches(&session(1, None))));
    }
}
