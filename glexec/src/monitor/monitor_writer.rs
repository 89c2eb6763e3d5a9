//! The monitor's second process. It does what may have to wait: disk, syslog, account look-ups, the end of processes.
//!
//! The loop writes lines into a pipe and never waits. The writer closes the loop's descriptors: a copy of the fanotify
//! descriptor would make executions wait for an answer after the loop has ended. It ends when the pipe is closed, after
//! the last line.

use super::inspect::{self, Inspected};
use super::message::Message;
use crate::admit::config::{self, Config};
use crate::admit::nesting;
use crate::admit::process_init;
use crate::admit::refusal_limit;
use crate::log::Log;
use crate::session::orphans;
use crate::session::recording;
use crate::session::store::{self, Found, SessionState};
use crate::sys::{fds, process};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use policy::GlexecConf;
use policy::file::NestedPolicy;
use policy::judge::{Code, Denial, NestedSign};
use record::{Denied, Opened, Spool};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Children at work at a time; beyond it files are not compared, and closing orphans waits for the next round.
const MAX_CHILDREN: usize = 4;
/// How long reading a payload's file may take, seconds.
const COMPARE_SECONDS: u32 = 10;
/// How often suppressed events are summed up, milliseconds.
const SUMMARY_MS: u16 = 10_000;
/// Lines per uid and minute about programs that are not glexec.
const BUDGET: u32 = 10;

/// Starts the writer; returns its process id. It reads `input` until its end.
pub(super) fn start(input: &OwnedFd, config: &Config, binaries: &[PathBuf]) -> Result<Pid, Errno> {
    match process::fork()? {
        process::Fork::Parent(pid) => Ok(pid),
        process::Fork::Child => {
            let ready = fds::replace_standard(input.as_fd(), 0).and_then(|()| fds::close_from(3));
            if ready.is_ok() {
                Writer::new(config, binaries).serve();
            }
            process::exit_now(i32::from(ready.is_err()))
        }
    }
}

struct Writer {
    nested: NestedPolicy,
    spool: PathBuf,
    conf: GlexecConf,
    log: Log,
    binaries: Vec<PathBuf>,
    children: Vec<Pid>,
    suppressed: HashMap<u32, u64>,
    budget: Budget,
}

impl Writer {
    fn new(config: &Config, binaries: &[PathBuf]) -> Self {
        Self {
            nested: config.policy.payload.nested,
            spool: config.policy.accounting.spool.clone(),
            conf: config.conf.clone(),
            log: Log::configured(&config.conf),
            binaries: binaries.to_vec(),
            children: Vec::new(),
            suppressed: HashMap::new(),
            budget: Budget::default(),
        }
    }

