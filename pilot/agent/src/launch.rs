//! Starts the runner: through `glexec`, which switches to the user's own account, or directly with `--no-switch`.

use super::node::Account;
use anyhow::{Context, Result};
use pilot_wire::proxy_copy;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
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
    /// The attempt.
    pub attempt: Uuid,
    /// The payload's proxy, in the agent's private directory.
    pub payload_proxy: PathBuf,
    /// The pilot's own proxy, which mapping services want to see.
    pub pilot_proxy: &'a Path,
    /// The pilot's account.
    pub account: &'a Account,
}

/// By these variables batch systems tell a job who it is; `glexec` notes them in the site's record.
const BATCH: [&str; 5] = ["SLURM_JOB_ID", "PBS_JOBID", "OAR_JOB_ID", "LSB_JOBID", "JOB_ID"];

/// A started runner and the agent's end of its standard input.
pub struct Started {
    /// The program that can end the session without the user's proxy.
    pub glexec: Option<PathBuf>,
    /// `glexec`, or the runner itself.
    pub child: Child,
    /// Speaks [`pilot_wire`].
    pub socket: UnixStream,
}

impl Launch<'_> {
    /// Starts it.
    pub fn start(&self) -> Result<Started> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("cannot make a socket pair")?;
        ours.set_nonblocking(true).context("cannot make a socket pair")?;
        let program = std::env::current_exe().context("cannot find the pilot program itself")?;
        let mut command = match self.switch {
            Switch::Glexec(glexec) => {
                let mut command = Command::new(glexec);
                command.arg(&program);
                command
            }
            Switch::None => {
                copy_proxy(&self.payload_proxy, &proxy_copy(self.attempt))?;
                Command::new(&program)
            }
        };
        command.arg("runner").env_clear().envs(self.environment()).current_dir("/");
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.as_std().get_program().display()))?;
        let glexec = match self.switch {
            Switch::Glexec(glexec) => Some(glexec.clone()),
            Switch::None => None,
        };
        Ok(Started { glexec, child, socket: UnixStream::from_std(ours)? })
    }

    /// What the child finds. The pilot's own environment stays with the pilot.
    fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        // The session's directory, with the payload's proxy in it, is glexec's to make and to remove.
        let work_dir = format!("/tmp/pilotage-session-{}", self.attempt);
        let mut env = vec![
            ("HOME", self.account.home.clone()),
            ("USER", self.account.name.clone()),
            ("LOGNAME", self.account.name.clone()),
            ("PATH", std::env::var("PATH").unwrap_or_default()),
        ];
        match self.switch {
            Switch::None => env.push(("X509_USER_PROXY", text(&proxy_copy(self.attempt)))),
            Switch::Glexec(_) => env.extend([
                ("X509_USER_PROXY", text(self.pilot_proxy)),
                ("GLEXEC_CLIENT_CERT", text(&self.payload_proxy)),
                ("GLEXEC_SOURCE_PROXY", text(&self.payload_proxy)),
                ("GLEXEC_TARGET_PROXY", format!("{work_dir}/proxy.pem")),
                ("GLEXEC_WORK_DIR", work_dir),
                ("GLEXEC_ID", self.attempt.to_string()),
            ]),
        }
        env.extend(BATCH.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))));
        env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Removes what a runner may have left behind when it could not clean up itself.
    pub fn clean_up(&self) {
        if matches!(self.switch, Switch::None) {
            std::fs::remove_file(proxy_copy(self.attempt)).ok();
        }
    }
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
        let (payload, pilot) = (Path::new("/private/p.pem"), Path::new("/tmp/pilot.pem"));
        Launch {
            switch,
            attempt: Uuid::nil(),
            payload_proxy: payload.to_owned(),
            pilot_proxy: pilot,
            account: &account,
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
        assert_eq!(env["GLEXEC_TARGET_PROXY"], format!("{}/proxy.pem", env["GLEXEC_WORK_DIR"]));
    }

    #[test]
    fn without_a_switch_the_payload_sees_nothing_of_the_pilots_proxy() {
        let env = environment(&Switch::None);
        assert!(!env.values().any(|v| v.contains("pilot.pem") || v.contains("/private")), "{env:?}");
        assert_eq!(env["X509_USER_PROXY"], format!("/tmp/pilotage-proxy-{}.pem", Uuid::nil()));
    }
}
