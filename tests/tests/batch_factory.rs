//! The factory at real batch systems: it submits pilots as the pilot account because payloads wait, each payload is switched
//! and runs, and what is cut off in the middle runs again, once. A factory that is killed at the worst moment submits nothing
//! twice.

use end_to_end::contract::eventually;
use end_to_end::gridengine::{self, GridEngine};
use end_to_end::slurm::{self, Slurm, Tracking};
use harness::{Machine, Ran, Run, Service, needs};
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// Generous: two cores, and other tests beside this one.
const PATIENCE: Duration = Duration::from_secs(240);
const LEDGER: &str = "/opt/factory/ledger.db";
const CONFIG: &str = "/opt/factory/factory.toml";

/// Stays until it is killed the first time, and ends at once the second time.
const ONCE: &str = "if mkdir /tmp/first 2>/dev/null; then exec sleep 600; else id -un; fi";

/// Who may call, who is mapped, and who runs the batch system.
fn node(admin: &str, policy: &str) -> Machine {
    let m = Machine::builder().pilot("pilot").service(admin).service("queue").service("home");
    let m = m.policy_add(policy).account("alice").build();
    m.map("Alice", "alice");
    m
}

/// Name of this host before the batch system's node gets one of its own: the queue's certificate has it.
fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").expect("every host has a name").trim().to_owned()
}

/// A queue, and what users and factory need to speak to it.
struct Grid<'m> {
    m: &'m Machine,
    _queue: Service,
    url: String,
    /// Of the pilots, and of the factory.
    proxy: String,
    alice: String,
}

impl<'m> Grid<'m> {
    /// To be called inside the node's network.
    fn start(m: &'m Machine, host: &str) -> Self {
        let known = fs::read_to_string("/etc/hosts").expect("the node has hosts");
        m.write("/etc/hosts", "root", 0o644, format!("{known}127.0.0.1 {host}\n"));
        for (name, from, mode) in
            [("cert.pem", m.pki().host_cert.clone(), 0o644), ("key.pem", m.pki().host_key.clone(), 0o600)]
        {
            m.write(
                &format!("/home/queue/{name}"),
                "queue",
                mode,
                fs::read(from).expect("the host has a certificate"),
            );
        }
        let port = m.ports().0 + 5;
        let run = m.command("/usr/bin/pilot").as_user("queue").args([
            "queue",
            "--listen",
            &format!("127.0.0.1:{port}"),
        ]);
        let run = run.args(["--store", "sqlite:/home/queue/queue.db", "--lease", "5s", "--grace", "1s"]);
        let run = run.args(["--cert", "/home/queue/cert.pem", "--key", "/home/queue/key.pem"]);
        let run = run.args(["--pilot-dn", &m.dn("Pilot"), "--factory-dn", &m.dn("Pilot")]);
        let queue =
            Service::start("queue", run).and_then(|s| s.listens(port)).unwrap_or_else(|e| panic!("{e}"));
        let make = "install -d -o pilot -m 700 /opt/factory";
        m.command("/bin/sh").args(["-c", make]).output().ok();
        let (proxy, alice) = (m.proxy("Pilot", "pilot"), m.proxy("Alice", "home"));
        Self { m, _queue: queue, url: format!("https://{host}:{port}"), proxy, alice }
    }

    fn configure(&self, system: &str, more: &str) {
        let text = format!(
            "queue = \"{}\"\nproxy = \"{proxy}\"\nledger = \"{LEDGER}\"\ninterval = \"1s\"\nbackoff = \"2s\"\n{more}\
             [site.here]\nsystem = \"{system}\"\nwalltime = \"10m\"\nmax_pilots = 3\npilot_proxy = \"{proxy}\"\n\
             max_idle = \"5s\"\nlogs = \"/opt/factory\"\n",
            self.url,
            proxy = self.proxy,
        );
        self.m.write(CONFIG, "root", 0o644, text);
    }

    fn user(&self, args: &[&str]) -> Ran {
        let run = self.m.command("/usr/bin/pilot").as_user("home").args(args);
        run.env("PILOT_QUEUE", &self.url).env("X509_USER_PROXY", &self.alice).output()
    }