    fn serve(mut self) {
        let input = std::io::stdin();
        let mut rest = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            self.reap();
            let patience = match (self.suppressed.is_empty(), self.children.is_empty()) {
                (true, true) => PollTimeout::NONE,
                _ => PollTimeout::from(SUMMARY_MS),
            };
            let mut polled = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, patience) {
                Ok(0) => self.sum_up(),
                Err(Errno::EINTR) => {}
                _ => match input.lock().read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => self.take(&mut rest, &buffer[..n]),
                    Err(_) => {}
                },
            }
        }
        self.sum_up();
    }

    /// Whole lines are served, the beginning of the next one is kept.
    fn take(&mut self, rest: &mut Vec<u8>, new: &[u8]) {
        rest.extend_from_slice(new);
        let Some(end) = rest.iter().rposition(|b| *b == b'\n') else { return };
        // Opened anew each time: the file may have been rotated since.
        self.log = Log::configured(&self.conf);
        let lines: Vec<u8> = rest.drain(..=end).collect();
        String::from_utf8_lossy(&lines).lines().filter_map(Message::decode).for_each(|m| self.act(m));
    }

    fn act(&mut self, message: Message) {
        match message {
            Message::Nested { prevented, who, program } => self.nested(prevented, &who, &program),
            Message::SetuidRoot(who) if self.budget.allows(who.uid, minute()) => {
                let program = exe_text(who.pid);
                self.log.warning(&format!(
                    "monitor: {} executes {program}, which is setuid root",
                    who_text(&who)
                ));
            }
            Message::Lookalike(who) if self.budget.allows(who.uid, minute()) => self.compare(&who),
            Message::SetuidRoot(who) | Message::Lookalike(who) => {
                *self.suppressed.entry(who.uid).or_default() += 1;
            }
            Message::CloseOrphans => self.close_orphans(),
            Message::Reload => self.reload(),
            Message::Note(text) => self.log.warning(&format!("monitor: {text}")),
        }
    }

    fn nested(&mut self, prevented: bool, who: &Inspected, program: &str) {
        let sessions = sessions_of(who);
        if refusal_limit::admits(who.uid) {
            let what = if prevented { "stopped before it started" } else { "seen after it started" };
            let signs: Vec<_> = who.signs.iter().map(NestedSign::to_string).collect();
            let (text, signs) = (who_text(who), signs.join(", "));
            self.log.error(&format!("monitor: nested call of {program} by {text} ({signs}): {what}"));
            // One that has started refuses and records by itself.
            let denied = denied(who, program, self.opened(who, sessions.first()));
            if let Some(Err(e)) = prevented.then(|| Spool::new(&self.spool).deny(&denied)) {
                self.log.error(&format!("monitor: the refusal cannot be recorded: {e}"));
            }
        } else {
            *self.suppressed.entry(who.uid).or_default() += 1;
        }
        if self.nested == NestedPolicy::Kill {
            sessions.iter().for_each(|state| self.end(state));
        }
    }

    /// What the session's own record says, also when it has just ended.
    fn opened(&self, who: &Inspected, session: Option<&SessionState>) -> Option<Opened> {
        let id = who.session.as_deref().or(session.map(|state| state.id.as_str()))?;
        let spool = session.map_or(&self.spool, |state| &state.spool);
        Spool::new(spool).record(id).ok()?.opened.map(|opened| *opened)
    }

    /// Ends a session's processes without waiting; its supervisor closes it.
    fn end(&self, state: &SessionState) {
        self.log.warning(&format!("monitor: session {}: its payload called glexec and is ended", state.id));
        let Some(leaf) = &state.leaf else { return self.end_by_account(state) };
        if !leaf.kill_at_once() {
            let _ = leaf.kill_all(Some(state.uid));
        }
    }

    /// Without a leaf: what runs below the supervisor, or all of the account when no other session has it.
    fn end_by_account(&self, state: &SessionState) {
        let other = |found: &Found| found.state.uid == state.uid && found.state.id != state.id;
        let alone = store::listed().is_ok_and(|all| !all.iter().any(other));
        let supervisor = Pid::from_raw(state.supervisor);
        for pid in inspect::all_pids() {
            let below = || nesting::ancestors(Some(Pid::from_raw(pid))).contains(&supervisor);
            let Ok(pinned) = process::pidfd(Pid::from_raw(pid)) else { continue };
            if inspect::uid_of(pid) == Some(state.uid) && (alone || below()) {
                let _ = process::signal_pidfd(pinned.as_fd(), Signal::SIGKILL);
            }
        }
    }

    /// In a child: ending processes and removing directories can take long.
    fn close_orphans(&mut self) {
        self.in_child(|writer| drop(orphans::close_patiently(&writer.spool, &writer.log)));
    }

    fn reload(&mut self) {
        match config::load() {
            Ok(config) => {
                self.nested = config.policy.payload.nested;
                self.spool = config.policy.accounting.spool;
                self.conf = config.conf;
                self.log = Log::configured(&self.conf);
                self.log.notice("monitor: configuration read");
            }
            Err(failure) => {
                self.log.error(&format!("monitor: configuration kept as it was: {}", failure.reason()));
            }
        }
    }

    /// In a child, since the file may lie on a server that the payload controls: whether it is glexec's bytes.
    fn compare(&mut self, who: &Inspected) {
        self.in_child(|writer| {
            nix::unistd::alarm::set(COMPARE_SECONDS);
            let verdicts = writer.binaries.iter().map(|binary| (binary, same_bytes(who.pid, binary)));
            let Some((binary, same)) = verdicts.into_iter().find(|(_, same)| *same != Some(false)) else {
                return;
            };
            let (text, original) = (who_text(who), super::message::path_text(binary));
            let what = match same {
                Some(_) => format!("executes {}, a copy of {original}", exe_text(who.pid)),
                None => {
                    format!("executed a program of equal size, perhaps a copy of {original}, and has ended")
                }
            };
            writer.log.warning(&format!("monitor: {text} {what}; without a setuid bit it can do nothing"));
        });
    }

    fn in_child(&mut self, work: impl FnOnce(&Self)) {
        if self.children.len() >= MAX_CHILDREN {
            return;
        }
        match process::fork() {
            Ok(process::Fork::Child) => {
                work(self);
                process::exit_now(0)
            }
            Ok(process::Fork::Parent(pid)) => self.children.push(pid),
            Err(e) => self.log.error(&format!("monitor: cannot start a process: {e}")),
        }
    }

    fn reap(&mut self) {
        self.children.retain(|pid| waitpid(*pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive));
    }

    fn sum_up(&mut self) {
        for (uid, count) in self.suppressed.drain() {
            self.log.warning(&format!("monitor: uid {uid}: {count} more events like these, not told each"));
        }
    }
}

