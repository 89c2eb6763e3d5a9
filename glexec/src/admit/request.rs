//! From argv and environment to a typed request. Pure: nothing is opened here.
//!
//! The rules are gLExec's (manual page glexec(1) of version 0.9, and what its clients rely on):
//! identity from `GLEXEC_CLIENT_CERT`, else the legacy text in `SSL_CLIENT_CERT`; source proxy the same unless
//! `GLEXEC_SOURCE_PROXY` names another; an empty value is a mistake and never means "unset".

use crate::failure::shown;
use nix::sys::signal::Signal;
use policy::ports::PortRange;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, PathBuf};
use std::time::Duration;

/// What the caller wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Invocation {
    /// `-h`
    Help,
    /// `-v`
    Version,
    /// `-V`
    Defaults,
    /// Run or refresh.
    Run(Box<Request>),
    /// Act on a session that this caller opened.
    Session(SessionCall),
    /// `glexec --port-blocks PORT`: hand out the host's blocks of ports from this one on.
    PortBlocks(u16),
}

/// `glexec --session ID ...`: needs no credential, so it works after the proxy has expired or is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct SessionCall {
    /// The session's id, `PILOT_SESSION` of the payload.
    pub id: String,
    /// What to do.
    pub action: Action,
}

/// What can be done to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Tell how it stands.
    Status,
    /// Pass a signal to the payload's first process.
    Signal(i32),
    /// End every process.
    Kill,
    /// As `Kill`, then wait until the session is closed and prove that nothing is left.
    End,
}

/// A request to run something, or to refresh the target proxy when there is no command.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// The command; `None` only writes the target proxy.
    pub command: Option<Command>,
    /// Who the payload's user is.
    pub identity: CredentialSource,
    /// What the payload gets as its proxy.
    pub source: CredentialSource,
    /// Where it gets it.
    pub target: Target,
    /// `GLEXEC_ID`: the caller's name for this call.
    pub id: Option<String>,
    /// Limits that come with the call; they only ever tighten what the site allows.
    pub limits: Limits,
    /// `GLEXEC_END_WITH_CALLER=1`: as `[payload] end_with_caller`, for this call.
    pub end_with_caller: bool,
    /// `GLEXEC_SESSION_FD`: the descriptor on which the caller wants to be told the session's id.
    pub session_fd: Option<i32>,
    /// `GLEXEC_PORTS`: the ports that the caller leased for the payload, `40000-40009`.
    pub ports: Option<PortRange>,
    /// `GLEXEC_WORK_DIR`: made for the payload as its account, removed at the end of the session.
    pub work_dir: Option<PathBuf>,
    /// What the caller says about the work; see [`record::claim`].
    pub claimed: Option<Box<record::Claimed>>,
    /// Under which name the pilot registered, as the caller says.
    pub pilot_dn: Option<String>,
}

/// What a payload may use: `GLEXEC_LIMIT_WALLTIME`, `_CPU` (seconds), `_MEMORY` (bytes), `_PIDS`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// From the start of the payload.
    pub walltime: Option<Duration>,
    /// Of all its processes.
    pub cpu: Option<Duration>,
    /// Of all its processes, bytes.
    pub memory: Option<u64>,
    /// Processes and threads at a time.
    pub pids: Option<u64>,
}

/// The payload's program and arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Path as typed; also `argv[0]`.
    pub program: OsString,
    /// The rest.
    pub arguments: Vec<OsString>,
}

/// Where a credential comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// A file.
    File(PathBuf),
    /// The text itself (`SSL_CLIENT_CERT`).
    Text(Vec<u8>),
}

/// Where the payload's proxy goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/tmp/x509up_u<uid>` of the payload's account.
    Default,
    /// `/dev/null`: no copy.
    Nowhere,
    /// This path.
    File(PathBuf),
}

/// Real-time signals that programs may use; the C library keeps 32 and 33.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Signals that `--signal` knows by name. Whoever signals the process itself may send any, and all but SIGCHLD are passed on.
const FORWARDED: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// Names whose repetition with another value would let two readers see two requests.
const SENSITIVE: [&str; 14] = [
    "GLEXEC_CLIENT_CERT",
    "GLEXEC_SOURCE_PROXY",
    "GLEXEC_TARGET_PROXY",
    "GLEXEC_MODE",
    "SSL_CLIENT_CERT",
    "X509_USER_PROXY",
    "GLEXEC_WORK_DIR",
    "GLEXEC_LIMIT_WALLTIME",
    "GLEXEC_LIMIT_CPU",
    "GLEXEC_LIMIT_MEMORY",
    "GLEXEC_LIMIT_PIDS",
    "GLEXEC_END_WITH_CALLER",
    "GLEXEC_SESSION_FD",
    "GLEXEC_PORTS",
];