    fn submit(&self, script: &str) -> String {
        self.user(&["submit", "--walltime", "5m", "--", "/bin/sh", "-c", script]).ok()
    }

    fn payload(&self, id: &str) -> Value {
        let text = self.user(&["show", "--json", id]).ok();
        serde_json::from_str::<Value>(&text).expect("JSON")["payload"].clone()
    }

    /// Waits for the end; returns how many attempts there were, and what the payload said.
    fn done(&self, id: &str, factory: &Service) -> (usize, String) {
        let shown = eventually("the payload is over", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(200));
            let shown = self.payload(id);
            ["done", "failed", "killed"]
                .contains(&shown["state"].as_str().unwrap_or_default())
                .then_some(shown)
        });
        assert_eq!(shown["state"], "done", "{shown}\n{}\n{}", factory.said(), self.logs());
        (shown["attempts"].as_array().map_or(0, Vec::len), self.user(&["logs", id]).text())
    }

    /// What the pilots said.
    fn logs(&self) -> String {
        let names = fs::read_dir("/opt/factory").into_iter().flatten().flatten().map(|entry| entry.path());
        names
            .filter(|p| p.extension().is_some_and(|e| e == "log"))
            .filter_map(|p| fs::read_to_string(p).ok())
            .collect()
    }

    fn explain(&self, run: Run) -> Value {
        let text = run.args(["factory", "explain", "--json", "--config", CONFIG]).output().ok();
        serde_json::from_str(&text).expect("JSON")
    }
}

fn factory(run: Run) -> Service {
    Service::start("factory", run.args(["factory", "--config", CONFIG])).unwrap_or_else(|e| panic!("{e}"))
}

fn pilot(m: &Machine) -> Run {
    let mut run = m.command("/usr/bin/pilot").as_user("pilot");
    run.raw().stdin(Stdio::null());
    run
}

/// Names and ids of all pilots that Slurm has ever got, ended ones included.
fn pilots(slurm: &Slurm<'_>) -> Vec<(String, String)> {
    let text = slurm.ask("squeue", &["-h", "--states=all", "-o", "%j %i"]).text();
    let pairs = text.lines().filter_map(|line| line.trim().split_once(' '));
    pairs.filter(|(name, _)| name.starts_with("pp-")).map(|(name, id)| (name.into(), id.into())).collect()
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip")]
fn on_slurm_pilots_come_because_payloads_wait_and_a_cancelled_one_is_replaced() {
    let (host, m) = (host(), node(slurm::ADMIN, ""));
    let slurm = Slurm::start(&m, Tracking::Linuxproc);
    let grid = Grid::start(&m, &host);
    grid.configure("slurm", "");
    let check = pilot(&m).args(["factory", "--check", "--config", CONFIG]).output();
    assert!(check.ok().contains("ok: site here"), "{}", check.text());
    let factory = factory(pilot(&m));
    let id = grid.submit(ONCE);
    eventually("the payload runs", PATIENCE, || fs::metadata("/tmp/first").ok());
    let submitted = pilots(&slurm);
    assert_eq!(submitted.len(), 1, "one at first: {submitted:?}");
    slurm.ask("scancel", &[&submitted[0].1]).ok();
    assert_eq!(grid.done(&id, &factory), (2, "alice".into()), "{}", factory.said());
    assert_eq!(pilots(&slurm).len(), 2, "a second one, for the second attempt");
    let told = grid.explain(pilot(&m));
    assert!(told["decisions"].to_string().contains("submits 1: "), "{told}");
    // Nothing waits any more: the pilots end by themselves, and no new ones come.
    eventually("no pilot is left", PATIENCE, || slurm.ask("squeue", &["-h"]).text().is_empty().then_some(()));
    assert_eq!(pilots(&slurm).len(), 2);
    eventually("nobody is left", PATIENCE, || m.processes_of("alice").is_empty().then_some(()));
}

/// A client that kills the factory, which has started it, at its first submission.
fn deadly(m: &Machine, then: &str) {
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--test-only*) exec /usr/bin/sbatch \"$@\" ;; esac\n\
         if mkdir /tmp/deadly 2>/dev/null; then {then}\nkill -9 $PPID; exit 1; fi\nexec /usr/bin/sbatch \"$@\"\n"
    );
    m.write("/opt/deadly/sbatch", "root", 0o755, script);
}