/// How many lines each uid has had in this minute.
#[derive(Debug, Default)]
struct Budget {
    minute: u64,
    spent: HashMap<u32, u32>,
}

impl Budget {
    fn allows(&mut self, uid: u32, minute: u64) -> bool {
        if self.minute != minute {
            *self = Self { minute, spent: HashMap::new() };
        }
        let spent = self.spent.entry(uid).or_default();
        *spent = spent.saturating_add(1);
        *spent <= BUDGET
    }
}

fn minute() -> u64 {
    process::boottime_ns() / 60_000_000_000
}

/// The session that is known, else all of the account.
fn sessions_of(who: &Inspected) -> Vec<SessionState> {
    match &who.session {
        Some(id) => store::by_id(id).map(|found| found.state).into_iter().collect(),
        None => store::all().into_iter().map(|f| f.state).filter(|s| s.uid == who.uid).collect(),
    }
}

fn who_text(who: &Inspected) -> String {
    let session = who.session.as_deref().unwrap_or("unknown");
    format!("session {session}, uid {}, pid {}", who.uid, who.pid)
}

fn exe_text(pid: i32) -> String {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .map_or_else(|_| "?".into(), |p| super::message::path_text(&p))
}

/// What the site's record says: who called, and for whom that payload was running.
fn denied(who: &Inspected, program: &str, opened: Option<Opened>) -> Denied {
    let session = opened.as_ref().map(|o| o.record_id.as_str()).or(who.session.as_deref());
    let of = session.map(|id| format!("; payload of session {id}")).unwrap_or_default();
    let reason =
        format!("{}; stopped before it started by glexec-monitor{of}", Denial::Nested(who.signs.clone()));
    Denied {
        record_id: store::new_id().unwrap_or_default(),
        host: recording::host(),
        boot_id: recording::boot_id(),
        at_unix_ns: process::unix_ns(),
        supervisor_pid: who.pid.unsigned_abs(),
        batch: opened.as_ref().and_then(|o| o.batch.clone()),
        caller_uid: who.uid,
        caller_name: process_init::account_name(Uid::from_raw(who.uid)).map(|name| name.to_string()),
        caller_gid: who.gid,
        cred_sha256: opened.as_ref().map(|o| o.cred_sha256.clone()),
        payload: opened.map(|o| o.payload),
        code: Code::Denied as i32,
        reason,
        nested_signs: who.signs.iter().map(NestedSign::to_string).collect(),
        argv0: program.to_owned(),
        ..Denied::default()
    }
}

/// Whether the process executes the same bytes; `None` when that can no longer be told.
fn same_bytes(pid: i32, binary: &Path) -> Option<bool> {
    let open = |path: &Path| File::open(path).map(BufReader::new);
    let mut theirs = open(Path::new(&format!("/proc/{pid}/exe"))).ok()?.bytes();
    let mut ours = open(binary).ok()?.bytes();
    loop {
        match (theirs.next(), ours.next()) {
            (None, None) => return Some(true),
            (Some(Ok(a)), Some(Ok(b))) if a == b => {}
            _ => return Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_uid_has_its_lines_and_a_minute_gives_new_ones() {
        let mut budget = Budget::default();
        assert_eq!((0..20).filter(|_| budget.allows(1, 5)).count(), BUDGET as usize);
        assert!(budget.allows(2, 5));
        assert!(budget.allows(1, 6));
    }

    #[test]
    fn a_copy_is_known_by_its_bytes() {
        let own = std::env::current_exe().unwrap();
        let pid = std::process::id().cast_signed();
        assert_eq!(same_bytes(pid, &own), Some(true));
        assert_eq!(same_bytes(pid, Path::new("/bin/sh")), Some(false));
        assert_eq!(same_bytes(pid, Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_refusal_names_both_identities_as_far_as_they_are_known() {
        let signs = vec![NestedSign::SessionCgroup];
        let who = Inspected { pid: 7, uid: 20_001, gid: 20_002, signs, session: Some("0190".into()) };
        let denied = denied(&who, "/usr/sbin/glexec", None);
        assert_eq!((denied.caller_uid, denied.caller_gid, denied.code), (20_001, 20_002, 203));
        assert_eq!((denied.supervisor_pid, denied.payload), (7, None));
        assert_eq!(denied.nested_signs, ["session_cgroup"]);
        assert!(denied.reason.contains("session 0190") && denied.reason.contains("before it started"));
    }
}
