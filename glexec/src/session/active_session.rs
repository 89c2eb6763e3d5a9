//! What one call opens before the switch and closes after it: session, cgroup leaf, process namespace, record. They are opened in
//! this order and closed in the reverse one.
//!
//! In log-only mode there is no root to own any of them: the log line is all there is.

use crate::admit::config::Config;
use crate::admit::process_init::{Mode, Start};
use crate::admit::request::Request;
use crate::failure::Failure;
use crate::log::Log;
use crate::run::child_processes;
use crate::run::launch::Report;
use crate::run::outcome::Mishap;
use crate::run::outcome::Outcome;
use crate::session::cgroup::Leaf;
use crate::session::namespace::Namespace;
use crate::session::recording;
use crate::session::session_reaper::SessionReaper;
use crate::session::store::{self, SessionState, StoredSession};
use crate::session::work_dir::WorkDir;
use crate::sys::process;
use identity::VerifiedIdentity;
use nix::unistd::{Pid, Uid};
use policy::GlexecConf;
use policy::judge::Permit;
use record::{Event, Exit, OpenRecord, Opened, Spool, Usage};
use std::path::PathBuf;

/// A switch under way.
pub(crate) struct ActiveSession {
    id: String,
    leaf: Option<Leaf>,
    namespace: Option<Namespace>,
    reaper: Option<SessionReaper>,
    stored: Option<StoredSession>,
    record: Option<(OpenRecord, u64, u64)>,
    /// Asked for.
    wanted_dir: Option<PathBuf>,
    /// Made.
    work_dir: Option<WorkDir>,
    /// Whose signals the supervisor takes besides root's: the payload's account and the caller.
    pub(crate) may_signal: Option<(u32, Uid)>,
}

impl ActiveSession {
    /// Opens session, leaf, namespace and record. When any of them fails nothing stays and nothing may run.
    pub(crate) fn open(
        start: &Start,
        config: &Config,
        request: &Request,
        identity: &VerifiedIdentity,
        permit: &Permit,
    ) -> Result<Self, Failure> {
        let id = store::new_id()?;
        let mut active = Self::unopened(id.clone(), request.work_dir.clone());
        if start.mode == Mode::LogOnly {
            return Ok(active);
        }
        let planned = Leaf::planned(&id);
        let state = SessionState {
            id,
            caller_uid: start.caller.uid,
            uid: permit.account().uid,
            gid: permit.account().gid,
            supervisor: std::process::id().cast_signed(),
            born: child_processes::born(nix::unistd::getpid()),
            leaf: planned.clone(),
            spool: config.policy.accounting.spool.clone(),
            work_dir: None,
            pid_namespace: None,
        };
        // The session comes first: it names all the rest, so a call that is killed from here on leaves nothing unnamed.
        let stored = StoredSession::create(state)?;
        active.leaf = planned.and_then(Leaf::make);
        active.may_signal = Some((permit.account().uid, Uid::from_raw(start.caller.uid)));
        let prepared = active.prepare(config, stored).and_then(|state| {
            let opened = recording::opened(start, config, request, identity, permit, &state);
            let record = open_record(config, &opened)?;
            active.record = record.map(|r| (r, opened.start_unix_ns, opened.start_boottime_ns));
            Ok(())
        });
        match prepared {
            Ok(()) => Ok(active),
            Err(failure) => {
                active.tidy();
                Err(failure)
            }
        }
    }

    fn unopened(id: String, wanted_dir: Option<PathBuf>) -> Self {
        let (leaf, namespace, reaper, stored, record) = (None, None, None, None, None);
        let (work_dir, may_signal) = (None, None);
        Self { id, leaf, namespace, reaper, stored, record, wanted_dir, work_dir, may_signal }
    }

    /// Makes the namespace that the policy asks for, and keeps the session; returns its state as it turned out.
    fn prepare(&mut self, config: &Config, mut stored: StoredSession) -> Result<SessionState, Failure> {
        let made = match config.policy.payload.pid_namespace {
            true => Namespace::make(self.leaf.as_ref()).map(|namespace| self.namespace = Some(namespace)),
            false => Ok(()),
        };
        let pid_namespace = self.namespace.as_ref().and_then(Namespace::id);
        let state = SessionState { pid_namespace, ..stored.state().with_leaf(self.leaf.as_ref()) };
        stored.correct(state.clone());
        self.stored = Some(stored);
        made.map(|()| state)
    }

    /// The id that ties log lines together; equal to the record's.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The cgroup leaf, when the host offers one.
    pub(crate) fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// The payload's process namespace, when the policy asks for one.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// Starts the process that closes the session when this one is killed.
    pub(crate) fn post_reaper(&mut self, conf: &GlexecConf) {
        self.reaper = self.leaf.as_ref().and_then(|leaf| SessionReaper::post(leaf, &self.id, conf));
    }

    /// From here on this process closes the session, and nobody else.
    pub(crate) fn dismiss_reaper(&mut self) {
        if let Some(reaper) = self.reaper.take() {
            reaper.dismiss();
        }
    }

