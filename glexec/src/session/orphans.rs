//! Closing sessions whose supervisor is gone: killed, or lost with a crash of the node.
//!
//! Every call begins with it, so that nothing outlives its supervision for long: what is left of the payload is ended, the
//! record gets a `lost` event with what the cgroup counted, and the leaf and the directory go.

use crate::failure::Failure;
use crate::log::Log;
use crate::run::target_proxy;
use crate::session::cgroup::Leaf;
use crate::session::cgroup::Post;
use crate::session::port_blocks;
use crate::session::recording;
use crate::session::store::{self, Found, SessionState};
use crate::session::usage;
use crate::session::work_dir::WorkDir;
use crate::sys::fds;
use crate::sys::process::Fork;
use crate::sys::{ids, process};
use policy::GlexecConf;
use policy::file::NestedPolicy;
use record::{Event, Spool};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long one session may take whose end somebody waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of them may take while a caller waits who has nothing to do with them.
const IN_PASSING: Duration = Duration::from_millis(12);
/// How often, and how often in all, one that does not end is tried again.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 600;

/// Closes what is orphaned and returns the sessions that live. They tell nested calls from others, so a call that cannot
/// list them must not go on.
///
/// One user's stuck session must not cost another caller time: what does not end at once is left to a process of its own,
/// which goes on trying. Nothing is forgotten, since the session stays on record until nothing of it is left.
pub(crate) fn close_orphans(spool: &Path, conf: &GlexecConf, log: &Log) -> Result<Vec<Found>, Failure> {
    // Whoever called could stop us here, and the lost session would stay locked for everybody.
    let _unstoppable = ids::OutOfReach::enter();
    close_earlier_boot(&Spool::new(spool), log);
    let (orphans, live) = listed()?;
    let deadline = Instant::now() + IN_PASSING;
    let mut stuck = Vec::new();
    for found in orphans {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !close(&found.state, log, left) {
            stuck.push(found.state.id.clone());
        }
    }
    if !stuck.is_empty() {
        go_on_beside(&stuck, conf, log);
    }
    Ok(live)
}

/// For the monitor, which has a process for this.
pub(crate) fn close_patiently(spool: &Path, log: &Log) -> Result<(), Failure> {
    close_earlier_boot(&Spool::new(spool), log);
    for found in listed()?.0 {
        close(&found.state, log, PATIENCE);
    }
    Ok(())
}

fn listed() -> Result<(Vec<Found>, Vec<Found>), Failure> {
    let all = store::listed().map_err(|e| Failure::site(format!("sessions cannot be listed: {e}")))?;
    Ok(all.into_iter().partition(|found| found.orphaned.is_some()))
}

/// Leaves sessions to a process that is nobody's child and has nothing of the caller's.
fn go_on_beside(stuck: &[String], conf: &GlexecConf, log: &Log) {
    match process::fork() {
        Ok(Fork::Parent(between)) => drop(process::wait_for(between)),
        Ok(Fork::Child) => {
            if matches!(process::fork(), Ok(Fork::Child)) {
                let alone = fds::null_standard().and_then(|()| fds::close_from(3));
                let alone =
                    alone.and_then(|()| nix::unistd::setsid().map(drop)).and_then(|()| ids::be_root_alone());
                if alone.is_ok() {
                    let _ = nix::unistd::chdir("/");
                    let _ = nix::sys::prctl::set_name(c"glexec-reaper");
                    reap(stuck.to_vec(), &Log::configured(conf));
                }
            }
            process::exit_now(0)
        }
        Err(e) => log.error(&format!("lost sessions stay until the next call: {e}")),
    }
}

fn reap(mut stuck: Vec<String>, log: &Log) {
    for _ in 0..TRIES {
        // One that is locked is closed by somebody else.
        stuck.retain(|id| match store::by_id(id) {
            Some(found) if found.orphaned.is_some() => !close(&found.state, log, PATIENCE),
            _ => false,
        });
        if stuck.is_empty() {
            return;
        }
        std::thread::sleep(AGAIN);
    }
}

/// Sessions go with the boot, their records do not. Done once per boot; spools that are not ours to write say so later.
fn close_earlier_boot(spool: &Spool, log: &Log) {
    let boot = recording::boot_id();
    if spool.knows_boot(&boot) {
        return;
    }
    let Ok(_alone) = store::alone("reboot") else { return };
    match spool.close_lost_to_reboot(&boot) {
        Ok(0) => {}
        Ok(closed) => log.warning(&format!("{closed} records of an earlier boot closed as lost")),
        Err(e) => log.error(&format!("records of an earlier boot cannot be closed: {e}")),
    }
}

/// Closes one session whose supervisor is gone, within this time; the caller holds its lock. `false` when something of it is
/// left: then all of it stays on record.
pub(crate) fn close(state: &SessionState, log: &Log, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let leaf = state.leaf.as_ref();
    let leftovers = store::most_leftovers(&state.id, leaf.map_or(0, Leaf::population));
    if leaf.is_some_and(|leaf| !leaf.kill_within(Some(state.uid), patience)) {
        log.error(&format!("session {}: processes of a lost payload do not end yet", state.id));
        return false;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if let Some(Err(why)) = WorkDir::of(state).map(|dir| dir.remove(left)) {
        if patience < PATIENCE {
            return false;
        }
        log.warning(&format!("session {}: {why}", state.id));
    }
    if let Some(proxy) = &state.proxy {
        target_proxy::remove(proxy, Some((state.uid, state.gid)));
    }
    if let Err(e) = close_record(state, leaf, leftovers) {
        log.error(&format!("session {}: its record cannot be closed: {e}", state.id));
        return false;
    }
    if let Some(Err(e)) = leaf.map(|leaf| leaf.remove().and(Post::remove_of(leaf))) {
        log.warning(&format!("session {}: cgroup leaf stays for now: {e}", state.id));
        return false;
    }
    store::remove(&state.id);
    state.ports.inspect(|ports| port_blocks::end(*ports, state.caller_uid));
    log.warning(&format!(
        "session {}: closed for its lost supervisor, {leftovers} processes ended",
        state.id
    ));
    true
}

fn close_record(state: &SessionState, leaf: Option<&Leaf>, leftovers: usize) -> io::Result<()> {
    // Nobody saw when it ended, so it ends now; the record says that this is an estimate.
    let began = recording::opened_of(state).map(|opened| opened.start_boottime_ns);
    let wall_ns = began.map_or(0, |began| process::boottime_ns().saturating_sub(began));
    let usage = leaf.map(|_| Box::new(usage::counted(leaf, wall_ns, None)));
    let event = Event::Lost {
        end_unix_ns: process::unix_ns(),
        usage,
        cause: "helper_died".into(),
        estimated: true,
        leftovers: u32::try_from(leftovers).unwrap_or(u32::MAX),
    };
    match Spool::new(&state.spool).reopen(&state.id).and_then(|record| record.close(&event)) {
        // The supervisor closed the record and died before it removed the session.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        closed => closed,
    }
}

/// `[payload] nested = "kill"`: ends the sessions of an account whose payload called. Their supervisors close them.
pub(crate) fn punish(nested: NestedPolicy, offender: u32, log: &Log) {
    if nested != NestedPolicy::Kill {
        return;
    }
    // This was called by the offender, who could stop us with everybody's locks in hand.
    let _unstoppable = ids::OutOfReach::enter();
    for state in store::all().into_iter().map(|found| found.state).filter(|s| s.uid == offender) {
        log.warning(&format!("session {}: its payload called glexec and is ended", state.id));
        if let Some(leaf) = &state.leaf {
            leaf.kill_all_but_self();
        }
    }
}
