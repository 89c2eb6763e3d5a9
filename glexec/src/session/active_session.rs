//! What one call opens before the switch and closes after it: session, cgroup leaf, process namespace, record. They are opened in
//! this order and closed in the reverse one.
//!
//! In log-only mode there is no root to own any of them: the log line is all there is.

use crate::admit::config::Config;
use crate::admit::process_init::{Mode, Start};
use crate::admit::request::Request;
use crate::admit::request::Target;
use crate::failure::Failure;
use crate::log::Log;
use crate::run::child_processes;
use crate::run::launch::Report;
use crate::run::outcome::Mishap;
use crate::run::outcome::Outcome;
use crate::run::target_proxy;
use crate::session::cgroup::{Leaf, Post, kill_method};
use crate::session::namespace::Namespace;
use crate::session::port_blocks;
use crate::session::ports;
use crate::session::recording;
use crate::session::store::{self, SessionState, StoredSession};
use crate::session::work_dir::{self, WorkDir};
use crate::sys::{isolation, process};
use identity::VerifiedIdentity;
use nix::unistd::Pid;
use policy::file::{Separation, TargetProxy};
use policy::judge::Permit;
use record::{Event, Exit, OpenRecord, Opened, Spool, Usage};
use std::path::{Path, PathBuf};

/// A switch under way.
pub(crate) struct ActiveSession {
    id: String,
    leaf: Option<Leaf>,
    post: Option<Post>,
    namespace: Option<Namespace>,
    stored: Option<StoredSession>,
    record: Option<(OpenRecord, u64, u64)>,
    /// Asked for.
    wanted_dir: Option<PathBuf>,
    /// Made.
    work_dir: Option<WorkDir>,
    /// The payload's copy of the proxy.
    proxy: Option<PathBuf>,
    /// Whether the copy has a name of this session's own and goes with it.
    proxy_is_own: bool,
    /// Copies of living sessions that a call without a command renews.
    renewed: Vec<PathBuf>,
    /// Whose the payload's processes are; nobody's in log-only mode.
    account: Option<(u32, u32)>,
    separation: Separation,
}

impl ActiveSession {
    /// Makes session, leaf and the supervisor's post, before there is a supervisor: whoever is killed from here on leaves
    /// nothing unnamed. When any of them fails nothing stays and nothing may run.
    pub(crate) fn create(
        start: &Start,
        config: &Config,
        request: &Request,
        identity: &VerifiedIdentity,
        permit: &Permit,
    ) -> Result<Self, Failure> {
        let id = store::new_id()?;
        let mut active = Self::unopened(id.clone(), request.work_dir.clone());
        let account = permit.account();
        let identity = store::fingerprint(identity);
        active.choose_copies(start, config, request, account.uid, &identity)?;
        if start.mode == Mode::LogOnly {
            return Ok(active);
        }
        let site = |e: std::io::Error| Failure::site(format!("cgroups of this host: {e}"));
        let planned = Leaf::planned(&id, request.limits.pids.is_some()).map_err(site)?;
        let state = SessionState {
            id,
            caller_uid: start.caller.uid,
            uid: account.uid,
            gid: account.gid,
            supervisor: start.pid.as_raw(),
            born: child_processes::born(start.pid),
            leaf: planned.clone(),
            spool: config.policy.accounting.spool.clone(),
            work_dir: None,
            proxy: active.proxy.clone().filter(|_| active.proxy_is_own),
            identity,
            pid_namespace: None,
            ports: request.ports,
        };
        active.account = Some((account.uid, account.gid));
        let payload = &config.policy.payload;
        let separation = payload.separation(&config.conf, isolation::is_available());
        active.separation = separation.map_err(Failure::site)?;
        // The session comes first: it names all the rest.
        let leasing = request.ports.map(|asked| ports::lease(&config.policy.ports, asked)).transpose()?;
        active.stored = Some(StoredSession::create(state)?);
        request.ports.inspect(|ports| port_blocks::begin(*ports));
        drop(leasing);
        active.leaf = planned.and_then(Leaf::make);
        if let Some(leaf) = active.leaf.as_ref().filter(|_| config.conf.linger) {
            match Post::make(leaf) {
                Ok(post) => active.post = post,
                Err(e) => {
                    active.tidy();
                    return Err(Failure::site(format!("the supervisor's cgroup: {e}")));
                }
            }
        }
        Ok(active)
    }

    /// In the supervisor: says who supervises, makes the namespace that the policy asks for, opens the record. When any of them
    /// fails nothing stays and nothing may run.
    pub(crate) fn open(
        &mut self,
        start: &Start,
        config: &Config,
        request: &Request,
        identity: &VerifiedIdentity,
        permit: &Permit,
        log: &Log,
    ) -> Result<(), Failure> {
        if self.stored.is_none() {
            return Ok(());
        }
        let opened = self.prepare(config).and_then(|state| {
            kill_method::note(state.leaf.as_ref().and_then(Leaf::kill_method), log);
            let ports = ports::enclose(&config.policy.ports, state.ports, state.leaf.as_ref(), log)?;
            let mut opened =
                recording::opened(start, config, request, identity, permit, &state, self.proxy());
            opened.ports = ports;
            if self.is_isolated() {
                opened.isolation.extend(["landlock", "seccomp"].map(str::to_owned));
            }
            let record = open_record(config, &opened)?;
            self.record = record.map(|r| (r, opened.start_unix_ns, opened.start_boottime_ns));
            Ok(())
        });
        opened.inspect_err(|_| self.tidy())
    }

