//! The process that the caller sees, and the supervisor behind it.
//!
//! Clients signal the process that they started. That process keeps no rights: once the account is permitted it forks the
//! *supervisor* and becomes the *front*. The front has the caller's ids, forwards signals over a line to the supervisor and
//! passes the exit code on; nobody gains anything by stopping, killing or limiting it. The supervisor is root with no id of
//! anybody else, so that no signal of caller or payload reaches it. It is the payload's parent, and it alone holds session,
//! record, clock and limits. It starts nothing before the front has said that it has no rights left, and learns of the front's end because only the front holds the other end of the line.
//!
//! One id of the front is not the caller's: its saved uid is the payload's. kill(2) compares the sender with the real and
//! the saved uid, and HTCondor's `procd` signals the process that it started as the target account. Nobody can trace a
//! process with such ids, and it executes nothing.

use crate::failure::Failure;
use crate::session::cgroup::Post;
use crate::sys::process::{self, Fork};
use crate::sys::{attributes::Attributes, fds, ids};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, Uid, getpid};
use policy::judge::Code;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

/// Bytes of the last message: the exit code, and the process that sends it, to be waited for.
const FAREWELL: usize = 5;
/// The front's first word: it has given everything up. No signal has this number.
const POWERLESS: u8 = 0;
/// How long the supervisor waits for it. Its caller may stop the front, and loses its own call.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the front is made of.
pub(crate) struct Front<'a> {
    /// Real uid of the caller.
    pub(crate) caller: Uid,
    /// Uid of the payload.
    pub(crate) target: Uid,
    /// With an epilogue only root may signal: nobody else shall keep the payload from its orderly end.
    pub(crate) root_only: bool,
    /// The session's id, and where the caller wants to be told it.
    pub(crate) session: &'a str,
    pub(crate) session_fd: Option<&'a OwnedFd>,
    /// As the caller had them.
    pub(crate) attributes: &'a Attributes,
}

/// What the front tells its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// A signal came for the payload.
    Signal(i32),
    /// The front has ended.
    FrontEnded,
    /// Nothing yet.
    Nothing,
}

/// The supervisor's end of the line.
#[derive(Debug)]
pub(crate) struct Line {
    stream: UnixStream,
}

/// Forks the supervisor, at its post outside of the job's own groups. Returns in the supervisor; the calling process is the
/// front from here on and ends with the exit code.
pub(crate) fn split(front: &Front<'_>, post: Option<&Post>) -> Result<Line, Failure> {
    let failed = |e: std::io::Error| Failure::site(format!("the supervisor cannot be started: {e}"));
    let (stream, other_end) = UnixStream::pair().map_err(failed)?;
    SigSet::all().thread_block().map_err(|e| failed(e.into()))?;
    match Post::fork_in(post).map_err(|e| failed(e.into()))? {
        Fork::Parent(supervisor) => {
            drop(stream);
            let code = front.serve(other_end, supervisor).unwrap_or(Code::Site as u8);
            process::exit_now(i32::from(code))
        }
        Fork::Child => {
            drop(other_end);
            let line = Line { stream };
            line.become_supervisor(post).map(|()| line)
        }
    }
}