/// Reads the request. The error says what is wrong and what to do; the exit code is 201.
pub fn parse(argv: &[OsString], environment: &[(OsString, OsString)]) -> Result<Invocation, String> {
    let arguments = argv.get(1..).unwrap_or_default();
    match arguments.first().and_then(|a| a.to_str()) {
        Some("-h" | "--help") => return Ok(Invocation::Help),
        Some("-v" | "--version") => return Ok(Invocation::Version),
        Some("-V") => return Ok(Invocation::Defaults),
        Some("--session") => return session_call(&arguments[1..]).map(Invocation::Session),
        Some("--port-blocks") => return port_blocks(&arguments[1..]).map(Invocation::PortBlocks),
        _ => {}
    }
    let command = command(arguments)?;
    let env = Environment::new(environment)?;
    let identity = identity(&env)?;
    let source = match env.get("GLEXEC_SOURCE_PROXY") {
        Some(path) => CredentialSource::File(non_empty("GLEXEC_SOURCE_PROXY", path)?.into()),
        None => identity.clone(),
    };
    let target = match env.get("GLEXEC_TARGET_PROXY") {
        None => Target::Default,
        Some(path) if path == "/dev/null" => Target::Nowhere,
        Some(path) => Target::File(non_empty("GLEXEC_TARGET_PROXY", path)?.into()),
    };
    match env.get("GLEXEC_MODE").map(OsStr::to_string_lossy).as_deref() {
        None | Some("" | "lcmaps_get_account" | "lcmaps_verify_account") => {}
        Some(_) => return Err("GLEXEC_MODE is unknown; unset it or write lcmaps_get_account".into()),
    }
    let id = env.get("GLEXEC_ID").map(|id| record::text::printable(id.as_bytes(), 256));
    let work_dir = env.get("GLEXEC_WORK_DIR").map(work_dir).transpose()?;
    let limits = limits(&env)?;
    let end_with_caller = match env.get("GLEXEC_END_WITH_CALLER").map(OsStr::as_bytes) {
        None | Some(b"0") => false,
        Some(b"1") => true,
        Some(_) => return Err("GLEXEC_END_WITH_CALLER is neither 0 nor 1".into()),
    };
    let session_fd = session_fd(&env)?;
    let ports = env.get("GLEXEC_PORTS").map(ports).transpose()?;
    let said = |name: &str| env.get(name).map(OsStr::as_bytes);
    let (claimed, pilot_dn) = (record::claim::work(said).map(Box::new), record::claim::pilot_dn(said));
    Ok(Invocation::Run(Box::new(Request {
        command,
        identity,
        source,
        target,
        id,
        limits,
        end_with_caller,
        session_fd,
        ports,
        work_dir,
        claimed,
        pilot_dn,
    })))
}

fn limits(env: &Environment<'_>) -> Result<Limits, String> {
    let number = |name: &str| match env.get(name) {
        None => Ok(None),
        Some(text) => {
            let found = text.to_str().filter(|t| t.bytes().all(|c| c.is_ascii_digit()));
            let found = found.and_then(|t| t.parse::<u64>().ok()).filter(|n| *n > 0);
            found.map(Some).ok_or_else(|| format!("{name} must be a whole number above 0, without a unit"))
        }
    };
    let seconds = |name: &str| number(name).map(|n| n.map(Duration::from_secs));
    Ok(Limits {
        walltime: seconds("GLEXEC_LIMIT_WALLTIME")?,
        cpu: seconds("GLEXEC_LIMIT_CPU")?,
        memory: number("GLEXEC_LIMIT_MEMORY")?,
        pids: number("GLEXEC_LIMIT_PIDS")?,
    })
}

/// The number of the descriptor in `GLEXEC_SESSION_FD`; also asked before descriptors are closed, when all else is unread.
pub(crate) fn session_fd_of(variables: &[(OsString, OsString)]) -> Option<i32> {
    session_fd(&Environment(variables)).ok().flatten()
}

fn session_fd(env: &Environment<'_>) -> Result<Option<i32>, String> {
    let Some(text) = env.get("GLEXEC_SESSION_FD") else { return Ok(None) };
    let number = text.to_str().filter(|t| t.bytes().all(|c| c.is_ascii_digit())).and_then(|t| t.parse().ok());
    let number = number.filter(|n| *n > 2);
    number
        .map(Some)
        .ok_or_else(|| "GLEXEC_SESSION_FD must be the number of an open descriptor above 2".into())
}

