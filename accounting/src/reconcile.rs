//! The site's records against what others say: the batch system's own accounting, and what pilots told the queue. Pure.
//!
//! A slot without a session is a pilot that did nothing, or one that ran payloads without `glexec`. A session without a slot, a
//! payload without a session, or usage that is apart by more than a part says that somebody counts wrongly.

use crate::filter;
use record::Record;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A slot, as the batch system accounted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The batch system.
    pub lrms: &'static str,
    /// Its id of the job.
    pub jobid: String,
    /// Account of the job.
    pub owner: String,
    /// How long it was held, seconds.
    pub wall_s: u64,
}

/// What a pilot told the queue about one payload: a line of JSON.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Claim {
    /// The session, where `glexec` was called; none where the pilot did not switch.
    #[serde(default)]
    pub session: Option<String>,
    /// The payload.
    pub payload: String,
    /// The pilot, which is one slot; none where lines do not say.
    #[serde(default)]
    pub pilot: Option<String>,
    /// Worker node of the pilot.
    #[serde(default)]
    pub host: Option<String>,
    /// Wall time, seconds.
    pub wall_s: f64,
    /// CPU time, seconds.
    pub cpu_s: f64,
}

/// What does not fit together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// A slot in which `glexec` was never called.
    SlotWithoutSession {
        /// Batch system and job.
        job: String,
        /// Account of the job.
        owner: String,
        /// How long it was held, seconds.
        wall_s: u64,
    },
    /// A pilot that ran payloads without one session of `glexec`.
    PilotWithoutSwitch {
        /// The pilot.
        pilot: String,
        /// Its worker node, where that is known.
        host: Option<String>,
        /// How many payloads.
        payloads: usize,
        /// Time that they took together, seconds.
        wall_s: f64,
    },
    /// Sessions in a job that the batch system does not know.
    SessionWithoutSlot {
        /// Batch system and job.
        job: String,
        /// How many.
        sessions: usize,
    },
    /// A payload that ran without `glexec`.
    PayloadWithoutSwitch {
        /// The payload.
        payload: String,
    },
    /// A payload whose session has no record.
    PayloadWithoutRecord {
        /// The payload.
        payload: String,
        /// The session that was told.
        session: String,
    },
    /// Record and pilot are apart.
    UsageApart {
        /// The payload.
        payload: String,
        /// The session.
        session: String,
        /// `wall` or `cpu`.
        what: &'static str,
        /// By the record, seconds.
        recorded_s: f64,
        /// By the pilot, seconds.
        claimed_s: f64,
    },
}

/// What pilots cost: the time of slots, and how much of it payloads used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Overhead {
    /// Slots that the batch system accounted.
    pub slots: usize,
    /// Time they were held, seconds.
    pub held_s: u64,
    /// Of it, time of sessions, seconds; two at once count twice.
    pub sessions_s: u64,
}

/// Accounting that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadLine {
    line: usize,
    why: String,
}

/// Reads `sacct -P -n -X -o JobIDRaw,User,ElapsedRaw`.
///
/// # Errors
/// The first line that is none of it.
pub fn slurm(text: &str) -> Result<Vec<Slot>, BadLine> {
    let rows =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with("JobID"));
    rows.map(|(index, line)| {
        let bad = || BadLine {
            line: index + 1,
            why: "write what sacct -P -o JobIDRaw,User,ElapsedRaw prints".into(),
        };
        let [jobid, owner, wall, ..] = line.split('|').collect::<Vec<_>>()[..] else { return Err(bad()) };
        let wall_s = wall.parse().map_err(|_| bad())?;
        Ok(Slot { lrms: "slurm", jobid: jobid.to_owned(), owner: owner.to_owned(), wall_s })
    })
    .collect()
}

/// Reads Grid Engine's `accounting` file, accounting(5).
///
/// # Errors
/// The first line that is none of it.
pub fn gridengine(text: &str) -> Result<Vec<Slot>, BadLine> {
    let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    rows.map(|(index, line)| {
        let fields: Vec<&str> = line.split(':').collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        let (Some(owner), Some(jobid), Some(wall)) = (fields.get(3), fields.get(5), number(13)) else {
            return Err(BadLine { line: index + 1, why: "a record of accounting(5) has more fields".into() });
        };
        Ok(Slot {
            lrms: "gridengine",
            jobid: (*jobid).to_owned(),
            owner: (*owner).to_owned(),
            wall_s: wall as u64,
        })
    })
    .collect()
}

