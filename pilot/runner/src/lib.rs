//! `pilot-runner`: runs one payload as the mapped account. `pilot run` starts it through `glexec`; people never do.
//!
//! It gets everything over its standard input ([`pilot_wire`]), makes a working directory ([`workdir`]), builds the
//! payload's environment ([`environment`]), starts and watches the payload ([`payload`], [`tree`]), packs its output
//! files ([`outputs`]), removes the working directory and its copy of the proxy, and exits with the payload's code.
//! The death of the agent shows as the end of the standard input and ends the payload too.
//!
//! It is a small program with one thread and one loop around poll(2) ([`conversation`]): one runs beside each payload.
//! What it must never do: trust the payload, whose account it shares; say anything but [`pilot_wire`] to the agent; link
//! what a payload does not need (`packaging/check-runner` holds its size and its dependencies). Its arguments mean
//! nothing to it: the pilot writes the user's command there, so that process lists and the site's record show it.

pub mod conversation;
pub mod environment;
mod limits;
pub mod outputs;
pub mod payload;
mod signals;
mod sys;
pub mod tree;
pub mod workdir;

use anyhow::{Context, Result, bail};
use conversation::{Agent, News};
use payload::Running;
use pilot_wire::api::{OutputSummary, PayloadSpec};
use pilot_wire::{EndCause, Ended, Frame, Start, Started, ToAgent, ToRunner, VERSION};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use workdir::Workdir;

/// How long the agent may take for its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);
/// Exit code: the runner could not do its work, and nothing ran.
const BROKEN: u8 = 3;

/// Runs the payload that the agent sends; returns the payload's code. `--version` as the first argument prints ours.
#[must_use]
pub fn run(argument: Option<&OsStr>) -> u8 {
    if argument == Some(OsStr::new("--version")) {
        let _ = writeln!(std::io::stdout(), "pilot-runner {} (wire {VERSION})", env!("CARGO_PKG_VERSION"));
        return 0;
    }
    // Other processes of the account must not read the proxy or the socket out of this one. Installed with mode 0711 it is
    // out of their reach from its first moment; this is for every other place.
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        complain(&format!("cannot protect itself (PR_SET_DUMPABLE): {e}"));
        return BROKEN;
    }
    serve().unwrap_or_else(|e| {
        complain(&format!("{e:#}"));
        BROKEN
    })
}

/// A line on standard error, which is the payload's log. It may be closed, and then there is nobody to tell.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "pilot-runner: {text}");
}

