//! Many sessions, and random kills of all that has a part in them: each session that began has one record in the end, closed or lost.
//!
//! `PILOTAGE_SESSIONS` sets how many (`tests/soak` plays 10,000).

use end_to_end::contract::eventually;
use end_to_end::security::sessions;
use harness::{Machine, Running, needs};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use record::{Spool, State};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SPOOL: &str = "/var/spool/pilotage/records";
/// Sessions at once.
const AT_ONCE: usize = 6;
/// One session in so many uses CPU time until a checkpoint has counted it.
const BURNS: usize = 60;
const PATIENCE: Duration = Duration::from_secs(300);

struct Storm {
    machine: Machine,
    proxy: String,
    spool: Spool,
    /// Ids that payloads have told: sessions that certainly began.
    began: BTreeSet<String>,
    /// CPU time of a checkpoint, by session.
    counted: BTreeMap<String, u64>,
    random: u64,
}

fn cpu_us(usage: Option<&record::Usage>) -> u64 {
    usage.map_or(0, |usage| usage.cpu_user_us + usage.cpu_sys_us)
}

impl Storm {
    fn new() -> Self {
        let policy = "[accounting]\ncheckpoint = \"1s\"\n";
        let machine = Machine::builder().pilot("pilot").account("alice").policy_add(policy).build();
        machine.map("alice", "alice");
        let proxy = machine.proxy("alice", "pilot");
        let (began, counted) = (BTreeSet::new(), BTreeMap::new());
        Self { machine, proxy, spool: Spool::new(SPOOL), began, counted, random: 0x2545_f491_4f6c_dd1d }
    }