    fn unopened(id: String, wanted_dir: Option<PathBuf>) -> Self {
        Self {
            id,
            leaf: None,
            post: None,
            namespace: None,
            stored: None,
            record: None,
            wanted_dir,
            work_dir: None,
            proxy: None,
            proxy_is_own: false,
            renewed: Vec::new(),
            account: None,
            separation: Separation::Nothing,
        }
    }

    /// Where the payload's proxy goes. A call without a command, and without a place, renews what living sessions have.
    fn choose_copies(
        &mut self,
        start: &Start,
        config: &Config,
        request: &Request,
        uid: u32,
        identity: &str,
    ) -> Result<(), Failure> {
        if !config.conf.create_target_proxy {
            return Ok(());
        }
        let caller = (start.mode == Mode::LogOnly).then_some(start.caller.uid);
        let own =
            config.policy.payload.target_proxy == TargetProxy::Session && request.target == Target::Default;
        if own && request.command.is_none() && caller.is_none() {
            self.renewed = store::all()
                .into_iter()
                .map(|found| found.state)
                .filter(|s| s.caller_uid == start.caller.uid && s.uid == uid && s.identity == identity)
                .filter_map(|state| state.proxy)
                .collect();
            return Ok(());
        }
        self.proxy_is_own = own && request.command.is_some();
        let name = self.proxy_is_own.then(target_proxy::unguessable).transpose();
        let name = name.map_err(|e| Failure::site(format!("getrandom: {e}")))?;
        self.proxy = target_proxy::path(&request.target, uid, caller, name);
        Ok(())
    }

    /// Makes the namespace that the policy asks for, and keeps the session; returns its state as it turned out.
    fn prepare(&mut self, config: &Config) -> Result<SessionState, Failure> {
        let asked = config.policy.payload.pid_namespace;
        let made = match asked || self.separation == Separation::Namespace {
            true => Namespace::make(self.leaf.as_ref()).map(|namespace| self.namespace = Some(namespace)),
            false => Ok(()),
        };
        let pid_namespace = self.namespace.as_ref().and_then(Namespace::id);
        let own = nix::unistd::getpid();
        let missing = || Failure::site("the session has no state");
        let stored = self.stored.as_mut().ok_or_else(missing)?;
        let state = SessionState {
            pid_namespace,
            supervisor: own.as_raw(),
            born: child_processes::born(own),
            ..stored.state().with_leaf(self.leaf.as_ref())
        };
        stored.correct(state.clone());
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

    /// Where the supervisor stands, when that is not the job's own group.
    pub(crate) fn post(&self) -> Option<&Post> {
        self.post.as_ref()
    }

    /// The payload's process namespace, when the policy asks for one.
    pub(crate) fn namespace(&self) -> Option<&Namespace> {
        self.namespace.as_ref()
    }

    /// Uid of the payload's processes; `None` in log-only mode, where they are the caller's.
    pub(crate) fn account(&self) -> Option<u32> {
        self.account.map(|(uid, _)| uid)
    }

    /// Whether a domain keeps the payload from other sessions of its account.
    pub(crate) fn is_isolated(&self) -> bool {
        self.separation == Separation::Domain
    }

    /// The payload's copy of the proxy.
    pub(crate) fn proxy(&self) -> Option<&Path> {
        self.proxy.as_deref()
    }

    /// Copies of living sessions that this call renews.
    pub(crate) fn renewed(&self) -> &[PathBuf] {
        &self.renewed
    }

    /// How many processes of the payload are there besides its first one, whether that has ended or not.
    pub(crate) fn leftovers(&self, first: Pid) -> usize {
        match (&self.leaf, &self.namespace) {
            (Some(leaf), _) => leaf.members().into_iter().filter(|pid| *pid != first.as_raw()).count(),
            (None, Some(namespace)) => namespace.orphans(),
            (None, None) => child_processes::own().into_iter().filter(|pid| *pid != first).count(),
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
        if let Some(Err(why)) = work_dir.map(|dir| dir.remove(work_dir::PATIENCE)) {
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

    /// For a call that ends before the payload's time.
    pub(crate) fn give_up(mut self, why: Failure) -> Failure {
        self.tidy();
        why
    }

    /// Gives everything back. Where the supervisor has a post, a new process goes on from here, outside of it.
    fn tidy(&mut self) {
        if let Some(path) = self.proxy.take().filter(|_| self.proxy_is_own) {
            target_proxy::remove(&path, self.account);
        }
        // Its process 1 is in the leaf, which must be empty to be removed.
        if let Some(namespace) = self.namespace.take() {
            namespace.end();
        }
        let removed = self.leaf.as_ref().map_or(Ok(()), Leaf::remove);
        if let Some(post) = self.post.take() {
            post.step_out();
        }
        // While a leaf stays the session does: the next call tries again, until it is gone.
        if let Some(stored) = self.stored.take().filter(|_| removed.is_ok()) {
            let (ports, caller) = (stored.state().ports, stored.state().caller_uid);
            stored.remove();
            ports.inspect(|ports| port_blocks::end(*ports, caller));
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
