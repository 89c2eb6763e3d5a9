//! From a node's store to the site's server: first kept here, then sent, each record until the site has answered for it.
//!
//! The ledger remembers the last seal up to which every record was answered for, so that a node that could not send for
//! weeks goes on where it was. A record that the site refuses is noted with the reason and holds nobody up.

use crate::export::ledger::{Ledger, State};
use crate::http::{Answer, Client};
use crate::store::journal::{Head, Sealed};
use crate::store::{Store, StoreError};
use crate::upload::{Item, ItemResult, MOST_BYTES, Outcome, Results, Upload};
use record::Spool;

/// Records of one request: enough that its own cost does not count, few enough to be repeated.
const BATCH: usize = 1000;

/// Why sending ended early; what was answered for before stays on record.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The store cannot be read.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The ledger cannot be used.
    #[error("ledger: {0}")]
    Ledger(#[from] rusqlite::Error),
    /// The spool cannot be read.
    #[error("spool: {0}")]
    Spool(std::io::Error),
    /// The site's server does not take anything now.
    #[error("{0}; what was not sent waits here for the next time")]
    Later(String),
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Records that the site has now and had not before.
    pub created: usize,
    /// Records that it had already.
    pub known: usize,
    /// Records that it refuses for good, with its reason.
    pub refused: Vec<(String, String)>,
    /// Sessions that run here, of which it knows now.
    pub running: usize,
}

/// A way to the site's server.
pub struct Way<'a> {
    /// The connection.
    pub client: &'a Client,
    /// `https://HOST:PORT`.
    pub url: &'a str,
}

/// Sends all that the site has not answered for.
///
/// # Errors
/// `Later` when the server is not to be had, or what store and ledger say.
pub fn forward(
    way: &Way<'_>,
    store: &Store,
    ledger: &mut Ledger,
    done: &mut Forwarded,
    now_unix_ns: u64,
) -> Result<(), ForwardError> {
    let dest = format!("site {}", way.url);
    let mut sending = Sending { way, ledger, dest, done, batch: Upload::default(), bytes: 0, now_unix_ns };
    let from = sending.ledger.forwarded(&sending.dest)?;
    let mut last = from.clone();
    let end = store.walk_after(&from, |sealed| {
        if sending.is_full(&sealed) {
            sending.send(&last)?;
        }
        last = sealed.head.clone();
        sending.add(&sealed);
        Ok::<(), ForwardError>(())
    })?;
    sending.send(&end)
}

/// Tells the server which sessions run here: all of them, in place of what it was told before.
///
/// # Errors
/// As [`forward`].
pub fn tell_running(way: &Way<'_>, spool: &Spool, done: &mut Forwarded) -> Result<(), ForwardError> {
    let ids = spool.open_ids().map_err(ForwardError::Spool)?;
    // What is damaged, or was closed meanwhile, does not run as far as anybody can tell.
    let items = ids.into_iter().filter_map(|id| {
        let lines = String::from_utf8(spool.open_bytes(&id).ok()?).ok()?;
        Some(Item { id, lines })
    });
    let records: Vec<Item> = items.collect();
    let results = way.post("/v1/running", &Upload { records })?;
    let (taken, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(|r| r.result == Outcome::Created);
    done.running = taken.len();
    done.refused.extend(refused.into_iter().map(|r| (r.id, r.reason.unwrap_or_default())));
    Ok(())
}

struct Sending<'a> {
    way: &'a Way<'a>,
    ledger: &'a mut Ledger,
    dest: String,
    done: &'a mut Forwarded,
    batch: Upload,
    bytes: usize,
    now_unix_ns: u64,
}

impl Sending<'_> {
    fn is_full(&self, next: &Sealed<'_>) -> bool {
        // Escaped in JSON, a line grows by its quotes.
        self.batch.records.len() >= BATCH || self.bytes + 2 * next.lines.len() > MOST_BYTES / 2
    }

    fn add(&mut self, sealed: &Sealed<'_>) {
        self.bytes += 2 * sealed.lines.len();
        let lines = String::from_utf8_lossy(sealed.lines).into_owned();
        self.batch.records.push(Item { id: sealed.id.to_owned(), lines });
    }

    /// Sends the batch and notes that everything up to this seal was answered for.
    fn send(&mut self, until: &Head) -> Result<(), ForwardError> {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if batch.records.is_empty() {
            return Ok(());
        }
        for ItemResult { id, result, reason } in self.way.post("/v1/sessions", &batch)? {
            match result {
                Outcome::Created => self.done.created += 1,
                Outcome::Duplicate => self.done.known += 1,
                Outcome::Conflict | Outcome::Invalid => {
                    let reason = reason.unwrap_or_else(|| "the site has another record of this id".into());
                    let ids = [id.clone()];
                    self.ledger.note(
                        &self.dest,
                        &ids,
                        State::Rejected,
                        None,
                        Some(&reason),
                        self.now_unix_ns,
                    )?;
                    self.done.refused.push((id, reason));
                }
            }
        }
        Ok(self.ledger.note_forwarded(&self.dest, until)?)
    }
}

impl Way<'_> {
    fn post(&self, path: &str, upload: &Upload) -> Result<Vec<ItemResult>, ForwardError> {
        let url = format!("{}{path}", self.url);
        let body = serde_json::to_string(upload).map_err(|e| ForwardError::Later(e.to_string()))?;
        let answer = self.client.post(&url, "application/json", &body);
        let Answer { status, body } = answer.map_err(|e| ForwardError::Later(e.to_string()))?;
        let later =
            |why: &str| Err(ForwardError::Later(format!("{url}: {status}: {}", identity::one_line(why))));
        if status != 200 {
            return later(body.get(..300).unwrap_or(&body));
        }
        match serde_json::from_str::<Results>(&body) {
            Ok(Results { results }) if results.len() == upload.records.len() => Ok(results),
            Ok(_) => later("the answer does not speak of every record"),
            Err(e) => later(&format!("the answer is none: {e}")),
        }
    }
}
