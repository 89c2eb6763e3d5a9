//! The runner's one loop: frames of the agent, signals, and time, whichever comes first.

use crate::signals::{Signals, asks_for_the_end};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pilot_wire::{CHUNK, Decoder, Frame, ToAgent, ToRunner, data_head, message_frame};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long the agent may take to read a message that ends the conversation.
const LAST_MESSAGE: Duration = Duration::from_secs(60);
/// The same for the rest of a frame, once the sending is to end.
const LAST_FRAME: Duration = Duration::from_secs(10);

/// What the loop has seen.
#[derive(Debug)]
pub enum News {
    /// A frame of the agent.
    Frame(Frame),
    /// The agent is gone; said once.
    Hangup,
    /// A signal, by its number.
    Signal(i32),
    /// The time that was waited for has come.
    Time,
}

/// The agent's end of the conversation, and everything else that can happen meanwhile.
pub struct Agent {
    socket: UnixStream,
    decoder: Decoder,
    signals: Signals,
    /// Seen while something was being sent.
    early: VecDeque<News>,
    open: bool,
}

impl Agent {
    /// The socket that `pilot run` made this program's standard input.
    pub(crate) fn on_standard_input(signals: Signals) -> Result<Self> {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().context("standard input is closed")?;
        let socket = UnixStream::from(socket);
        socket.local_addr().context("standard input is no socket: only \"pilot run\" starts this program")?;
        socket.set_nonblocking(true).context("cannot use the socket")?;
        Ok(Self { socket, decoder: Decoder::default(), signals, early: VecDeque::new(), open: true })
    }

    /// Waits for the next thing to happen; without `until` for as long as it takes.
    pub(crate) fn wait(&mut self, until: Option<Instant>) -> News {
        loop {
            if let Some(news) = self.early.pop_front().or_else(|| self.ready()) {
                return news;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return News::Time;
            }
            self.poll(PollFlags::POLLIN, left);
        }
    }

