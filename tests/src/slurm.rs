//! A real Slurm of one node, in a machine: controller, node daemon and commands as Debian ships them.
//!
//! Network, host name, spool and ports are the machine's own, so that several can live at once. So are the cgroups: Slurm
//! names them by the node.

use crate::contract::eventually;
use crate::network::{ADDRESS, Network};
use crate::security::names;
use harness::{Machine, Ran, Service};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Account that Slurm's controller and MUNGE run as; add it to the machine with `service`.
pub const ADMIN: &str = "batchadmin";

const CGROUPS: &str = "/sys/fs/cgroup";
const SPOOL: &str = "/var/spool/slurm-node";
/// Generous: two cores, and other tests beside this one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What Slurm tracks, counts and limits the processes of a job with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// `proctrack/cgroup` on version 1: a directory for each step in the freezer; memory limit and accounting as well.
    Cgroup,
    /// `proctrack/linuxproc`: the tree of processes by their parents; no limits.
    Linuxproc,
}

impl Tracking {
    fn settings(self) -> &'static str {
        match self {
            Self::Cgroup => {
                "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nJobAcctGatherType=jobacct_gather/cgroup\n"
            }
            Self::Linuxproc => {
                "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/linux\n"
            }
        }
    }
}

/// A running Slurm; ended when dropped, before its machine.
#[derive(Debug)]
pub struct Slurm<'m> {
    machine: &'m Machine,
    services: Vec<Service>,
    _network: Network,
}

impl<'m> Slurm<'m> {
    /// Sets it up and waits until it takes jobs. The calling thread must live in the machine, and moves into the node's
    /// network until this is dropped.
    ///
    /// # Panics
    /// When a part does not work; with what it says.
    pub fn start(machine: &'m Machine, tracking: Tracking) -> Self {
        let network = Network::enter(machine, &host(machine));
        let mut this = Self { machine, services: Vec::new(), _network: network };
        this.sweep();
        configure(machine, tracking);
        let munged = machine.command("munged").as_user(ADMIN).args(["--foreground", "--key-file", KEY]);
        this.services.push(Service::start("munged", munged).unwrap_or_else(|e| panic!("{e}")));
        eventually("MUNGE is ready", PATIENCE, || {
            this.ask("munge", &["-n"]).code().filter(|code| *code == 0)
        });
        let (control, node) = ports(machine);
        this.daemon("slurmctld", &["-D"], control);
        this.daemon("slurmd", &["-D", "-N", &host(machine)], node);
        eventually("node is ready", PATIENCE, || {
            (this.ask("sinfo", &["-h", "-o", "%T"]).text() == "idle").then_some(())
        });
        this
    }

    fn daemon(&mut self, name: &'static str, args: &[&str], port: u16) {
        let started = Service::start(name, self.machine.command(name).args(args));
        self.services.push(started.and_then(|s| s.listens(port)).unwrap_or_else(|e| panic!("{e}")));
    }

    /// Ends the controller; nobody can submit or list until [`Slurm::up`].
    pub fn down(&mut self) {
        // MUNGE, controller, node: as started.
        drop(self.services.remove(1));
    }

