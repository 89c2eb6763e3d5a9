//! What is kept of a record for how long. Pure.
//!
//! Arguments, identity and the rest (the summary: times, usage, VO, host, end) have ages of their own. What is over is taken out of the
//! record; the record itself stays until the last of them is over.

use record::event::{Denied, Event, Opened, Subject};
use record::line::{decode, encode};
use serde::Deserialize;
use std::time::Duration;

/// Stands for a uid or gid that is not kept: `(uid_t) -1`, which no account has.
pub const NOT_KEPT: u32 = u32::MAX;

/// How much of a record is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reduced {
    /// Arguments and working directory.
    Arguments = 1,
    /// All that tells who it was, and as whom it ran; arguments as well.
    Identity = 2,
    /// Everything but the seal.
    All = 3,
}

impl Reduced {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Arguments, Self::Identity, Self::All];
}

/// An age, counted from the day on which a record was folded; `None` is forever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Age(Option<Duration>);

impl std::str::FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forever" => Ok(Self(None)),
            _ => {
                let age = identity::duration::parse(text)
                    .map_err(|_| format!("{text:?}: write 90d, or forever"))?;
                match age.as_secs() >= 86_400 {
                    true => Ok(Self(Some(age))),
                    false => {
                        Err(format!("{text:?}: a day is the least, since day files are reduced as a whole"))
                    }
                }
            }
        }
    }
}

impl TryFrom<String> for Age {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::fmt::Display for Age {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(age) => write!(f, "{}d", age.as_secs() / 86_400),
            None => f.write_str("forever"),
        }
    }
}

/// How long what is kept: `[retention]` of `accounting.toml`, options of `fold` and `forward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How long arguments are kept: 90d, or forever
    #[arg(long = "keep-arguments", value_name = "AGE", default_value = "90d")]
    pub arguments: Age,
    /// How long names, accounts and credentials are kept
    #[arg(long = "keep-identity", value_name = "AGE", default_value = "400d")]
    pub identity: Age,
    /// How long the rest is kept: times, usage, VO, host, end
    #[arg(long = "keep-summaries", value_name = "AGE", default_value = "forever")]
    pub summaries: Age,
}

/// What sites in WLCG and EGI keep at least.
const LEAST: Duration = Duration::from_secs(90 * 86_400);

impl Default for Retention {
    fn default() -> Self {
        let days = |n: u64| Age(Some(Duration::from_secs(n * 86_400)));
        Self { arguments: days(90), identity: days(400), summaries: Age(None) }
    }
}

impl Retention {
    /// What is gone of records that were folded so many days ago.
    pub fn after(&self, days: u32) -> Option<Reduced> {
        let age = Duration::from_secs(u64::from(days) * 86_400);
        let over = |kept: Age| kept.0.is_some_and(|kept| age > kept);
        let gone = [
            (self.summaries, Reduced::All),
            (self.identity, Reduced::Identity),
            (self.arguments, Reduced::Arguments),
        ];
        gone.into_iter().find(|(kept, _)| over(*kept)).map(|(_, gone)| gone)
    }

    /// When questions about persons are over, days.
    pub fn identity_days(&self) -> Option<u32> {
        self.identity.0.map(|age| u32::try_from(age.as_secs() / 86_400).unwrap_or(u32::MAX))
    }

    /// The ages that are shorter than sites keep traces.
    pub fn short(&self) -> Vec<&'static str> {
        let ages =
            [("arguments", self.arguments), ("identity", self.identity), ("summaries", self.summaries)];
        ages.iter().filter(|(_, age)| age.0.is_some_and(|age| age < LEAST)).map(|(name, _)| *name).collect()
    }
}

/// The lines of a record without what is gone.
///
/// # Errors
/// Why a line cannot be read.
pub fn reduced(lines: &[u8], gone: Reduced) -> Result<Vec<u8>, String> {
    let mut kept = Vec::with_capacity(lines.len());
    if gone == Reduced::All {
        return Ok(kept);
    }
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let read =
            decode(line.strip_suffix(b"\n").unwrap_or(line)).map_err(|fault| format!("a line {fault}"))?;
        let event = match read.event {
            Some(Event::Open(opened)) => Event::Open(Box::new(of_session(*opened, gone))),
            Some(Event::Denied(denied)) => Event::Denied(Box::new(of_refusal(*denied, gone))),
            _ => {
                kept.extend_from_slice(line);
                continue;
            }
        };
        kept.extend(encode(read.seq, read.written_unix_ns, &event).map_err(|e| e.to_string())?);
    }
    Ok(kept)
}

