//! The signals of a server: SIGTERM and SIGINT end it in order, SIGHUP makes it read its files again.

use crate::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The caught signals. From here on none of them ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// SIGHUP.
    Reload,
    /// SIGTERM, SIGINT.
    End,
}

impl Signals {
    /// Catches the signals; to be called before anything that takes time, inside the runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn catch() -> Result<Self, Error> {
        let catch = |kind| signal(kind).map_err(Error::Signals);
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::End,
            _ = self.interrupt.recv() => Wanted::End,
            _ = self.hangup.recv() => Wanted::Reload,
        }
    }
}