    /// Starts the controller again, with the state that it saved.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up(&mut self) {
        self.daemon("slurmctld", &["-D"], ports(self.machine).0);
        self.services.swap(1, 2);
    }

    /// Submits a shell script as an account, with options of `sbatch`; returns the number of the job. Its output goes to
    /// `job.out` in the home.
    ///
    /// # Panics
    /// When it is not accepted.
    pub fn submit(&self, account: &str, options: &[&str], script: &str) -> String {
        let home = self.machine.account(account).home;
        let file = format!("{home}/job.sh");
        self.machine.write(&file, account, 0o700, script);
        let run = self.machine.command("sbatch").as_user(account).args(["--parsable", "-o"]);
        let number = run.arg(format!("{home}/job.out")).args(options).arg(&file).output().ok();
        assert!(number.parse::<u32>().is_ok(), "sbatch: {number}");
        number
    }

    /// Runs one of its commands as root.
    pub fn ask(&self, command: &str, args: &[&str]) -> Ran {
        self.machine.command(command).args(args).output()
    }

    /// Waits until the job has left the node; returns state and exit code, such as `COMPLETED` and `0:0`.
    ///
    /// # Panics
    /// When it does not in time; with what the node's daemon says.
    pub fn ended(&self, job: &str) -> (String, String) {
        let field = |text: &str, key: &str| {
            let value = text.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap_or_default();
            value.to_owned()
        };
        let running = ["PENDING", "CONFIGURING", "RUNNING", "COMPLETING", ""];
        eventually("the job has ended", PATIENCE, || {
            let text = self.ask("scontrol", &["-o", "show", "job", job]).text();
            let state = field(&text, "JobState=");
            let over =
                !running.contains(&&*state) && self.ask("squeue", &["-h", "-t", "CG"]).text().is_empty();
            over.then(|| (state, field(&text, "ExitCode=")))
        })
    }

    /// What it has counted so far for the batch script of a running job: a field of `sstat`.
    ///
    /// # Panics
    /// When `sstat` fails.
    pub fn counted(&self, job: &str, field: &str) -> String {
        self.ask("sstat", &["-n", "-P", "-o", field, "-j", &format!("{job}.batch")]).ok()
    }

    /// Its directories in all cgroup hierarchies.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = names(CGROUPS).into_iter().map(|name| Path::new(CGROUPS).join(name));
        let own = format!("slurm_{}", host(self.machine));
        let mut found = Vec::new();
        hierarchies
            .map(|dir| dir.join(&own))
            .filter(|dir| dir.is_dir())
            .for_each(|dir| below(dir, &mut found));
        found
    }

    /// Ends what is left in its cgroups, by this node or by one that was killed before, and removes them.
    fn sweep(&self) {
        eventually("its cgroups are empty", PATIENCE, || {
            for dir in self.cgroups().iter().rev() {
                let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 1) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                let _ = fs::remove_dir(dir);
            }
            self.cgroups().is_empty().then_some(())
        });
    }
}

impl Drop for Slurm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.services.iter().for_each(|service| eprintln!("{}", service.said()));
        }
        self.services.clear();
        self.sweep();
    }
}

fn below(dir: PathBuf, found: &mut Vec<PathBuf>) {
    let inside = names(&dir).into_iter().map(|name| dir.join(name)).filter(|path| path.is_dir());
    let inside: Vec<_> = inside.collect();
    found.push(dir);
    inside.into_iter().for_each(|dir| below(dir, found));
}

/// Name of the host and of the node: no two machines have the same ports.
fn host(m: &Machine) -> String {
    format!("node{}", m.ports().0)
}

/// Of the controller, and of the node's daemon.
fn ports(m: &Machine) -> (u16, u16) {
    (m.ports().0, m.ports().0 + 1)
}

const KEY: &str = "/etc/munge-node.key";

fn configure(m: &Machine, tracking: Tracking) {
    m.write(KEY, ADMIN, 0o400, [7; 128]);
    let dirs = "install -d -o batchadmin -m 755 /run/munge /var/log/munge /var/lib/munge";
    let dirs = format!("{dirs} {SPOOL} {SPOOL}/state && install -d -m 755 {SPOOL}/node");
    m.command("/bin/sh").args(["-c", &dirs]).output().ok();
    let (host, (control, node)) = (host(m), ports(m));
    let memory = "RealMemory=1000 CPUs=2";
    let text = format!(
        "ClusterName=test\nSlurmctldHost={host}({ADDRESS})\nSlurmUser={ADMIN}\nAuthType=auth/munge\n\
         SlurmctldPort={control}\nSlurmdPort={node}\nStateSaveLocation={SPOOL}/state\nSlurmdSpoolDir={SPOOL}/node\n\
         SlurmctldPidFile={SPOOL}/state/pid\nSlurmdPidFile={SPOOL}/node/pid\n{}\
         JobAcctGatherFrequency=1\nMinJobAge=3600\nSelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory\n\
         AccountingStorageType=accounting_storage/none\nMpiDefault=none\nSwitchType=switch/none\nKillWait=2\n\
         SchedulerParameters=batch_sched_delay=0,sched_interval=1\n\
         NodeName={host} NodeAddr={ADDRESS} {memory} State=UNKNOWN\n\
         PartitionName=all Nodes={host} Default=YES MaxTime=60 State=UP\n",
        tracking.settings()
    );
    m.write("/etc/slurm/slurm.conf", "root", 0o644, text);
    let text = format!("CgroupPlugin=cgroup/v1\nCgroupMountpoint={CGROUPS}\nConstrainRAMSpace=yes\n");
    m.write("/etc/slurm/cgroup.conf", "root", 0o644, text);
}