    /// The same numbers in each run: what they meet depends on the machine anyway.
    fn below(&mut self, most: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % most as u64).expect("less than a usize")
    }

    fn call(&self, script: &str) -> Running {
        let script = format!("echo $PILOT_SESSION; {script}");
        let run = self.machine.glexec().env("GLEXEC_CLIENT_CERT", &self.proxy);
        run.args(["/bin/sh", "-c", &script]).limit(PATIENCE).spawn()
    }

    /// Kills a caller, a supervisor, or a process of a payload; or nothing, if it is gone already.
    fn kill_something(&mut self, running: &[Running]) {
        match self.below(6) {
            0 if !running.is_empty() => {
                let victim = &running[self.below(running.len())];
                // It is our child and was not waited for, so the id is still its own.
                let _ = kill(Pid::from_raw(victim.pid()), Signal::SIGKILL);
            }
            1 | 2 => {
                let all = sessions();
                if !all.is_empty() {
                    let id = &all[self.below(all.len())];
                    self.kill_supervisor(id);
                }
            }
            3 => {
                let payload = self.machine.processes_of("alice");
                if !payload.is_empty() {
                    let _ = kill(Pid::from_raw(payload[self.below(payload.len())]), Signal::SIGKILL);
                }
            }
            // The writer of the store, in the middle of its work.
            4 => {
                let mut fold = self.machine.command("accounting").arg("fold").limit(PATIENCE).spawn();
                std::thread::sleep(Duration::from_millis(self.below(60) as u64));
                if fold.is_running() {
                    fold.signal(9);
                }
                let _ = fold.end_within(PATIENCE);
            }
            _ => {}
        }
    }

    fn kill_supervisor(&self, id: &str) {
        let Some(pid) = supervisor_if_any(id) else { return };
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if comm.trim() == "glexec-super" {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    fn ended(&mut self, run: Running) {
        let ran = run.end_within(PATIENCE);
        let told = ran.text();
        self.began.extend(told.lines().next().filter(|id| !id.is_empty()).map(str::to_owned));
    }

    /// A session that uses CPU time until a checkpoint has counted some, and then loses its supervisor.
    fn burn(&mut self) {
        let run = self.call("while :; do :; done");
        let burning = eventually("a checkpoint with CPU time", PATIENCE, || {
            let ids = self.spool.open_ids().ok()?;
            let record = |id: &String| self.spool.record(id).ok();
            ids.iter().filter_map(record).find(|record| cpu_us(record.usage.as_ref()) > 0)
        });
        self.kill_supervisor(&burning.id);
        self.counted.insert(burning.id.clone(), cpu_us(burning.usage.as_ref()));
        self.sweep();
        self.ended(run);
    }

    /// Each call looks for sessions without a supervisor.
    fn sweep(&self) {
        eventually("the end of all sessions", PATIENCE, || {
            let ran = self.machine.glexec().env("GLEXEC_CLIENT_CERT", &self.proxy).arg("/bin/true").output();
            let open = self.spool.open_ids().ok()?;
            (ran.code() == Some(0) && open.is_empty()).then_some(())
        });
    }
}

/// The supervisor of a session that may end meanwhile.
fn supervisor_if_any(id: &str) -> Option<i32> {
    let state = std::fs::read_to_string(format!("/run/glexec/sessions/{id}/state")).ok()?;
    state.lines().find_map(|line| line.strip_prefix("supervisor=")?.parse().ok())
}

#[test]
#[needs(root, "grid-proxy-init")]
fn every_session_has_one_record_whoever_is_killed() {
    let count = std::env::var("PILOTAGE_SESSIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut storm = Storm::new();
    let (mut started, mut running) = (0, Vec::<Running>::new());
    while started < count || !running.is_empty() {
        if started % BURNS == BURNS - 1 && running.is_empty() {
            storm.burn();
            started += 1;
        } else if started < count && running.len() < AT_ONCE && started % BURNS != BURNS - 1 {
            let script = ["true", "sleep 0.05", "sleep 0.2", "exit 7"][storm.below(4)];
            running.push(storm.call(script));
            started += 1;
        }
        storm.kill_something(&running);
        let (over, still): (Vec<_>, Vec<_>) = std::mem::take(&mut running)
            .into_iter()
            .map(|mut r| (r.is_running(), r))
            .partition(|(runs, _)| !runs);
        running = still.into_iter().map(|(_, run)| run).collect();
        over.into_iter().for_each(|(_, run)| storm.ended(run));
    }
    storm.sweep();
    settled(&storm, count);
}

/// What must hold in the end.
fn settled(storm: &Storm, count: usize) {
    assert!(
        storm.began.len() > count / 4,
        "most sessions get as far as their payload: {}",
        storm.began.len()
    );
    let folded = storm.machine.command("accounting").arg("fold").limit(PATIENCE).output();
    folded.exits(0);
    assert!(storm.spool.ids().expect("the spool can be read").is_empty(), "everything is final");
    let verified = storm.machine.command("accounting").args(["verify", "--json"]).output().ok();
    let verified: serde_json::Value = serde_json::from_str(&verified).expect("it is JSON");
    let store = accounting::store::Store::open("/var/lib/pilotage/accounting".as_ref());
    let store = store.expect("the store can be opened").expect("it was made");
    let all = store.select(&accounting::filter::Filter::default()).expect("it can be read");
    let ids: BTreeSet<&str> = all.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids.len(), all.len(), "no record twice");
    assert_eq!(verified["sealed"], all.len(), "what is sealed is what is found");
    let of = |state| all.iter().filter(|record| record.state == state).count();
    let (closed, lost) = (of(State::Closed), of(State::Lost));
    assert_eq!(
        closed + lost,
        all.iter().filter(|record| record.opened.is_some()).count(),
        "opened = closed + lost"
    );
    assert!(lost > 0 && closed > 0, "{closed} closed, {lost} lost");
    for id in &storm.began {
        assert!(ids.contains(id.as_str()), "session {id} began and has no record");
    }
    assert!(!storm.counted.is_empty(), "some sessions had a checkpoint");
    for (id, counted) in &storm.counted {
        let record = all.iter().find(|record| record.id == *id);
        let usage = record.map_or(0, |record| cpu_us(record.usage.as_ref()));
        assert!(usage >= *counted, "session {id}: {usage} us, and a checkpoint had counted {counted}");
    }
}
