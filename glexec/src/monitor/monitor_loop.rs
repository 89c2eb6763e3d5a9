//! The loop: one loop that answers at the gate first, and never waits for a disk, a log or a look-up of names.

use super::events::{self, ProcessEvent};
use super::exec_gate::{ExecGate, Program};
use super::inspect::{self, Inspected};
use super::message::{self, Message};
use super::monitor_writer;
use super::session_members::{ParentOf, SessionMembers};
use super::tracked::Sessions;
use crate::admit::config::Config;
use crate::admit::nesting;
use crate::session::store::RUN_DIR;
use crate::sys::netlink::{ProcessEvents, Scope};
use crate::sys::process;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};
use std::collections::{HashMap, VecDeque};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often everything is inspected that should have announced itself.
const ROUND: Duration = Duration::from_secs(5);
/// Sessions announce themselves before they are complete, and come in crowds.
const SETTLE: Duration = Duration::from_millis(20);
/// How many more inspections a session in the making gets before the next round.
const MAX_INSPECTIONS: u32 = 50;
/// Processes inspected between two visits to the gate.
const SLICE: usize = 32;
/// Lines that wait for the writer, bytes.
const PIPE_BYTES: i32 = 1024 * 1024;
/// How long the writer may take for its last lines.
const FAREWELL: Duration = Duration::from_secs(5);

const SIGNALS: u64 = 1;
const GATE: u64 = 2;
const EVENTS: u64 = 3;
const PLACES: u64 = 4;
/// Supervisors are reported with this added to their process id.
const SUPERVISOR: u64 = 1 << 32;

/// Everything the loop holds.
pub(super) struct MonitorLoop {
    epoll: Epoll,
    signals: SignalFd,
    gate: ExecGate,
    events: Option<ProcessEvents>,
    /// What is subscribed to.
    scope: Scope,
    places: Inotify,
    directories: Vec<PathBuf>,
    sessions: Sessions,
    members: SessionMembers,
    /// Sessions without leaf and supervisor, and their uids: whoever is in one, or is born into one, is ended.
    condemned: HashMap<String, u32>,
    /// Processes still to be inspected after events were lost.
    backlog: VecDeque<i32>,
    writer: Writer,
    next_round: Instant,
    inspect_sessions_at: Option<Instant>,
    inspections_left: u32,
    /// Whether events were lost since the queue was empty.
    behind: bool,
    behind_told: Option<Instant>,
}

