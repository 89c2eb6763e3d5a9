//! What the batch system has given to this job: time, cores, memory. The host's own figures are more than that.
//!
//! Variables are looked at first, because they cost nothing; then the batch system is asked with its own client, once, at
//! the start. What nobody tells is `None`: no limit is known.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a client of the batch system may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to ask: variables, files, programs. A test answers otherwise.
pub trait Surroundings {
    /// An environment variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<String>;
    /// What a program prints, when it succeeds.
    fn ask(&self, program: &str, arguments: &[&str]) -> Option<String>;
    /// The text of a file.
    fn file(&self, path: &str) -> Option<String>;
    /// The time, since the epoch.
    fn now(&self) -> Duration;
    /// For how long the job has run.
    fn job_age(&self) -> Duration;
}

/// What was allocated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Time left in the batch slot.
    pub time_left: Option<Duration>,
    /// Cores.
    pub cores: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Batch system, job id and owner, where `glexec` cannot know them from variables.
    pub job: Option<String>,
}

impl Allocation {
    /// Finds out.
    pub fn find(around: &impl Surroundings) -> Self {
        let machine = ad(around, "_CONDOR_MACHINE_AD");
        let condor = |name: &str| number(value(machine.as_deref()?, name)?);
        Self {
            time_left: time_left(around),
            cores: cores(around).or_else(|| condor("Cpus")?.try_into().ok()),
            memory: memory(around).or_else(|| condor("Memory")?.checked_mul(1 << 20)),
            job: condor_job(around),
        }
    }
}

fn time_left(around: &impl Surroundings) -> Option<Duration> {
    slurm_time(around)
        .or_else(|| oar_time(around))
        .or_else(|| pbs_time(around))
        .or_else(|| grid_engine_time(around))
}

fn slurm_time(around: &impl Surroundings) -> Option<Duration> {
    let job = around.variable("SLURM_JOB_ID")?;
    // Seconds since the epoch; newer versions only.
    if let Some(end) = around.variable("SLURM_JOB_END_TIME").as_deref().and_then(number) {
        return Some(Duration::from_secs(end).saturating_sub(around.now()));
    }
    span(around.ask("squeue", &["-h", "-o", "%L", "-j", &job])?.lines().next()?)
}

fn oar_time(around: &impl Surroundings) -> Option<Duration> {
    let whole = number(&around.variable("OAR_JOB_WALLTIME_SECONDS")?)?;
    Some(Duration::from_secs(whole).saturating_sub(around.job_age()))
}

fn pbs_time(around: &impl Surroundings) -> Option<Duration> {
    let job = around.variable("PBS_JOBID")?;
    let told = around.ask("qstat", &["-f", &job]);
    let of = |name: &str| span(value(told.as_deref()?, name)?);
    let whole = of("Resource_List.walltime").or_else(|| span(&around.variable("PBS_WALLTIME")?))?;
    Some(whole.saturating_sub(of("resources_used.walltime").unwrap_or_else(|| around.job_age())))
}

