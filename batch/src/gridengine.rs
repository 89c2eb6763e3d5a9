//! Grid Engine: `qsub`, `qstat -xml` (the table cuts names).

use crate::{BatchError, Command, Job, JobId, JobStatus, State, System, strange};
use serde::Deserialize;

fn described(job: &Job, first: &[&str]) -> Result<Command, BatchError> {
    let mut limits = format!("h_rt={}", job.walltime);
    if let Some(mib) = job.memory_mib {
        limits.push_str(&format!(",mem_free={mib}M"));
    }
    let nodes = job.avoided();
    if !nodes.is_empty() {
        limits.push_str(&format!(",h=!({})", nodes.join("|")));
    }
    let command = Command::new(["qsub"].iter().chain(first).copied())
        .with("-N", job.name.as_str())
        .with("-o", job.output.as_str())
        .with("-j", "y")
        .with("-S", "/bin/sh")
        .with("-r", "n")
        .with("-l", limits);
    let command = match (&job.environment, job.cores) {
        (_, 0 | 1) => command,
        (Some(environment), cores) => {
            let mut command = command.with("-pe", environment.as_str());
            command.argv.push(cores.to_string());
            command
        }
        (None, cores) => {
            let reason =
                format!("{cores} cores need a parallel environment; name it (`qconf -spl` lists them)");
            return Err(BatchError::Unsayable { system: System::GridEngine, reason });
        }
    };
    let command = command.with_some("-q", job.queue.as_ref()).with_some("-P", job.project.as_ref());
    Ok(command.options(&job.options).reading(job.script()))
}

pub(crate) fn submit(job: &Job) -> Result<Command, BatchError> {
    described(job, &["-terse"])
}

/// Verifies against the empty cluster and submits nothing.
pub(crate) fn check(job: &Job) -> Result<Command, BatchError> {
    described(job, &["-w", "v"])
}

pub(crate) fn submitted(text: &str) -> Result<JobId, BatchError> {
    // Sites' wrappers may say something first.
    let line = text.trim().lines().next_back().unwrap_or_default();
    let bad = || strange(System::GridEngine, line, "qsub -terse prints a job id");
    JobId::parse(line.trim()).map_err(|_| bad())
}

pub(crate) fn status(account: &str) -> Command {
    Command::new(["qstat", "-xml", "-u", account])
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    queue_info: Jobs,
    #[serde(default)]
    job_info: Jobs,
}

#[derive(Default, Deserialize)]
struct Jobs {
    #[serde(default)]
    job_list: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "JB_job_number")]
    number: String,
    #[serde(rename = "JB_name")]
    name: String,
    #[serde(rename = "state", default)]
    states: Vec<String>,
    #[serde(default)]
    queue_name: String,
}

pub(crate) fn listed(text: &str) -> Result<Vec<JobStatus>, BatchError> {
    let expected = "qstat -xml prints job_info with queue_info and job_info";
    let bad = |_| strange(System::GridEngine, text, expected);
    let listing: Listing = quick_xml::de::from_str(text).map_err(bad)?;
    listing.queue_info.job_list.iter().chain(&listing.job_info.job_list).map(status_of).collect()
}

fn status_of(job: &Listed) -> Result<JobStatus, BatchError> {
    let word = job.states.last().map(String::as_str).unwrap_or_default();
    let line = format!("{} {} {word}", job.number, job.name);
    let bad = || strange(System::GridEngine, &line, "a job has a number and a state such as qw, r, Eqw, dr");
    let host = job.queue_name.split_once('@').map(|(_, host)| host.to_owned());
    Ok(JobStatus {
        id: JobId::parse(&job.number).map_err(|_| bad())?,
        name: job.name.clone(),
        state: state(word).ok_or_else(bad)?,
        host,
        why: word.to_owned(),
    })
}

/// The letters of qstat(1): `E`rror, `h`eld, `q`ueued, `w`aiting, `r`unning, `t`ransferring, `R`estarted, `d`eleted,
/// `s`uspended and its relatives.
fn state(word: &str) -> Option<State> {
    if word.is_empty() || !word.chars().all(|c| "EhqwrtRdsSTzP".contains(c)) {
        return None;
    }
    Some(match word {
        w if w.contains('z') => State::Ended,
        w if w.contains('E') || w.contains('h') => State::Held,
        w if w.contains(['r', 't', 's', 'S', 'T']) => State::Running,
        _ => State::Pending,
    })
}
