//! The one writer: loads, decides and stores, many events in one transaction.
//!
//! Everything that arrived while the last transaction was made durable goes into the next one. Nothing is answered, and no
//! effect is carried out, before the commit.

use pilot_api::RawSpec;
use pilot_core::change::History;
use pilot_core::{Answer, Change, Decision, Effect, Event, Need, Terms, View, decide};
use pilot_store::{Store, StoreError, Transaction};
use tokio::sync::{mpsc, oneshot};

/// Most events in one transaction.
const MOST: usize = 256;
/// Most events that wait for the writer; who comes later is told to come again.
const WAITING: usize = 4096;

/// What an event came to.
#[derive(Debug)]
pub struct Done {
    /// For the asker.
    pub answer: Answer,
    /// Specifications of what was given to a pilot, by their keys.
    pub specs: Vec<(i64, RawSpec)>,
}

struct Job {
    event: Event,
    reply: oneshot::Sender<Result<Done, StoreError>>,
}

/// The way to the writer. Dropping the last one ends it.
#[derive(Debug, Clone)]
pub struct Engine {
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("event", &self.event).finish_non_exhaustive()
    }
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Engine {
    /// Starts the writer. `carry_out` gets effects and history after each commit.
    pub fn start<S: Store>(
        store: S,
        terms: Terms,
        carry_out: impl Fn(Vec<Effect>, Vec<History>) + Send + Sync + 'static,
    ) -> Self {
        let (jobs, mut waiting) = mpsc::channel::<Job>(WAITING);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(MOST);
            while waiting.recv_many(&mut batch, MOST).await > 0 {
                write(&store, terms, &mut batch, &carry_out).await;
            }
        });
        Self { jobs }
    }

    /// Has an event decided and stored; answers when it is durable, or not done at all.
    ///
    /// # Errors
    /// As the store's; an overloaded writer is busy.
    pub async fn decide(&self, event: Event) -> Result<Done, StoreError> {
        let (reply, answer) = oneshot::channel();
        let overloaded = |_| StoreError::Busy("too many changes wait already".into());
        self.jobs.try_send(Job { event, reply }).map_err(overloaded)?;
        answer.await.map_err(|_| StoreError::Unavailable("the queue is ending".into()))?
    }
}

/// What an event would come to now; nothing is stored.
///
/// # Errors
/// As the store's.
pub async fn look<S: Store>(store: &S, terms: Terms, event: &Event) -> Result<Answer, StoreError> {
    let (mut view, now) = (View { terms, ..View::default() }, now());
    let mut loaded = 0;
    while let Some(need) = event.need(&view, loaded, now) {
        store.load(&mut view, &need).await?;
        loaded += 1;
    }
    Ok(decide(&view, event, now).answer)
}

async fn write<S: Store>(
    store: &S,
    terms: Terms,
    batch: &mut Vec<Job>,
    carry_out: &impl Fn(Vec<Effect>, Vec<History>),
) {
    let events: Vec<&Event> = batch.iter().map(|job| &job.event).collect();
    match together(store, terms, &events).await {
        Ok(decided) => {
            for (job, (decision, specs)) in batch.drain(..).zip(decided) {
                finish(job, Ok((decision, specs)), carry_out);
            }
        }
        // One of them cannot be stored: the others shall not suffer for it.
        Err(StoreError::Damaged(_)) if batch.len() > 1 => {
            for job in batch.drain(..) {
                let alone = together(store, terms, &[&job.event]).await;
                let alone = alone.and_then(|mut one| {
                    one.pop().ok_or_else(|| StoreError::Damaged("nothing was decided".into()))
                });
                finish(job, alone, carry_out);
            }
        }
        Err(error) => batch.drain(..).for_each(|job| finish(job, Err(error.clone()), carry_out)),
    }
}

type Decided = (Decision, Vec<(i64, RawSpec)>);

async fn together<S: Store>(store: &S, terms: Terms, events: &[&Event]) -> Result<Vec<Decided>, StoreError> {
    let mut tx = store.begin().await?;
    let mut decided = Vec::with_capacity(events.len());
    for event in events {
        decided.push(one(&mut tx, terms, event).await?);
    }
    tx.commit().await?;
    Ok(decided)
}

async fn one<T: Transaction>(tx: &mut T, terms: Terms, event: &Event) -> Result<Decided, StoreError> {
    let (mut view, now) = (View { terms, ..View::default() }, now());
    let mut loaded = 0;
    while let Some(need) = event.need(&view, loaded, now) {
        tx.load(&mut view, &need).await?;
        loaded += 1;
    }
    let decision = decide(&view, event, now);
    tx.apply(&decision.changes).await?;
    if let Answer::Leased(given) = &decision.answer
        && !given.is_empty()
    {
        let mut keys: Vec<i64> = given.iter().map(|g| g.spec).collect();
        keys.dedup();
        tx.load(&mut view, &Need::Specs(keys)).await?;
    }
    Ok((decision, view.specs))
}

fn finish(job: Job, decided: Result<Decided, StoreError>, carry_out: &impl Fn(Vec<Effect>, Vec<History>)) {
    let done = decided.map(|(decision, specs)| {
        let history = decision.changes.into_iter().filter_map(|change| match change {
            Change::History(line) => Some(line),
            _ => None,
        });
        carry_out(decision.effects, history.collect());
        Done { answer: decision.answer, specs }
    });
    // Whoever asked may have gone; what was decided stays.
    let _ = job.reply.send(done);
}
