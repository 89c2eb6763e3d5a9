//! A real Grid Engine of one node, in a machine: master, execution daemon and commands as Debian ships them.
//!
//! The node has a network of its own, because Grid Engine wants a host name that does not mean the loopback interface.
//! Cell, spool, ports and the range of tracking groups are the machine's own too, so that several can live at once.

use crate::contract::eventually;
use crate::network::Network;
use harness::{Machine, Ran, Run, Service};
use std::fs;
use std::time::Duration;

/// Account that Grid Engine's files belong to; add it to the machine with `service`.
pub const ADMIN: &str = "batchadmin";

const ROOT: &str = "/var/lib/gridengine";
const COMMON: &str = "/var/lib/gridengine/node/common";
const SPOOL: &str = "/var/spool/gridengine-node";
const DEFAULTS: &str = "/usr/share/gridengine";
const PROGRAMS: &str = "/usr/lib/gridengine";
const HOST: &str = "node.test";
/// Generous: two cores, and other tests beside this one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running Grid Engine; ended when dropped, before its machine.
#[derive(Debug)]
pub struct GridEngine<'m> {
    machine: &'m Machine,
    _execd: Service,
    _master: Service,
    _network: Network,
}

impl<'m> GridEngine<'m> {
    /// Sets it up and waits until it takes jobs. The calling thread must live in the machine, and moves into the node's
    /// network until this is dropped.
    ///
    /// # Panics
    /// When a part does not work; with what it says.
    pub fn start(machine: &'m Machine) -> Self {
        let network = Network::enter(machine, HOST);
        spool(machine);
        let service = |name: &'static str, port| {
            let run = sge(machine, &format!("/usr/sbin/{name}")).env("SGE_ND", "1");
            Service::start(name, run).and_then(|s| s.listens(port)).unwrap_or_else(|e| panic!("{e}"))
        };
        let master = service("sge_qmaster", machine.ports().0);
        let qconf = |args: &[&str]| sge(machine, "qconf").args(args).output().ok();
        let schedule = qconf(&["-ssconf"]);
        let schedule = set(&schedule, "schedule_interval", "0:0:1");
        let schedule = set(&set(&schedule, "flush_submit_sec", "1"), "flush_finish_sec", "1");
        qconf(&["-Msconf", &template(machine, "schedule", &schedule)]);
        qconf(&["-Aq", &template(machine, "queue", &queue())]);
        let execd = service("sge_execd", machine.ports().0 + 1);
        let this = Self { machine, _execd: execd, _master: master, _network: network };
        // A host that has not reported its load yet has `-NA-` there, and `au` as a sixth column.
        let ready = |line: &str| line.starts_with("all.q@") && line.split_whitespace().count() == 5;
        eventually("queue is ready", PATIENCE, || {
            this.ask("qstat", &["-f"]).ok().lines().any(ready).then_some(())
        });
        this
    }

    /// First and last gid that jobs are tracked by.
    pub fn gid_range(machine: &Machine) -> String {
        let last = machine.uid_range().1;
        format!("{}-{last}", last - 9)
    }

    /// Submits a shell script as an account; returns the number of the job. Its output goes to `job.out` in the home.
    ///
    /// # Panics
    /// When it is not accepted.
    pub fn submit(&self, account: &str, script: &str) -> String {
        let home = self.machine.account(account).home;
        let file = format!("{home}/job.sh");
        self.machine.write(&file, account, 0o700, script);
        let out = format!("{home}/job.out");
        let run = sge(self.machine, "qsub").as_user(account);
        let number = run.args(["-terse", "-j", "y", "-o", &out, &file]).output().ok();
        assert!(number.parse::<u32>().is_ok(), "qsub: {number}");
        number
    }

    /// A program with the environment that Grid Engine's own commands want.
    pub fn run(&self, program: &str) -> Run {
        sge(self.machine, program)
    }

    /// Runs one of its commands as root.
    pub fn ask(&self, command: &str, args: &[&str]) -> Ran {
        sge(self.machine, command).args(args).output()
    }

    /// The gid that it tracks a running job by.
    ///
    /// # Panics
    /// When the job is not running.
    pub fn tracking_gid(&self, job: &str) -> u32 {
        let node = HOST.split('.').next().unwrap_or(HOST);
        let file = format!("{SPOOL}/execd/{node}/active_jobs/{job}.1/addgrpid");
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        text.trim().parse().unwrap_or_else(|e| panic!("{file}: {text}: {e}"))
    }

    /// CPU time that it has counted so far for a running job, in whole seconds.
    pub fn cpu_so_far(&self, job: &str) -> u64 {
        let text = self.ask("qstat", &["-j", job]).text();
        // `usage         1:            cpu=00:00:02, mem=...`
        let time = text.lines().find(|l| l.starts_with("usage")).and_then(|l| l.split("cpu=").nth(1));
        let digits = time.and_then(|t| t.split(',').next()).unwrap_or("0");
        digits.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap_or(0))
    }

    /// Waits for the accounting of a job that has ended; returns the value of a field, without the unit.
    pub fn accounted(&self, job: &str, field: &str) -> f64 {
        let text = eventually("qacct knows the job", PATIENCE, || {
            let ran = self.ask("qacct", &["-j", job]);
            (ran.code() == Some(0)).then(|| ran.text())
        });
        let words = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        let value = words.into_iter().find(|w| w.first() == Some(&field)).and_then(|w| w.get(1).copied());
        let value = value.map(|v| v.trim_end_matches('s').to_owned()).unwrap_or_default();
        value.parse().unwrap_or_else(|_| panic!("{field} is {value:?} in\n{text}"))
    }
}

