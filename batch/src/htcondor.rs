//! HTCondor: `condor_submit` with a description on standard input, `condor_q -json`.

use crate::{BatchError, Command, Job, JobId, JobStatus, State, System, strange};
use serde_json::Value;

pub(crate) fn submit(job: &Job) -> Result<Command, BatchError> {
    // Arguments in HTCondor's own quotes: doubled quotes inside, `'...'` around a word with blanks.
    let line = job.command.as_str();
    if line.contains("$(") {
        let reason = "HTCondor replaces $( in a command; write it otherwise".to_owned();
        return Err(BatchError::Unsayable { system: System::HtCondor, reason });
    }
    let command = line.replace('\'', "''").replace('"', "\"\"");
    let mut text = format!(
        "universe = vanilla\nexecutable = /bin/sh\ntransfer_executable = false\n\
         arguments = \"-c '{command}'\"\nbatch_name = {}\noutput = {out}\nerror = {out}\n\
         request_cpus = {}\n\
         periodic_remove = (JobStatus == 2) && (time() - EnteredCurrentStatus > {})\n\
         max_retries = 0\n",
        job.name.as_str(),
        job.cores,
        job.walltime,
        out = job.output.as_str(),
    );
    if let Some(mib) = job.memory_mib {
        text.push_str(&format!("request_memory = {mib}MB\n"));
    }
    let nodes: Vec<String> = job.avoided().iter().map(|node| format!("(Machine =!= \"{node}\")")).collect();
    if !nodes.is_empty() {
        text.push_str(&format!("requirements = {}\n", nodes.join(" && ")));
    }
    if let Some(group) = &job.project {
        text.push_str(&format!("accounting_group = {}\n", group.as_str()));
    }
    for line in &job.options {
        text.push_str(line.as_str());
        text.push('\n');
    }
    text.push_str("queue 1\n");
    Ok(Command::new(["condor_submit", "-terse"]).with_some("-name", job.queue.as_ref()).reading(text))
}

/// `12.0 - 12.0`: first and last job.
pub(crate) fn submitted(text: &str) -> Result<JobId, BatchError> {
    let line = text.trim().lines().next_back().unwrap_or_default();
    let bad = || strange(System::HtCondor, line, "condor_submit -terse prints CLUSTER.PROC - CLUSTER.PROC");
    let first = line.split(" - ").next().unwrap_or_default().trim();
    JobId::parse(first).ok().filter(|_| first.contains('.')).ok_or_else(bad)
}

const ATTRIBUTES: &str = "ClusterId,ProcId,JobStatus,JobBatchName,RemoteHost,HoldReason";

pub(crate) fn status(account: &str) -> Command {
    Command::new(["condor_q", account, "-json", "-attributes", ATTRIBUTES])
}

/// An array; nothing at all where there are no jobs.
pub(crate) fn listed(text: &str) -> Result<Vec<JobStatus>, BatchError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let bad = |line: &str| strange(System::HtCondor, line, "condor_q -json prints an array of jobs");
    match serde_json::from_str(text) {
        Ok(Value::Array(jobs)) => {
            jobs.iter().map(|job| status_of(job).ok_or_else(|| bad(&job.to_string()))).collect()
        }
        _ => Err(bad(text)),
    }
}

fn status_of(job: &Value) -> Option<JobStatus> {
    // Idle, Running, Removed, Completed, Held, Transferring Output, Suspended.
    let (state, word) = match job["JobStatus"].as_u64()? {
        1 => (State::Pending, "idle"),
        2 => (State::Running, "running"),
        3 => (State::Ended, "removed"),
        4 => (State::Ended, "completed"),
        5 => (State::Held, "held"),
        6 => (State::Running, "transferring output"),
        7 => (State::Running, "suspended"),
        _ => return None,
    };
    let id = format!("{}.{}", job["ClusterId"].as_u64()?, job["ProcId"].as_u64()?);
    let host = job["RemoteHost"].as_str().map(|slot| slot.rsplit('@').next().unwrap_or(slot).to_owned());
    let reason = job["HoldReason"].as_str().map(|text| format!("{word} ({text})"));
    Some(JobStatus {
        id: JobId::parse(&id).ok()?,
        name: job["JobBatchName"].as_str().unwrap_or_default().to_owned(),
        state,
        host,
        why: reason.unwrap_or_else(|| word.to_owned()),
    })
}
