//! Accounts of pools, by the code that `glexec` leases them with.

use identity::{AccountName, Dn};
use mapdir::Directory;
use policy::decide::Stop;
use policy::pool::lease::Taker;
use policy::pool::{LeaseName, Pool, Wanted};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The person's account of the pool; the error says why there is none.
pub fn take(dir: Option<&Path>, pool: &Pool, person: &Dn) -> Result<AccountName, String> {
    let dir = dir.ok_or_else(|| format!("pool {pool} has no gridmapdir"))?;
    let lease = LeaseName::of_person(person, &[]).map_err(|e| e.to_string())?;
    let directory = Directory::new(open(dir)?);
    let wanted = Wanted { dir, pool, lease: &lease };
    // Which accounts payloads may have is for the hosts that ask: they check each answer.
    Taker { dir: &directory, wanted }.take(&mut |_| Ok(())).map_err(|stop| match stop {
        Stop::Denied(denial) => denial.to_string(),
        Stop::Site(why) | Stop::CannotTell(why) => why,
    })
}

/// Whether leases can be kept here; the error says why not.
pub fn usable(dir: &Path) -> Result<(), String> {
    open(dir).map(drop)
}

fn open(dir: &Path) -> Result<File, String> {
    trusted(dir).map_err(|why| format!("{}: {why}", dir.display()))
}

/// Only this service, or root, may change it: whoever can, chooses who becomes whom.
fn trusted(dir: &Path) -> Result<File, String> {
    let open = File::open(dir).map_err(|e| e.to_string())?;
    let metadata = open.metadata().map_err(|e| e.to_string())?;
    let own = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err("is not a directory".into());
    }
    if metadata.uid() != 0 && metadata.uid() != own {
        return Err(format!(
            "belongs to uid {}, neither to root nor to this service (uid {own})",
            metadata.uid()
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(format!("mode {:04o} lets others write; chmod go-w", metadata.mode() & 0o7777));
    }
    Ok(open)
}
