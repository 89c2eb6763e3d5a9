//! From the spool into the store: closed records, in batches.

use super::{Added, StoreError, StoreWriter};
use record::{Damaged, Spool};
use std::io::ErrorKind;
use std::path::PathBuf;

/// Records that are synced together: one sync of a day file and of the index each.
const BATCH: usize = 1000;

/// What was done.
#[derive(Debug, Default)]
pub struct Folded {
    /// Records that are in the store now and were not before.
    pub new: usize,
    /// Records that were in the store already and only had to be removed from the spool.
    pub known: usize,
    /// Files that stay in the spool because they are damaged.
    pub damaged: Vec<Damaged>,
    /// Files that stay in the spool because the store has another record of the same id.
    pub conflicts: Vec<PathBuf>,
}

/// Takes over all closed records of a spool; each is removed there once it is on the disk here.
///
/// # Errors
/// What store and spool say; what was taken over before stays.
pub fn fold(spool: &Spool, store: &mut StoreWriter, now_unix_ns: u64) -> Result<Folded, StoreError> {
    let failed = |why| StoreError::File { path: spool.dir().to_owned(), why };
    let mut folded = Folded { damaged: spool.strangers().map_err(failed)?, ..Folded::default() };
    for ids in spool.closed_ids().map_err(failed)?.chunks(BATCH) {
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            match spool.closed_bytes(id) {
                Ok(read) => records.push(read),
                Err(damaged) if damaged.error_kind() == ErrorKind::NotFound => {}
                Err(damaged) => folded.damaged.push(damaged),
            }
        }
        let added = store.add(&records, now_unix_ns)?;
        let mut done = Vec::with_capacity(records.len());
        for ((record, _), added) in records.iter().zip(added) {
            match added {
                Added::Created => folded.new += 1,
                Added::Duplicate => folded.known += 1,
                Added::Conflict => {
                    folded.conflicts.push(record.path.clone());
                    continue;
                }
            }
            done.push(record.id.as_str());
        }
        spool.remove_closed(done).map_err(failed)?;
    }
    Ok(folded)
}
