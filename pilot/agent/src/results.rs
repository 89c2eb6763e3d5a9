//! Results on their way to the queue, together: while one request is under way, those that come meanwhile wait for the next,
//! so that many short payloads cost few requests and nobody waits for a clock.

use pilot_api::{Attached, AttemptResult, NamedResult, Problem, ResultAnswer};
use pilot_client::{Client, ClientError};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Most results in one request; the queue takes more.
const MOST: usize = 256;
/// Beyond so many bytes that results bring along, the rest waits for the next request; the queue takes 4 MiB.
const LARGEST: usize = 2 << 20;

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

    /// One request with this result and what it brings along, and perhaps others.
    pub async fn send(&self, attempt: Uuid, result: &AttemptResult, attached: &Attached) -> Answered {
        let AttemptResult { lease, outcome, returned, report } = result.clone();
        let (answer, answered) = oneshot::channel();
        let attached = attached.clone();
        let result = NamedResult { attempt, lease, outcome, returned, report, attached };
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
    loop {
        if waiting.is_empty() && receiver.recv_many(&mut waiting, MOST).await == 0 {
            return;
        }
        // Whoever lost its lease meanwhile does not wait any more.
        waiting.retain(|one: &Waiting| !one.answer.is_closed());
        let later = waiting.split_off(fitting(&waiting));
        let mut now = std::mem::replace(&mut waiting, later);
        let alone = now.len() == 1 && now[0].result.attached.is_empty();
        if together && !now.is_empty() && !alone {
            let results: Vec<NamedResult> = now.iter().map(|one| one.result.clone()).collect();
            match client.results(&results).await {
                Err(e) if e.code() == Some("unknown_call") => together = false,
                // One of them may be what the queue never takes: the others do not pay for it.
                Err(e) if e.is_final() => (),
                answer => {
                    tell(now, answer);
                    continue;
                }
            }
        }
        for one in now.drain(..) {
            let answer = singly(&client, one.result, together).await;
            one.answer.send(answer.map_err(Arc::new)).ok();
        }
    }
}

/// How many of them one request takes: one at least.
fn fitting(waiting: &[Waiting]) -> usize {
    let mut size = 0;
    let fits = |one: &&Waiting| {
        size += one.result.attached.size();
        size <= LARGEST
    };
    waiting.iter().take_while(fits).count().max(1).min(waiting.len())
}

/// One result. What it brings along goes with it, or not at all: whoever sent it then stores that by itself.
async fn singly(client: &Client, result: NamedResult, together: bool) -> Result<(), ClientError> {
    if !result.attached.is_empty() && together {
        let answers = client.results(std::slice::from_ref(&result)).await?;
        let answer = answers.into_iter().next().ok_or_else(|| lost("the queue's answer is empty"))?;
        return answer.problem.map_or(Ok(()), |problem| Err(problem.into()));
    }
    if !result.attached.is_empty() {
        let title = "this queue takes nothing with a result".to_owned();
        let code = "unknown_call".to_owned();
        return Err(Problem { status: 404, code, title, retryable: false, offset: None }.into());
    }
    let NamedResult { attempt, lease, outcome, returned, report, .. } = result;
    client.result(attempt, &AttemptResult { lease, outcome, returned, report }).await
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
    use pilot_api::{Outcome, Report, Rest};

    fn waiting(attempt: Uuid) -> (Waiting, oneshot::Receiver<Answered>) {
        let (answer, answered) = oneshot::channel();
        let (outcome, report) = (Outcome::Ok, Report::default());
        let (lease, attached) = (Uuid::nil(), Attached::default());
        let result = NamedResult { attempt, lease, outcome, returned: false, report, attached };
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

    #[test]
    fn a_request_is_not_larger_than_the_queue_takes() {
        let mut all: Vec<Waiting> = (0..10).map(|n| waiting(Uuid::from_u128(n)).0).collect();
        assert_eq!(fitting(&all), 10);
        for one in &mut all[2..] {
            let base64 = "x".repeat(LARGEST / 2);
            one.result.attached.stdout = Some(Rest { offset: 0, base64 });
        }
        assert_eq!((fitting(&all), fitting(&all[3..]), fitting(&[])), (4, 2, 0));
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
