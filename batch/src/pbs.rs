//! The PBS dialect: `qsub`, `qstat -f`, as Torque, OpenPBS and Slurm's wrappers (`slurm-wlm-torque`) speak it.

use crate::{BatchError, Command, Job, JobId, JobStatus, State, System, strange};

pub(crate) fn submit(job: &Job) -> Command {
    let mut wanted = format!("nodes=1:ppn={},walltime={}", job.cores, job.clock());
    if let Some(mib) = job.memory_mib {
        wanted.push_str(&format!(",mem={mib}mb"));
    }
    Command::new(["qsub"])
        .with("-N", job.name.as_str())
        .with("-o", job.output.as_str())
        .with("-j", "oe")
        .with("-r", "n")
        .with("-l", wanted)
        .with_some("-q", job.queue.as_ref())
        .with_some("-A", job.project.as_ref())
        .options(&job.options)
        .reading(job.script())
}

/// `12.server.example.org`, or `12`.
pub(crate) fn submitted(text: &str) -> Result<JobId, BatchError> {
    let line = text.trim().lines().next_back().unwrap_or_default();
    let bad = || strange(System::Pbs, line, "qsub prints a job id");
    JobId::parse(line.trim()).map_err(|_| bad())
}

pub(crate) fn status() -> Command {
    Command::new(["qstat", "-f"])
}

/// Jobs of one account: `qstat -f` takes no user in every dialect.
pub(crate) fn listed(text: &str, account: &str) -> Result<Vec<JobStatus>, BatchError> {
    let whole = unfolded(text);
    let mut jobs: Vec<(&str, Vec<(&str, &str)>)> = Vec::new();
    for line in whole.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let bad = || strange(System::Pbs, line, "qstat -f prints `Job Id: ID` and lines `name = value`");
        if let Some(id) = line.strip_prefix("Job Id:") {
            jobs.push((id.trim(), Vec::new()));
        } else {
            let pair = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            jobs.last_mut().ok_or_else(bad)?.1.push(pair.ok_or_else(bad)?);
        }
    }
    let own = |facts: &[(&str, &str)]| match fact(facts, "Job_Owner") {
        Some(owner) => owner.split('@').next() == Some(account),
        None => true,
    };
    jobs.iter().filter(|(_, facts)| own(facts)).map(|(id, facts)| status_of(id, facts)).collect()
}

/// Long values go on in the next line, after a tab. Slurm's wrappers begin each line with one.
fn unfolded(text: &str) -> String {
    let mut whole = String::with_capacity(text.len());
    for line in text.lines() {
        let goes_on = line.starts_with('\t') && !line.contains(" = ");
        if !goes_on {
            whole.push('\n');
        }
        whole.push_str(if goes_on { line.trim() } else { line });
    }
    whole
}

fn fact<'a>(facts: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    facts.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
}

fn status_of(id: &str, facts: &[(&str, &str)]) -> Result<JobStatus, BatchError> {
    let word = fact(facts, "job_state").unwrap_or_default();
    let line = format!("{id} job_state = {word}");
    let bad = || strange(System::Pbs, &line, "job_state is one of B C E F H M Q R S T U W X");
    let host = fact(facts, "exec_host").and_then(|hosts| hosts.split(['/', '+', ',']).next());
    let comment = fact(facts, "comment").map(|text| format!("{word} ({text})"));
    Ok(JobStatus {
        id: JobId::parse(id).map_err(|_| bad())?,
        name: fact(facts, "Job_Name").unwrap_or_default().to_owned(),
        state: state(word).ok_or_else(bad)?,
        host: host.filter(|host| !host.is_empty()).map(str::to_owned),
        why: comment.unwrap_or_else(|| word.to_owned()),
    })
}

/// The letters of qstat(1B).
fn state(word: &str) -> Option<State> {
    Some(match word {
        "Q" | "T" | "W" | "M" => State::Pending,
        "R" | "E" | "S" | "U" | "B" => State::Running,
        "H" => State::Held,
        "C" | "F" | "X" => State::Ended,
        _ => return None,
    })
}
