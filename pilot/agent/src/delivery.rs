//! A result on its way to the queue: when to send it again, and when to stop.

/// A result on its way to the queue, once logs and output are there: only the queue's word decides about it.
///
/// The queue closes the lease when it takes the result, and so it may seem lost while the answer travels. So a loss
/// counts between two requests, never under one.
#[derive(Debug, Default)]
pub struct Delivery {
    under_way: bool,
    lost: bool,
}

/// What became of one request with the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The queue has it.
    Taken,
    /// The lease was over before it came.
    Late,
    /// The queue will never take it.
    Refused,
    /// Nobody knows: it may be sent again.
    Unknown,
}

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// The queue has the result.
    Yes,
    /// The lease was lost before.
    Lost,
    /// The queue does not want it.
    Refused,
}

impl Delivery {
    /// A request leaves.
    pub fn send(&mut self) {
        self.under_way = true;
    }

    /// The lease is said to be lost.
    pub fn lose(&mut self) -> Option<Delivered> {
        self.lost = true;
        (!self.under_way).then_some(Delivered::Lost)
    }

    /// The request is over; `None` asks for another one.
    pub fn answer(&mut self, answer: Answer) -> Option<Delivered> {
        self.under_way = false;
        match answer {
            Answer::Taken => Some(Delivered::Yes),
            Answer::Late => Some(Delivered::Lost),
            Answer::Refused => Some(Delivered::Refused),
            Answer::Unknown => self.lost.then_some(Delivered::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_heard_under_the_request_does_not_undo_its_answer() {
        for (answer, end) in [
            (Answer::Taken, Delivered::Yes),
            (Answer::Late, Delivered::Lost),
            (Answer::Refused, Delivered::Refused),
            (Answer::Unknown, Delivered::Lost),
        ] {
            let mut delivery = Delivery::default();
            delivery.send();
            assert_eq!(delivery.lose(), None, "{answer:?}");
            assert_eq!(delivery.answer(answer), Some(end), "{answer:?}");
        }
    }

    #[test]
    fn a_result_is_sent_again_until_the_queue_has_it_or_the_lease_is_lost() {
        let mut delivery = Delivery::default();
        for _ in 0..3 {
            delivery.send();
            assert_eq!(delivery.answer(Answer::Unknown), None);
        }
        assert_eq!(delivery.lose(), Some(Delivered::Lost));
        assert_eq!(Delivery::default().lose(), Some(Delivered::Lost), "before the first request");
    }
}
