//! What the caller says about the work and the batch job around it, in environment variables.
//!
//! Nobody checked it: a caller can write what it likes. It is cut, made printable and kept apart from what `glexec`
//! knows, and it helps those who look for a user's program or a batch job. No decision rests on it.
//!
//! | variable | says |
//! |---|---|
//! | `GLEXEC_PAYLOAD_COMMAND` | the user's program and its arguments, separated by [`SEPARATOR`] |
//! | `GLEXEC_PAYLOAD_CPUS` | processors that the payload may use |
//! | `GLEXEC_PAYLOAD_GPUS` | its GPUs, separated by commas |
//! | `GLEXEC_PILOT_DN` | under which name the pilot registered |
//! | `GLEXEC_BATCH_JOB` | batch system, job id and owner of the job, separated by blanks: for batch systems that tell a job by a file only |

use crate::event::{Batch, Claimed};
use crate::text::{capped_argv, printable};

/// Between arguments in `GLEXEC_PAYLOAD_COMMAND`: the unit separator of ASCII. Who writes it replaces it in arguments.
pub const SEPARATOR: u8 = 0x1f;
/// Longest name that is kept, in bytes.
const LONGEST: usize = 256;

/// What the caller says about the work; `get` looks a variable up.
pub fn work<'a>(get: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Claimed> {
    let argv = get("GLEXEC_PAYLOAD_COMMAND").filter(|text| !text.is_empty());
    let argv = argv.map(|text| capped_argv(text.split(|b| *b == SEPARATOR))).unwrap_or_default();
    let gpus = get("GLEXEC_PAYLOAD_GPUS").unwrap_or_default();
    let gpus = gpus.split(|b| *b == b',').filter(|name| !name.is_empty());
    let gpus: Vec<String> = gpus.take(64).map(|name| printable(name, LONGEST)).collect();
    let claimed = Claimed {
        argv0: argv.first().cloned().unwrap_or_default(),
        argv,
        cpus: get("GLEXEC_PAYLOAD_CPUS").and_then(crate::counters::number).and_then(|n| n.try_into().ok()),
        gpu_source: (!gpus.is_empty()).then(|| "pilot".to_owned()),
        gpus,
    };
    (claimed != Claimed::default()).then_some(claimed)
}

/// Under which name the pilot registered, as the caller says.
pub fn pilot_dn<'a>(get: impl Fn(&str) -> Option<&'a [u8]>) -> Option<String> {
    get("GLEXEC_PILOT_DN").filter(|dn| !dn.is_empty()).map(|dn| printable(dn, 1024))
}

/// What a batch system says about its job: names of variables.
struct Known {
    lrms: &'static str,
    id: &'static [&'static str],
    task: &'static str,
    owner: &'static str,
    queue: &'static str,
}

/// The most special names first: `JOB_ID` says least.
const KNOWN: [Known; 5] = [
    Known {
        lrms: "slurm",
        id: &["SLURM_JOB_ID", "SLURM_JOBID"],
        task: "SLURM_ARRAY_TASK_ID",
        owner: "SLURM_JOB_USER",
        queue: "SLURM_JOB_PARTITION",
    },
    Known {
        lrms: "oar",
        id: &["OAR_JOB_ID", "OAR_JOBID"],
        task: "OAR_ARRAY_INDEX",
        owner: "OAR_USER",
        queue: "OAR_QUEUE",
    },
    Known {
        lrms: "pbs",
        id: &["PBS_JOBID"],
        task: "PBS_ARRAY_INDEX",
        owner: "PBS_O_LOGNAME",
        queue: "PBS_QUEUE",
    },
    Known { lrms: "lsf", id: &["LSB_JOBID"], task: "LSB_JOBINDEX", owner: "LSFUSER", queue: "LSB_QUEUE" },
    Known {
        lrms: "gridengine",
        id: &["JOB_ID"],
        task: "SGE_TASK_ID",
        owner: "SGE_O_LOGNAME",
        queue: "QUEUE",
    },
];