    /// Sleeps until a signal comes, at most this long; frames of the agent wait.
    pub(crate) fn rest(&mut self, limit: Duration) {
        let mut signals = [PollFd::new(self.signals.descriptor(), PollFlags::POLLIN)];
        poll(&mut signals, PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO)).ok();
        self.drop_wakeups();
    }

    /// What can be had without waiting. Signals come first: an end must not queue up behind input files.
    fn ready(&mut self) -> Option<News> {
        if let Some(number) = self.signals.next() {
            return Some(News::Signal(number));
        }
        while self.open {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Some(News::Frame(frame)),
                Ok(None) => (),
                Err(e) => {
                    super::complain(&e.to_string());
                    return Some(self.hang_up());
                }
            }
            let mut buffer = [0; 64 << 10];
            match self.socket.read(&mut buffer) {
                Ok(0) => return Some(self.hang_up()),
                Ok(length) => self.decoder.push(&buffer[..length]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                Err(_) => return Some(self.hang_up()),
            }
        }
        None
    }

    fn hang_up(&mut self) -> News {
        self.open = false;
        News::Hangup
    }

    fn poll(&self, socket: PollFlags, left: Option<Duration>) {
        let signals = self.signals.descriptor();
        let mut descriptors = [
            PollFd::new(signals, PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), if self.open { socket } else { PollFlags::empty() }),
        ];
        // A dead agent's socket is always ready and says nothing new.
        let watched = if self.open { 2 } else { 1 };
        let limit = left.map_or(PollTimeout::NONE, |left| {
            // Rounded up, or the last fraction of a millisecond would be spent spinning.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut descriptors[..watched], limit) {
            Ok(_) | Err(Errno::EINTR) => (),
            // Without memory in the kernel: look again soon.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }

    /// Sends a message, whatever else happens meanwhile.
    pub(crate) fn send(&mut self, message: &ToAgent) -> Result<()> {
        let frame = message_frame(message)?;
        let give_up = Instant::now() + LAST_MESSAGE;
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            let sent = self.write(rest)?;
            rest = &rest[sent..];
            if sent == 0 {
                let left = give_up.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    bail!("the agent does not read");
                }
                self.poll(PollFlags::POLLOUT, Some(left));
                self.drop_wakeups();
            }
        }
        Ok(())
    }

    /// Keeps signals from making every poll(2) return at once.
    fn drop_wakeups(&mut self) {
        while let Some(number) = self.signals.next() {
            self.early.push_back(News::Signal(number));
        }
    }

    /// How many bytes the socket takes now.
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Ok(length) => return Ok(length),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(e) if e.kind() == ErrorKind::Interrupted => (),
                Err(e) => return Err(e).context("the agent is gone"),
            }
        }
    }

    /// Sends data; a stop, a signal that asks for the end, or the death of the agent ends it. A frame that was begun is
    /// finished first, because the agent could not tell what follows a part of one.
    fn send_data(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(CHUNK) {
            let frame = [&data_head(part.len())?[..], part].concat();
            let mut rest = frame.as_slice();
            let mut end: Option<(String, Instant)> = None;
            while !rest.is_empty() {
                let sent = self.write(rest)?;
                rest = &rest[sent..];
                end = end.or_else(|| Some((self.asked_to_end()?, Instant::now() + LAST_FRAME)));
                let left = end.as_ref().map(|(_, give_up)| give_up.saturating_duration_since(Instant::now()));
                match &end {
                    Some((why, _)) if rest.is_empty() || rest.len() == frame.len() => bail!("{why}"),
                    Some((why, _)) if left == Some(Duration::ZERO) => {
                        self.socket.shutdown(std::net::Shutdown::Both).ok();
                        bail!("{why}");
                    }
                    _ if sent == 0 => self.poll(PollFlags::POLLOUT | PollFlags::POLLIN, left),
                    _ => (),
                }
            }
        }
        Ok(())
    }

    /// Why output should not be sent any more, if there is a reason.
    fn asked_to_end(&mut self) -> Option<String> {
        while let Some(news) = self.ready() {
            match news {
                News::Frame(frame) if matches!(frame.message(), Ok(ToRunner::Stop { .. })) => {
                    return Some("stopped while output was packed".to_owned());
                }
                News::Signal(number) if asks_for_the_end(number) => {
                    return Some(format!("ended by signal {number} while output was packed"));
                }
                News::Hangup => return Some("the agent is gone".to_owned()),
                News::Frame(_) | News::Signal(_) | News::Time => (),
            }
        }
        None
    }
}

/// The archive of the output files goes to the agent as data.
impl Write for Agent {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.send_data(bytes).map_err(|e| std::io::Error::other(format!("{e:#}")))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Agent, UnixStream) {
        let (socket, other) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let signals = Signals::install().unwrap();
        (Agent { socket, decoder: Decoder::default(), signals, early: VecDeque::new(), open: true }, other)
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(20))
    }

    #[test]
    fn frames_come_in_order_and_the_hangup_once() {
        let (mut agent, mut other) = pair();
        for grace_ms in [1, 2] {
            other.write_all(&message_frame(&ToRunner::Stop { grace_ms }).unwrap()).unwrap();
        }
        drop(other);
        for grace_ms in [1, 2] {
            let News::Frame(frame) = agent.wait(soon()) else { panic!("no frame") };
            assert_eq!(frame.message::<ToRunner>().unwrap(), ToRunner::Stop { grace_ms });
        }
        assert!(matches!(agent.wait(soon()), News::Hangup));
        assert!(matches!(agent.wait(Some(Instant::now())), News::Time));
        assert!(agent.send(&ToAgent::Done).is_err());
    }

    #[test]
    fn a_stop_ends_the_sending_of_output_that_nobody_reads() {
        let (mut agent, mut other) = pair();
        other.write_all(&message_frame(&ToRunner::Stop { grace_ms: 1 }).unwrap()).unwrap();
        let error = agent.send_data(&vec![0; 8 << 20]).unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }
}