fn of_session(opened: Opened, gone: Reduced) -> Opened {
    let mut kept = Opened { argv: Vec::new(), cwd: String::new(), ..opened };
    if let Some(claimed) = &mut kept.claimed {
        claimed.argv.clear();
    }
    if gone < Reduced::Identity {
        return kept;
    }
    if let Some(claimed) = &mut kept.claimed {
        claimed.argv0.clear();
    }
    if let Some(batch) = &mut kept.batch {
        batch.owner = None;
    }
    Opened {
        payload: nobody(kept.payload),
        pilot_dn: None,
        caller_name: None,
        caller_uid: NOT_KEPT,
        caller_gid: NOT_KEPT,
        cred_sha256: String::new(),
        cred_serial: String::new(),
        cred_not_after: 0,
        account: String::new(),
        uid: NOT_KEPT,
        gid: NOT_KEPT,
        groups: Vec::new(),
        argv0: String::new(),
        argv_sha256: String::new(),
        target_proxy: None,
        glexec_id: None,
        ..kept
    }
}

fn of_refusal(denied: Denied, gone: Reduced) -> Denied {
    if gone < Reduced::Identity {
        return denied;
    }
    let batch = denied.batch.map(|batch| record::Batch { owner: None, ..batch });
    Denied {
        payload: denied.payload.map(nobody),
        caller_name: None,
        caller_uid: NOT_KEPT,
        caller_gid: NOT_KEPT,
        cred_sha256: None,
        account: None,
        uid: None,
        argv0: String::new(),
        glexec_id: None,
        batch,
        ..denied
    }
}

/// The VO says for whom; it is no person.
fn nobody(subject: Subject) -> Subject {
    Subject { vo: subject.vo, ..Subject::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Batch, Claimed};

    const SECRETS: [&str; 9] =
        ["Ada", "cms017", "51017", "c0ffee", "beef01", "--secret", "/home/ada", "pilot 1", "pil01"];

    fn lines() -> Vec<u8> {
        let opened = Opened {
            record_id: "a1".into(),
            host: "wn042.example.org".into(),
            batch: Some(Batch { jobid: "4711".into(), owner: Some("pil01".into()), ..Batch::default() }),
            pilot_dn: Some("/CN=pilot 1".into()),
            caller_name: Some("pil01".into()),
            payload: Subject {
                dn: "/CN=Ada".into(),
                fqans: vec!["/cms".into()],
                vo: Some("cms".into()),
                ..Subject::default()
            },
            cred_sha256: "c0ffee".into(),
            cred_serial: "beef01".into(),
            account: "cms017".into(),
            uid: 51017,
            gid: 51017,
            argv0: "/bin/sh".into(),
            argv: vec!["sh".into(), "--secret".into()],
            cwd: "/home/ada".into(),
            claimed: Some(Claimed { argv: vec!["--secret".into()], cpus: Some(8), ..Claimed::default() }),
            ..Opened::default()
        };
        let mut lines = encode(0, 7, &Event::Open(Box::new(opened))).unwrap();
        lines.extend(encode(1, 8, &Event::Exec { pid: 42 }).unwrap());
        lines
    }

    fn kept(gone: Reduced) -> String {
        String::from_utf8(reduced(&lines(), gone).unwrap()).unwrap()
    }

    #[test]
    fn each_level_takes_what_it_says_and_leaves_the_rest() {
        let without = kept(Reduced::Arguments);
        assert!(!without.contains("--secret") && !without.contains("/home/ada"), "{without}");
        assert!(without.contains("/CN=Ada") && without.contains("cms017") && without.contains("/bin/sh"));
        let without = kept(Reduced::Identity);
        assert!(!SECRETS.iter().any(|secret| without.contains(secret)), "{without}");
        for stays in ["\"vo\":\"cms\"", "wn042.example.org", "4711", "\"cpus\":8", "\"pid\":42"] {
            assert!(without.contains(stays), "{stays}: {without}");
        }
        assert_eq!(kept(Reduced::All), "");
        assert_eq!(
            reduced(kept(Reduced::Arguments).as_bytes(), Reduced::Identity).unwrap(),
            kept(Reduced::Identity).into_bytes()
        );
    }

    #[test]
    fn a_refusal_loses_its_person_and_keeps_its_reason() {
        let denied = Denied {
            payload: Some(Subject { dn: "/CN=Ada".into(), vo: Some("cms".into()), ..Subject::default() }),
            reason: "the DN is banned".into(),
            code: 203,
            ..Denied::default()
        };
        let line = encode(0, 7, &Event::Denied(Box::new(denied))).unwrap();
        let kept = String::from_utf8(reduced(&line, Reduced::Identity).unwrap()).unwrap();
        assert!(!kept.contains("Ada") && kept.contains("the DN is banned") && kept.contains("cms"), "{kept}");
    }

    #[test]
    fn ages_pass_in_their_order() {
        let kept = Retention::default();
        let levels = [0, 90, 91, 400, 401, 40_000].map(|days| kept.after(days));
        let (a, i) = (Some(Reduced::Arguments), Some(Reduced::Identity));
        assert_eq!(levels, [None, None, a, a, i, i]);
        assert!(kept.short().is_empty(), "90 days at least by default");
        let short = Retention { summaries: "30d".parse().unwrap(), ..kept };
        assert_eq!((short.after(31), short.short()), (Some(Reduced::All), vec!["summaries"]));
        for bad in ["", "90", "12h", "never", "-1d"] {
            assert!(bad.parse::<Age>().is_err(), "{bad}");
        }
    }
}
