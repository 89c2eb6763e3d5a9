//! What the server holds: the site's store, what runs on the nodes, who asked what, and its own counters.

use super::config::Config;
use super::scope::Brings;
use crate::filter::{Filter, host};
use crate::store::journal::DAY_NS;
use crate::store::{Added, Cursor, Store, StoreError, StoreWriter};
use crate::sum::{Groups, Key};
use crate::upload::{Item, ItemResult, Outcome, Results, Stage, Upload, judge};
use crate::when::Moment;
use record::Record;
use record::line::{self, Line};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Who asked what, beside the store.
const READS: &str = "reads.jsonl";

/// What a node said runs on it, and when it said so.
struct Node {
    told: Moment,
    records: Vec<Record>,
}

/// Counters for `/metrics`, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    uploaded: [AtomicU64; 4],
    questions: AtomicU64,
    refused: AtomicU64,
}

/// The server's state.
pub struct Site {
    path: PathBuf,
    config: RwLock<Arc<Config>>,
    store: PathBuf,
    writer: Mutex<StoreWriter>,
    nodes: Mutex<BTreeMap<String, Node>>,
    /// Held while the list of questions is written.
    reads: Mutex<()>,
    counters: Counters,
}

/// One page of records.
#[derive(Default)]
pub struct Page {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// Where the next page begins, when there is one.
    pub next: Option<Cursor>,
}

impl Site {
    /// Opens or makes the store.
    ///
    /// # Errors
    /// What the store says.
    pub fn open(path: PathBuf, config: Config) -> Result<Self, StoreError> {
        let store = config.store.clone();
        let writer = Mutex::new(StoreWriter::open(&store)?);
        let config = RwLock::new(Arc::new(config));
        let (nodes, reads) = (Mutex::default(), Mutex::default());
        Ok(Self { path, config, store, writer, nodes, reads, counters: Counters::default() })
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the configuration again; a broken one changes nothing. Address and store stay until a restart.
    pub fn reload(&self) {
        match Config::load(&self.path) {
            Ok(config) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!(file = ?self.path, "configuration loaded");
            }
            Err(e) => tracing::error!(reason = %e, "configuration not reloaded, the old one stays in force"),
        }
    }

    /// Takes final records; once it returns, those that were created are on the disk.
    ///
    /// # Errors
    /// What the store says; then none was taken.
    pub fn take(&self, upload: &Upload, brings: &Brings) -> Result<Results, StoreError> {
        let judged: Vec<Result<Record, String>> =
            upload.records.iter().map(|item| judge(item, Stage::Final, allowed(brings))).collect();
        let good: Vec<(Record, Vec<u8>)> = upload
            .records
            .iter()
            .zip(&judged)
            .filter_map(|(item, record)| {
                Some((record.as_ref().ok()?.clone(), item.lines.clone().into_bytes()))
            })
            .collect();
        let mut added = locked(&self.writer).add(&good, Moment::now().0)?.into_iter();
        let result = |(item, record): (&Item, Result<Record, String>)| {
            let (result, reason) = match record {
                Err(reason) => (Outcome::Invalid, Some(reason)),
                Ok(_) => match added.next() {
                    Some(Added::Created) => (Outcome::Created, None),
                    Some(Added::Duplicate) => (Outcome::Duplicate, None),
                    _ => (Outcome::Conflict, Some("another record of this id was taken before".to_owned())),
                },
            };
            self.counters.uploaded[result as usize].fetch_add(1, Ordering::Relaxed);
            ItemResult { id: item.id.clone(), result, reason }
        };
        Ok(Results { results: upload.records.iter().zip(judged).map(result).collect() })
    }

    /// Takes what runs on a node now, in place of what it said before.
    pub fn note_running(&self, sender: &str, upload: &Upload, brings: &Brings) -> Results {
        let mut records = Vec::new();
        let mut result = |item: &Item| {
            let (result, reason) = match judge(item, Stage::Open, allowed(brings)) {
                Ok(record) => {
                    records.push(record);
                    (Outcome::Created, None)
                }
                Err(reason) => (Outcome::Invalid, Some(reason)),
            };
            ItemResult { id: item.id.clone(), result, reason }
        };
        let results = upload.records.iter().map(&mut result).collect();
        locked(&self.nodes).insert(sender.to_owned(), Node { told: Moment::now(), records });
        Results { results }
    }