/// What Grid Engine has promised to a job, by name. Only Grid Engine gives a job both variables.
fn grid_engine_limits(around: &impl Surroundings) -> Option<Vec<(String, String)>> {
    around.variable("SGE_ROOT").or_else(|| around.variable("SGE_TASK_ID"))?;
    let job = around.variable("JOB_ID")?;
    let told = around.ask("qstat", &["-j", &job])?;
    let limits = told.lines().filter(|line| line.trim_start().starts_with("hard resource_list"));
    let limits = limits.flat_map(|line| line.split([',', ' ', '\t'])).filter_map(|word| word.split_once('='));
    Some(limits.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn grid_engine_time(around: &impl Surroundings) -> Option<Duration> {
    let limits = grid_engine_limits(around)?;
    let times = limits.iter().filter(|(name, _)| matches!(name.as_str(), "h_rt" | "s_rt"));
    let whole = times.filter_map(|(_, text)| span(text)).min()?;
    Some(whole.saturating_sub(around.job_age()))
}

/// Its memory limits are for each slot.
fn grid_engine_memory(around: &impl Surroundings) -> Option<u64> {
    let limits = grid_engine_limits(around)?;
    let of_slot =
        limits.iter().filter(|(name, _)| matches!(name.as_str(), "h_vmem" | "s_vmem" | "h_rss" | "s_rss"));
    of_slot.filter_map(|(_, text)| bytes(text)).min()?.checked_mul(u64::from(cores(around).unwrap_or(1)))
}

fn cores(around: &impl Surroundings) -> Option<u32> {
    let names = ["SLURM_CPUS_ON_NODE", "NSLOTS", "PBS_NUM_PPN", "NCPUS", "LSB_DJOB_NUMPROC"];
    let told = names.iter().find_map(|name| number(&around.variable(name)?)).filter(|n| *n > 0);
    let told = told.and_then(|n| u32::try_from(n).ok());
    told.or_else(|| {
        // One line for each core of the job, by the name of its host.
        let nodes = around.file(&around.variable("OAR_NODEFILE")?)?;
        let first = nodes.lines().next()?;
        nodes.lines().all(|line| line == first).then(|| u32::try_from(nodes.lines().count()).ok())?
    })
}

fn memory(around: &impl Surroundings) -> Option<u64> {
    slurm_memory(around).or_else(|| grid_engine_memory(around))
}

/// Slurm counts in MiB.
fn slurm_memory(around: &impl Surroundings) -> Option<u64> {
    let mib = |name: &str| number(&around.variable(name)?).filter(|n| *n > 0);
    let told = mib("SLURM_MEM_PER_NODE")
        .or_else(|| mib("SLURM_MEM_PER_CPU")?.checked_mul(u64::from(cores(around).unwrap_or(1))));
    told?.checked_mul(1 << 20)
}

fn condor_job(around: &impl Surroundings) -> Option<String> {
    let ad = ad(around, "_CONDOR_JOB_AD")?;
    let text = |name: &str| {
        Some(value(&ad, name)?.trim_matches('"').replace(' ', "_")).filter(|text| !text.is_empty())
    };
    let id = text("GlobalJobId").or_else(|| Some(format!("{}.{}", text("ClusterId")?, text("ProcId")?)))?;
    Some(format!("htcondor {id} {}", text("Owner").unwrap_or_default()).trim_end().to_owned())
}

fn ad(around: &impl Surroundings, variable: &str) -> Option<String> {
    around.file(&around.variable(variable)?)
}

/// The value in a line `name = value`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).next()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A size of Grid Engine: `K`, `M` and `G` are powers of 1024, `k`, `m` and `g` of 1000 (sge_types(1)).
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "k" => 1000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        _ => return None,
    };
    // Fractions, such as 1.5G, are allowed there; infinity and the like are no limit.
    let whole = number(digits).and_then(|n| n.checked_mul(unit));
    whole.or_else(|| {
        let size = digits.parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0)? * unit as f64;
        (size < 1e18).then_some(size as u64)
    })
}

/// `[D-]HH:MM:SS`, `MM:SS`, or seconds; words such as `UNLIMITED` are no limit.
fn span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (number(days)?, rest),
        None => (0, text),
    };
    let mut seconds: u64 = 0;
    for part in rest.split(':') {
        seconds = seconds.checked_mul(60)?.checked_add(number(part)?)?;
    }
    // "1-12:30" counts hours and minutes.
    let unit = if days > 0 && rest.split(':').count() == 2 { 60 } else { 1 };
    let seconds = seconds.checked_mul(unit)?.checked_add(days.checked_mul(86_400)?)?;
    Some(Duration::from_secs(seconds))
}

/// The real ones.
pub struct ThisJob {
    /// Whether programs may be asked.
    pub ask: bool,
}

impl Surroundings for ThisJob {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
        if !self.ask {
            return None;
        }
        let mut command = Command::new(program);
        let command =
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().ok()?;
        let mut stdout = child.stdout.take()?;
        let (sender, answer) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            stdout.read_to_end(&mut text).ok();
            sender.send(text).ok();
        });
        let told = answer.recv_timeout(PATIENCE);
        if told.is_err() {
            tracing::warn!(program, "the batch system's client does not answer");
            child.kill().ok();
        }
        let good = child.wait().is_ok_and(|status| status.success());
        good.then(|| told.ok()).flatten().map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    fn file(&self, path: &str) -> Option<String> {
        std::fs::read(Path::new(path)).ok().map(|text| String::from_utf8_lossy(&text).into_owned())
    }

    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// As old as the oldest ancestor of the same account: the batch system's own processes are root's.
    fn job_age(&self) -> Duration {
        let uid = nix::unistd::geteuid();
        let mut pid = nix::unistd::getpid().as_raw();
        let mut born = None;
        while pid > 1 {
            let owned = std::fs::metadata(format!("/proc/{pid}"));
            if owned.is_err()
                || owned.is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) != uid.as_raw())
            {
                break;
            }
            let Some((parent, start)) =
                std::fs::read(format!("/proc/{pid}/stat")).ok().and_then(|stat| parent_and_start(&stat))
            else {
                break;
            };
            (pid, born) = (parent, Some(start));
        }
        let uptime = self.file("/proc/uptime").and_then(|text| text.split('.').next()?.parse().ok());
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let age = born.zip(uptime).map(|(born, uptime): (u64, u64)| {
            uptime.saturating_sub(born / u64::try_from(ticks).unwrap_or(100).max(1))
        });
        Duration::from_secs(age.unwrap_or(0))
    }
}

