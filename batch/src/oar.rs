//! OAR 2.5: `oarsub`, `oarstat`. Memory is a property that each site names itself: say it in the options.

use crate::{BatchError, Command, Job, JobId, JobStatus, State, System, strange};
use serde_json::Value;

pub(crate) fn submit(job: &Job) -> Command {
    let command = Command::new(["oarsub"])
        .with("-l", format!("/nodes=1/core={},walltime={}", job.cores, job.clock()))
        .with("-n", job.name.as_str())
        .with("-O", job.output.as_str())
        .with("-E", job.output.as_str())
        .with_some("-q", job.queue.as_ref())
        .with_some("--project", job.project.as_ref())
        .options(&job.options);
    let mut command = command;
    let nodes: Vec<String> = job.avoided().iter().map(|node| format!("'{node}'")).collect();
    if !nodes.is_empty() {
        command = command.with("-p", format!("network_address NOT IN ({})", nodes.join(",")));
    }
    command.argv.push(job.command.as_str().to_owned());
    command
}

/// Among remarks of admission rules: `OAR_JOB_ID=12`.
pub(crate) fn submitted(text: &str) -> Result<JobId, BatchError> {
    let id = text.lines().find_map(|line| line.trim().strip_prefix("OAR_JOB_ID="));
    let last = text.trim().lines().next_back().unwrap_or_default();
    let bad = || strange(System::Oar, last, "oarsub prints OAR_JOB_ID=NUMBER");
    JobId::parse(id.ok_or_else(bad)?.trim()).map_err(|_| bad())
}

pub(crate) fn status(account: &str) -> Command {
    Command::new(["oarstat", "--json", "-u", account])
}

/// An object by id; nothing at all where there are no jobs.
pub(crate) fn listed(text: &str) -> Result<Vec<JobStatus>, BatchError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let bad = |line: &str| strange(System::Oar, line, "oarstat --json prints an object of jobs by id");
    match serde_json::from_str(text) {
        Ok(Value::Object(jobs)) => jobs
            .iter()
            .map(|(id, job)| status_of(id, job).ok_or_else(|| bad(&format!("{id}: {job}"))))
            .collect(),
        _ => Err(bad(text)),
    }
}

fn status_of(id: &str, job: &Value) -> Option<JobStatus> {
    let word = job["state"].as_str()?;
    let host = job["assigned_network_address"].as_array().and_then(|all| all.first()?.as_str());
    let message = job["message"].as_str().filter(|text| !text.is_empty());
    Some(JobStatus {
        id: JobId::parse(id).ok()?,
        name: job["name"].as_str().unwrap_or_default().to_owned(),
        state: state(word)?,
        host: host.map(str::to_owned),
        why: message.map_or_else(|| word.to_owned(), |text| format!("{word} ({text})")),
    })
}

/// The states of oarstat(1).
fn state(word: &str) -> Option<State> {
    Some(match word {
        "Waiting" | "toLaunch" | "toAckReservation" | "Launching" => State::Pending,
        "Running" | "Suspended" | "Resuming" | "Finishing" => State::Running,
        "Hold" => State::Held,
        "Terminated" | "Error" | "toError" => State::Ended,
        _ => return None,
    })
}