fn killed_at_its_first_submission(then: &str, unknown_after: &str) {
    let (host, m) = (host(), node(slurm::ADMIN, ""));
    let slurm = Slurm::start(&m, Tracking::Linuxproc);
    let grid = Grid::start(&m, &host);
    grid.configure("slurm", &format!("unknown_after = \"{unknown_after}\"\n"));
    deadly(&m, then);
    let run = || pilot(&m).env("PATH", "/opt/deadly:/usr/bin:/bin");
    let id = grid.submit("id -un");
    let mut first = factory(run());
    let ended = first.ends_within(PATIENCE).unwrap_or_else(|e| panic!("{e}"));
    assert!(!ended, "killed in the middle: {}", first.said());
    drop(first);
    let second = factory(run());
    assert_eq!(grid.done(&id, &second), (1, "alice".into()), "{}", second.said());
    let submitted = pilots(&slurm);
    assert_eq!(submitted.len(), 1, "not twice: {submitted:?}\n{}", second.said());
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip")]
fn a_factory_killed_before_the_submission_submits_later() {
    killed_at_its_first_submission("", "5s");
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip")]
fn a_factory_killed_after_the_submission_finds_its_pilot_again() {
    killed_at_its_first_submission("/usr/bin/sbatch \"$@\" >/dev/null", "10m");
}

#[test]
#[needs(root, "slurmctld", "slurmd", "sbatch", "munged", "ip")]
fn while_slurm_is_down_nothing_is_submitted_and_then_it_goes_on() {
    let (host, m) = (host(), node(slurm::ADMIN, ""));
    let mut slurm = Slurm::start(&m, Tracking::Linuxproc);
    let grid = Grid::start(&m, &host);
    grid.configure("slurm", "");
    slurm.down();
    let id = grid.submit("id -un");
    let factory = factory(pilot(&m));
    eventually("the factory says why it waits", PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        let there = fs::metadata(LEDGER).is_ok();
        let told = there.then(|| pilot(&m).args(["factory", "explain", "--config", CONFIG]).output().text());
        told.filter(|text| text.contains("cannot be listed"))
    });
    slurm.up();
    assert_eq!(grid.done(&id, &factory), (1, "alice".into()), "{}", factory.said());
    assert_eq!(pilots(&slurm).len(), 1);
}

#[test]
#[needs(root, "sge_qmaster", "sge_execd", "qsub", "ip")]
fn on_grid_engine_a_deleted_pilot_is_replaced_and_its_payload_runs_once_more() {
    let (host, m) = (host(), node(gridengine::ADMIN, ""));
    let keep = format!("[accounts]\nkeep_gids = [\"{}\"]", GridEngine::gid_range(&m));
    m.edit_policy(|text| text.replace("[accounts]", &keep));
    let engine = GridEngine::start(&m);
    let grid = Grid::start(&m, &host);
    grid.configure("gridengine", "");
    let factory = factory(engine.run("/usr/bin/pilot").as_user("pilot"));
    let id = grid.submit(ONCE);
    eventually("the payload runs", PATIENCE, || fs::metadata("/tmp/first").ok());
    let listed = engine.ask("qstat", &["-u", "pilot"]).ok();
    let jobs: Vec<&str> = listed.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(jobs.len(), 1, "{listed}");
    engine.ask("qdel", &[jobs[0]]).ok();
    assert_eq!(grid.done(&id, &factory), (2, "alice".into()), "{}", factory.said());
    eventually("no pilot is left", PATIENCE, || {
        engine.ask("qstat", &["-u", "pilot"]).text().is_empty().then_some(())
    });
    eventually("nobody is left", PATIENCE, || m.processes_of("alice").is_empty().then_some(()));
}
