//! Whose jobs run where: all jobs of a site at once, as the batch system lists them.
//!
//! This is for services that answer for a whole site. A job counts as *whole* when each of its nodes is its own alone,
//! now and as long as it runs.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has no nodes yet, or they are being prepared.
    Waiting,
    /// It holds its nodes.
    Running,
}

/// A job that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteJob {
    /// Its number.
    pub id: String,
    /// Login of the person whose job it is.
    pub owner: String,
    /// How far it is.
    pub phase: Phase,
    /// The nodes that it holds, by their names in the batch system.
    pub nodes: BTreeSet<String>,
    /// Whether nobody else can get a part of them.
    pub whole: bool,
}

/// An answer that is not understood: what was expected, and the beginning of what came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{command}: not understood: {line:?}; {expected}")]
pub struct NotUnderstood {
    /// The program that was asked.
    pub command: &'static str,
    /// What it said, cut.
    pub line: String,
    /// What was expected.
    pub expected: &'static str,
}

fn strange(command: &'static str, line: &str, expected: &'static str) -> NotUnderstood {
    NotUnderstood { command, line: line.chars().take(200).collect(), expected }
}

/// Lists the jobs of Slurm that are not over. An array's tasks have numbers of their own.
pub const SLURM_JOBS: [&str; 5] =
    ["squeue", "--noheader", "--all", "--states=all", "--format=%A|%u|%T|%h|%C|%N"];
/// Lists the nodes of Slurm with their processors.
pub const SLURM_NODES: [&str; 4] = ["sinfo", "--noheader", "--Node", "--format=%N|%c"];

/// Reads the answers to [`SLURM_JOBS`] and [`SLURM_NODES`].
///
/// A job is whole when it was submitted with `--exclusive`, or has all processors of its nodes.
///
/// # Errors
/// A line that is not understood: then nobody can say whose nodes these are.
pub fn slurm(jobs: &str, nodes: &str) -> Result<Vec<SiteJob>, NotUnderstood> {
    let mut processors: BTreeMap<&str, u64> = BTreeMap::new();
    for line in nodes.lines().filter(|line| !line.trim().is_empty()) {
        let bad = || strange("sinfo", line, "NODE|PROCESSORS");
        let (node, count) = line.trim().split_once('|').ok_or_else(bad)?;
        processors.insert(node, count.trim_end_matches('+').parse().map_err(|_| bad())?);
    }
    let lines = jobs.lines().filter(|line| !line.trim().is_empty());
    lines.filter_map(|line| slurm_job(line.trim(), &processors).transpose()).collect()
}

fn slurm_job(line: &str, processors: &BTreeMap<&str, u64>) -> Result<Option<SiteJob>, NotUnderstood> {
    let bad = || strange("squeue", line, "ID|USER|STATE|OVERSUBSCRIBE|CPUS|NODES");
    let fields: Vec<&str> = line.splitn(6, '|').collect();
    let [id, owner, state, sharing, cpus, nodes] = fields[..] else { return Err(bad()) };
    let phase = match state {
        // Its nodes are still its own while what it left is ended.
        "RUNNING" | "SUSPENDED" | "COMPLETING" | "STOPPED" | "SIGNALING" | "STAGE_OUT" | "RESIZING" => {
            Phase::Running
        }
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_HOLD" | "REQUEUE_FED" | "RESV_DEL_HOLD"
        | "SPECIAL_EXIT" => Phase::Waiting,
        _ => return Ok(None),
    };
    let nodes = hostlist(nodes).ok_or_else(bad)?;
    let cpus: u64 = cpus.parse().map_err(|_| bad())?;
    let there: Option<u64> = nodes.iter().map(|node| processors.get(node.as_str())).sum();
    // "NO" is what squeue says of a job with nodes of its own; "OK" is one that may share.
    let whole =
        phase == Phase::Running && (sharing == "NO" || there.is_some_and(|there| there > 0 && there <= cpus));
    Ok(Some(SiteJob { id: id.into(), owner: owner.into(), phase, nodes, whole }))
}

/// Most nodes that one expression may stand for.
const MOST: usize = 100_000;

/// Expands `wn[1-3,07],login` as Slurm writes lists of hosts. `None` when it is none.
fn hostlist(text: &str) -> Option<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for one in split_outside(text) {
        expand(&one, &mut found)?;
    }
    Some(found)
}

/// Splits at commas that stand outside brackets.
fn split_outside(text: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0_i32);
    for c in text.chars() {
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => {
                depth += i32::from(c == '[') - i32::from(c == ']');
                if let Some(last) = parts.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    parts
        .into_iter()
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty() && part != "(null)")
        .collect()
}