/// Reads `oarstat --json`, for instance with `--sql "stop_time >= 1782864000"`; jobs that have not ended are passed over.
///
/// # Errors
/// The line at which it is no JSON, or the job that lacks a field.
pub fn oar(text: &str) -> Result<Vec<Slot>, BadLine> {
    let bad = |line: usize, why: String| BadLine { line, why };
    let jobs: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)
        .map_err(|e| bad(e.line(), format!("write what oarstat --json prints: {e}")))?;
    let mut slots = Vec::new();
    for (jobid, job) in jobs {
        // Releases differ in how they spell these.
        let field = |names: [&str; 2]| names.iter().find_map(|name| job.get(*name));
        let number = |value: &serde_json::Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let owner = field(["owner", "job_user"]).and_then(|owner| owner.as_str());
        let (start, stop) = (field(["start_time", "startTime"]), field(["stop_time", "stopTime"]));
        let (Some(owner), Some(start)) = (owner, start.and_then(number)) else {
            return Err(bad(1, format!("job {jobid} has no owner or no start_time")));
        };
        let Some(stop) = stop.and_then(number).filter(|stop| *stop > 0 && *stop >= start && start > 0) else {
            continue;
        };
        slots.push(Slot { lrms: "oar", jobid, owner: owner.to_owned(), wall_s: stop - start });
    }
    Ok(slots)
}

/// Reads what pilots told, one JSON object a line.
///
/// # Errors
/// The first line that is none.
pub fn claims(text: &str) -> Result<Vec<Claim>, BadLine> {
    let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(index, line)| {
        serde_json::from_str(line).map_err(|e| BadLine { line: index + 1, why: e.to_string() })
    })
    .collect()
}

/// Compares slots of one batch system with sessions.
pub fn with_slots(slots: &[Slot], records: &[Record]) -> (Vec<Finding>, Overhead) {
    let lrms: BTreeSet<&str> = slots.iter().map(|slot| slot.lrms).collect();
    let mut sessions: BTreeMap<(&str, &str), (usize, u64)> = BTreeMap::new();
    for record in records.iter().filter(|record| record.opened.is_some()) {
        let Some(batch) = filter::batch(record).filter(|b| lrms.contains(b.lrms.as_str())) else { continue };
        let (count, wall_ns) = sessions.entry((&batch.lrms, &batch.jobid)).or_default();
        *count += 1;
        *wall_ns += record.usage.as_ref().map_or(0, |usage| usage.wall_ns);
    }
    let (mut findings, mut overhead) = (Vec::new(), Overhead::default());
    for slot in slots {
        overhead.slots += 1;
        overhead.held_s += slot.wall_s;
        match sessions.remove(&(slot.lrms, slot.jobid.as_str())) {
            Some((_, wall_ns)) => overhead.sessions_s += wall_ns / 1_000_000_000,
            None => findings.push(Finding::SlotWithoutSession {
                job: format!("{} {}", slot.lrms, slot.jobid),
                owner: slot.owner.clone(),
                wall_s: slot.wall_s,
            }),
        }
    }
    let unknown = sessions.into_iter().map(|((lrms, jobid), (sessions, _))| Finding::SessionWithoutSlot {
        job: format!("{lrms} {jobid}"),
        sessions,
    });
    findings.extend(unknown);
    (findings, overhead)
}

