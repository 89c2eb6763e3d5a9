//! The clients of gLExec, played step by step: what each of them calls, in its order, and what it needs from each call.
//!
//! The sequences are those of HTCondor 9, BLAH, CREAM, DIRAC, PanDA pilot 1, WMCore, glideinWMS 3 and the CMS probe,
//! written anew. `docs/glexec-compat.md` says what each of them depends on.

#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

mod blah;
mod cms_probe;
mod cream;
mod dirac;
mod glideinwms;
mod htcondor;
mod panda;
mod wmcore;

use harness::{Machine, Run};

/// A script of the client, run by the pilot's account with the client's own environment.
fn pilot_script(m: &Machine, script: &str) -> Run {
    m.command("/bin/sh").as_user("pilot").cwd("/").args(["-eu", "-c", script])
}

/// A directory of this owner and mode.
fn directory(m: &Machine, path: &str, owner: &str, mode: u32) {
    m.write(&format!("{path}/.made"), owner, 0o644, "");
    std::fs::remove_file(format!("{path}/.made")).unwrap();
    let account = m.account(owner);
    std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).unwrap();
    end_to_end::contract::chmod(path, mode);
}

/// Puts a fresh proxy of a person at this path, as the pilot's own.
fn proxy_at(m: &Machine, person: &str, path: &str) {
    let bytes = std::fs::read(m.proxy(person, "pilot")).unwrap();
    m.write(path, "pilot", 0o600, bytes);
}