    /// What runs on the nodes as far as they said, oldest first.
    ///
    /// # Errors
    /// What the store says.
    pub fn running(&self, filter: &Filter) -> Result<Vec<Record>, StoreError> {
        let meant = |node: &Node| -> Vec<Record> {
            node.records.iter().filter(|record| filter.matches(record)).cloned().collect()
        };
        let mut records: Vec<Record> = locked(&self.nodes).values().flat_map(meant).collect();
        if let Some(store) = self.reader()? {
            // Closed meanwhile, and taken.
            records.retain(|record| !store.has(&record.id).unwrap_or(false));
        }
        records.sort_by(|a, b| (a.start_unix_ns(), &a.id).cmp(&(b.start_unix_ns(), &b.id)));
        Ok(records)
    }

    /// One page of records. What runs comes with the last page: it has no end yet.
    ///
    /// # Errors
    /// What the store says.
    pub fn page(&self, filter: &Filter, after: Option<Cursor>, most: usize) -> Result<Page, StoreError> {
        let mut page = Page::default();
        if !filter.running
            && let Some(store) = self.reader()?
        {
            (page.records, page.next) = store.page(filter, after, most)?;
        }
        if page.next.is_none() {
            page.records.extend(self.running(filter)?);
        }
        Ok(page)
    }

    /// All records that a filter means, running ones as well.
    ///
    /// # Errors
    /// What the store says.
    pub fn all(&self, filter: &Filter) -> Result<Vec<Record>, StoreError> {
        let mut records = self.reader()?.map_or_else(|| Ok(Vec::new()), |store| store.select(filter))?;
        records.extend(self.running(filter)?);
        Ok(records)
    }

    /// One record with its events; `None` when it is not here.
    ///
    /// # Errors
    /// What the store says.
    pub fn record(&self, id: &str) -> Result<Option<(Record, Vec<Line>)>, StoreError> {
        let Some(store) = self.reader()? else { return Ok(None) };
        let found = store.record(id)?;
        Ok(found.map(|(record, bytes)| {
            let lines = bytes.split(|b| *b == b'\n').filter_map(|bytes| line::decode(bytes).ok()).collect();
            (record, lines)
        }))
    }

    /// Sums of what ended.
    ///
    /// # Errors
    /// What the store says.
    pub fn sums(&self, filter: &Filter, keys: &[Key]) -> Result<Groups, StoreError> {
        match self.reader()? {
            Some(store) => store.sums(filter, keys),
            None => Ok(Groups::new()),
        }
    }

    /// Whether records can be taken and found: tried, not assumed.
    ///
    /// # Errors
    /// Says what does not work.
    pub fn health(&self) -> Result<(), String> {
        match service::check::writable("store", &self.store) {
            service::check::Finding::Good(_) => {}
            bad => return Err(bad.to_string()),
        }
        let store = self.reader().map_err(|e| e.to_string())?;
        store.map_or(Ok(()), |store| store.head().map(|_| ()).map_err(|e| e.to_string()))
    }

    /// Takes out what may not be kept any longer: of the records, and of the questions about persons.
    ///
    /// # Errors
    /// What the store says; the rest is done the next time.
    pub fn reduce(&self) -> Result<usize, StoreError> {
        let (kept, now) = (self.config().retention, Moment::now().0);
        let reduced = locked(&self.writer).reduce(&kept, now)?;
        if let Some(days) = kept.identity_days() {
            self.forget_questions(now.saturating_sub(u64::from(days).saturating_mul(DAY_NS)))?;
        }
        Ok(reduced)
    }