fn session_call(arguments: &[OsString]) -> Result<SessionCall, String> {
    let words: Option<Vec<&str>> = arguments.iter().map(|a| a.to_str()).collect();
    let usage = || "write --session ID and --status, --signal NAME, --kill or --end".to_owned();
    let (id, action) = match words.as_deref() {
        Some([id, "--status"]) => (id, Action::Status),
        Some([id, "--signal", name]) => (id, Action::Signal(signal(name)?)),
        Some([id, "--kill"]) => (id, Action::Kill),
        Some([id, "--end"]) => (id, Action::End),
        _ => return Err(usage()),
    };
    let well_formed = id.len() == 36 && id.bytes().all(|c| c.is_ascii_hexdigit() || c == b'-');
    if well_formed { Ok(SessionCall { id: (*id).to_owned(), action }) } else { Err(usage()) }
}

fn port_blocks(arguments: &[OsString]) -> Result<u16, String> {
    let port = match arguments {
        [port] => port.to_str().filter(|text| text.bytes().all(|c| c.is_ascii_digit())),
        _ => None,
    };
    port.and_then(|text| text.parse().ok())
        .ok_or_else(|| "write --port-blocks PORT, a number up to 65535".into())
}

/// `TERM`, `SIGTERM`, `15`, or a real-time signal by its number; `KILL` has an option of its own.
fn signal(name: &str) -> Result<i32, String> {
    let long = format!("SIG{}", name.trim_start_matches("SIG"));
    let number: Option<i32> = name.parse().ok();
    let real_time = number.filter(|n| REAL_TIME.contains(n));
    let named = number.and_then(|n| Signal::try_from(n).ok()).or_else(|| long.parse().ok());
    let named = named.filter(|s| FORWARDED.contains(s)).map(|s| s as i32);
    real_time.or(named).ok_or_else(|| {
        let names: Vec<_> = FORWARDED.iter().map(|s| &s.as_str()[3..]).collect();
        format!(
            "signal {name:?} cannot be passed on; use {}, a number from 34 to 64, or --kill",
            names.join(", ")
        )
    })
}

fn ports(text: &OsStr) -> Result<PortRange, String> {
    PortRange::parse(&text.to_string_lossy()).map_err(|e| format!("GLEXEC_PORTS: {e}"))
}

/// It stands in root's state file and in logs, so it must be plain.
fn work_dir(path: &OsStr) -> Result<PathBuf, String> {
    let path = PathBuf::from(non_empty("GLEXEC_WORK_DIR", path)?);
    let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    let printable = path.as_os_str().as_bytes().iter().all(|c| (0x21..=0x7e).contains(c));
    if path.is_absolute() && path.parent().is_some() && plain && printable {
        Ok(path)
    } else {
        Err("GLEXEC_WORK_DIR must be an absolute path without '..', blanks or special characters".into())
    }
}

fn command(arguments: &[OsString]) -> Result<Option<Command>, String> {
    let arguments = match arguments.split_first() {
        Some((dashes, rest)) if dashes == "--" => rest,
        _ => arguments,
    };
    let Some((program, rest)) = arguments.split_first() else {
        return Ok(None);
    };
    if program.as_bytes().starts_with(b"-") {
        return Err(format!("unknown option {:?}; see glexec -h", shown(program)));
    }
    if !program.as_bytes().contains(&b'/') {
        return Err("the command needs a path: PATH is not searched".into());
    }
    Ok(Some(Command { program: program.clone(), arguments: rest.to_vec() }))
}

fn identity(env: &Environment<'_>) -> Result<CredentialSource, String> {
    if let Some(path) = env.get("GLEXEC_CLIENT_CERT") {
        return Ok(CredentialSource::File(non_empty("GLEXEC_CLIENT_CERT", path)?.into()));
    }
    match env.get("SSL_CLIENT_CERT") {
        Some(text) => Ok(CredentialSource::Text(non_empty("SSL_CLIENT_CERT", text)?.as_bytes().to_vec())),
        None => Err("no credential: set GLEXEC_CLIENT_CERT to the path of the payload user's proxy".into()),
    }
}

fn non_empty<'a>(name: &str, value: &'a OsStr) -> Result<&'a OsStr, String> {
    if value.is_empty() {
        Err(format!("{name} is set but empty; unset it or give it a value"))
    } else {
        Ok(value)
    }
}

/// The environment, of which the first of several equal names counts, as `getenv(3)` has it.
struct Environment<'a>(&'a [(OsString, OsString)]);

impl<'a> Environment<'a> {
    fn new(variables: &'a [(OsString, OsString)]) -> Result<Self, String> {
        for name in SENSITIVE {
            let mut values = variables.iter().filter(|(n, _)| n == name).map(|(_, v)| v);
            let first = values.next();
            if values.any(|value| Some(value) != first) {
                return Err(format!("{name} stands twice in the environment with different values"));
            }
        }
        Ok(Self(variables))
    }

    fn get(&self, name: &str) -> Option<&'a OsStr> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_os_str())
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