/// Compares what pilots told with records; usage may be apart by this part, such as 0.05, and by two seconds.
pub fn with_claims(claims: &[Claim], records: &[Record], part: f64) -> Vec<Finding> {
    let by_id: BTreeMap<&str, &Record> = records.iter().map(|record| (record.id.as_str(), record)).collect();
    let mut findings = Vec::new();
    for claim in claims {
        let payload = claim.payload.clone();
        let Some(session) = &claim.session else {
            findings.push(Finding::PayloadWithoutSwitch { payload });
            continue;
        };
        let Some(usage) = by_id.get(session.as_str()).and_then(|record| record.usage.as_ref()) else {
            findings.push(Finding::PayloadWithoutRecord { payload, session: session.clone() });
            continue;
        };
        let recorded = [
            ("wall", usage.wall_ns as f64 / 1e9, claim.wall_s),
            ("cpu", (usage.cpu_user_us + usage.cpu_sys_us) as f64 / 1e6, claim.cpu_s),
        ];
        let apart = |a: f64, b: f64| (a - b).abs() > 2.0 && (a - b).abs() > part * a.max(b);
        for (what, recorded_s, claimed_s) in recorded.into_iter().filter(|(_, a, b)| apart(*a, *b)) {
            let (payload, session) = (payload.clone(), session.clone());
            findings.push(Finding::UsageApart { payload, session, what, recorded_s, claimed_s });
        }
    }
    findings.extend(unswitched(claims));
    findings
}

/// Slots that ran payloads without one session. Several payloads of one slot are one finding more: that is a pilot at work, and no
/// single call that failed.
fn unswitched(claims: &[Claim]) -> Vec<Finding> {
    let mut pilots: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in claims {
        if let Some(pilot) = &claim.pilot {
            pilots.entry(pilot).or_default().push(claim);
        }
    }
    let never = |(_, runs): &(&str, Vec<&Claim>)| runs.iter().all(|run| run.session.is_none());
    let finding = |(pilot, runs): (&str, Vec<&Claim>)| Finding::PilotWithoutSwitch {
        pilot: pilot.to_owned(),
        host: runs.iter().find_map(|run| run.host.clone()),
        payloads: runs.len(),
        wall_s: runs.iter().map(|run| run.wall_s).sum(),
    };
    pilots.into_iter().filter(never).map(finding).collect()
}

