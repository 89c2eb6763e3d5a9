//! Running a helper program without privilege and exchanging one frame with it.
//!
//! The child is opened like any file that root trusts and executed by that descriptor. Before exec it becomes the
//! account `glexec`, without groups, capabilities, new privileges, environment or descriptors, with small limits. Its
//! answer must come whole, within a time limit, within a size limit; then it must end with 0. Else it is killed.

use crate::admit::audit::{self, Rule};
use crate::failure::Failure;
use crate::run::child_processes;
use crate::sys::process::End;
use crate::sys::{fds, ids, process};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getpid, pipe2};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where the children are installed.
pub(crate) const LIBEXEC: &str = match option_env!("PILOTAGE_LIBEXEC") {
    Some(path) => path,
    None => "/usr/libexec/pilotage",
};

/// Address space of a child: OpenSSL and a chain fit many times.
const MAX_MEMORY: u64 = 512 * 1024 * 1024;

/// Its own filter refuses calls without killing; whatever kills is foreign to it.
const FILTERED: &str = "was killed by a filter of system calls: it is built for another kind of machine, or a container is too strict";

/// Runs the program and returns the one frame that it answers.
pub(crate) fn exchange(
    program: &str,
    account: (u32, u32),
    request: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, Failure> {
    let path = Path::new(LIBEXEC).join(program);
    let executable = audit::open(&path, Rule::FILE)?;
    let failed = |why: String| Failure::site(format!("{program}: {why}"));
    // Whatever the program starts comes to us when it ends, so that it cannot leave anything behind.
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| failed(e.to_string()))?;
    let answer = converse(&executable, program, account, request, patience).map_err(&failed);
    let alone = child_processes::end_children(None);
    nix::sys::prctl::set_child_subreaper(false).map_err(|e| failed(e.to_string()))?;
    if alone { answer } else { Err(failed("left processes that do not end".into())) }
}

fn converse(
    executable: &File,
    program: &str,
    account: (u32, u32),
    request: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, String> {
    let started = Child::start(executable, program, account, patience);
    let mut child = started.map_err(|e| format!("start: {e}"))?;
    let deadline = Instant::now() + patience;
    let answer = child.converse(request, deadline)?;
    child.finish(deadline).map(|()| answer)
}

struct Child {
    pid: Pid,
    ended: bool,
    to: Option<OwnedFd>,
    from: OwnedFd,
}

impl Child {
    fn start(executable: &File, name: &str, account: (u32, u32), patience: Duration) -> nix::Result<Self> {
        let (their_input, to) = pipe2(OFlag::O_CLOEXEC)?;
        let (from, their_output) = pipe2(OFlag::O_CLOEXEC)?;
        let parent = getpid();
        match process::fork()? {
            process::Fork::Parent(pid) => {
                for fd in [&to, &from] {
                    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                }
                Ok(Self { pid, ended: false, to: Some(to), from })
            }
            process::Fork::Child => {
                let why =
                    become_helper(executable, name, account, patience, (&their_input, &their_output), parent);
                // Nobody listens on stderr; the code alone says that exec was not reached.
                let _ = why;
                process::exit_now(125)
            }
        }
    }

    /// Writes the request and reads the answer at the same time: both may be larger than a pipe.
    fn converse(&mut self, request: &[u8], deadline: Instant) -> Result<Vec<u8>, String> {
        let mut unsent = request;
        let mut answer = Vec::new();
        loop {
            if unsent.is_empty() {
                self.to = None;
            }
            if helper::frame_length(&answer, helper::MAX_REPLY).map_err(|e| e.to_string())?
                == Some(answer.len())
            {
                return Ok(answer);
            }
            self.wait_ready(deadline)?;
            if let Some(to) = &self.to {
                match nix::unistd::write(to, unsent) {
                    Ok(n) => unsent = &unsent[n..],
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    // It may have answered without reading everything: the answer decides.
                    Err(_) => unsent = &[],
                }
            }
            let mut buffer = [0; 8192];
            match nix::unistd::read(&self.from, &mut buffer) {
                Ok(0) => return Err("ended without a whole answer".into()),
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(format!("read: {error}")),
            }
            if answer.len() > helper::MAX_REPLY {
                return Err("answers too much".into());
            }
        }
    }

    fn wait_ready(&self, deadline: Instant) -> Result<(), String> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("does not answer in time".into());
        }
        let timeout = PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX);
        let mut polled = vec![PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
        polled.extend(self.to.as_ref().map(|to| PollFd::new(to.as_fd(), PollFlags::POLLOUT)));
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(format!("poll: {error}")),
        }
    }

    /// The answer counts only when the program ends well, and soon.
    fn finish(mut self, deadline: Instant) -> Result<(), String> {
        let status = child_processes::wait_until(self.pid, deadline)?;
        self.ended = true;
        match status {
            End::Exited(0) => Ok(()),
            End::Signaled(libc::SIGSYS) => Err(FILTERED.into()),
            other => Err(format!("ended badly: {other:?}")),
        }
    }
}

impl Drop for Child {
    /// Whatever went wrong, no process and no zombie stays.
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            // One that hangs in the kernel, on a dead file server, ends later and is not waited for.
            let _ = child_processes::wait_until(self.pid, Instant::now() + Duration::from_secs(1));
        }
    }
}

/// In the child: gives everything up and executes; returns only why it could not.
fn become_helper(
    executable: &File,
    name: &str,
    (uid, gid): (u32, u32),
    patience: Duration,
    (input, output): (&OwnedFd, &OwnedFd),
    parent: Pid,
) -> Result<std::convert::Infallible, String> {
    let text = |e: Errno| e.to_string();
    let null =
        nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(text)?;
    fds::replace_standard(input.as_fd(), 0).map_err(text)?;
    fds::replace_standard(output.as_fd(), 1).map_err(text)?;
    fds::replace_standard(null.as_fd(), 2).map_err(text)?;
    fds::close_all_but(executable.as_raw_fd()).map_err(text)?;
    nix::unistd::chdir("/").map_err(text)?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
    limit(patience)?;
    if nix::unistd::geteuid().is_root() {
        ids::drop_bounding_set()?;
        ids::become_for_good(uid, gid, &[])?;
    }
    nix::sys::prctl::set_no_new_privs().map_err(text)?;
    process::die_with(parent).map_err(text)?;
    let c = |s: &str| std::ffi::CString::new(s).map_err(|e| e.to_string());
    nix::unistd::fexecve(executable, &[c(name)?], &[c("LANG=C")?, c("PATH=/usr/bin:/bin")?]).map_err(text)
}

fn limit(patience: Duration) -> Result<(), String> {
    let set = |resource, most: u64| {
        // The caller may have set a lower hard limit, which even root cannot raise without CAP_SYS_RESOURCE.
        let hard = getrlimit(resource).map_or(most, |(_, hard)| hard).min(most);
        setrlimit(resource, hard, hard).map_err(|e| format!("{resource:?}: {e}"))
    };
    set(Resource::RLIMIT_CORE, 0)?;
    set(Resource::RLIMIT_FSIZE, 0)?;
    set(Resource::RLIMIT_NOFILE, 64)?;
    set(Resource::RLIMIT_AS, MAX_MEMORY)?;
    set(Resource::RLIMIT_CPU, patience.as_secs() + 1)
}