impl MonitorLoop {
    /// Sets everything up; nothing is guarded before this returns.
    pub(super) fn open(config: Config, binaries: Vec<PathBuf>) -> Result<Self, String> {
        let text = |what: &str, e: Errno| format!("{what}: {e}");
        process::ignore_signal(Signal::SIGPIPE).map_err(|e| text("SIGPIPE", e))?;
        let held: SigSet =
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
        held.thread_block().map_err(|e| text("signals", e))?;
        let writer = Writer::start(config, binaries.clone()).map_err(|e| text("writer", e))?;
        let signals = SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|e| text("signalfd", e))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| text("epoll", e))?;
        let places =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(|e| text("inotify", e))?;
        let (gate, no_gate) = ExecGate::open(&binaries);
        let events = events::listen();
        let now = Instant::now();
        let mut this = Self {
            epoll,
            signals,
            gate,
            scope: Scope::Nothing,
            places,
            directories: binaries.iter().filter_map(|b| b.parent()).map(Path::to_owned).collect(),
            sessions: Sessions::default(),
            members: SessionMembers::default(),
            condemned: HashMap::new(),
            backlog: VecDeque::new(),
            writer,
            next_round: now + ROUND,
            inspect_sessions_at: None,
            inspections_left: MAX_INSPECTIONS,
            behind: false,
            behind_told: None,
            events: None,
        };
        if let Some(e) = no_gate {
            this.writer
                .note(format!("fanotify: {e}: nested calls are seen, but not stopped before they start"));
        }
        match events {
            Ok(events) => this.events = Some(events),
            Err(e) => this.writer.note(format!("process events: {e}: copies of glexec are not noticed")),
        }
        this.register().map_err(|e| text("epoll", e))?;
        this.writer.send(&Message::CloseOrphans);
        this.round();
        this.backlog = inspect::all_pids().into();
        Ok(this)
    }

    fn register(&self) -> Result<(), Errno> {
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(&self.signals, readable(SIGNALS))?;
        self.epoll.add(&self.places, readable(PLACES))?;
        if let Some(gate) = self.gate.descriptor() {
            self.epoll.add(gate, readable(GATE))?;
        }
        self.events.as_ref().map_or(Ok(()), |events| self.epoll.add(events, readable(EVENTS)))
    }

    /// Watches until a signal says that it is enough.
    pub(super) fn run(mut self) -> Result<(), String> {
        loop {
            let mut ready = [EpollEvent::empty(); 64];
            let count = match self.epoll.wait(&mut ready, self.patience()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(format!("epoll: {e}")),
            };
            let tokens: Vec<u64> = ready[..count].iter().map(EpollEvent::data).collect();
            // Somebody waits at the gate, so it comes before everything else.
            if tokens.contains(&GATE) {
                self.serve_gate();
            }
            for token in tokens {
                match token {
                    SIGNALS if self.is_over() => return self.farewell(),
                    EVENTS => self.serve_events(),
                    PLACES => self.serve_places(),
                    SUPERVISOR.. => self.supervisor_ended(token),
                    _ => {}
                }
            }
            self.inspect_some();
            self.keep_time(Instant::now());
        }
    }

    fn patience(&self) -> EpollTimeout {
        if !self.backlog.is_empty() {
            return EpollTimeout::ZERO;
        }
        let until = self.inspect_sessions_at.map_or(self.next_round, |at| at.min(self.next_round));
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        // One more, so that we do not wake just before the time.
        u16::try_from(left + 1).map_or(EpollTimeout::from(u16::MAX), EpollTimeout::from)
    }

    fn serve_gate(&mut self) {
        let (members, writer, program) =
            (&self.members, &mut self.writer, message::path_text(self.gate.name()));
        self.gate.serve(|pid| {
            // A process that is gone executes nothing any more.
            let Some(who) = inspect_process(pid, members) else { return true };
            if who.is_payload() {
                writer.send(&Message::Nested { prevented: true, who: who.clone(), program: program.clone() });
            }
            who.is_payload()
        });
    }

    fn serve_events(&mut self) {
        let Some(socket) = &self.events else { return };
        let received = events::receive(socket);
        received.events.into_iter().for_each(|event| self.heed(event));
        self.behind |= received.behind;
        // Only once its queue was empty does the kernel fill it again: before, more may be lost.
        if received.all && std::mem::take(&mut self.behind) {
            self.make_good();
        }
    }

    fn heed(&mut self, event: ProcessEvent) {
        match event {
            ProcessEvent::Executes(pid) => self.inspect_program(pid, true),
            ProcessEvent::Ended(pid) => self.members.ended(pid),
            ProcessEvent::Born { parent, child } => {
                let session = self.members.born(parent, child);
                if let Some(uid) = session.and_then(|id| self.condemned.get(id)) {
                    end_process(child, *uid);
                }
            }
        }
    }

    /// Inspects a program that runs already; `executed` when the kernel has just told that it was executed.
    ///
    /// Calls of glexec are the gate's business where there is one: whoever runs it has passed. Without a gate only the
    /// one that executed counts, for supervisors and payloads on their way to their command run glexec rightly.
    fn inspect_program(&mut self, pid: i32, executed: bool) {
        let Ok(file) = crate::sys::executable::of_process(Pid::from_raw(pid)) else { return };
        let kind = self.gate.kind_of(&file);
        let seen_only = executed && self.gate.descriptor().is_none();
        if kind == Program::Other || (kind == Program::Glexec && !seen_only) {
            return;
        }
        let Some(who) = inspect_process(pid, &self.members).filter(Inspected::is_payload) else { return };
        if inspect::live_sessions().iter().any(|state| state.supervisor == pid) && kind == Program::Glexec {
            return;
        }
        // A setuid program has changed its effective uid only; the real one is still the payload's.
        self.writer.send(&match kind {
            Program::Glexec => {
                Message::Nested { prevented: false, who, program: message::path_text(self.gate.name()) }
            }
            Program::SetuidRoot => Message::SetuidRoot(who),
            Program::Lookalike | Program::Other => Message::Lookalike(who),
        });
    }

    /// The kernel threw events away: everything that runs now is inspected instead.
    fn make_good(&mut self) {
        let now = Instant::now();
        if self.behind_told.is_none_or(|then| now.duration_since(then) > Duration::from_secs(60)) {
            self.behind_told = Some(now);
            self.writer.note("process events came too fast, some were lost; looking at all processes".into());
        }
        if self.scope == Scope::Members {
            self.catch_up();
        }
        if self.backlog.is_empty() {
            self.backlog = inspect::all_pids().into();
        }
    }

    fn catch_up(&mut self) {
        let process = |pid| Some(ParentOf { pid, parent: nesting::parent_of(Pid::from_raw(pid))?.as_raw() });
        let living: Vec<ParentOf> = inspect::all_pids().into_iter().filter_map(process).collect();
        self.members.catch_up(&living);
    }

    fn inspect_some(&mut self) {
        for _ in 0..SLICE {
            let Some(pid) = self.backlog.pop_front() else { return };
            self.inspect_program(pid, false);
        }
    }

    fn serve_places(&mut self) {
        while self.places.read_events().is_ok_and(|events| !events.is_empty()) {}
        self.inspect_binaries();
        self.inspections_left = MAX_INSPECTIONS;
        self.inspect_soon();
    }

    fn inspect_soon(&mut self) {
        self.inspect_sessions_at.get_or_insert(Instant::now() + SETTLE);
    }

    fn inspect_binaries(&mut self) {
        self.gate.refresh().into_iter().for_each(|line| self.writer.note(line));
    }

    fn supervisor_ended(&mut self, token: u64) {
        let pid = i32::try_from(token - SUPERVISOR).unwrap_or(0);
        self.sessions.supervisor_ended(pid);
        self.inspect_soon();
    }

    fn keep_time(&mut self, now: Instant) {
        if now >= self.next_round {
            self.next_round = now + ROUND;
            self.round();
        } else if self.inspect_sessions_at.is_some_and(|at| now >= at) {
            self.refresh_sessions(now);
        }
    }

    /// What should have announced itself is inspected all the same, now and then.
    fn round(&mut self) {
        let changed = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ATTRIB;
        for directory in &self.directories {
            let _ = self.places.add_watch(directory, changed);
        }
        let sessions = Path::new(RUN_DIR).join("sessions");
        let _ = DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR);
        let _ = DirBuilder::new().mode(0o700).create(&sessions);
        let _ = self.places.add_watch(&sessions, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE);
        self.inspect_binaries();
        self.refresh_sessions(Instant::now());
        self.end_condemned();
        self.writer.keep_alive();
    }

    fn refresh_sessions(&mut self, now: Instant) {
        self.inspect_sessions_at = None;
        let orphaned = self.sessions.refresh(&self.epoll, SUPERVISOR, now);
        if self.sessions.has_unfinished() && self.inspections_left > 0 {
            self.inspections_left -= 1;
            self.inspect_soon();
        }
        let leafless = orphaned.iter().filter(|state| state.leaf.is_none());
        self.condemned.extend(leafless.map(|state| (state.id.clone(), state.uid)));
        self.follow_families();
        if !orphaned.is_empty() {
            self.end_condemned();
            self.writer.send(&Message::CloseOrphans);
        }
        let (sessions, condemned) = (&self.sessions, &self.condemned);
        self.members.keep(|id| sessions.has(id) || condemned.contains_key(id));
    }

    /// Without sessions the gate is enough. Births are followed only while a session has no leaf: many of
    /// them costs nothing where all have one.
    fn follow_families(&mut self) {
        let leafless = self.sessions.leafless().next().is_some() || !self.condemned.is_empty();
        let scope = match (leafless, self.sessions.is_empty()) {
            (true, _) => Scope::Members,
            (false, true) if self.gate.descriptor().is_some() => Scope::Nothing,
            (false, _) => Scope::Programs,
        };
        if scope != self.scope
            && let Some(events) = &self.events
            && events::set_scope(events, scope).is_ok()
        {
            if self.scope == Scope::Nothing && self.backlog.is_empty() {
                // The first session is a few moments old.
                self.backlog = inspect::all_pids().into();
            }
            self.scope = scope;
        }
        let mut new = false;
        for (supervisor, id) in self.sessions.leafless() {
            new |= self.members.session_of(supervisor).is_none();
            self.members.found(supervisor, id);
        }
        if new {
            self.catch_up();
        }
    }

    /// Where the supervisor is gone and there is no leaf, who was born into the session is ended here.
    fn end_condemned(&mut self) {
        for (id, uid) in std::mem::take(&mut self.condemned) {
            let members = self.members.members(&id);
            let ended = members.iter().filter(|pid| end_process(**pid, uid)).count();
            if ended > 0 {
                self.writer.note(format!("session {id}: {ended} processes without a cgroup leaf ended"));
            }
            if !members.is_empty() {
                self.condemned.insert(id, uid);
            }
        }
    }

    /// Reads all signals; true when one of them means the end.
    fn is_over(&mut self) -> bool {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok());
            match signal {
                Some(Signal::SIGTERM | Signal::SIGINT) => return true,
                Some(Signal::SIGHUP) => {
                    self.writer.send(&Message::Reload);
                    self.inspect_binaries();
                }
                _ => self.writer.reap(),
            }
        }
        false
    }

    /// The gate is opened first, then the writer may finish.
    fn farewell(self) -> Result<(), String> {
        let Self { gate, events, mut writer, .. } = self;
        drop((gate, events));
        writer.note("ended by a signal".into());
        writer.finish();
        Ok(())
    }
}