/// A finding on one line.
pub fn text(finding: &Finding) -> String {
    let line = match finding {
        Finding::SlotWithoutSession { job, owner, wall_s } => {
            format!(
                "{job} of {owner}: held for {wall_s} s, and glexec was never called: empty, or unswitched"
            )
        }
        Finding::PilotWithoutSwitch { pilot, host, payloads, wall_s } => {
            let host = host.as_deref().unwrap_or("an unknown host");
            format!(
                "pilot {pilot} on {host}: ran {payloads} payloads for {wall_s:.0} s without one session of glexec"
            )
        }
        Finding::SessionWithoutSlot { job, sessions } => {
            format!("{job}: {sessions} sessions, and the batch system does not know the job")
        }
        Finding::PayloadWithoutSwitch { payload } => format!("payload {payload}: ran without glexec"),
        Finding::PayloadWithoutRecord { payload, session } => {
            format!("payload {payload}: session {session} has no record with usage")
        }
        Finding::UsageApart { payload, session, what, recorded_s, claimed_s } => format!(
            "payload {payload}: session {session}: {what} time is {recorded_s:.0} s by the record, {claimed_s:.0} s by the pilot"
        ),
    };
    identity::shown::log_line(&line).into_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Batch, Opened, State, Usage};

    fn session(id: &str, jobid: &str, wall_s: u64) -> Record {
        let batch = Batch { lrms: "slurm".into(), jobid: jobid.into(), ..Batch::default() };
        let usage =
            Usage { wall_ns: wall_s * 1_000_000_000, cpu_user_us: wall_s * 500_000, ..Usage::default() };
        Record {
            id: id.into(),
            state: State::Closed,
            path: "a".into(),
            opened: Some(Box::new(Opened { batch: Some(batch), ..Opened::default() })),
            denied: None,
            pid: None,
            usage: Some(usage),
            end_unix_ns: Some(1),
            exit: None,
            clock_stepped: false,
            estimated: false,
            torn: false,
            amended: None,
        }
    }

    #[test]
    fn empty_slots_and_unknown_jobs_are_found() {
        let slots = slurm("JobIDRaw|User|ElapsedRaw\n10|pil01|3600\n11|pil01|600\n").unwrap();
        let records = [session("a", "10", 1000), session("b", "10", 2000), session("c", "99", 5)];
        let (findings, overhead) = with_slots(&slots, &records);
        assert_eq!(overhead, Overhead { slots: 2, held_s: 4200, sessions_s: 3000 });
        let said: Vec<String> = findings.iter().map(text).collect();
        assert_eq!(said.len(), 2);
        assert!(
            said[0].contains("slurm 11 of pil01: held for 600 s") && said[1].contains("slurm 99: 1 sessions")
        );
    }

    #[test]
    fn claims_that_are_apart_are_found() {
        let told = "{\"payload\":\"p1\",\"session\":\"a\",\"wall_s\":1001,\"cpu_s\":500}\n\
                    {\"payload\":\"p2\",\"session\":\"a\",\"wall_s\":1000,\"cpu_s\":900}\n\
                    {\"payload\":\"p3\",\"wall_s\":5,\"cpu_s\":1}\n\
                    {\"payload\":\"p4\",\"session\":\"zz\",\"wall_s\":5,\"cpu_s\":1}\n";
        let findings = with_claims(&claims(told).unwrap(), &[session("a", "10", 1000)], 0.05);
        let said: Vec<String> = findings.iter().map(text).collect();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(
            said[0].contains("p2") && said[0].contains("cpu time is 500 s by the record, 900 s by the pilot")
        );
        assert!(said[1].contains("p3: ran without glexec") && said[2].contains("p4: session zz"));
    }

    #[test]
    fn a_slot_that_ran_payloads_without_one_session_is_found() {
        let told = "{\"payload\":\"p1\",\"pilot\":\"x\",\"host\":\"wn7\",\"session\":null,\"wall_s\":60,\"cpu_s\":5}\n\
                    {\"payload\":\"p2\",\"pilot\":\"x\",\"host\":\"wn7\",\"switched\":false,\"wall_s\":40,\"cpu_s\":1}\n\
                    {\"payload\":\"p3\",\"pilot\":\"y\",\"wall_s\":40,\"cpu_s\":1}\n\
                    {\"payload\":\"p4\",\"pilot\":\"y\",\"session\":\"a\",\"wall_s\":1000,\"cpu_s\":500}\n";
        let findings = with_claims(&claims(told).unwrap(), &[session("a", "10", 1000)], 0.05);
        let said: Vec<String> = findings.iter().map(text).collect();
        assert_eq!(said.len(), 4, "three payloads, and one of two pilots: {said:?}");
        assert_eq!(said[3], "pilot x on wn7: ran 2 payloads for 100 s without one session of glexec\n");
    }

    #[test]
    fn accounting_of_batch_systems_is_read_or_named_by_line() {
        let line = "all.q:wn1:grid:pil01:STDIN:77:sge:0:1:2:3:0:0:120:1.0";
        let slots = gridengine(&format!("# Version\n{line}\n")).unwrap();
        assert_eq!((slots[0].jobid.as_str(), slots[0].owner.as_str(), slots[0].wall_s), ("77", "pil01", 120));
        assert!(gridengine("a:b\n").unwrap_err().to_string().starts_with("line 1: "));
        assert!(slurm("1|x|3\n2|x|soon\n").unwrap_err().to_string().starts_with("line 2: "));
        assert!(claims("{}\n").is_err());
        let jobs = r#"{"12": {"owner": "pil01", "state": "Terminated", "start_time": 100, "stop_time": 160},
            "13": {"job_user": "pil01", "startTime": "100", "stopTime": "400"},
            "14": {"owner": "pil01", "state": "Running", "start_time": 100, "stop_time": 0},
            "15": {"owner": "pil01", "state": "Waiting", "start_time": 0, "stop_time": 0}}"#;
        let walls: Vec<_> = oar(jobs).unwrap().into_iter().map(|slot| (slot.jobid, slot.wall_s)).collect();
        assert_eq!(walls, [("12".to_owned(), 60), ("13".to_owned(), 300)], "what runs still has no end");
        assert!(oar("{\n]").unwrap_err().to_string().starts_with("line 2: write what oarstat --json prints"));
        assert!(oar(r#"{"12": {"state": "Terminated"}}"#).unwrap_err().to_string().contains("job 12"));
    }
}