    /// How many processes are there besides ours once the payload's first one has ended.
    pub(crate) fn leftovers(&self) -> usize {
        match (&self.leaf, &self.namespace) {
            (Some(leaf), _) => leaf.population(),
            (None, Some(namespace)) => namespace.orphans(),
            (None, None) => child_processes::own().len(),
        }
    }

    /// Notes what the payload's first process did on its way.
    pub(crate) fn started(&mut self, pid: Pid, report: &Report) {
        if report.made_work_dir {
            self.own_work_dir();
        }
        if let Some((record, ..)) = self.record.as_mut().filter(|_| report.mishap.is_none()) {
            let _ = record.append(&Event::Exec { pid: pid.as_raw().unsigned_abs() });
        }
    }

    /// Whether there is a record to write to.
    pub(crate) fn has_record(&self) -> bool {
        self.record.is_some()
    }

    /// Notes what was used so far. A checkpoint that cannot be written is missed; the next one says more.
    pub(crate) fn checkpoint(&mut self, usage: &Usage) {
        if let Some((record, ..)) = &mut self.record {
            let _ = record.append(&Event::Usage { usage: usage.clone() });
        }
    }

    /// From here on it goes with the session. Not earlier: what was there before is somebody else's, and stays.
    fn own_work_dir(&mut self) {
        let Some(dir) = self.wanted_dir.take() else { return };
        let Some(stored) = &mut self.stored else {
            self.work_dir = Some(WorkDir::of_caller(dir));
            return;
        };
        stored.correct(SessionState { work_dir: Some(dir), ..stored.state().clone() });
        self.work_dir = WorkDir::of(stored.state());
    }

    /// The end: record closed, leaf and session removed. Returns the exit code of `glexec`.
    pub(crate) fn close(mut self, log: &Log, ended: Outcome) -> u8 {
        let work_dir = self.work_dir.take().filter(|_| ended.mishap.is_none());
        if let Some(Err(why)) = work_dir.map(WorkDir::remove) {
            log.warning(&format!("session {}: {why}", self.id));
        }
        if let Some(mishap) = &ended.mishap {
            log.error(&format!("session {}: {}", self.id, mishap.reason));
            log.tell_caller(&mishap.reason);
        }
        let cpu = ended.usage.cpu_user_us + ended.usage.cpu_sys_us;
        let (id, code, left) = (&self.id, ended.code, ended.exit.leftovers);
        log.notice(&format!(
            "session {id}: ended with {code}, wall {} ms, CPU {} ms, {left} processes left behind",
            ended.usage.wall_ns / 1_000_000,
            cpu / 1000
        ));
        let code = ended.code;
        if let Some((record, start_unix_ns, start_boottime_ns)) = self.record.take() {
            let event = close_event(ended, start_unix_ns, start_boottime_ns);
            if let Err(e) = record.close(&event) {
                // The session stays, so the next call finds it and tries again.
                log.error(&format!("session {}: the record cannot be closed: {e}", self.id));
                return code;
            }
        }
        self.tidy();
        code
    }

    /// The payload's process could not even be started.
    pub(crate) fn abandon(self, log: &Log, failure: &Failure) -> u8 {
        let mishap = Mishap { code: failure.code() as u8, reason: failure.reason() };
        let exit = Exit { code: Some(i32::from(mishap.code)), ..Exit::default() };
        let (pid, usage, code) = (Pid::from_raw(0), Usage::default(), mishap.code);
        self.close(log, Outcome { pid, exit, usage, mishap: Some(mishap), code })
    }

    fn tidy(&mut self) {
        self.dismiss_reaper();
        // Its process 1 is in the leaf, which must be empty to be removed.
        if let Some(namespace) = self.namespace.take() {
            namespace.end();
        }
        if let Some(leaf) = &self.leaf {
            let _ = leaf.remove();
        }
        if let Some(stored) = self.stored.take() {
            stored.remove();
        }
    }
}

fn open_record(config: &Config, opened: &Opened) -> Result<Option<OpenRecord>, Failure> {
    let accounting = &config.policy.accounting;
    match Spool::new(&accounting.spool).open(opened) {
        Ok(record) => Ok(Some(record)),
        Err(_) if !accounting.require_record => Ok(None),
        Err(e) => {
            let spool = accounting.spool.display();
            Err(Failure::site(format!(
                "the record cannot be written to {spool}: {e}; nothing runs unrecorded"
            )))
        }
    }
}

/// Durations come from a clock that does not jump; when the wall clock did, the end is the start plus the duration.
fn close_event(ended: Outcome, start_unix_ns: u64, start_boottime_ns: u64) -> Event {
    const TOLERANCE_NS: u64 = 2_000_000_000;
    let passed = process::boottime_ns().saturating_sub(start_boottime_ns);
    let (now, expected) = (process::unix_ns(), start_unix_ns.saturating_add(passed));
    let clock_stepped = now.abs_diff(expected) > TOLERANCE_NS;
    Event::Close {
        end_unix_ns: if clock_stepped { expected } else { now },
        usage: Box::new(ended.usage),
        exit: Box::new(ended.exit),
        clock_stepped,
    }
}
