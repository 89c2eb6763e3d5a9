//! What `pilot run` and `pilot runner` say to each other; the runner lives under the payload's account.

use crate::assert_one_line;
use pilot_wire::{Frame, ToAgent, ToRunner};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::future::Future;
use std::task::{Context, Poll, Waker};

/// A stream of frames to its end, or to the first one that is wrong. Messages come back the same when they are sent again.
pub fn frames(data: &[u8]) {
    let mut from = data;
    loop {
        let before = from.len();
        match now(pilot_wire::receive(&mut from)) {
            Ok(Some(frame)) => {
                let (Frame::Json(bytes) | Frame::Data(bytes)) = &frame;
                assert_eq!(before - from.len(), bytes.len() + 5);
                again::<ToAgent>(&frame);
                again::<ToRunner>(&frame);
            }
            Ok(None) => return assert!(before == 0),
            Err(why) => return assert_one_line(&why.to_string()),
        }
    }
}

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(frame: &Frame) {
    let message: T = match frame.message() {
        Ok(message) => message,
        Err(why) => return assert_one_line(&why.to_string()),
    };
    let mut wire = Vec::new();
    match now(pilot_wire::send(&mut wire, &message)) {
        Ok(()) => {
            let frame =
                now(pilot_wire::receive(&mut wire.as_slice())).expect("we sent it").expect("all of it");
            assert_eq!(frame.message::<T>().expect("we wrote it"), message);
        }
        // Escapes make a message longer.
        Err(why) => assert!(why.to_string().contains("too long"), "{why}"),
    }
}

/// A stream in memory never lets anybody wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("bytes in memory are always ready"),
    }
}