/// Inspects a process; whose child it is by birth tells sessions of one account apart. It is no sign by itself: numbers are
/// given anew, and who shows no other sign may be a stranger by now.
fn inspect_process(pid: i32, members: &SessionMembers) -> Option<Inspected> {
    let mut who = inspect::at(pid)?;
    if who.is_payload() && who.session.is_none() {
        who.session = members.session_of(pid).map(str::to_owned);
    }
    Some(who)
}

/// Kills a process, when it is still one of this account; numbers are given anew.
fn end_process(pid: i32, uid: u32) -> bool {
    let Ok(pinned) = process::pidfd(Pid::from_raw(pid)) else { return false };
    inspect::uid_of(pid) == Some(uid) && process::signal_pidfd(pinned.as_fd(), Signal::SIGKILL).is_ok()
}

/// The loop's end of the pipe, and the process at the other one.
struct Writer {
    config: Config,
    binaries: Vec<PathBuf>,
    pid: Option<Pid>,
    pipe: File,
    /// Lines that it had no room for.
    lost: u64,
}

impl Writer {
    fn start(config: Config, binaries: Vec<PathBuf>) -> Result<Self, Errno> {
        let (pid, pipe) = Self::spawn(&config, &binaries)?;
        Ok(Self { config, binaries, pid: Some(pid), pipe, lost: 0 })
    }