fn expand(text: &str, found: &mut BTreeSet<String>) -> Option<()> {
    let Some((before, rest)) = text.split_once('[') else {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        found.insert(text.to_owned());
        return (text.bytes().all(good) && found.len() <= MOST).then_some(());
    };
    let (inside, after) = rest.split_once(']')?;
    for part in inside.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let width = low.len();
        let (low, high): (u32, u32) = (low.parse().ok()?, high.parse().ok()?);
        if low > high || usize::try_from(high - low).ok()? >= MOST {
            return None;
        }
        for number in low..=high {
            expand(&format!("{before}{number:0width$}{after}"), found)?;
        }
    }
    Some(())
}

/// Lists the jobs of OAR that are not over, with what they were given.
pub const OAR_JOBS: [&str; 3] = ["oarstat", "--full", "--json"];
/// Lists the resources of OAR with their nodes.
pub const OAR_NODES: [&str; 2] = ["oarnodes", "--json"];

/// Reads the answers to [`OAR_JOBS`] and [`OAR_NODES`].
///
/// A job is whole when it was given every resource of its nodes.
///
/// # Errors
/// When it is no JSON of that form.
pub fn oar(jobs: &str, nodes: &str) -> Result<Vec<SiteJob>, NotUnderstood> {
    let resources = oar_resources(nodes)?;
    // No job at all: older versions print nothing, or a sentence.
    if !jobs.trim_start().starts_with('{') {
        let empty = jobs.trim().is_empty() || jobs.contains("No job");
        return if empty { Ok(Vec::new()) } else { Err(strange("oarstat", jobs, "an object in JSON")) };
    }
    let all: BTreeMap<String, Value> =
        serde_json::from_str(jobs).map_err(|_| strange("oarstat", jobs, "an object of jobs in JSON"))?;
    let read = |(id, job): (&String, &Value)| oar_job(id, job, &resources).transpose();
    all.iter().filter_map(read).collect()
}

fn oar_job(
    id: &str,
    job: &Value,
    resources: &BTreeMap<String, String>,
) -> Result<Option<SiteJob>, NotUnderstood> {
    let bad = || {
        strange("oarstat", &job.to_string(), "owner, state, assigned_resources and assigned_network_address")
    };
    let field = |name: &str| job.get(name).and_then(Value::as_str).ok_or_else(bad);
    let phase = match field("state")? {
        "Running" | "Suspended" | "Resuming" | "Finishing" => Phase::Running,
        "Waiting" | "Hold" | "toLaunch" | "toAckReservation" | "Launching" => Phase::Waiting,
        _ => return Ok(None),
    };
    let list = |name: &str| -> Vec<String> {
        let all = job.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        all.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect()
    };
    let given: BTreeSet<String> = list("assigned_resources").into_iter().collect();
    let mut nodes: BTreeSet<String> = list("assigned_network_address").into_iter().collect();
    nodes.extend(given.iter().filter_map(|id| resources.get(id).cloned()));
    let all_given =
        resources.iter().filter(|(_, node)| nodes.contains(*node)).all(|(id, _)| given.contains(id));
    let whole = phase == Phase::Running && !given.is_empty() && all_given;
    Ok(Some(SiteJob { id: id.to_owned(), owner: field("owner")?.to_owned(), phase, nodes, whole }))
}

/// The node of each resource: one object for each resource, in a list or by number, also in lists by node.
fn oar_resources(text: &str) -> Result<BTreeMap<String, String>, NotUnderstood> {
    let value: Value =
        serde_json::from_str(text).map_err(|_| strange("oarnodes", text, "resources in JSON"))?;
    let mut found = BTreeMap::new();
    collect(&value, &mut found);
    Ok(found)
}

fn collect(value: &Value, found: &mut BTreeMap<String, String>) {
    let node = value.get("network_address").and_then(Value::as_str);
    let id = value.get("resource_id").or_else(|| value.get("id"));
    match (value, node, id) {
        (_, Some(node), Some(id)) => {
            let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
            found.insert(id, node.to_owned());
        }
        (Value::Array(all), ..) => all.iter().for_each(|one| collect(one, found)),
        (Value::Object(all), ..) => all.values().for_each(|one| collect(one, found)),
        _ => {}
    }
}

