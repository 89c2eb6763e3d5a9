//! Which records a question means.
//!
//! Intervals are compared by overlap, never by end: accounts are reused, and who held one is a matter of time. They are
//! half-open: a session holds its account from its start until just before its end, so that one moment has one holder.

use crate::when::Moment;
use record::{Batch, Record, Role, State, Subject};
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

impl Decision {
    /// As it stands in columns.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// All roles.
pub const ROLES: [Role; 3] = [Role::Payload, Role::Pilot, Role::Probe];

/// A role as it stands in columns.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Payload => "payload",
        Role::Pilot => "pilot",
        Role::Probe => "probe",
    }
}

/// A batch job as people name it: `12345.0`, or `12345.0@ce01` with the compute element or host it came through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BatchName {
    /// The batch system's id.
    pub id: String,
    /// Where: a compute element or a worker node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl BatchName {
    /// Reads it.
    pub fn parse(text: &str) -> Self {
        match text.split_once('@') {
            Some((id, at)) => Self { id: id.to_owned(), at: Some(at.to_owned()) },
            None => Self { id: text.to_owned(), at: None },
        }
    }

    /// Whether a record's job id is meant. `12345.0` also means `schedd#12345.0#time`, as HTCondor has it globally.
    pub fn names(&self, jobid: &str) -> bool {
        jobid == self.id || jobid.split('#').any(|part| part == self.id)
    }

    fn is_of(&self, record: &Record) -> bool {
        let through = record.opened.as_ref().and_then(|o| o.ce.as_deref());
        let at = |at: &str| {
            through.is_some_and(|ce| same_host(at, ce.split([':', '/']).next().unwrap_or_default()))
                || same_host(at, host(record))
                || batch(record).is_some_and(|b| b.jobid.split('#').any(|part| same_host(at, part)))
        };
        batch(record).is_some_and(|b| self.names(&b.jobid)) && self.at.as_deref().is_none_or(at)
    }
}

/// How a session ended, as people name it: an exit code, or `sig9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitName {
    /// Exit code, also the one of a refusal.
    Code(i32),
    /// Signal.
    Signal(i32),
}

impl ExitName {
    /// Reads it.
    ///
    /// # Errors
    /// Says what can be written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = match text.strip_prefix("sig") {
            Some(signal) => signal.parse().map(Self::Signal),
            None => text.parse().map(Self::Code),
        };
        parsed.map_err(|_| "write an exit code, or sig and the number of a signal".to_owned())
    }

    /// One number for both: signals count from 1000.
    pub fn number(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(1000),
        }
    }

    fn is_of(self, record: &Record) -> bool {
        let exit = record.exit.as_ref();
        match self {
            Self::Code(code) => {
                record.denied.as_ref().map(|d| d.code).or(exit.and_then(|e| e.code)) == Some(code)
            }
            Self::Signal(signal) => exit.is_some_and(|e| e.code.is_none() && e.signal == Some(signal)),
        }
    }
}

/// All conditions must hold; those that are left out hold for every record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
    /// What ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Name under which the pilot registered, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pilot_dn: Option<String>,
    /// The record or pilot session around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Compute element, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ce: Option<String>,
    /// Batch job around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchName>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<ExitName>,
    /// Its end was not seen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// Part of the reason of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
            && (!self.lost || record.state == State::Lost)
            && self.decision.is_none_or(|wanted| wanted == decision(record))
            && self.is_around(record)
            && self.exit.is_none_or(|exit| exit.is_of(record))
            && self.overlaps(record)
    }

    fn is_around(&self, record: &Record) -> bool {
        let opened = record.opened.as_deref();
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|w| found == Some(w));
        self.role.is_none_or(|wanted| wanted == role(record))
            && is(&self.pilot_dn, opened.and_then(|o| o.pilot_dn.as_deref()))
            && is(&self.parent, opened.and_then(|o| o.parent_id.as_deref()))
            && is(&self.ce, opened.and_then(|o| o.ce.as_deref()))
            && self.batch.as_ref().is_none_or(|wanted| wanted.is_of(record))
            && self.reason.as_deref().is_none_or(|wanted| {
                record.denied.as_ref().is_some_and(|denied| denied.reason.contains(wanted))
            })
    }

    /// Who held an account on a host at a moment.
    pub fn holder(uid: u32, host: String, at: Moment) -> Self {
        let decision = Some(Decision::Allowed);
        Self { uid: Some(uid), host: Some(host), at: Some(at), decision, ..Self::default() }
    }

    /// The same at any time.
    #[must_use]
    pub fn without_times(&self) -> Self {
        Self { since: None, until: None, at: None, ..self.clone() }
    }

    /// One that finds all that may have ended in this one's times.
    #[must_use]
    pub fn around_ends(&self) -> Self {
        Self { since: self.since.map(|t| Moment(t.0.saturating_sub(1))), at: None, ..self.clone() }
    }

    /// Whether day summaries can answer: whole days, and nothing asked that they do not keep apart.
    pub fn fits_days(&self) -> bool {
        let kept = Self {
            dn: self.dn.clone(),
            vo: self.vo.clone(),
            account: self.account.clone(),
            role: self.role,
            pilot_dn: self.pilot_dn.clone(),
            decision: self.decision,
            since: self.since,
            until: self.until,
            ..Self::default()
        };
        let whole = |moment: Option<Moment>| moment.is_none_or(Moment::is_midnight);
        *self == kept && whole(self.since) && whole(self.until)
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

/// What ran; a refusal is one of a payload.
pub fn role(record: &Record) -> Role {
    record.opened.as_ref().map_or(Role::Payload, |o| o.role)
}

/// The batch job around it.
pub fn batch(record: &Record) -> Option<&Batch> {
    let opened = record.opened.as_ref().and_then(|o| o.batch.as_ref());
    opened.or(record.denied.as_ref().and_then(|d| d.batch.as_ref()))
}

/// SHA-256 of the credential; empty when none was read.
pub fn credential(record: &Record) -> &str {
    let opened = record.opened.as_ref().map(|o| o.cred_sha256.as_str());
    opened.or(record.denied.as_ref().and_then(|d| d.cred_sha256.as_deref())).unwrap_or_default()
}

/// Names are the same when they are equal, or when one is short and the other begins with it.
pub fn same_host(wanted: &str, found: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let one_is_short = !wanted.contains('.') || !found.contains('.');
    wanted.eq_ignore_ascii_case(found) || (one_is_short && short(wanted) == short(found))
}

/// `/cms` means `/cms` and all below it, but not `/cmsfoo`.
fn has_fqan(subject: &Subject, wanted: &str) -> bool {
    subject.fqans.iter().any(|fqan| is_below(wanted, fqan))
}

/// Whether an FQAN is the wanted one, or below it.
pub fn is_below(wanted: &str, fqan: &str) -> bool {
    let rest = fqan.strip_prefix(wanted.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
