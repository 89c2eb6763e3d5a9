//! Process events: from the kernel's bytes to births, executions and ends.

use crate::sys::netlink::{self, DATA_AT, EXEC, EXIT, FORK, KIND_AT, ProcessEvents, Scope};
use nix::errno::Errno;

/// One event. Threads are left out: only processes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProcessEvent {
    /// A process has a child.
    Born {
        /// Its thread group.
        parent: i32,
        /// The child.
        child: i32,
    },
    /// A process executes a program.
    Executes(i32),
    /// A process is gone.
    Ended(i32),
}

/// What one read of the socket brought.
#[derive(Default)]
pub(super) struct Received {
    /// Events in their order.
    pub(super) events: Vec<ProcessEvent>,
    /// Whether there are no more of them for now.
    pub(super) all: bool,
    /// Whether the kernel had to throw events away.
    pub(super) behind: bool,
}

/// Messages taken at a time, so that many events cannot keep the loop from answering.
const BATCH: usize = 64;

/// Takes what is there, up to a bound.
pub(super) fn receive(socket: &ProcessEvents) -> Received {
    let mut buffer = [0; 1024];
    let mut received = Received::default();
    for _ in 0..BATCH {
        match socket.receive(&mut buffer) {
            Ok(message) => received.events.extend(parse(message)),
            Err(Errno::ENOBUFS) => received.behind = true,
            Err(Errno::EINTR) => {}
            Err(_) => {
                received.all = true;
                break;
            }
        }
    }
    received
}

/// Subscribes; nothing comes before the scope is set.
pub(super) fn listen() -> Result<ProcessEvents, Errno> {
    ProcessEvents::listen(&netlink::filter(Scope::Nothing))
}

/// Changes what is subscribed to.
pub(super) fn set_scope(socket: &ProcessEvents, scope: Scope) -> Result<(), Errno> {
    socket.filter(&netlink::filter(scope))
}

/// One message of the connector; `None` for everything that is not of interest.
fn parse(message: &[u8]) -> Option<ProcessEvent> {
    let number = |at: u32| {
        let at = usize::try_from(at).ok()?;
        let bytes = message.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let pid = |at: u32| number(at).and_then(|n| i32::try_from(n).ok()).filter(|pid| *pid > 0);
    match number(KIND_AT)? {
        EXEC => pid(DATA_AT + 4).map(ProcessEvent::Executes),
        FORK => {
            let (parent, child, group) = (pid(DATA_AT + 4)?, pid(DATA_AT + 8)?, pid(DATA_AT + 12)?);
            (child == group).then_some(ProcessEvent::Born { parent, child })
        }
        EXIT => (pid(DATA_AT)? == pid(DATA_AT + 4)?).then(|| pid(DATA_AT).map(ProcessEvent::Ended))?,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink::message;

    #[test]
    fn events_of_processes_are_understood() {
        assert_eq!(parse(&message(EXEC, [8, 7, 0, 0])), Some(ProcessEvent::Executes(7)));
        assert_eq!(parse(&message(FORK, [5, 4, 9, 9])), Some(ProcessEvent::Born { parent: 4, child: 9 }));
        assert_eq!(parse(&message(EXIT, [7, 7, 0, 0])), Some(ProcessEvent::Ended(7)));
    }

    #[test]
    fn threads_and_nonsense_are_not() {
        assert_eq!(parse(&message(FORK, [5, 4, 10, 9])), None);
        assert_eq!(parse(&message(EXIT, [8, 7, 0, 0])), None);
        assert_eq!(parse(&message(0, [0; 4])), None);
        assert_eq!(parse(&message(EXEC, [0; 4])), None);
        assert_eq!(parse(&message(EXEC, [u32::MAX; 4])), None);
        for length in 0..56 {
            assert_eq!(parse(&message(EXEC, [7; 4])[..length]), None);
        }
    }
}
