//! All records of a site: those that still stand in the spool, and those that were folded into the store.

use crate::filter::Filter;
use crate::store::{Store, StoreError};
use crate::sum::{self, Groups, Key};
use record::line::{self, Line};
use record::{Damaged, Record, Spool};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::PathBuf;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The spool cannot be read.
    #[error("spool {}: {why}; name the spool with --spool", dir.display())]
    Spool {
        /// The spool.
        dir: PathBuf,
        /// What the system says.
        why: std::io::Error,
    },
    /// The store gives no answer.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The record that was asked for is damaged.
    #[error("{0}")]
    Damaged(#[from] Damaged),
}

/// Where records are looked for.
pub struct Source {
    spool: Spool,
    store: Option<Store>,
}

/// What was found, oldest first.
#[derive(Default)]
pub struct Contents {
    /// Records that can be read.
    pub records: Vec<Record>,
    /// What cannot.
    pub damaged: Vec<Damaged>,
    /// Files whose writer is at work, or died before the session began.
    pub unborn: Vec<PathBuf>,
}

impl Source {
    /// Both places. A spool that is not there is an error only where there is no store either.
    ///
    /// # Errors
    /// `Spool` when it cannot be listed.
    pub fn new(spool: Spool, store: Option<Store>) -> Result<Self, SourceError> {
        match std::fs::metadata(spool.dir()) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound && store.is_some() => {}
            Err(why) => return Err(SourceError::Spool { dir: spool.dir().to_owned(), why }),
        }
        Ok(Self { spool, store })
    }

    /// The store, where there is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// What stands in the spool and was not folded yet.
    ///
    /// # Errors
    /// `Spool` when it cannot be listed.
    pub fn in_spool(&self) -> Result<Contents, SourceError> {
        let failed = |why| SourceError::Spool { dir: self.spool.dir().to_owned(), why };
        let mut contents =
            Contents { damaged: self.spool.strangers().map_err(failed)?, ..Contents::default() };
        for item in self.spool.records().map_err(failed)? {
            match item {
                Ok(record) => contents.records.push(record),
                // Taken away between the listing and the reading: it is in the store by now.
                Err(damaged) if damaged.error_kind() == ErrorKind::NotFound => {}
                Err(damaged) if damaged.error_kind() == ErrorKind::UnexpectedEof => {
                    contents.unborn.push(damaged.path)
                }
                Err(damaged) => contents.damaged.push(damaged),
            }
        }
        Ok(contents)
    }

    /// All that a filter means. The spool is read first: what is folded meanwhile is then seen in both, never in none.
    ///
    /// # Errors
    /// What spool and store say.
    pub fn select(&self, filter: &Filter) -> Result<Contents, SourceError> {
        let mut contents = self.in_spool()?;
        contents.records.retain(|record| filter.matches(record));
        if let Some(store) = &self.store {
            let folded = store.select(filter)?;
            let ids: BTreeSet<&str> = folded.iter().map(|record| record.id.as_str()).collect();
            contents.records.retain(|record| !ids.contains(record.id.as_str()));
            contents.records.extend(folded);
        }
        contents.records.sort_by(|a, b| (a.start_unix_ns(), &a.id).cmp(&(b.start_unix_ns(), &b.id)));
        Ok(contents)
    }

    /// Sums of all that a filter means, and what could not be read.
    ///
    /// # Errors
    /// What spool and store say.
    pub fn sums(&self, filter: &Filter, keys: &[Key]) -> Result<(Groups, Vec<Damaged>), SourceError> {
        let contents = self.in_spool()?;
        let mut sums = Groups::new();
        if let Some(store) = &self.store {
            sums = store.sums(filter, keys)?;
        }
        for record in &contents.records {
            let folded = self.store.as_ref().map(|store| store.has(&record.id)).transpose()?;
            if folded != Some(true) {
                sum::add(&mut sums, filter, keys, record);
            }
        }
        Ok((sums, contents.damaged))
    }

    /// Ids that begin or end with a text; an id that is the text itself hides all others.
    ///
    /// # Errors
    /// What spool and store say.
    pub fn ids(&self, part: &str) -> Result<Vec<String>, SourceError> {
        let failed = |why| SourceError::Spool { dir: self.spool.dir().to_owned(), why };
        let mut ids: BTreeSet<String> = self.spool.ids().map_err(failed)?.into_iter().collect();
        if let Some(store) = &self.store {
            ids.extend(store.ids(part)?);
        }
        if ids.iter().any(|id| id.eq_ignore_ascii_case(part)) {
            ids.retain(|id| id.eq_ignore_ascii_case(part));
        }
        let meant = |id: &String| {
            let id = id.to_ascii_lowercase();
            id.starts_with(part) || id.ends_with(part)
        };
        Ok(ids.into_iter().filter(meant).collect())
    }

    /// One record and its events.
    ///
    /// # Errors
    /// `Damaged` when it is, or is not there.
    pub fn record(&self, id: &str) -> Result<(Record, Vec<Line>), SourceError> {
        match self.spool.record(id) {
            Ok(record) => Ok((record, self.spool.lines(id)?)),
            Err(damaged) if damaged.error_kind() == ErrorKind::NotFound => {
                let folded = self.store.as_ref().map(|store| store.record(id)).transpose()?.flatten();
                let (record, bytes) = folded.ok_or(damaged)?;
                let lines = bytes.split(|b| *b == b'\n').filter_map(|bytes| line::decode(bytes).ok());
                Ok((record, lines.collect()))
            }
            Err(damaged) => Err(damaged.into()),
        }
    }
}
