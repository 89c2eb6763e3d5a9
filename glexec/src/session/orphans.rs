//! Closing sessions whose supervisor is gone: killed, or lost with a crash of the node.
//!
//! Runs at the start of every call, so that nothing outlives its supervision for long: what is left of the payload is
//! ended, the record gets a `lost` event with what the cgroup counted, and the leaf and the directory go.

use crate::failure::Failure;
use crate::log::Log;
use crate::session::cgroup::Leaf;
use crate::session::recording;
use crate::session::store::{self, Found, SessionState};
use crate::session::usage;
use crate::session::work_dir::WorkDir;
use crate::sys::{ids, process};
use policy::file::NestedPolicy;
use record::{Event, Spool};
use std::path::Path;

/// Closes what is orphaned and returns the sessions that live. They tell nested calls from others, so a call that cannot
/// list them must not go on.
pub(crate) fn close_orphans(spool: &Path, log: &Log) -> Result<Vec<Found>, Failure> {
    // Whoever called could stop us here, and the lost session would stay locked for everybody.
    let _unstoppable = ids::OutOfReach::enter();
    close_earlier_boot(&Spool::new(spool), log);
    let all = store::listed().map_err(|e| Failure::site(format!("sessions cannot be listed: {e}")))?;
    let (orphans, live): (Vec<_>, Vec<_>) = all.into_iter().partition(|s| s.orphaned.is_some());
    orphans.iter().for_each(|found| close(&found.state, log));
    Ok(live)
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

/// Closes one session whose supervisor is gone; the caller holds its lock.
pub(crate) fn close(state: &SessionState, log: &Log) {
    let leaf = state.leaf.as_ref();
    let leftovers = leaf.map_or(0, Leaf::population);
    if leaf.is_some_and(|leaf| !leaf.kill_all()) {
        log.error(&format!("session {}: processes of a lost payload do not end", state.id));
        return;
    }
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
        Ok(()) => {}
        // The supervisor closed the record and died before it removed the session.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => {
            log.error(&format!("session {}: its record cannot be closed: {e}", state.id));
            return;
        }
    }
    if let Some(Err(why)) = WorkDir::of(state).map(WorkDir::remove) {
        log.warning(&format!("session {}: {why}", state.id));
    }
    if let Some(Err(e)) = leaf.map(Leaf::remove) {
        log.warning(&format!("session {}: cgroup leaf stays: {e}", state.id));
    }
    store::remove(&state.id);
    log.warning(&format!(
        "session {}: closed for its lost supervisor, {leftovers} processes ended",
        state.id
    ));
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