/// Reads the list of pilots that our queue answers with (`GET /v1/pilots`): each is a job of the subject that it registered
/// with, under its own id, on the host that it names.
///
/// Nobody can tell here whether others than pilots use that host; two pilots on one host show up as two jobs there.
///
/// # Errors
/// When it is no list of that form.
pub fn pilots(text: &str) -> Result<Vec<SiteJob>, NotUnderstood> {
    let bad = || strange("pilot queue", text, "a list of pilots with id, dn, state and registration in JSON");
    let all: Vec<Value> = serde_json::from_str(text).map_err(|_| bad())?;
    let read = |pilot: &Value| -> Result<Option<SiteJob>, NotUnderstood> {
        let field = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_str).map(str::to_owned).ok_or_else(bad)
        };
        let phase = match field(pilot, "state")?.as_str() {
            "submitted" | "starting" | "validating" => Phase::Waiting,
            "ready" | "busy" | "draining" => Phase::Running,
            "done" | "failed" | "lost" => return Ok(None),
            _ => return Err(bad()),
        };
        let nodes = [field(pilot.get("registration").ok_or_else(bad)?, "host")?].into();
        Ok(Some(SiteJob { id: field(pilot, "id")?, owner: field(pilot, "dn")?, phase, nodes, whole: true }))
    };
    all.iter().filter_map(|pilot| read(pilot).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(text: &str) -> Vec<String> {
        hostlist(text).expect(text).into_iter().collect()
    }

    #[test]
    fn lists_of_hosts_are_expanded() {
        assert_eq!(nodes("wn[1-3],login"), ["login", "wn1", "wn2", "wn3"]);
        assert_eq!(
            nodes("wn[08-10,12].example.org"),
            ["wn08.example.org", "wn09.example.org", "wn10.example.org", "wn12.example.org"]
        );
        assert_eq!(nodes("r[1-2]n[1-2]"), ["r1n1", "r1n2", "r2n1", "r2n2"]);
        assert!(nodes("").is_empty() && nodes("(null)").is_empty());
        for bad in ["wn[1-", "wn[3-1]", "wn[1-4000000000]", "a b", "wn[x]", "wn;1"] {
            assert!(hostlist(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn pilots_that_live_are_jobs_of_their_subjects() {
        let pilot = |id: &str, state: &str| {
            format!(
                r#"{{"id":"{id}","dn":"/CN=p","state":"{state}","registration":{{"host":"wn1"}},"seen":1}}"#
            )
        };
        let text = format!("[{},{},{}]", pilot("a", "busy"), pilot("b", "lost"), pilot("c", "starting"));
        let jobs = pilots(&text).unwrap();
        let seen: Vec<_> =
            jobs.iter().map(|j| (&*j.id, &*j.owner, j.phase, j.nodes.contains("wn1"))).collect();
        assert_eq!(seen, [("a", "/CN=p", Phase::Running, true), ("c", "/CN=p", Phase::Waiting, true)]);
        for bad in ["{}", "[{}]", &format!("[{}]", pilot("a", "asleep")), "<html>"] {
            assert!(pilots(bad).unwrap_err().to_string().contains("a list of pilots"), "{bad}");
        }
    }

    #[test]
    fn slurm_says_who_has_whole_nodes() {
        let text = "12|alice|RUNNING|OK|4|wn[1-2]\n13|bob|RUNNING|OK|1|wn3\n14|bob|PENDING|OK|1|\n15|bob|COMPLETED|OK|1|wn1\n\
                    16|carol|RUNNING|NO|1|wn4\n";
        let jobs = slurm(text, "wn1|2\nwn2|2\nwn3|2\nwn4|2\n").unwrap();
        let seen: Vec<_> = jobs.iter().map(|j| (&*j.id, &*j.owner, j.phase, j.whole)).collect();
        assert_eq!(
            seen,
            [
                ("12", "alice", Phase::Running, true),
                ("13", "bob", Phase::Running, false),
                ("14", "bob", Phase::Waiting, false),
                ("16", "carol", Phase::Running, true)
            ]
        );
        assert!(slurm("slurm_load_jobs error", "").is_err() && slurm("", "wn1|x").is_err());
        assert!(slurm("", "").unwrap().is_empty());
        assert!(!slurm("1|a|RUNNING|OK|9|wn9", "").unwrap()[0].whole, "a node that sinfo does not know");
    }

    #[test]
    fn oar_says_who_has_whole_nodes() {
        let nodes = r#"{"1":{"resource_id":1,"network_address":"a-1"},"2":{"resource_id":2,"network_address":"a-1"},
            "3":{"resource_id":3,"network_address":"a-2"}}"#;
        let jobs = r#"{"7":{"owner":"alice","state":"Running","assigned_resources":[1,2],"assigned_network_address":["a-1"]},
            "8":{"owner":"bob","state":"Running","assigned_resources":["1"],"assigned_network_address":["a-1"]},
            "9":{"owner":"bob","state":"Waiting","assigned_resources":[],"assigned_network_address":[]},
            "5":{"owner":"bob","state":"Terminated"}}"#;
        let jobs = oar(jobs, nodes).unwrap();
        let seen: Vec<_> = jobs.iter().map(|j| (&*j.id, j.phase, j.nodes.len(), j.whole)).collect();
        assert_eq!(
            seen,
            [
                ("7", Phase::Running, 1, true),
                ("8", Phase::Running, 1, false),
                ("9", Phase::Waiting, 0, false)
            ]
        );
        assert!(oar("", nodes).unwrap().is_empty() && oar("{}", nodes).unwrap().is_empty());
        assert!(oar("error: no database", nodes).is_err() && oar("{}", "nonsense").is_err());
        assert!(oar(r#"{"7":{"state":"Running"}}"#, nodes).is_err(), "no owner");
    }
}