fn serve() -> Result<u8> {
    let signals = signals::Signals::install().context("cannot watch for signals")?;
    nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")?;
    let mut agent = Agent::on_standard_input(signals)?;
    let session = std::env::var("PILOT_SESSION").ok();
    agent.send(&ToAgent::Here { version: VERSION, session })?;
    let ToRunner::Start(start) = next_message(&mut agent, Some(Instant::now() + FIRST_MESSAGE))? else {
        bail!("the agent does not begin with Start");
    };
    if start.version != VERSION {
        bail!(
            "the agent speaks version {}, this runner {VERSION}: install both from one build",
            start.version
        );
    }
    let proxy = start.proxy_copy.clone().map(|path| ProxyCopy(path.into()));
    let ended = carry_out(&start, &mut agent)?;
    drop(proxy);
    Ok(ended.exit_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The next message before anything runs: then every signal, and the death of the agent, is a reason to leave.
fn next_message(agent: &mut Agent, until: Option<Instant>) -> Result<ToRunner> {
    Ok(next_frame(agent, until)?.message()?)
}

fn next_frame(agent: &mut Agent, until: Option<Instant>) -> Result<Frame> {
    loop {
        match agent.wait(until) {
            News::Frame(frame) => return Ok(frame),
            News::Hangup => bail!("the agent is gone"),
            News::Signal(number) if signals::asks_for_the_end(number) => {
                bail!("ended by signal {number} before the payload started")
            }
            News::Signal(_) => (),
            News::Time => bail!("the agent says nothing"),
        }
    }
}

/// Stages in, runs, stages out. The working directory is gone before the last message leaves.
fn carry_out(start: &Start, agent: &mut Agent) -> Result<Ended> {
    let (workdir, spec) = match prepare(start, agent) {
        Ok(staged) => staged,
        Err(e) => {
            let ended = not_started(None, EndCause::Setup, format!("{e:#}"));
            agent.send(&ToAgent::Ended(ended.clone()))?;
            agent.send(&ToAgent::Done)?;
            return Ok(ended);
        }
    };
    let ended = execute(start, &spec, &workdir, agent);
    // A dead agent must not keep the rest from being cleaned up.
    if agent.send(&ToAgent::Ended(ended.clone())).is_ok() && !spec.outputs.is_empty() {
        let summary = stage_out(&spec, workdir.path(), agent);
        agent.send(&ToAgent::Packed(summary)).ok();
    }
    drop(workdir);
    agent.send(&ToAgent::Done).ok();
    Ok(ended)
}

fn not_started(exit_code: Option<i32>, cause: EndCause, reason: String) -> Ended {
    Ended { exit_code, cause, reason: Some(reason), wall_ms: 0, cpu_ms: 0, limit: None }
}

fn prepare(start: &Start, agent: &mut Agent) -> Result<(Workdir, PayloadSpec)> {
    let spec = PayloadSpec::parse(start.spec.clone())?;
    Ok((stage_in(start, agent)?, spec))
}

fn stage_in(start: &Start, agent: &mut Agent) -> Result<Workdir> {
    let workdir = Workdir::create(&base(start, |name| std::env::var_os(name)), start.attempt)?;
    loop {
        match next_message(agent, None)? {
            ToRunner::File { path, mode, size } => receive(&workdir, &path, mode, size, agent)?,
            ToRunner::Go => return Ok(workdir),
            ToRunner::Stop { .. } => bail!("stopped before the payload started"),
            ToRunner::Start(_) => bail!("the agent started twice"),
        }
    }
}

/// Where the working directory goes. What lies in the session's own directory goes with the session, even when this runner
/// cannot clean up.
fn base(start: &Start, own: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let place =
        own("GLEXEC_WORK_DIR").or_else(|| start.scratch.clone().map(Into::into)).or_else(|| own("TMPDIR"));
    place.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from)
}

fn receive(workdir: &Workdir, path: &str, mode: u32, size: u64, agent: &mut Agent) -> Result<()> {
    let mut file = workdir.create_file(path, mode)?;
    let mut missing = size;
    while missing > 0 {
        let Frame::Data(bytes) = next_frame(agent, None)? else { bail!("input file {path:?} was cut short") };
        missing = missing.checked_sub(bytes.len() as u64).context("more input than announced")?;
        file.write(&bytes)?;
    }
    file.finish()
}

fn execute(start: &Start, spec: &PayloadSpec, workdir: &Workdir, agent: &mut Agent) -> Ended {
    let end = limits::End::of(spec, start.slot_end);
    let mut site_env = start.site_env.clone();
    site_env.extend(end.epoch().map(|at| ("PILOT_END_TIME".to_owned(), at.to_string())));
    let env = environment::build(|name| std::env::var_os(name), workdir.path(), &spec.env, &site_env);
    let pid = match payload::spawn(&spec.command, &env, workdir.path()) {
        Ok(pid) => pid,
        Err(refusal) => {
            let _ = writeln!(std::io::stderr(), "pilot: {}", refusal.reason);
            return not_started(refusal.exit_code, refusal.cause, refusal.reason);
        }
    };
    let running = Running::new(pid, start, spec, workdir.path(), end.warning(spec));
    // If the agent is gone, the watch sees the end of the stream and ends the payload.
    agent.send(&ToAgent::Started(started(pid.as_raw(), workdir.path(), &env))).ok();
    running.watch(agent)
}

/// The account's name comes from `glexec`, which looked it up: a look-up here would load the site's name services once for
/// each payload.
fn started(pid: i32, workdir: &Path, env: &BTreeMap<OsString, OsString>) -> Started {
    let uid = nix::unistd::geteuid();
    let text = |name: &str| Some(env.get(OsStr::new(name))?.to_string_lossy().into_owned());
    Started {
        account: std::env::var("LOGNAME")
            .ok()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| uid.to_string()),
        uid: uid.as_raw(),
        session: text("PILOT_SESSION"),
        pid: u32::try_from(pid).unwrap_or(0),
        workdir: workdir.display().to_string(),
    }
}

/// Streams the tar of the output files to the agent; whatever goes wrong is told in the summary.
fn stage_out(spec: &PayloadSpec, workdir: &Path, agent: &mut Agent) -> OutputSummary {
    let packed = spec
        .patterns()
        .map_err(anyhow::Error::from)
        .and_then(|patterns| outputs::pack(workdir, &patterns, agent));
    packed.unwrap_or_else(|e| {
        let mut summary = OutputSummary { broken: true, ..OutputSummary::default() };
        summary.note(&format!("{e:#}"));
        summary
    })
}

/// The payload's copy of the proxy; removed when dropped.
struct ProxyCopy(PathBuf);

impl Drop for ProxyCopy {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                complain(&format!("cannot remove {}: {e}", self.0.display()));
            }
            _ => (),
        }
    }
}