    fn forget_questions(&self, before_unix_ns: u64) -> Result<(), StoreError> {
        let (path, new) = (self.store.join(READS), self.store.join("reads.tmp"));
        let failed = |why| StoreError::File { path: path.clone(), why };
        let _turn = locked(&self.reads);
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(failed)?,
        };
        let before = Moment(before_unix_ns).to_string();
        let at = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).ok()?["at_utc"].as_str().map(str::to_owned)
        };
        let kept: String =
            text.split_inclusive('\n').filter(|line| at(line).is_none_or(|at| at >= before)).collect();
        if kept.len() == text.len() {
            return Ok(());
        }
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            let mut file = options.open(&new)?;
            file.write_all(kept.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(failed)
    }

    /// Notes who asked what, before it is answered: reading about persons leaves a trace.
    ///
    /// # Errors
    /// What the file system says; then nothing is answered.
    pub fn note_question(&self, who: &str, scope: &str, what: &str) -> Result<(), StoreError> {
        let path = self.store.join(READS);
        let line = json!({ "at_utc": Moment::now().to_string(), "who": who, "as": scope, "what": what });
        let write = || {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
            options.open(&path)?.write_all(format!("{line}\n").as_bytes())
        };
        self.counters.questions.fetch_add(1, Ordering::Relaxed);
        let _turn = locked(&self.reads);
        write().map_err(|why| StoreError::File { path: path.clone(), why })
    }

    /// Counts a request that was turned away.
    pub fn note_refused(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Figures in the text format of Prometheus.
    ///
    /// # Errors
    /// What the store says.
    pub fn metrics(&self) -> Result<String, StoreError> {
        let names = ["created", "duplicate", "conflict", "invalid"];
        let uploaded: String = names
            .iter()
            .zip(&self.counters.uploaded)
            .map(|(name, count)| {
                let count = count.load(Ordering::Relaxed);
                format!("pilotage_accounting_uploaded_total{{result=\"{name}\"}} {count}\n")
            })
            .collect();
        let stored = self.reader()?.map(|store| store.head()).transpose()?.map_or(0, |head| head.n);
        let (nodes, running, quiet) = {
            let nodes = locked(&self.nodes);
            let oldest = nodes.values().map(|node| node.told.0).min();
            let quiet = oldest.map_or(0, |told| Moment::now().0.saturating_sub(told) / 1_000_000_000);
            (nodes.len(), nodes.values().map(|node| node.records.len()).sum::<usize>(), quiet)
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (asked, refused) = (count(&self.counters.questions), count(&self.counters.refused));
        Ok(format!(
            "# HELP pilotage_accounting_uploaded_total Records that nodes brought, by what became of them.\n\
             # TYPE pilotage_accounting_uploaded_total counter\n{uploaded}\
             # HELP pilotage_accounting_records Records in the store.\n\
             # TYPE pilotage_accounting_records gauge\npilotage_accounting_records {stored}\n\
             # HELP pilotage_accounting_running Sessions that run, as far as nodes said.\n\
             # TYPE pilotage_accounting_running gauge\npilotage_accounting_running {running}\n\
             # HELP pilotage_accounting_nodes Nodes that said what runs.\n\
             # TYPE pilotage_accounting_nodes gauge\npilotage_accounting_nodes {nodes}\n\
             # HELP pilotage_accounting_quiet_seconds Since the node was heard that is quiet for longest.\n\
             # TYPE pilotage_accounting_quiet_seconds gauge\npilotage_accounting_quiet_seconds {quiet}\n\
             # HELP pilotage_accounting_questions_total Questions about records.\n\
             # TYPE pilotage_accounting_questions_total counter\npilotage_accounting_questions_total {asked}\n\
             # HELP pilotage_accounting_refused_total Requests that were turned away.\n\
             # TYPE pilotage_accounting_refused_total counter\npilotage_accounting_refused_total {refused}\n"
        ))
    }

    /// A reader of its own for each question: readers need no lock, and a slow one keeps nobody waiting.
    fn reader(&self) -> Result<Option<Store>, StoreError> {
        Store::open(&self.store)
    }
}

fn allowed(brings: &Brings) -> Option<&str> {
    match brings {
        Brings::AnyHost => None,
        Brings::Host(host) => Some(host),
    }
}

/// The host under which a sender's running sessions stand.
pub fn sender(brings: &Brings, upload: &Upload, caller: &str) -> String {
    match brings {
        Brings::Host(host) => host.clone(),
        // A gateway speaks for one node at a time.
        Brings::AnyHost => {
            let first = upload.records.first().and_then(|item| judge(item, Stage::Open, None).ok());
            first.map_or_else(|| caller.to_owned(), |record| host(&record).to_owned())
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_questions_about_persons_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { store: dir.path().join("store"), ..Config::default() };
        let site = Site::open("accounting.toml".into(), config).unwrap();
        site.note_question("/CN=Olga", "all", "/v1/sessions?dn=new").unwrap();
        let reads = dir.path().join("store").join(READS);
        let new = std::fs::read_to_string(&reads).unwrap();
        let old = new.replacen("\"at_utc\":\"2", "\"at_utc\":\"1", 1).replace("dn=new", "dn=old");
        std::fs::write(&reads, format!("{old}{new}")).unwrap();
        assert_eq!(site.reduce().unwrap(), 0);
        assert_eq!(std::fs::read_to_string(&reads).unwrap(), new);
    }
}
