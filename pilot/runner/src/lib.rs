//! `pilot runner`: runs one payload as the mapped account. `pilot run` starts it through `glexec`; people never do.
//!
//! It gets everything over its standard input ([`pilot_wire`]), makes a working directory ([`workdir`]), builds the
//! payload's environment ([`environment`]), starts and watches the payload ([`payload`], [`tree`]), packs its output
//! files ([`outputs`]), removes the working directory and its copy of the proxy, and exits with the payload's code.
//! The death of the agent shows as the end of the standard input and ends the payload too.

pub mod environment;
pub mod outputs;
mod payload;
mod tree;
pub mod workdir;

use anyhow::{Context, Result, bail};
use payload::{Running, Signals};
use pilot_wire::{Cause, Ended, Frame, Patterns, Start, Started, ToAgent, ToRunner, proxy_copy};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use workdir::Workdir;

/// How long the agent may take for its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);

/// `pilot runner` has no options: it gets everything from `pilot run`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the payload that the agent sends; exits with the payload's code.
pub fn run(_args: Args) -> ExitCode {
    // Other processes of the account must not read the proxy or the socket out of this one.
    if let Err(e) = nix::sys::prctl::set_dumpable(false) {
        eprintln!("pilot runner: cannot protect itself (PR_SET_DUMPABLE): {e}");
        return ExitCode::from(3);
    }
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(serve()));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("pilot runner: {e:#}");
            ExitCode::from(3)
        }
    }
}

/// The agent's end of the conversation.
struct Agent {
    frames: mpsc::Receiver<Frame>,
    to: OwnedWriteHalf,
}

impl Agent {
    fn connect() -> Result<Self> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is closed")?;
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.local_addr().context("standard input is no socket: only \"pilot run\" starts this command")?;
        socket.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(socket)?.into_split();
        let (sender, frames) = mpsc::channel(8);
        tokio::spawn(forward(from, sender));
        Ok(Self { frames, to })
    }

    async fn message(&mut self) -> Result<ToRunner> {
        let frame = self.frames.recv().await.context("the agent is gone")?;
        Ok(frame.message()?)
    }

    async fn send(&mut self, message: &ToAgent) -> Result<()> {
        pilot_wire::send(&mut self.to, message).await.context("the agent is gone")
    }
}