/// One of its programs, with the environment that they all want.
fn sge(m: &Machine, program: &str) -> Run {
    let run = m.command(program).env("SGE_ROOT", ROOT).env("SGE_CELL", "node");
    let run = run.env("SGE_QMASTER_PORT", m.ports().0.to_string());
    run.env("SGE_EXECD_PORT", (m.ports().0 + 1).to_string())
}

/// Makes cell and spool: what the postinst script of Debian's package does, and the host.
fn spool(m: &Machine) {
    let master = format!("{SPOOL}/qmaster");
    let params = format!("{COMMON};{master}");
    let bootstrap = set(&shipped("default-bootstrap"), "admin_user", ADMIN);
    let bootstrap = set(&set(&bootstrap, "spooling_method", "classic"), "spooling_lib", "libspoolc");
    let bootstrap = set(&set(&bootstrap, "spooling_params", &params), "qmaster_spool_dir", &master);
    m.write(&format!("{COMMON}/bootstrap"), ADMIN, 0o644, bootstrap);
    m.write(&format!("{COMMON}/act_qmaster"), ADMIN, 0o644, format!("{HOST}\n"));
    let none = "load_scaling complex_values user_lists xuser_lists projects xprojects usage_scaling report_variables";
    let none: String = none.split(' ').map(|key| format!("{key} NONE\n")).collect();
    m.write(&format!("/run/hosts/{HOST}"), ADMIN, 0o644, format!("hostname {HOST}\n"));
    m.write(&format!("/run/exechosts/{HOST}"), ADMIN, 0o644, format!("hostname {HOST}\n{none}"));
    let dirs = format!("mkdir -p {master} {SPOOL}/execd && chown -R {ADMIN} {ROOT}/node {SPOOL}");
    m.command("/bin/sh").args(["-c", &dirs]).output().ok();
    let run = |program: &str, args: &[&str]| {
        let run = sge(m, &format!("{PROGRAMS}/{program}")).as_user(ADMIN).env("LD_LIBRARY_PATH", PROGRAMS);
        run.args(args).output().ok()
    };
    run("spoolinit", &["classic", "libspoolc", &params, "init"]);
    let resources = format!("{DEFAULTS}/util/resources");
    for default in [
        &["configuration", &template(m, "configuration", &configuration(m))][..],
        &["complexes", &format!("{resources}/centry")],
        &["usersets", &format!("{resources}/usersets")],
        &["managers", ADMIN, "root"],
        &["adminhosts", "/run/hosts"],
        &["submithosts", "/run/hosts"],
        &["exechosts", "/run/exechosts"],
    ] {
        run("spooldefaults.bin", default);
    }
}

/// What holds for the whole cluster: as shipped, but quicker, and tracking by groups of this machine's own.
fn configuration(m: &Machine) -> String {
    let at_once = "accounting=true reporting=false flush_time=00:00:01 accounting_flush_time=00:00:00 joblog=false \
                   sharelog=00:00:00";
    [
        ("execd_spool_dir", &*format!("{SPOOL}/execd")),
        ("execd_params", "ENABLE_ADDGRP_KILL=true"),
        ("gid_range", &GridEngine::gid_range(m)),
        ("load_report_time", "00:00:01"),
        ("reporting_params", at_once),
    ]
    .into_iter()
    .fold(shipped("default-configuration"), |text, (key, value)| set(&text, key, value))
}

fn shipped(file: &str) -> String {
    fs::read_to_string(format!("{DEFAULTS}/{file}")).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn template(m: &Machine, name: &str, text: &str) -> String {
    let file = format!("/run/gridengine-{name}");
    m.write(&file, ADMIN, 0o644, text);
    file
}

/// Replaces the value of a key.
fn set(text: &str, key: &str, value: &str) -> String {
    let is_key = |line: &&str| line.split_whitespace().next() == Some(key);
    assert_eq!(text.lines().filter(is_key).count(), 1, "{key} stands once in\n{text}");
    let line = |l: &str| if is_key(&l) { format!("{key} {value}\n") } else { format!("{l}\n") };
    text.lines().map(line).collect()
}

/// A queue with two slots on the node and no limits.
fn queue() -> String {
    let mut text = format!(
        "qname all.q\nhostlist {HOST}\nseq_no 0\nnsuspend 1\nsuspend_interval 00:05:00\npriority 0\n\
         min_cpu_interval 00:05:00\nprocessors UNDEFINED\nqtype BATCH\nrerun FALSE\nslots 2\ntmpdir /tmp\nshell /bin/sh\n\
         shell_start_mode unix_behavior\nnotify 00:00:60\ninitial_state default\n"
    );
    let none = "load_thresholds suspend_thresholds ckpt_list pe_list prolog epilog starter_method suspend_method \
                resume_method terminate_method owner_list user_lists xuser_lists subordinate_list complex_values \
                projects xprojects calendar";
    none.split(' ').for_each(|key| text.push_str(&format!("{key} NONE\n")));
    for limit in ["rt", "cpu", "fsize", "data", "stack", "core", "rss", "vmem"] {
        text.push_str(&format!("s_{limit} INFINITY\nh_{limit} INFINITY\n"));
    }
    text
}
