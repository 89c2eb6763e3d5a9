//! Starts the runner: through `glexec`, which switches to the user's own account, or directly with `--no-switch`.

use super::conversation::pair;
use super::lease::{GRACE, PACKING};
use super::node::Account;
use super::runner::Runner;
use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use pilot_api::RawSpec;
use policy::ports::PortRange;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use uuid::Uuid;

/// How payloads get their account.
#[derive(Debug, Clone)]
pub enum Switch {
    /// By this program.
    Glexec(PathBuf),
    /// They keep the pilot's.
    None,
}

/// Everything needed to start one runner.
pub struct Launch<'a> {
    /// How to switch.
    pub switch: &'a Switch,
    /// What to start.
    pub runner: &'a Runner,
    /// The attempt.
    pub attempt: Uuid,
    /// What the user wants run: `glexec` notes it in the site's record, and holds its limits.
    pub spec: &'a RawSpec,
    /// The payload's proxy, in the agent's private directory.
    pub payload_proxy: PathBuf,
    /// The pilot's own proxy, which mapping services want to see.
    pub pilot_proxy: &'a Path,
    /// The pilot's account.
    pub account: &'a Account,
    /// The batch job around the pilot, where no variable tells it.
    pub batch_job: Option<&'a str>,
    /// Directory for working directories.
    pub scratch: &'a Path,
    /// The payload's ports: `glexec` keeps it to them.
    pub ports: Option<PortRange>,
}

/// By these variables batch systems tell a job who it is; `glexec` notes them in the site's record.
const BATCH: [&str; 18] = [
    "SLURM_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_USER",
    "SLURM_JOB_PARTITION",
    "OAR_JOB_ID",
    "OAR_ARRAY_INDEX",
    "OAR_USER",
    "OAR_QUEUE",
    "PBS_JOBID",
    "PBS_ARRAY_INDEX",
    "PBS_O_LOGNAME",
    "PBS_QUEUE",
    "LSB_JOBID",
    "LSFUSER",
    "LSB_QUEUE",
    "JOB_ID",
    "SGE_TASK_ID",
    "SGE_O_LOGNAME",
];
/// Longest command that is told to `glexec`, in bytes; the record cuts it further.
const LONGEST_COMMAND: usize = 16 << 10;

/// At least so fast does a runner take its input, in bytes per second; what `glexec` holds must not cut a slow node short.
const SLOWEST_INPUT: u64 = 20 << 20;
/// Beyond the payload's own limits: `glexec` only acts where the runner, which the payload can stop, does not.
const MARGIN: Duration = Duration::from_secs(30);
const MEMORY_MARGIN: u64 = 64 << 20;

/// Held while a child is started that inherits a descriptor beside its three: no other child may get it.
static STARTING: Mutex<()> = Mutex::new(());

/// To be held by whoever starts a program.
pub fn starting() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A started runner and the agent's end of its standard input.
pub struct Started {
    /// The program that can end the session without the user's proxy.
    pub glexec: Option<PathBuf>,
    /// `glexec`, or the runner itself.
    pub child: Child,
    /// Speaks [`pilot_wire`].
    pub socket: UnixStream,
    /// On which `glexec` says the id of the session.
    pub session: Option<tokio::net::unix::pipe::Receiver>,
}

