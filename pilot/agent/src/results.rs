//! Results on their way to the queue, together: while one request is under way, those that come meanwhile wait for the next,
//! so that many short payloads cost few requests and nobody waits for a clock.

use pilot_api::{AttemptResult, NamedResult, ResultAnswer};
use pilot_client::{Client, ClientError};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Most results in one request; the queue takes more.
const MOST: usize = 256;

/// What became of one result.
pub type Answered = Result<(), Arc<ClientError>>;

struct Waiting {
    result: NamedResult,
    answer: oneshot::Sender<Answered>,
}

/// Takes results, each with its answer.
#[derive(Debug)]
pub struct Results {
    sender: mpsc::UnboundedSender<Waiting>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("attempt", &self.result.attempt).finish_non_exhaustive()
    }
}

impl Results {
    /// Begins to deliver; must be called within the runtime. It ends when this is dropped.
    pub fn deliver(client: Client) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(deliver(client, receiver));
        Self { sender }
    }

    /// One request with this result, and perhaps others.
    pub async fn send(&self, attempt: Uuid, result: &AttemptResult) -> Answered {
        let AttemptResult { lease, outcome, returned, report } = result.clone();
        let (answer, answered) = oneshot::channel();
        let result = NamedResult { attempt, lease, outcome, returned, report };
        self.sender.send(Waiting { result, answer }).ok();
        // The other end lives as long as this; were it gone, nothing is known.
        answered.await.unwrap_or_else(|_| Err(Arc::new(lost("the pilot is ending"))))
    }
}

fn lost(reason: &str) -> ClientError {
    ClientError::Unreachable { queue: String::new(), reason: reason.to_owned() }
}

async fn deliver(client: Client, mut receiver: mpsc::UnboundedReceiver<Waiting>) {
    // A queue of an earlier version takes them one by one.
    let mut together = true;
    let mut waiting = Vec::new();
    while receiver.recv_many(&mut waiting, MOST).await > 0 {
        // Whoever lost its lease meanwhile does not wait any more.
        waiting.retain(|one| !one.answer.is_closed());
        if together && waiting.len() > 1 {
            let results: Vec<NamedResult> = waiting.iter().map(|one| one.result.clone()).collect();
            match client.results(&results).await {
                Err(e) if e.code() == Some("unknown_call") => together = false,
                // One of them may be what the queue never takes: the others do not pay for it.
                Err(e) if e.is_final() => (),
                answer => {
                    tell(std::mem::take(&mut waiting), answer);
                    continue;
                }
            }
        }
        for one in waiting.drain(..) {
            let NamedResult { attempt, lease, outcome, returned, report } = one.result;
            let result = AttemptResult { lease, outcome, returned, report };
            one.answer.send(client.result(attempt, &result).await.map_err(Arc::new)).ok();
        }
    }
}

/// Gives each its own answer; a failure of the whole request is everybody's.
fn tell(waiting: Vec<Waiting>, answer: Result<Vec<ResultAnswer>, ClientError>) {
    match answer {
        Ok(answers) => {
            for one in waiting {
                let found = answers.iter().find(|answer| answer.attempt == one.result.attempt);
                let answered = match found.map(|answer| answer.problem.clone()) {
                    Some(None) => Ok(()),
                    Some(Some(problem)) => Err(Arc::new(ClientError::Problem(problem))),
                    None => Err(Arc::new(lost("the queue's answer leaves this result out"))),
                };
                one.answer.send(answered).ok();
            }
        }
        Err(e) => {
            let e = Arc::new(e);
            for one in waiting {
                one.answer.send(Err(Arc::clone(&e))).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_api::{Outcome, Problem, Report};

    fn waiting(attempt: Uuid) -> (Waiting, oneshot::Receiver<Answered>) {
        let (answer, answered) = oneshot::channel();
        let (outcome, report) = (Outcome::Ok, Report::default());
        let result = NamedResult { attempt, lease: Uuid::nil(), outcome, returned: false, report };
        (Waiting { result, answer }, answered)
    }

    #[tokio::test]
    async fn each_result_gets_its_own_answer() {
        let ids = [Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3)];
        let (all, answered): (Vec<_>, Vec<_>) = ids.into_iter().map(waiting).unzip();
        let (status, code, title) = (409, "lease_superseded".to_owned(), "t".to_owned());
        let problem = Problem { status, code, title, retryable: false, offset: None };
        let answers = vec![
            ResultAnswer { attempt: ids[1], problem: Some(problem) },
            ResultAnswer { attempt: ids[0], problem: None },
        ];
        tell(all, Ok(answers));
        let mut got = Vec::new();
        for one in answered {
            got.push(one.await.expect("an answer"));
        }
        assert!(got[0].is_ok());
        assert_eq!(got[1].as_ref().unwrap_err().code(), Some("lease_superseded"));
        assert!(got[2].as_ref().unwrap_err().is_transient(), "left out: to be sent again");
    }

    #[tokio::test]
    async fn a_failure_of_the_request_is_everybody_s() {
        let (all, answered): (Vec<_>, Vec<_>) =
            [1, 2].map(|n| waiting(Uuid::from_u128(n))).into_iter().unzip();
        tell(all, Err(lost("no answer")));
        for one in answered {
            assert!(one.await.expect("an answer").unwrap_err().is_transient());
        }
    }
}