/// Reads frames until the end of the stream; an unreadable frame ends it too.
async fn forward(mut from: OwnedReadHalf, to: mpsc::Sender<Frame>) {
    loop {
        match pilot_wire::receive(&mut from).await {
            Ok(Some(frame)) => {
                if to.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(e) => return eprintln!("pilot runner: {e}"),
        }
    }
}

async fn serve() -> Result<u8> {
    let mut signals = Signals::install()?;
    nix::sys::prctl::set_child_subreaper(true).context("cannot become a subreaper")?;
    let mut agent = Agent::connect()?;
    agent.send(&ToAgent::Here { session: std::env::var("PILOT_SESSION").ok() }).await?;
    let first = tokio::time::timeout(FIRST_MESSAGE, agent.message()).await;
    let ToRunner::Start(start) = first.context("the agent says nothing")?? else {
        bail!("the agent does not begin with Start");
    };
    if start.version != pilot_wire::VERSION {
        bail!(
            "the agent speaks version {}, this runner {}: install both from one build",
            start.version,
            pilot_wire::VERSION
        );
    }
    let proxy = ProxyCopy::of(&start);
    let ended = carry_out(&start, &mut signals, &mut agent).await?;
    drop(proxy);
    Ok(ended.exit_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Stages in, runs, stages out. The working directory is gone before the last message leaves.
async fn carry_out(start: &Start, signals: &mut Signals, agent: &mut Agent) -> Result<Ended> {
    let staged = tokio::select! {
        staged = stage_in(start, agent) => staged,
        () = signals.end.received() => bail!("ended by a signal before the payload started"),
    };
    let (workdir, patterns) = match staged {
        Ok(staged) => staged,
        Err(e) => {
            let ended = not_started(None, Cause::Setup, format!("{e:#}"));
            agent.send(&ToAgent::Ended(ended.clone())).await?;
            agent.send(&ToAgent::Done).await?;
            return Ok(ended);
        }
    };
    let ended = execute(start, &workdir, signals, agent).await;
    // A dead agent must not keep the rest from being cleaned up.
    let told = agent.send(&ToAgent::Ended(ended.clone())).await.is_ok();
    if told
        && !patterns.is_empty()
        && let Err(e) = stage_out(workdir.path(), patterns, agent).await
    {
        eprintln!("pilot runner: {e:#}");
    }
    drop(workdir);
    agent.send(&ToAgent::Done).await.ok();
    Ok(ended)
}

fn not_started(exit_code: Option<i32>, cause: Cause, reason: String) -> Ended {
    Ended { exit_code, cause, reason: Some(reason), wall_ms: 0, cpu_ms: 0 }
}

async fn stage_in(start: &Start, agent: &mut Agent) -> Result<(Workdir, Patterns)> {
    // What lies in the session's own directory goes with the session, even when this runner cannot clean up.
    let base = ["GLEXEC_WORK_DIR", "TMPDIR"].into_iter().find_map(std::env::var_os);
    let base = base.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    let workdir = Workdir::create(&base, start.attempt)?;
    let patterns = Patterns::parse(&start.outputs).map_err(anyhow::Error::msg)?;
    loop {
        match agent.message().await? {
            ToRunner::File { path, mode, size } => {
                let mut file = workdir.create_file(&path, mode)?;
                let mut missing = size;
                while missing > 0 {
                    let Some(Frame::Data(bytes)) = agent.frames.recv().await else {
                        bail!("input file {path:?} was cut short");
                    };
                    missing = missing.checked_sub(bytes.len() as u64).context("more input than announced")?;
                    file.write(&bytes)?;
                }
                file.finish()?;
            }
            ToRunner::Go => return Ok((workdir, patterns)),
            ToRunner::Stop { .. } => bail!("stopped before the payload started"),
            ToRunner::Start(_) => bail!("the agent started twice"),
        }
    }
}

async fn execute(start: &Start, workdir: &Workdir, signals: &mut Signals, agent: &mut Agent) -> Ended {
    let own = |name: &str| std::env::var(name).ok();
    let env = environment::build(own, &workdir.path().display().to_string(), &start.env, &start.site_env);
    let pid = match payload::spawn(start, &env, workdir.path()) {
        Ok(pid) => pid,
        Err((code, reason)) => {
            eprintln!("pilot: {reason}");
            return not_started(Some(code), Cause::Exited, reason);
        }
    };
    let running = Running::new(pid);
    // If the agent is gone, the watch sees the end of the stream and ends the payload.
    agent.send(&ToAgent::Started(started(pid.as_raw(), workdir.path(), &env))).await.ok();
    running.watch(start, signals, &mut agent.frames).await
}

fn started(pid: i32, workdir: &Path, env: &BTreeMap<String, String>) -> Started {
    let uid = nix::unistd::geteuid();
    let account =
        nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    Started {
        account,
        uid: uid.as_raw(),
        session: env.get("PILOT_SESSION").cloned(),
        pid: u32::try_from(pid).unwrap_or(0),
        workdir: workdir.display().to_string(),
    }
}

/// Streams the tar of the output files to the agent.
async fn stage_out(workdir: &Path, patterns: Patterns, agent: &mut Agent) -> Result<()> {
    let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(4);
    let workdir = workdir.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let to = std::io::BufWriter::with_capacity(pilot_wire::CHUNK, ToChannel(sender));
        outputs::pack(&workdir, &patterns, to)
    });
    while let Some(chunk) = chunks.recv().await {
        pilot_wire::send_data(&mut agent.to, &chunk).await.context("the agent is gone")?;
    }
    packing.await.context("packing failed")??;
    Ok(())
}

struct ToChannel(mpsc::Sender<Vec<u8>>);

impl Write for ToChannel {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(bytes.to_vec())
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The payload's copy of the proxy; removed when dropped.
struct ProxyCopy(PathBuf);

impl ProxyCopy {
    fn of(start: &Start) -> Self {
        Self(proxy_copy(start.attempt))
    }
}

impl Drop for ProxyCopy {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                eprintln!("pilot runner: cannot remove {}: {e}", self.0.display());
            }
            _ => (),
        }
    }
}
