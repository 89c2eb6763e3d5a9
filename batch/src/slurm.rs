//! Slurm: `sbatch`, `squeue`.

use crate::{BatchError, Command, Job, JobId, JobStatus, State, System, strange};

/// What both submission and check say. A pilot that ran already is not run again by itself: the factory decides that.
fn described(job: &Job, first: &[&str]) -> Command {
    let command = Command::new(["sbatch"].iter().chain(first).copied())
        .with("--job-name", job.name.as_str())
        .with("--output", job.output.as_str())
        .with("--nodes", "1")
        .with("--ntasks", "1")
        .with("--cpus-per-task", job.cores.to_string())
        .with("--time", job.walltime.div_ceil(60).to_string());
    let command = match job.memory_mib {
        Some(mib) => command.with("--mem", format!("{mib}M")),
        None => command,
    };
    let command = match job.avoided().join(",") {
        none if none.is_empty() => command,
        nodes => command.with("--exclude", nodes),
    };
    let command = command
        .with_some("--partition", job.queue.as_ref())
        .with_some("--account", job.project.as_ref())
        .options(&job.options);
    command.reading(job.script())
}

pub(crate) fn submit(job: &Job) -> Command {
    described(job, &["--parsable", "--no-requeue"])
}

pub(crate) fn check(job: &Job) -> Command {
    described(job, &["--test-only"])
}

/// `12`, or `12;cluster`.
pub(crate) fn submitted(text: &str) -> Result<JobId, BatchError> {
    let line = text.trim();
    let id = line.split(';').next().unwrap_or_default();
    let number = id.chars().all(|c| c.is_ascii_digit());
    let bad = || strange(System::Slurm, line, "sbatch --parsable prints a job id");
    JobId::parse(id).ok().filter(|_| number).ok_or_else(bad)
}

/// With those that ended a short while ago. The name is last: it may contain the separator.
pub(crate) fn status(account: &str) -> Command {
    Command::new(["squeue", "--noheader", "--states=all", "--format=%i|%T|%N|%r|%j", "--user", account])
}

pub(crate) fn listed(text: &str) -> Result<Vec<JobStatus>, BatchError> {
    text.lines().filter(|line| !line.trim().is_empty()).map(job).collect()
}

fn job(line: &str) -> Result<JobStatus, BatchError> {
    let bad = || strange(System::Slurm, line, "a line of squeue is ID|STATE|NODES|REASON|NAME");
    let mut fields = line.trim().splitn(5, '|');
    let mut next = || fields.next().ok_or_else(bad);
    let (id, word, node, reason, name) = (next()?, next()?, next()?, next()?, next()?);
    let state = state(word).ok_or_else(bad)?;
    let why = if matches!(reason, "" | "None") { word.to_owned() } else { format!("{word} ({reason})") };
    let host = Some(node).filter(|node| !node.is_empty() && !node.starts_with('('));
    Ok(JobStatus {
        id: JobId::parse(id).map_err(|_| bad())?,
        name: name.to_owned(),
        state: held(state, reason),
        host: host.map(str::to_owned),
        why,
    })
}

/// The states of squeue(1).
fn state(word: &str) -> Option<State> {
    Some(match word {
        "PENDING" | "CONFIGURING" | "REQUEUED" | "REQUEUE_FED" => State::Pending,
        "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "STAGE_OUT" | "RESIZING" => {
            State::Running
        }
        "REQUEUE_HOLD" | "RESV_DEL_HOLD" | "SPECIAL_EXIT" => State::Held,
        "COMPLETED" | "CANCELLED" | "FAILED" | "TIMEOUT" | "NODE_FAIL" | "PREEMPTED" | "BOOT_FAIL"
        | "DEADLINE" | "OUT_OF_MEMORY" | "REVOKED" => State::Ended,
        _ => return None,
    })
}

fn held(state: State, reason: &str) -> State {
    let stuck = ["JobHeldUser", "JobHeldAdmin", "BadConstraints", "launch_failed_requeued_held"];
    if state == State::Pending && stuck.iter().any(|word| reason.contains(word)) {
        State::Held
    } else {
        state
    }
}