impl Front<'_> {
    fn serve(&self, line: UnixStream, supervisor: Pid) -> Option<u8> {
        // Orphans of the supervisor come here, so that its last helper can be waited for.
        prctl::set_child_subreaper(true).ok()?;
        self.attributes.give_back_priorities();
        if self.root_only {
            ids::drop_capabilities().ok()?;
        } else {
            ids::be_front(self.caller, self.target).ok()?;
        }
        prctl::set_dumpable(false).ok()?;
        (&line).write_all(&[POWERLESS]).ok()?;
        if let Some(fd) = self.session_fd {
            // Where the caller does not read, its own process waits.
            let _ = nix::unistd::write(fd, format!("{}\n", self.session).as_bytes());
        }
        let mut line = UnixStream::from(fds::keep_only(line.into()).ok()?);
        let signals =
            SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
        let mut farewell = Vec::new();
        while farewell.len() < FAREWELL {
            let mut polled = [
                PollFd::new(line.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
            let (told, signalled) = (polled[0].any() == Some(true), polled[1].any() == Some(true));
            if signalled {
                self.forward(&signals, &mut line);
            }
            if told {
                let mut bytes = [0; FAREWELL];
                match line.read(&mut bytes) {
                    // The supervisor was killed, which only root can do.
                    Ok(0) | Err(_) => break,
                    Ok(n) => farewell.extend_from_slice(&bytes[..n]),
                }
            }
        }
        let _ = process::wait_for(supervisor);
        let (code, last) = farewell.split_first_chunk::<1>()?;
        let last = i32::from_ne_bytes(last.try_into().ok()?);
        if last != supervisor.as_raw() {
            let _ = process::wait_for(Pid::from_raw(last));
        }
        Some(code[0])
    }

    fn forward(&self, signals: &SignalFd, line: &mut UnixStream) {
        while let Ok(Some(info)) = signals.read_signal() {
            // The terminal signals the whole group, and the payload is in it: it has this one already.
            let from_terminal = info.ssi_code == libc::SI_KERNEL;
            let heard = !from_terminal && (!self.root_only || info.ssi_uid == 0);
            let signal = u8::try_from(info.ssi_signo).unwrap_or(0);
            if heard && i32::from(signal) != libc::SIGCHLD {
                // A supervisor that has no time for so many signals loses some, as a process does.
                let _ = line.set_nonblocking(true);
                let _ = line.write(&[signal]);
                let _ = line.set_nonblocking(false);
            }
        }
    }
}

impl Line {
    /// Root and nobody else. The caller's descriptors 0 to 2 stay until the payload has them.
    fn become_supervisor(&self, post: Option<&Post>) -> Result<(), Failure> {
        let failed = |why: String| Failure::site(format!("the supervisor cannot be started: {why}"));
        post.map_or(Ok(()), Post::enter_rest).map_err(|e| failed(e.to_string()))?;
        ids::be_root_alone().map_err(|e| failed(e.to_string()))?;
        prctl::set_dumpable(false).map_err(|e| failed(e.to_string()))?;
        prctl::set_name(c"glexec-super").map_err(|e| failed(e.to_string()))?;
        prctl::set_child_subreaper(true).map_err(|e| failed(e.to_string()))
    }

    /// Returns once the front has no rights any more. Before that there is no payload: it must not find its caller's
    /// process still root.
    pub(crate) fn wait_for_front(&mut self) -> Result<(), Failure> {
        let failed = |why: &str| Failure::site(format!("the process that waits for the payload {why}"));
        let mut word = [POWERLESS + 1];
        self.stream.set_read_timeout(Some(PATIENCE)).map_err(|e| failed(&e.to_string()))?;
        let read = self.stream.read(&mut word);
        self.stream.set_read_timeout(None).map_err(|e| failed(&e.to_string()))?;
        match read {
            Ok(1) if word == [POWERLESS] => Ok(()),
            Ok(_) => Err(failed("has ended")),
            Err(_) => Err(failed("does not go on; it was stopped, or the host is overloaded")),
        }
    }

    /// For poll(2): readable when there is a signal to forward, and when the front has ended.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What the front has to tell; asked when the line is readable.
    pub(crate) fn news(&mut self) -> News {
        let mut signal = [0];
        match self.stream.read(&mut signal) {
            Ok(0) => News::FrontEnded,
            Ok(_) => News::Signal(i32::from(signal[0])),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => News::Nothing,
            Err(_) => News::FrontEnded,
        }
    }

    /// Tells the front the exit code. A front that is gone needs none.
    pub(crate) fn finish(mut self, code: u8) -> ExitCode {
        let own = getpid().as_raw().to_ne_bytes();
        let _ = self.stream.write_all(&[&[code][..], &own].concat());
        ExitCode::from(code)
    }
}
