//! What a record says: the events of one session.
//!
//! Names carry their unit: `_unix_ns` nanoseconds since the epoch, `_boottime_ns` of `CLOCK_BOOTTIME`
//! (`clock_gettime(2)`), `_ns`, `_us` durations, `_bytes` sizes. Readers ignore fields that they do not know, and
//! fields that are missing read as empty, so that old and new versions understand each other.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What runs in the session; reports sum exactly one role, or usage counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A user's work inside a pilot.
    #[default]
    Payload,
    /// The pilot itself.
    Pilot,
    /// A test of the site.
    Probe,
}

/// The batch job that the session is part of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Batch {
    /// The batch system, such as `slurm` or `htcondor`.
    pub lrms: String,
    /// Its id of the job.
    pub jobid: String,
    /// Which task of an array it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Account under which the job was submitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Queue or partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
}

/// What the caller says about the work; not checked, see [`crate::claim`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claimed {
    /// The user's program: what the pilot's own program was started to run.
    pub argv0: String,
    /// It with its arguments, cut to the limits of [`crate::text`]; empty where the site records no arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub argv: Vec<String>,
    /// Processors that it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// GPUs that it may use, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// Who named the GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_source: Option<String>,
}

/// Ports that the payload may listen on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeasedPorts {
    /// First and last, such as `40000-40009`.
    pub range: String,
    /// By what other ports are kept shut; empty when by nothing.
    pub enforced_by: String,
}

/// A grid identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    /// Subject of the end-entity certificate, one-line form.
    pub dn: String,
    /// Its issuer.
    pub issuer: String,
    /// VOMS attributes, primary first.
    pub fqans: Vec<String>,
    /// Virtual organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vo: Option<String>,
    /// Subject of the certificate that signed the attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voms_issuer: Option<String>,
}

/// Everything that is known before the payload runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Opened {
    /// UUIDv7 (RFC 9562), equal to the session's id and to the file's name.
    pub record_id: String,
    /// What runs.
    pub role: Role,
    /// The record or pilot session that this session runs inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    /// Fully qualified name of the worker node.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Path of the session's cgroup leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Process that supervises the payload.
    pub supervisor_pid: u32,
    /// Its session, `setsid(2)`.
    pub sid: u32,
    /// Its process group.
    pub pgid: u32,
    /// The batch job around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Compute element that the batch job came through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ce: Option<String>,
    /// Real uid of the caller.
    pub caller_uid: u32,
    /// Its name, if `passwd(5)` has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_name: Option<String>,
    /// Real gid of the caller.
    pub caller_gid: u32,
    /// Subject of the pilot's own credential, as far as it is known; not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pilot_dn: Option<String>,
    /// Whose work it is.
    pub payload: Subject,
    /// SHA-256 of the credential's bytes, lower-case hex.
    pub cred_sha256: String,
    /// Serial number of the end-entity certificate, lower-case hex.
    pub cred_serial: String,
    /// Earliest end of validity in the chain, seconds since the epoch.
    #[serde(rename = "cred_not_after_unix_s")]
    pub cred_not_after: u64,
    /// Name of the account that the payload runs as.
    pub account: String,
    /// Its uid.
    pub uid: u32,
    /// Its primary gid.
    pub gid: u32,
    /// Its supplementary gids.
    pub groups: Vec<u32>,
    /// The mapping source that decided, such as `gums` or `grid-mapfile`.
    pub policy_source: String,
    /// Which policy was in force, such as a digest of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_rev: Option<String>,
    /// The command.
    pub argv0: String,
    /// All arguments, cut to the limits of [`crate::text`].
    pub argv: Vec<String>,
    /// SHA-256 over all arguments, each followed by a zero byte, lower-case hex.
    pub argv_sha256: String,
    /// Working directory.
    pub cwd: String,
    /// Where the payload finds its proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_proxy: Option<String>,
    /// Start by the wall clock.
    pub start_unix_ns: u64,
    /// Start by `CLOCK_BOOTTIME`, which does not jump.
    pub start_boottime_ns: u64,
    /// What the caller says about the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<Claimed>,
    /// Ports that are leased to the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<LeasedPorts>,
    /// What keeps the payload apart from others, the surest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub isolation: Vec<String>,
    /// Benchmark of one core of this host, as the site's policy has it: name and score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<String>,
    /// How CPU time will be measured, such as `cgroup-v2`, `cgroup-v1` or `subreaper`.
    pub cpu_source: String,
    /// By what the payload and its leftovers are ended, the surest first: `cgroup.kill`, `cgroup.freeze`, `freezer`,
    /// `cgroup.procs`, `pid_namespace`, `subreaper`, `pdeathsig`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ladder: Vec<String>,
    /// `GLEXEC_ID`, the caller's own name for the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glexec_id: Option<String>,
}

