//! What `pilot run` and `pilot-runner` say to each other; the runner lives under the payload's account.

use crate::assert_one_line;
use pilot_wire::{Decoder, Frame, HEAD, ToAgent, ToRunner, message_frame};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// A stream of frames to its end, or to the first one that is wrong. Messages come back the same when they are sent again.
pub fn frames(data: &[u8]) {
    let (mut decoder, mut taken) = (Decoder::default(), 0);
    decoder.push(data);
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) => {
                let (Frame::Json(bytes) | Frame::Data(bytes)) = &frame;
                taken += HEAD + bytes.len();
                again::<ToAgent>(&frame);
                again::<ToRunner>(&frame);
            }
            Ok(None) => return assert_eq!(decoder.is_at_end(), taken == data.len()),
            Err(why) => return assert_one_line(&why.to_string()),
        }
    }
}

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(frame: &Frame) {
    let message: T = match frame.message() {
        Ok(message) => message,
        Err(why) => return assert_one_line(&why.to_string()),
    };
    match message_frame(&message) {
        Ok(wire) => {
            let mut decoder = Decoder::default();
            decoder.push(&wire);
            let frame = decoder.next_frame().expect("we sent it").expect("all of it");
            assert_eq!(frame.message::<T>().expect("we wrote it"), message);
        }
        // Escapes make a message longer.
        Err(why) => assert!(why.to_string().contains("too long"), "{why}"),
    }
}
