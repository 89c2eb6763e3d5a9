//! Signals of the runner, one at a time, through a descriptor that poll(2) can wait for.
//!
//! Those that ask for an end end the payload; SIGUSR1, SIGUSR2 and the real-time signals go on to the payload's first
//! process; SIGCHLD says that a child has ended. A signal that was ignored at the start stays ignored (nohup(1)).

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::backend::{Pending, SignalDelivery};
use signal_hook::iterator::exfiltrator::SignalOnly;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

const END: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];
/// 32 and 33 belong to the C library.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// Whether a signal asks for a graceful end.
pub(crate) fn asks_for_the_end(number: i32) -> bool {
    END.contains(&number)
}

/// Whether a child has ended.
pub(crate) fn is_child(number: i32) -> bool {
    number == SIGCHLD
}

/// Installed handlers.
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    pending: Option<Pending<SignalOnly>>,
}

impl Signals {
    /// Installs them.
    pub(crate) fn install() -> io::Result<Self> {
        let ignored = pilot_wire::signals::ignored(&std::fs::read("/proc/self/status")?);
        let wanted = END.into_iter().chain([SIGUSR1, SIGUSR2]).chain(REAL_TIME);
        let wanted = wanted.filter(|number| !ignored.contains(*number)).chain([SIGCHLD]);
        let (read, write) = UnixStream::pair()?;
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, wanted)?;
        Ok(Self { delivery, pending: None })
    }

    /// The next signal that has arrived, without waiting.
    pub(crate) fn next(&mut self) -> Option<i32> {
        let waiting = self.pending.as_mut().and_then(Iterator::next);
        if waiting.is_some() {
            return waiting;
        }
        self.pending = Some(self.delivery.pending());
        self.pending.as_mut().and_then(Iterator::next)
    }

    /// Becomes readable when a signal arrives.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}
