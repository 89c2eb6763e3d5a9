//! Processes, their attributes, and clocks.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::WaitStatus;
use nix::unistd::{ForkResult, Pid};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The two sides of a fork.
pub(crate) enum Fork {
    /// We are the child.
    Child,
    /// We are the parent of this process.
    Parent(Pid),
}

/// Forks. Both sides may do anything: this program never has a second thread.
pub(crate) fn fork() -> Result<Fork, Errno> {
    // SAFETY: with a single thread, the child finds every lock and allocator in a consistent state.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => Ok(Fork::Child),
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
    }
}

/// Forks a child that is born in a cgroup (clone3(2), Linux 5.7): moving it there later would stop every fork on the
/// host for a moment, and takes longer than all the rest of a switch.
pub(crate) fn fork_into(cgroup: BorrowedFd<'_>) -> Result<Fork, Errno> {
    /// linux/sched.h; libc's constant has the wrong width.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: clone_args is plain numbers, for which zero is valid and means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    // SAFETY: without CLONE_VM the child gets its own copy of this single thread's memory, as with fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    match i32::try_from(Errno::result(pid)?).map_err(|_| Errno::EINVAL)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid))),
    }
}

/// Ends a forked child at once, without running what the parent registered for its own end.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Whether `PR_SET_NO_NEW_PRIVS` is set (PR_GET_NO_NEW_PRIVS, prctl(2)).
pub(crate) fn no_new_privs() -> bool {
    nix::sys::prctl::get_no_new_privs().unwrap_or(true)
}

/// Drops the capability with this number from the bounding set; EINVAL when the kernel has none of this number
/// (`PR_CAPBSET_DROP`, capabilities(7)).
pub(crate) fn drop_from_bounding_set(capability: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: this operation takes a number and touches no memory.
    Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }).map(drop)
}

/// Asks for SIGKILL when the parent ends; call after the last change of ids, which clears it.
pub(crate) fn die_with(parent: Pid) -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have ended before the line above took effect.
    if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH) }
}

/// As [`die_with`], for a child in another process namespace, where its parent has no number: `to_parent` is a pipe that the
/// parent alone reads.
pub(crate) fn die_with_reader(to_parent: BorrowedFd<'_>) -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut polled = [PollFd::new(to_parent, PollFlags::empty())];
    poll(&mut polled, PollTimeout::ZERO)?;
    // The parent may have ended before it took effect; then nobody reads any more.
    let gone = polled[0].revents().is_none_or(|events| events.contains(PollFlags::POLLERR));
    if gone { Err(Errno::ESRCH) } else { Ok(()) }
}

/// Leaves the caller's session keyring for a new, empty one (keyrings(7)); hosts without keyrings have none to leave.
pub(crate) fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring; no memory is read or written.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Stops timers that the caller may have set: they survive exec and would end us in the middle.
pub(crate) fn stop_timers() {
    let off = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 0 },
    };
    for timer in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: `off` outlives the call, and a null old value is allowed.
        unsafe { libc::setitimer(timer, &off, std::ptr::null_mut()) };
    }
}

/// Takes back how late the caller lets this process wake up (`PR_SET_TIMERSLACK`, prctl(2)): it survives exec, knows no
/// bound, and would stretch every wait and every deadline of ours.
pub(crate) fn wake_in_time() {
    /// The kernel's own default.
    const NANOSECONDS: u64 = 50_000;
    let _ = nix::sys::prctl::set_timerslack(NANOSECONDS);
}

/// Empties the environment of this process: libraries that root runs must not read the caller's wishes.
pub(crate) fn clear_environment() {
    // SAFETY: there is one thread, and nobody holds a pointer into the environment.
    unsafe { libc::clearenv() };
}

/// Fills the buffer with random bytes from the kernel.
pub(crate) fn random(buffer: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: pointer and length describe one live, writable buffer.
    let filled = unsafe { libc::getrandom(buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    match Errno::result(filled)? {
        n if usize::try_from(n) == Ok(buffer.len()) => Ok(()),
        _ => Err(Errno::EIO),
    }
}

/// `CLOCK_BOOTTIME` in nanoseconds: it goes on in suspend and never jumps.
pub(crate) fn boottime_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .ok()
        .and_then(|t| u64::try_from(t.tv_sec() * 1_000_000_000 + t.tv_nsec()).ok())
        .unwrap_or(0)
}

/// The wall clock in nanoseconds since the epoch.
pub(crate) fn unix_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Gives a signal its default disposition.
pub(crate) fn default_signal(signal: Signal) -> nix::Result<()> {
    dispose(signal, SigHandler::SigDfl)
}

/// Ignores a signal.
pub(crate) fn ignore_signal(signal: Signal) -> nix::Result<()> {
    dispose(signal, SigHandler::SigIgn)
}

fn dispose(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handlers above are "default" and "ignore": no code of ours runs in a signal's context.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Reaps any child that has ended, without waiting, and tells its peak memory in KiB (wait4(2), `ru_maxrss`).
pub(crate) fn wait_any() -> Result<(WaitStatus, u64), Errno> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live locals of the right types.
    let pid = unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    match Errno::result(pid)? {
        0 => Ok((WaitStatus::StillAlive, 0)),
        pid => {
            // SAFETY: rusage is plain numbers, for which zero is valid; wait4 has filled it in.
            let usage = unsafe { usage.assume_init() };
            let rss = u64::try_from(usage.ru_maxrss).unwrap_or(0);
            WaitStatus::from_raw(Pid::from_raw(pid), status).map(|status| (status, rss))
        }
    }
}

/// A descriptor for a process, which no other process can inherit its number's place in (pidfd_open(2), Linux 5.3).
/// It becomes readable when the process ends.
pub(crate) fn pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Signals the process of a [`pidfd`].
pub(crate) fn signal_pidfd(process: BorrowedFd<'_>, signal: Signal) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill in its own.
    let sent =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal as i32, no_info, 0) };
    Errno::result(sent).map(drop)
}

/// The local time as syslog writes it: `Apr 30 10:38:43`.
pub(crate) fn syslog_time() -> String {
    let now = libc::time_t::try_from(unix_ns() / 1_000_000_000).unwrap_or(0);
    let mut local = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live locals; tm is plain numbers and a pointer that is not followed.
    unsafe { libc::localtime_r(&now, local.as_mut_ptr()) };
    // SAFETY: zeroed is a valid tm, and localtime_r has filled it in.
    let local = unsafe { local.assume_init() };
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = usize::try_from(local.tm_mon).ok().and_then(|m| MONTHS.get(m)).unwrap_or(&"Jan");
    format!("{month} {:2} {:02}:{:02}:{:02}", local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec)
}
