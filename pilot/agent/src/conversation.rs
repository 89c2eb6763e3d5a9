//! The agent's end of the socket to a runner.
//!
//! The runner lives under the payload's account, so what comes here may have been written by a stranger. The kernel says who
//! wrote each message (SCM_CREDENTIALS, unix(7)): the first is from the runner, before anything of the user's runs, and a
//! message of any other process is a contradiction. `pilot-runner` cannot be traced, so nobody can speak through it.

use super::session::Input;
use anyhow::{Context, Result};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};
use pilot_wire::{CHUNK, Decoder, Frame, Start, ToRunner, data_head, message_frame};
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// What comes from a runner.
#[derive(Debug)]
pub enum Heard {
    /// A frame, and the uid of the process that wrote it.
    Frame(Frame, u32),
    /// The id of the session, from `glexec` itself.
    Session(String),
    /// Something that cannot be: the reason.
    Contradiction(String),
}

/// A socket pair: ours, ready to tell who writes, and the runner's.
pub fn pair() -> Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let make = || -> io::Result<_> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        setsockopt(&ours, PassCred, &true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    };
    make().context("cannot make a socket pair")
}

/// Hears until the end of the stream, or to the first contradiction.
pub async fn listen(from: OwnedReadHalf, to: mpsc::Sender<Heard>) {
    let mut decoder = Decoder::default();
    let mut runner: Option<UnixCredentials> = None;
    let mut buffer = vec![0; CHUNK];
    loop {
        let (length, writer) = match receive(&from, &mut buffer).await {
            Ok((0, _)) => break,
            Ok(received) => received,
            // It ended without reading all that was sent: its exit code says why.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
            Err(e) => return tracing::warn!(error = %e, "lost a runner"),
        };
        let known = *runner.get_or_insert(writer);
        if known.pid() != writer.pid() {
            let why = format!(
                "process {} (uid {}) spoke for the runner, which is process {}",
                writer.pid(),
                writer.uid(),
                known.pid()
            );
            to.send(Heard::Contradiction(why)).await.ok();
            return;
        }
        decoder.push(&buffer[..length]);
        loop {
            let heard = match decoder.next_frame() {
                Ok(Some(frame)) => Heard::Frame(frame, writer.uid()),
                Ok(None) => break,
                Err(e) => Heard::Contradiction(e.to_string()),
            };
            let over = matches!(heard, Heard::Contradiction(_));
            if to.send(heard).await.is_err() || over {
                return;
            }
        }
    }
    if !decoder.is_at_end() {
        to.send(Heard::Contradiction("the runner ended in the middle of a message".to_owned())).await.ok();
    }
}

/// The next bytes, and who wrote them; bytes of different processes never come together.
async fn receive(from: &OwnedReadHalf, buffer: &mut [u8]) -> io::Result<(usize, UnixCredentials)> {
    let socket: &UnixStream = from.as_ref();
    socket
        .async_io(Interest::READABLE, || {
            let mut space = cmsg_space!(UnixCredentials);
            let mut parts = [IoSliceMut::new(buffer)];
            let message =
                recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
            let writer = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
                _ => None,
            });
            match (message.bytes, writer) {
                (0, _) => Ok((0, UnixCredentials::new())),
                (length, Some(writer)) => Ok((length, writer)),
                (_, None) => Err(io::Error::other("the kernel does not say who wrote this")),
            }
        })
        .await
}

/// Hears the id of the session: `glexec` writes it into a pipe that no payload ever has. A `glexec` that knows nothing of the
/// pipe closes it.
pub async fn hear_session(mut pipe: tokio::net::unix::pipe::Receiver, to: mpsc::Sender<Heard>) {
    let mut text = [0; 64];
    let mut length = 0;
    while let Ok(read @ 1..) = pipe.read(&mut text[length..]).await {
        length += read;
        if let Some((id, _)) = String::from_utf8_lossy(&text[..length]).split_once('\n') {
            to.send(Heard::Session(id.to_owned())).await.ok();
            return;
        }
    }
}

/// Sends the start and the input files, then every stop. Returning hangs up, which ends the payload.
pub async fn talk(
    mut to: OwnedWriteHalf,
    start: Start,
    inputs: Vec<Input>,
    mut stops: mpsc::UnboundedReceiver<Duration>,
) -> Result<()> {
    tokio::select! {
        sent = send_all(&mut to, start, inputs) => sent?,
        // Nothing has been started yet, so hanging up is the quickest stop.
        _ = stops.recv() => return Ok(()),
    }
    while let Some(grace) = stops.recv().await {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        to.write_all(&message_frame(&ToRunner::Stop { grace_ms })?).await?;
    }
    Ok(())
}

async fn send_all(to: &mut OwnedWriteHalf, start: Start, inputs: Vec<Input>) -> Result<()> {
    to.write_all(&message_frame(&ToRunner::Start(Box::new(start)))?).await?;
    for input in inputs {
        let file = ToRunner::File { path: input.name, mode: input.mode, size: input.size };
        to.write_all(&message_frame(&file)?).await?;
        let mut content = tokio::fs::File::open(&input.content).await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = content.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            to.write_all(&data_head(length)?).await?;
            to.write_all(&buffer[..length]).await?;
        }
    }
    to.write_all(&message_frame(&ToRunner::Go)?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_wire::ToAgent;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn a_message_of_another_process_is_a_contradiction() {
        let (ours, mut theirs) = pair().unwrap();
        let (from, _to) = ours.into_split();
        let (sender, mut heard) = mpsc::channel(8);
        tokio::spawn(listen(from, sender));
        let frame = message_frame(&ToAgent::Done).unwrap();
        io::Write::write_all(&mut theirs, &frame).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let Some(Heard::Frame(first, by)) = heard.recv().await else { panic!("no frame") };
        assert_eq!((first.message::<ToAgent>().unwrap(), by), (ToAgent::Done, uid));
        // A thief of the descriptor: another process that writes the same.
        let mut thief = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(std::os::fd::OwnedFd::from(theirs))
            .spawn()
            .unwrap();
        io::Write::write_all(thief.stdin.as_mut().unwrap(), &frame).unwrap();
        let Some(Heard::Contradiction(why)) = heard.recv().await else { panic!("believed") };
        assert!(why.contains(&thief.id().to_string()), "{why}");
        drop(thief.stdin.take());
        thief.wait().unwrap();
    }

    #[tokio::test]
    async fn the_session_is_heard_from_glexec_however_it_is_cut() {
        let (mut glexec, pipe) = tokio::net::unix::pipe::pipe().unwrap();
        let (sender, mut heard) = mpsc::channel(8);
        let hearing = tokio::spawn(hear_session(pipe, sender));
        for part in ["0198", "-abc\n"] {
            glexec.write_all(part.as_bytes()).await.unwrap();
        }
        let Some(Heard::Session(id)) = heard.recv().await else { panic!("not heard") };
        assert_eq!(id, "0198-abc");
        hearing.await.unwrap();
        // One that says nothing keeps nobody waiting.
        let (silent, pipe) = tokio::net::unix::pipe::pipe().unwrap();
        drop(silent);
        let (sender, mut heard) = mpsc::channel(8);
        hear_session(pipe, sender).await;
        assert!(heard.recv().await.is_none());
    }
}