/// The batch job around the call. What the caller names itself comes first: HTCondor tells a job by a file, which the pilot
/// reads and root does not.
pub fn batch<'a>(get: impl Fn(&str) -> Option<&'a [u8]>) -> Option<Batch> {
    let text = |value: &[u8]| printable(value, LONGEST);
    let some = |name: &str| get(name).filter(|v| !v.is_empty() && *v != b"undefined").map(text);
    if let Some(told) = get("GLEXEC_BATCH_JOB") {
        let mut words = told.split(|b| *b == b' ').filter(|word| !word.is_empty()).map(text);
        if let (Some(lrms), Some(jobid)) = (words.next(), words.next()) {
            return Some(Batch { lrms, jobid, owner: words.next(), ..Batch::default() });
        }
    }
    KNOWN.iter().find_map(|known| {
        let jobid = known.id.iter().find_map(|name| some(name))?;
        let (task, owner, queue) = (some(known.task), some(known.owner), some(known.queue));
        Some(Batch { lrms: known.lrms.to_owned(), jobid, task, owner, queue })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a [u8]> {
        |name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_bytes())
    }

    #[test]
    fn the_users_program_is_read_with_its_arguments() {
        let variables = [
            ("GLEXEC_PAYLOAD_COMMAND", "./run.sh\u{1f}a b\u{1f}\u{1f}--x=\n"),
            ("GLEXEC_PAYLOAD_CPUS", "8"),
            ("GLEXEC_PAYLOAD_GPUS", "GPU-1,GPU-2"),
            ("GLEXEC_PILOT_DN", "/CN=Robot: pilot"),
        ];
        let claimed = work(from(&variables)).unwrap();
        assert_eq!(claimed.argv0, "./run.sh");
        assert_eq!(claimed.argv, ["./run.sh", "a b", "", "--x=\\x0A"]);
        assert_eq!(
            (claimed.cpus, claimed.gpus.len(), claimed.gpu_source.as_deref()),
            (Some(8), 2, Some("pilot"))
        );
        assert_eq!(pilot_dn(from(&variables)).as_deref(), Some("/CN=Robot: pilot"));
        assert_eq!(work(from(&[])), None);
        assert_eq!(work(from(&[("GLEXEC_PAYLOAD_COMMAND", ""), ("GLEXEC_PAYLOAD_CPUS", "many")])), None);
    }

    #[test]
    fn every_batch_system_is_known_by_its_own_names() {
        let job =
            |lrms: &str, jobid: &str, task: Option<&str>, owner: Option<&str>, queue: Option<&str>| Batch {
                lrms: lrms.into(),
                jobid: jobid.into(),
                task: task.map(Into::into),
                owner: owner.map(Into::into),
                queue: queue.map(Into::into),
            };
        let slurm = [
            ("SLURM_JOB_ID", "4711"),
            ("SLURM_JOB_USER", "pil01"),
            ("SLURM_JOB_PARTITION", "grid"),
            ("JOB_ID", "1"),
        ];
        assert_eq!(batch(from(&slurm)), Some(job("slurm", "4711", None, Some("pil01"), Some("grid"))));
        let oar = [("OAR_JOBID", "12"), ("OAR_USER", "pil02")];
        assert_eq!(batch(from(&oar)), Some(job("oar", "12", None, Some("pil02"), None)));
        let sge =
            [("JOB_ID", "77"), ("SGE_TASK_ID", "undefined"), ("SGE_O_LOGNAME", "pil03"), ("QUEUE", "all.q")];
        assert_eq!(batch(from(&sge)), Some(job("gridengine", "77", None, Some("pil03"), Some("all.q"))));
        let pbs = [("PBS_JOBID", "9[3].srv"), ("PBS_ARRAY_INDEX", "3"), ("PBS_O_LOGNAME", "pil04")];
        assert_eq!(batch(from(&pbs)), Some(job("pbs", "9[3].srv", Some("3"), Some("pil04"), None)));
        let condor = [("GLEXEC_BATCH_JOB", "htcondor ce01#12345.0#1782891000 pil05"), ("SLURM_JOB_ID", "1")];
        assert_eq!(
            batch(from(&condor)),
            Some(job("htcondor", "ce01#12345.0#1782891000", None, Some("pil05"), None))
        );
        assert_eq!(batch(from(&[("GLEXEC_BATCH_JOB", "htcondor"), ("LSB_JOBID", "5")])).unwrap().lrms, "lsf");
        assert_eq!(batch(from(&[("PATH", "/bin")])), None);
    }
}
