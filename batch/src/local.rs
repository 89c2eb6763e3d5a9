//! No batch system: each job is a session of processes on this host, found again by its last argument.

use crate::{BatchError, Command, Job, JobId, JobStatus, State, System, shell, strange};

/// How the command line of a job begins.
const START: &str = "/bin/sh -c ";

/// The shell stays, because the command runs in a child of it: its own arguments keep the name.
pub(crate) fn submit(job: &Job) -> Command {
    let body = format!("({}); exit $?", job.command.as_str());
    let script = format!(
        "setsid /bin/sh -c {} {} </dev/null >>{} 2>&1 &\necho $!\n",
        shell::quote(&body),
        job.name.as_str(),
        shell::quote(job.output.as_str())
    );
    Command::new(["/bin/sh", "-s"]).reading(script)
}

pub(crate) fn submitted(text: &str) -> Result<JobId, BatchError> {
    let line = text.trim();
    let number = !line.is_empty() && line.chars().all(|c| c.is_ascii_digit());
    let bad = || strange(System::Local, line, "the shell prints a process id");
    JobId::parse(line).ok().filter(|_| number).ok_or_else(bad)
}

pub(crate) fn status(account: &str) -> Command {
    Command::new(["ps", "-ww", "-u", account, "-o", "pid=,sid=,stat=,args="])
}

/// Leaders of sessions that began as jobs do; other processes of the account are none of ours.
pub(crate) fn listed(text: &str) -> Result<Vec<JobStatus>, BatchError> {
    let mut jobs = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bad = || strange(System::Local, line, "a line of ps is PID SID STAT ARGUMENTS");
        let mut rest = line;
        let mut word = || {
            let (first, after) = rest.trim_start().split_once(char::is_whitespace)?;
            rest = after;
            Some(first)
        };
        let (pid, session, stat) =
            (word().ok_or_else(bad)?, word().ok_or_else(bad)?, word().ok_or_else(bad)?);
        let id = JobId::parse(pid).map_err(|_| bad())?;
        let arguments = rest.trim();
        if pid != session || stat.starts_with('Z') || !arguments.starts_with(START) {
            continue;
        }
        let name = arguments.rsplit(' ').next().unwrap_or_default().to_owned();
        jobs.push(JobStatus { id, name, state: State::Running, host: None, why: stat.to_owned() });
    }
    Ok(jobs)
}

/// The whole session's first process group. What the command moved elsewhere ends by its own rules.
pub(crate) fn cancel(id: &str) -> Command {
    Command::new(["kill", "-TERM", "--", &format!("-{id}")])
}
