//! Ends requests and answers whose bytes move too slowly, so that a peer that sends or reads a few bytes a minute does not hold a
//! connection for long.

use crate::limits::{Limits, Share};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Time spent in waiting for the peer, against what came of it.
#[derive(Debug)]
pub(crate) struct Pace {
    stall: Duration,
    least_rate: u64,
    waited: Duration,
    bytes: u64,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (stall, least_rate) = (limits.stall, limits.least_rate.max(1));
        Self { stall, least_rate, waited: Duration::ZERO, bytes: 0, waiting: None }
    }

    fn moved(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// What is left to wait for the next byte.
    fn patience(&self) -> Duration {
        let earned = Duration::from_secs(self.bytes / self.least_rate);
        self.stall.saturating_add(earned).saturating_sub(self.waited).min(self.stall)
    }

    /// Ready once the peer has been waited for too long.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let patience = self.patience();
        let (_, timer) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(patience))));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the other side is too slow"))
    }
}

/// The body of a request, as fast as the limits want it.
#[derive(Debug)]
pub(crate) struct Incoming {
    body: Body,
    pace: Pace,
}

impl Incoming {
    pub(crate) fn new(body: Body, limits: &Limits) -> Self {
        Self { body, pace: Pace::new(limits) }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|f| f.as_ref().ok()).and_then(Frame::data_ref);
                self.pace.moved(data.map_or(0, Bytes::len));
                Poll::Ready(frame)
            }
            Poll::Pending => self.pace.poll_over(cx).map(|slow| Some(Err(axum::Error::new(slow)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer: the request counts until its last byte is taken.
#[derive(Debug)]
pub(crate) struct Outgoing {
    body: Body,
    _share: Share,
}

impl Outgoing {
    pub(crate) fn new(body: Body, share: Share) -> Self {
        Self { body, _share: share }
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose peer has to read what is written.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    pace: Pace,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, limits: &Limits) -> Self {
        Self { stream, pace: Pace::new(limits) }
    }

    fn timed<T>(
        &mut self,
        done: Poll<io::Result<T>>,
        bytes: impl Fn(&T) -> usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match done {
            Poll::Ready(done) => {
                self.pace.moved(done.as_ref().map_or(0, bytes));
                Poll::Ready(done)
            }
            Poll::Pending => self.pace.poll_over(cx).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.timed(done, |n| *n, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.timed(done, |()| 0, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(done, |()| 0, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_earned_by_bytes() {
        let limits = Limits { stall: Duration::from_secs(10), least_rate: 100, ..Limits::default() };
        let mut pace = Pace::new(&limits);
        assert_eq!(pace.patience().as_secs(), 10);
        pace.waited = Duration::from_secs(9);
        pace.moved(50);
        assert_eq!(pace.patience().as_secs(), 1, "half a second's worth is none");
        pace.moved(350);
        assert_eq!(pace.patience().as_secs(), 5);
        pace.moved(1_000_000);
        assert_eq!(pace.patience().as_secs(), 10, "no gap is longer than a stall");
    }
}