    fn spawn(config: &Config, binaries: &[PathBuf]) -> Result<(Pid, File), Errno> {
        let (input, pipe) = pipe2(OFlag::O_CLOEXEC)?;
        let pid = monitor_writer::start(&input, config, binaries)?;
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // A smaller pipe does as well, with more lost lines when many events come.
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok((pid, File::from(pipe)))
    }

    /// Hands a line over, or counts it when there is no room.
    fn send(&mut self, message: &Message) {
        if self.lost > 0 {
            let text = format!("{} events could not be written down", self.lost);
            if !self.write(&Message::Note(text)) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.write(message) {
            self.lost += 1;
        }
    }

    fn write(&mut self, message: &Message) -> bool {
        let line = message.encode();
        // Not longer than PIPE_BUF, so it is written whole or not at all.
        self.pipe.write(line.as_bytes()).is_ok_and(|n| n == line.len())
    }

    fn note(&mut self, text: String) {
        self.send(&Message::Note(text));
    }

    /// Takes notice of its end.
    fn reap(&mut self) {
        let ended = |pid: Pid| waitpid(pid, Some(WaitPidFlag::WNOHANG)) != Ok(WaitStatus::StillAlive);
        if self.pid.is_some_and(ended) {
            self.pid = None;
        }
    }

    /// Starts another one in place of one that has ended.
    fn keep_alive(&mut self) {
        if self.pid.is_none()
            && let Ok((pid, pipe)) = Self::spawn(&self.config, &self.binaries)
        {
            (self.pid, self.pipe) = (Some(pid), pipe);
            self.note("the writer had ended and was started anew".into());
            self.send(&Message::Reload);
        }
    }

    /// Lets it write what it has, and waits for its end.
    fn finish(self) {
        let Self { pid: Some(pid), pipe, .. } = self else { return };
        drop(pipe);
        let deadline = Instant::now() + FAREWELL;
        while waitpid(pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            if Instant::now() > deadline {
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