/// Resources used since the start: cumulative, so that the last event wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Duration by `CLOCK_BOOTTIME`.
    pub wall_ns: u64,
    /// CPU time in user mode.
    pub cpu_user_us: u64,
    /// CPU time in the kernel.
    pub cpu_sys_us: u64,
    /// Where the CPU times come from.
    pub cpu_source: String,
    /// Most memory in use at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_peak_bytes: Option<u64>,
    /// What that number counts: `cgroup_peak`, `anon+shmem`, `maxrss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_kind: Option<String>,
    /// Each kind of peak that the host could tell. `cgroup_peak` includes the page cache; `anon+shmem` does not, and is the
    /// most that was seen at the checkpoints; `maxrss` is the largest single process.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mem_peaks_bytes: BTreeMap<String, u64>,
    /// Bytes read from block devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write_bytes: Option<u64>,
    /// Where these come from: `cgroup-v2`, `cgroup-v1`, or `rusage` of the processes that were waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_source: Option<String>,
    /// Processes that the kernel killed because memory ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

impl Usage {
    /// Takes over the higher peaks of an earlier checkpoint: what is sampled may be lower by now.
    pub fn keep_peaks(&mut self, earlier: &Usage) {
        for (kind, bytes) in &earlier.mem_peaks_bytes {
            let peak = self.mem_peaks_bytes.entry(kind.clone()).or_default();
            *peak = (*peak).max(*bytes);
        }
    }
}

/// How the payload ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// Exit code, when it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal number, when a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the kernel killed a process of it because memory ran out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub oom: bool,
    /// Who killed it and why, when somebody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    /// Why the end was not observed, when it was not: `helper_died`, `reboot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// Processes that were left when the command ended.
    pub leftovers: u32,
}

/// A call that was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Denied {
    /// UUIDv7, equal to the file's name.
    pub record_id: String,
    /// Fully qualified name of the worker node.
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// When it was refused.
    pub at_unix_ns: u64,
    /// Process that called.
    pub supervisor_pid: u32,
    /// The batch job around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Real uid of the caller.
    pub caller_uid: u32,
    /// Its name, if `passwd(5)` has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_name: Option<String>,
    /// Real gid of the caller.
    pub caller_gid: u32,
    /// Whose work it would have been, when the credential was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Subject>,
    /// SHA-256 of the credential's bytes, lower-case hex, when one was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cred_sha256: Option<String>,
    /// The account that the mapping named, when it came so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Its uid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The mapping source that named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_source: Option<String>,
    /// Exit code of `glexec`: 201, 202 or 203.
    pub code: i32,
    /// One line: what was wrong.
    pub reason: String,
    /// By which signs the caller was recognised as a payload; empty when it was not.
    pub nested_signs: Vec<String>,
    /// The command it wanted to run; empty when none was given.
    pub argv0: String,
    /// `GLEXEC_ID`, the caller's own name for the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glexec_id: Option<String>,
}

/// One line of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First line of a session: written and synced before the identity is switched.
    Open(Box<Opened>),
    /// The payload's process was started.
    Exec {
        /// Its process id.
        pid: u32,
    },
    /// A checkpoint of a session that goes on.
    Usage {
        /// Used so far.
        usage: Usage,
    },
    /// The end, as the supervisor saw it.
    Close {
        /// End by the wall clock; start plus duration, when the clock was set back.
        end_unix_ns: u64,
        /// Used in all.
        usage: Box<Usage>,
        /// How it ended.
        exit: Box<Exit>,
        /// Whether the wall clock jumped in the meantime.
        clock_stepped: bool,
    },
    /// The end, as it was found out after the supervisor was gone.
    Lost {
        /// End by the wall clock; the last checkpoint, when nothing better is known.
        end_unix_ns: u64,
        /// Used in all, as far as it can be told; without it the last checkpoint holds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Box<Usage>>,
        /// Why nobody saw it: `helper_died`, `reboot`.
        cause: String,
        /// Whether end and usage are estimates.
        estimated: bool,
        /// Processes that had to be killed.
        #[serde(default)]
        leftovers: u32,
    },
    /// The only line of a refused call.
    Denied(Box<Denied>),
    /// A correction after the end: what it names holds instead.
    Amend {
        /// Who corrects, and why.
        why: String,
        /// Used in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Box<Usage>>,
        /// How it ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit: Option<Box<Exit>>,
    },
}

impl Event {
    /// Whether no other event may follow.
    pub fn is_final(&self) -> bool {
        matches!(self, Event::Close { .. } | Event::Lost { .. } | Event::Denied(_))
    }
}
