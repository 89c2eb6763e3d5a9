//! Starting programs in a machine as one of its accounts.

use nix::unistd::{Gid, Uid};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::accounts::{self, Account};

/// A program about to run. It starts with a clean environment (`PATH`, `HOME`, `USER`, `LOGNAME`), umask 022, the
/// account's groups and home directory, and `/dev/null` as its standard input.
#[derive(Debug)]
pub struct Run {
    command: Command,
    program: String,
    account: Account,
    groups: Option<Vec<u32>>,
    input: Vec<u8>,
    limit: Duration,
    /// Files through which it moves into the machine's cgroup.
    doors: Vec<PathBuf>,
}

impl Run {
    pub(crate) fn new(program: &str, doors: Vec<PathBuf>) -> Self {
        let root = accounts::find("root").expect("every host has root");
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin").stdin(Stdio::null());
        let limit = Duration::from_secs(60);
        let this = Self {
            command,
            program: program.to_owned(),
            account: root,
            groups: None,
            input: Vec::new(),
            limit,
            doors,
        };
        this.as_user("root")
    }

    /// Runs it as this account; without this, as root.
    ///
    /// # Panics
    /// When the machine has no such account.
    pub fn as_user(mut self, name: &str) -> Self {
        self.account = accounts::find(name).unwrap_or_else(|| panic!("this machine has no account {name:?}"));
        self.command.env("HOME", &self.account.home).env("USER", name).env("LOGNAME", name);
        let home = Path::new(&self.account.home);
        self.command.current_dir(if home.is_dir() { home } else { Path::new("/") });
        self
    }

    /// Replaces the account's supplementary groups.
    pub fn groups(mut self, gids: &[u32]) -> Self {
        self.groups = Some(gids.to_vec());
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes an environment variable.
    pub fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets the working directory; without this it is the account's home.
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it can read from its standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Kills it when [`Run::output`] takes longer; without this, 60 seconds.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The underlying command, for settings that have no method here.
    pub fn raw(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or does not end within its limit.
    pub fn output(self) -> Ran {
        let limit = self.limit;
        self.spawn().end_within(limit)
    }

    /// Starts it; standard output and error are collected.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut self) -> Running {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if !self.input.is_empty() {
            self.command.stdin(Stdio::piped());
        }
        let mut child = self.start();
        let stdout = child.stdout.take().map(|s| collect(OwnedFd::from(s).into()));
        let stderr = child.stderr.take().map(|s| collect(OwnedFd::from(s).into()));
        if let Some(mut stdin) = child.stdin.take() {
            let input = std::mem::take(&mut self.input);
            // A program that does not read all of it closes the pipe; that is its right.
            std::thread::spawn(move || stdin.write_all(&input));
        }
        Running { child, program: self.program, stdout, stderr }
    }

    /// Starts it with whatever standard streams were set on [`Run::raw`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self) -> Child {
        let mut groups = self.account.groups.clone();
        groups.push(self.account.gid);
        let groups: Vec<_> = self.groups.clone().unwrap_or(groups).into_iter().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.account.uid), Gid::from_raw(self.account.gid));
        let open = |door| OpenOptions::new().write(true).open(door).ok();
        let mut doors: Vec<File> = self.doors.iter().filter_map(open).collect();
        let switch = move || {
            for door in &mut doors {
                door.write_all(b"0")?;
            }
            nix::unistd::setgroups(&groups)?;
            nix::unistd::setgid(gid)?;
            nix::unistd::setuid(uid)?;
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
            Ok(())
        };
        // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
        unsafe { self.command.pre_exec(switch) };
        self.command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", self.program))
    }
}

fn collect(mut stream: File) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    program: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids fit")
    }

    /// Sends a signal by number.
    ///
    /// # Panics
    /// When the number is no signal or the process is gone.
    pub fn signal(&self, number: i32) {
        let signal = nix::sys::signal::Signal::try_from(number).expect("a signal number");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("the process exists");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end and for the end of its output.
    ///
    /// # Panics
    /// When that takes longer than `limit`; the program is killed then.
    pub fn end_within(mut self, limit: Duration) -> Ran {
        let end = Instant::now() + limit;
        let reading = |s: &Option<JoinHandle<Vec<u8>>>| s.as_ref().is_some_and(|s| !s.is_finished());
        let mut status = None;
        while status.is_none() || reading(&self.stdout) || reading(&self.stderr) {
            let what = if status.is_none() { "did not end" } else { "ended, but its output is held open" };
            assert!(Instant::now() < end, "{} {what} within {limit:?}", self.program);
            std::thread::sleep(Duration::from_millis(1));
            status = status.or(self.child.try_wait().expect("nobody else waits for this child"));
        }
        let status = status.expect("the loop waited for it");
        let text = |s: Option<JoinHandle<Vec<u8>>>| s.and_then(|s| s.join().ok()).unwrap_or_default();
        Ran {
            status,
            program: self.program.clone(),
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    status: ExitStatus,
    program: String,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Ran {
    /// Exit code; `None` when it died by a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal it died by.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Standard output as text, blanks at the end removed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Its standard output, after a success.
    ///
    /// # Panics
    /// When it did not exit with 0.
    #[track_caller]
    pub fn ok(&self) -> String {
        self.exits(0);
        self.text()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        let got = self.status;
        assert_eq!(self.code(), Some(code), "{}: {got}\n{}{}", self.program, self.text(), self.errors());
        self
    }

    /// Asserts the exit code and that standard error has each of the words, regardless of case.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) -> &Self {
        self.exits(code);
        let errors = self.errors();
        for word in words {
            let found = errors.to_lowercase().contains(&word.to_lowercase());
            assert!(
                found,
                "{} exited with {code} as it should, but does not say {word:?}: {errors}",
                self.program
            );
        }
        self
    }
}