impl Launch<'_> {
    /// Starts it.
    pub fn start(&self) -> Result<Started> {
        let (socket, theirs) = pair()?;
        let mut command = match self.switch {
            Switch::Glexec(glexec) => {
                let mut command = Command::new(glexec);
                command.arg(self.runner.path());
                command
            }
            Switch::None => {
                copy_proxy(&self.payload_proxy, &self.proxy_copy())?;
                let mut command = Command::new(self.runner.handle());
                command.arg0("pilot-runner");
                command
            }
        };
        command.args(self.runner.arguments()).env_clear().envs(self.environment()).current_dir("/");
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.as_std().get_program().to_owned();
        let cannot = || format!("cannot start {}", program.display());
        let Switch::Glexec(glexec) = self.switch else {
            let _alone = starting();
            let child = command.spawn().with_context(cannot)?;
            return Ok(Started { glexec: None, child, socket, session: None });
        };
        let _alone = starting();
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).with_context(cannot)?;
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))
            .with_context(cannot)?;
        command.env("GLEXEC_SESSION_FD", write.as_raw_fd().to_string());
        let child = command.spawn().with_context(cannot)?;
        let session = tokio::net::unix::pipe::Receiver::from_owned_fd(read).with_context(cannot)?;
        Ok(Started { glexec: Some(glexec.clone()), child, socket, session: Some(session) })
    }

    /// Limits that the payload cannot reach: `glexec`'s supervisor and the session's cgroup hold them.
    fn limits(&self) -> Vec<(&'static str, String)> {
        let mut limits = vec![("GLEXEC_END_WITH_CALLER", "1".to_owned())];
        if let Some(walltime) = self.spec.walltime {
            let input: u64 = self.spec.inputs.iter().fold(0, |sum, input| sum.saturating_add(input.size));
            let beyond = GRACE + PACKING + MARGIN;
            let whole = walltime.saturating_add(beyond.as_secs()).saturating_add(input / SLOWEST_INPUT);
            limits.push(("GLEXEC_LIMIT_WALLTIME", whole.to_string()));
        }
        if let Some(memory) = self.spec.memory {
            let whole = memory.saturating_add(memory / 4).saturating_add(MEMORY_MARGIN);
            limits.push(("GLEXEC_LIMIT_MEMORY", whole.to_string()));
        }
        limits
    }

    /// Where the payload finds its proxy without a switch; with one, `glexec` makes the copy in the session's directory.
    fn proxy_copy(&self) -> PathBuf {
        self.scratch.join(format!("pilotage-proxy-{}.pem", self.attempt))
    }

    /// The same for the runner, which removes the copy.
    pub fn removable_proxy(&self) -> Option<String> {
        matches!(self.switch, Switch::None).then(|| self.proxy_copy().display().to_string())
    }

    /// What the child finds. The pilot's own environment stays with the pilot.
    fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        // The session's directory, with the payload's proxy in it, is glexec's to make and to remove.
        let work_dir = text(&self.scratch.join(format!("pilotage-session-{}", self.attempt)));
        let mut env = vec![
            ("HOME", self.account.home.clone()),
            ("USER", self.account.name.clone()),
            ("LOGNAME", self.account.name.clone()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ];
        match self.switch {
            Switch::None => env.push(("X509_USER_PROXY", text(&self.proxy_copy()))),
            Switch::Glexec(_) => {
                env.extend([
                    ("X509_USER_PROXY", text(self.pilot_proxy)),
                    ("GLEXEC_CLIENT_CERT", text(&self.payload_proxy)),
                    ("GLEXEC_SOURCE_PROXY", text(&self.payload_proxy)),
                    ("GLEXEC_TARGET_PROXY", format!("{work_dir}/proxy.pem")),
                    ("GLEXEC_WORK_DIR", work_dir),
                    ("GLEXEC_ID", self.attempt.to_string()),
                    ("GLEXEC_PAYLOAD_COMMAND", told_command(&self.spec.command)),
                    ("GLEXEC_PAYLOAD_CPUS", self.spec.cores.to_string()),
                ]);
                env.extend(self.limits());
                env.extend(self.ports.map(|ports| ("GLEXEC_PORTS", ports.to_string())));
                env.extend(self.batch_job.map(|job| ("GLEXEC_BATCH_JOB", job.to_owned())));
                let own_name = std::fs::read(self.pilot_proxy).ok().and_then(|pem| crate::own_name::of(&pem));
                env.extend(own_name.map(|name| ("GLEXEC_PILOT_DN", name)));
            }
        }
        env.extend(BATCH.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))));
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Removes what a runner may have left behind when it could not clean up itself.
    pub fn clean_up(&self) {
        if matches!(self.switch, Switch::None) {
            std::fs::remove_file(self.proxy_copy()).ok();
        }
    }
}

