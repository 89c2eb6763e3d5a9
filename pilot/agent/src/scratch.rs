//! Where payloads work: chosen once, and tried before the first payload comes.

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// By these variables batch systems and sites name a job's scratch directory, the most special first.
const VARIABLES: [&str; 10] = [
    "_CONDOR_SCRATCH_DIR",
    "OSG_WN_TMP",
    "SLURM_TMPDIR",
    "SLURM_JOB_TMPDIR",
    "PBS_JOBDIR",
    "OAR_JOB_TMPDIR",
    "GLITE_LOCAL_TMPDIR",
    "EDG_WL_SCRATCH",
    "TG_NODE_SCRATCH",
    "TMPDIR",
];
const LAST: &str = "/tmp";
/// What a probe writes: a directory that takes no more is full.
const PROBE: usize = 64 << 10;

/// Chooses the directory: the one that was named, else the first of the batch system's and `/tmp` that can be used. With
/// `shared`, other accounts must be able to make directories in it.
///
/// # Errors
/// When the named one, or every one, cannot be used; with the reason.
pub fn choose(named: Option<&Path>, shared: bool, look: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    if let Some(named) = named {
        usable(named, shared).with_context(|| format!("--scratch {}", named.display()))?;
        return Ok(named.to_owned());
    }
    let told = VARIABLES.iter().filter_map(|name| Some((*name, look(name)?)));
    let mut refusals = Vec::new();
    for (name, dir) in told.chain([("the last resort", PathBuf::from(LAST))]) {
        match usable(&dir, shared) {
            Ok(()) => return Ok(dir),
            Err(e) => refusals.push(format!("{} ({name}): {e:#}", dir.display())),
        }
    }
    bail!("no directory for payloads to work in; name one with --scratch: {}", refusals.join("; "))
}

/// Bytes that an ordinary account may still write there.
pub fn free(dir: &Path) -> Option<u64> {
    let fs = statvfs(dir).ok()?;
    Some(fs.blocks_available().saturating_mul(fs.fragment_size()))
}

/// Whether payloads can work in this directory.
fn usable(dir: &Path, shared: bool) -> Result<()> {
    if !dir.is_absolute() {
        bail!("is no absolute path");
    }
    let meta = std::fs::metadata(dir).context("cannot be used")?;
    if !meta.is_dir() {
        bail!("is no directory");
    }
    if shared {
        open_to_others(dir)?;
    }
    if statvfs(dir).context("cannot be examined")?.flags().contains(FsFlags::ST_NOEXEC) {
        bail!("is mounted noexec: payloads could not start what they bring along");
    }
    let mut probe = tempfile::tempfile_in(dir).context("cannot be written")?;
    probe.write_all(&[0; PROBE]).and_then(|()| probe.sync_all()).context("cannot be written")
}

/// The session's directory is made by the payload's own account.
fn open_to_others(dir: &Path) -> Result<()> {
    let mode = |dir: &Path| {
        Ok::<_, anyhow::Error>(std::fs::metadata(dir).context("cannot be used")?.permissions().mode())
    };
    if mode(dir)? & 0o1003 != 0o1003 {
        bail!("other accounts cannot make directories in it; its mode must be 1777");
    }
    for above in dir.ancestors().skip(1) {
        if mode(above)? & 0o001 == 0 {
            bail!("other accounts cannot pass {}", above.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_systems_directory_comes_before_tmp_and_a_bad_one_is_passed_over() {
        let good = tempfile::tempdir().unwrap();
        let look = |name: &str| match name {
            "_CONDOR_SCRATCH_DIR" => Some(PathBuf::from("/nowhere")),
            "SLURM_TMPDIR" => Some(good.path().to_owned()),
            _ => None,
        };
        assert_eq!(choose(None, false, look).unwrap(), good.path());
        assert_eq!(choose(None, true, look).unwrap(), Path::new("/tmp"), "nobody else can work in it");
        assert_eq!(choose(None, false, |_| None).unwrap(), Path::new("/tmp"));
    }

    #[test]
    fn a_directory_that_was_named_is_taken_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(choose(Some(dir.path()), false, |_| None).unwrap(), dir.path());
        for (bad, shared, word) in
            [("/nowhere", false, "cannot be used"), ("tmp", false, "absolute"), ("/proc", false, "")]
        {
            let error = format!("{:#}", choose(Some(Path::new(bad)), shared, |_| None).unwrap_err());
            assert!(error.contains("--scratch") && error.contains(word), "{error}");
        }
        let error = format!("{:#}", choose(Some(dir.path()), true, |_| None).unwrap_err());
        assert!(error.contains("1777"), "{error}");
    }
}
