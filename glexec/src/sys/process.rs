//! Processes, their attributes, and clocks.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
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

/// How a process ended. Unlike nix's `WaitStatus` it knows real-time signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

impl End {
    /// From the status that wait4(2) gives; `None` while the process lives.
    fn of(status: libc::c_int) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Signaled(libc::WTERMSIG(status)))
        } else {
            None
        }
    }
}

/// Reaps any child that has ended, without waiting, and tells its peak memory in KiB (wait4(2), `ru_maxrss`).
pub(crate) fn wait_any() -> Result<Option<(Pid, End, u64)>, Errno> {
    reap(-1, libc::WNOHANG)
}

/// Reaps this child if it has ended, without waiting.
pub(crate) fn try_wait(pid: Pid) -> Result<Option<End>, Errno> {
    reap(pid.as_raw(), libc::WNOHANG).map(|found| found.map(|(_, end, _)| end))
}

/// Waits for the end of a child of which it is known that it ends.
pub(crate) fn wait_for(pid: Pid) -> Result<End, Errno> {
    loop {
        match reap(pid.as_raw(), 0) {
            Ok(Some((_, end, _))) => return Ok(end),
            Ok(None) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

fn reap(pid: libc::pid_t, flags: libc::c_int) -> Result<Option<(Pid, End, u64)>, Errno> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live locals of the right types.
    let pid = unsafe { libc::wait4(pid, &mut status, flags, usage.as_mut_ptr()) };
    let pid = Errno::result(pid)?;
    // SAFETY: rusage is plain numbers, for which zero is valid; wait4 has filled it in where it found somebody.
    let usage = unsafe { usage.assume_init() };
    let ended = End::of(status).filter(|_| pid > 0);
    Ok(ended.map(|end| (Pid::from_raw(pid), end, u64::try_from(usage.ru_maxrss).unwrap_or(0))))
}

/// Sends any signal, real-time ones too. A process that is gone needs none.
pub(crate) fn send(pid: Pid, signal: i32) {
    if pid.as_raw() > 1 && signal > 0 {
        // SAFETY: kill takes numbers only.
        unsafe { libc::kill(pid.as_raw(), signal) };
    }
}

/// How a process ended whose end somebody else keeps from us: the last field of its `stat` (proc(5), `exit_code`).
pub(crate) fn unreaped_end(pid: Pid) -> Option<End> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let status = stat.trim_ascii_end().rsplit(|b| *b == b' ').next()?;
    End::of(std::str::from_utf8(status).ok()?.parse().ok()?)
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
    send_to_pidfd(process, signal as i32)
}

/// As [`signal_pidfd`], for any signal, real-time ones too.
pub(crate) fn send_to_pidfd(process: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill in its own.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, no_info, 0) };
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

/// What one process uses.
pub(crate) struct Consumption {
    /// CPU time so far, its own and that of children it waited for, microseconds.
    pub(crate) cpu_us: u64,
    /// Memory that is resident, bytes.
    pub(crate) resident_bytes: u64,
}

/// From `/proc/<pid>/stat`; `None` when it is gone.
pub(crate) fn consumption(pid: i32) -> Option<Consumption> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let number = |index| {
        stat_field(&stat, index).and_then(|field| std::str::from_utf8(field).ok()?.parse::<u64>().ok())
    };
    // Fields 14 to 17 and 24 of proc(5).
    let ticks: u64 = (11..15).filter_map(number).sum();
    Some(Consumption {
        cpu_us: ticks.saturating_mul(10_000),
        resident_bytes: number(21)?.saturating_mul(page_bytes()),
    })
}

/// A field of `stat`, counted from the state, which is 0. The name before it is in parentheses and may hold anything.
pub(crate) fn stat_field(stat: &[u8], index: usize) -> Option<&[u8]> {
    let end = stat.windows(2).rposition(|pair| pair == b") ")?;
    stat[end + 2..].split(|b| *b == b' ').nth(index)
}

fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or(4096)
}

/// CPU time of all children that were waited for, microseconds.
pub(crate) fn waited_cpu_us() -> u64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let micros = |time: nix::sys::time::TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |all| micros(all.user_time()) + micros(all.system_time()))
}