/// The words of the command, separated as `docs/accounting.md` says; not longer than anybody reads.
fn told_command(command: &[String]) -> String {
    let mut told = String::new();
    for (number, word) in command.iter().enumerate() {
        if number > 0 {
            told.push('\u{1f}');
        }
        told.extend(word.chars().map(|c| if c == '\u{1f}' { ' ' } else { c }));
        if told.len() > LONGEST_COMMAND {
            let end = (0..=LONGEST_COMMAND).rev().find(|end| told.is_char_boundary(*end)).unwrap_or(0);
            told.truncate(end);
            break;
        }
    }
    told
}

fn copy_proxy(from: &Path, to: &Path) -> Result<()> {
    let text = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_secret(to, &text)
}

/// Makes a file that nobody else can read and that was not there before.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn environment(switch: &Switch) -> BTreeMap<String, String> {
        let account = Account { name: "pilot".into(), home: "/home/pilot".into() };
        let spec: RawSpec = serde_json::from_str(
            r#"{"command":["./run.sh","a\u001fb"],"cores":2,"walltime":60,"memory":400}"#,
        )
        .unwrap();
        Launch {
            switch,
            runner: &Runner::for_tests(),
            attempt: Uuid::nil(),
            spec: &spec,
            payload_proxy: "/private/p.pem".into(),
            pilot_proxy: Path::new("/tmp/pilot.pem"),
            account: &account,
            batch_job: Some("htcondor 12.0 owner"),
            scratch: Path::new("/scratch"),
            ports: PortRange::new(40_000, 40_009),
        }
        .environment()
        .into_iter()
        .collect()
    }

    #[test]
    fn glexec_gets_the_payloads_proxy_and_the_pilots() {
        let env = environment(&Switch::Glexec("/usr/sbin/glexec".into()));
        assert_eq!(env["GLEXEC_CLIENT_CERT"], "/private/p.pem");
        assert_eq!(env["GLEXEC_SOURCE_PROXY"], "/private/p.pem");
        assert_eq!(env["X509_USER_PROXY"], "/tmp/pilot.pem");
        assert_eq!(env["GLEXEC_WORK_DIR"], format!("/scratch/pilotage-session-{}", Uuid::nil()));
        assert_eq!(env["GLEXEC_TARGET_PROXY"], format!("{}/proxy.pem", env["GLEXEC_WORK_DIR"]));
        assert_eq!(env["GLEXEC_PORTS"], "40000-40009");
        assert_eq!(env["GLEXEC_PAYLOAD_COMMAND"], "./run.sh\u{1f}a b");
        assert_eq!(
            (env["GLEXEC_PAYLOAD_CPUS"].as_str(), env["GLEXEC_BATCH_JOB"].as_str()),
            ("2", "htcondor 12.0 owner")
        );
    }

    #[test]
    fn glexec_holds_limits_that_are_wider_than_the_runners() {
        let env = environment(&Switch::Glexec("/usr/sbin/glexec".into()));
        assert_eq!(env["GLEXEC_END_WITH_CALLER"], "1");
        assert_eq!(env["GLEXEC_LIMIT_WALLTIME"], "160");
        assert_eq!(env["GLEXEC_LIMIT_MEMORY"], (500 + MEMORY_MARGIN).to_string());
        assert!(!environment(&Switch::None).keys().any(|name| name.starts_with("GLEXEC_")));
    }

    #[test]
    fn without_a_switch_the_payload_sees_nothing_of_the_pilots_proxy() {
        let env = environment(&Switch::None);
        assert!(!env.values().any(|v| v.contains("pilot.pem") || v.contains("/private")), "{env:?}");
        assert_eq!(env["X509_USER_PROXY"], format!("/scratch/pilotage-proxy-{}.pem", Uuid::nil()));
    }

    #[test]
    fn a_long_command_is_cut_where_a_character_ends() {
        let told = told_command(&["x".repeat(LONGEST_COMMAND - 1), "\u{e9}".repeat(9)]);
        assert!(told.len() <= LONGEST_COMMAND);
    }
}