/// Fields 4 and 22 of `/proc/PID/stat` (proc(5)); the name in brackets may hold anything.
fn parent_and_start(stat: &[u8]) -> Option<(i32, u64)> {
    let end = stat.windows(2).rposition(|pair| pair == b") ")?;
    let rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Told {
        variables: BTreeMap<&'static str, &'static str>,
        asked: BTreeMap<&'static str, &'static str>,
        files: BTreeMap<&'static str, &'static str>,
    }

    impl Surroundings for Told {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|value| (*value).to_owned())
        }
        fn ask(&self, program: &str, arguments: &[&str]) -> Option<String> {
            let line = [&[program], arguments].concat().join(" ");
            self.asked.get(line.as_str()).map(|text| (*text).to_owned())
        }
        fn file(&self, path: &str) -> Option<String> {
            self.files.get(path).map(|text| (*text).to_owned())
        }
        fn now(&self) -> Duration {
            Duration::from_secs(1000)
        }
        fn job_age(&self) -> Duration {
            Duration::from_secs(100)
        }
    }

    fn found(
        variables: &[(&'static str, &'static str)],
        asked: &[(&'static str, &'static str)],
    ) -> Allocation {
        let told = Told {
            variables: variables.iter().copied().collect(),
            asked: asked.iter().copied().collect(),
            files: BTreeMap::from([
                ("/nodes", "wn1\nwn1\nwn1\n"),
                ("/machine", "Cpus = 8\nMemory = 2048\nName = \"slot1\"\n"),
                ("/job", "GlobalJobId = \"ce01#12.0#17\"\nOwner = \"pil05\"\n"),
            ]),
        };
        Allocation::find(&told)
    }

    fn seconds(allocation: &Allocation) -> Option<u64> {
        allocation.time_left.map(|left| left.as_secs())
    }

    #[test]
    fn slurm_says_the_end_or_is_asked_for_it() {
        let new = found(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", "1180")], &[]);
        assert_eq!(seconds(&new), Some(180));
        let job = [("SLURM_JOB_ID", "7"), ("SLURM_CPUS_ON_NODE", "4"), ("SLURM_MEM_PER_CPU", "512")];
        let old = found(&job, &[("squeue -h -o %L -j 7", "1-02:03:04\n")]);
        assert_eq!(seconds(&old), Some(86_400 + 7384));
        assert_eq!((old.cores, old.memory), (Some(4), Some(2 << 30)));
        for (word, left) in
            [("2:59", Some(179)), ("UNLIMITED", None), ("INVALID", None), ("1-12:30", Some(131_400))]
        {
            assert_eq!(span(word).map(|left| left.as_secs()), left, "{word}");
        }
    }

    #[test]
    fn no_figure_of_a_batch_system_is_too_large() {
        let most = "18446744073709551615";
        let far =
            found(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_END_TIME", most), ("SLURM_MEM_PER_NODE", most)], &[]);
        assert!(far.time_left.is_some());
        assert_eq!(far.memory, None);
        assert_eq!(span("18446744073709551615-00:00:00"), None);
        assert_eq!(span("18446744073709551615:00"), None);
    }

    #[test]
    fn the_others_are_understood_too() {
        let oar = found(&[("OAR_JOB_WALLTIME_SECONDS", "3600"), ("OAR_NODEFILE", "/nodes")], &[]);
        assert_eq!((seconds(&oar), oar.cores), (Some(3500), Some(3)));
        let told =
            "Job Id: 9\n    Resource_List.walltime = 01:00:00\n    resources_used.walltime = 00:10:00\n";
        let pbs = found(&[("PBS_JOBID", "9"), ("PBS_NUM_PPN", "2")], &[("qstat -f 9", told)]);
        assert_eq!((seconds(&pbs), pbs.cores), (Some(3000), Some(2)));
        assert_eq!(seconds(&found(&[("PBS_JOBID", "9"), ("PBS_WALLTIME", "400")], &[])), Some(300));
        let told = "job_number: 5\nhard resource_list:         h_rt=1800,h_vmem=2G\n";
        let sge = found(&[("JOB_ID", "5"), ("SGE_ROOT", "/sge"), ("NSLOTS", "3")], &[("qstat -j 5", told)]);
        assert_eq!((seconds(&sge), sge.cores, sge.memory), (Some(1700), Some(3), Some(6 << 30)));
        for (text, size) in
            [("1.5K", Some(1536)), ("2m", Some(2_000_000)), ("INFINITY", None), ("7", Some(7))]
        {
            assert_eq!(bytes(text), size, "{text}");
        }
        let condor = found(&[("_CONDOR_MACHINE_AD", "/machine"), ("_CONDOR_JOB_AD", "/job")], &[]);
        assert_eq!((condor.cores, condor.memory), (Some(8), Some(2 << 30)));
        assert_eq!(condor.job.as_deref(), Some("htcondor ce01#12.0#17 pil05"));
        assert_eq!(found(&[], &[]), Allocation::default());
    }

    #[test]
    fn this_process_is_no_younger_than_itself() {
        assert!(ThisJob { ask: false }.job_age() < Duration::from_secs(10 * 365 * 86_400));
        assert_eq!(
            parent_and_start(b"12 (a) b) S 7 12 12 0 -1 4194304 1 1 0 0 1 2 3 4 20 0 1 0 99 1000"),
            Some((7, 99))
        );
    }
}
