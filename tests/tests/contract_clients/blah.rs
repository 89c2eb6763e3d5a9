//! BLAH: every command of a job goes through glexec, in a session of its own; settings are appended to a copy of the
//! environment; output is read until it ends; a stuck command is ended by its process group.

use crate::{directory, proxy_at};
use end_to_end::contract::{GLEXEC, install_tool, lives, site, wait_gone, written};
use harness::{Machine, Run, needs};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

const PROXY: &str = "/srv/blah/job.proxy";
const TARGET: &str = "/srv/blah/job.proxy.glexec";

/// A command of the job: the daemon's environment first, its own settings behind it, so that names repeat.
fn mapped_exec(m: &Machine, player: &str, command: &[&str]) -> Run {
    let settings = [
        "PATH=/usr/bin:/bin".to_owned(),
        "GLEXEC_MODE=lcmaps_get_account".to_owned(),
        "PATH=/opt/blah/bin".to_owned(),
        "GLEXEC_MODE=lcmaps_get_account".to_owned(),
        format!("GLEXEC_CLIENT_CERT={PROXY}"),
        format!("GLEXEC_SOURCE_PROXY={PROXY}"),
        format!("GLEXEC_TARGET_PROXY={TARGET}"),
    ];
    let run = m.command("/usr/bin/setsid").as_user("pilot").cwd("/").args([player, "call"]).args(settings);
    run.args(["--", GLEXEC]).args(command)
}

fn blah() -> (Machine, String) {
    let m = site();
    directory(&m, "/srv/blah", "pilot", 0o1777);
    proxy_at(&m, "Alice", PROXY);
    let player = install_tool(&m, env!("CARGO_BIN_EXE_contract-payload"));
    (m, player)
}

#[test]
#[needs(root, "setsid")]
fn submit_account_and_renewal() {
    let (m, player) = blah();
    // For accounting: who is it?
    let ran = mapped_exec(&m, &player, &["/usr/bin/id", "-u"]).output();
    assert_eq!((ran.ok(), ran.errors()), (m.uid("alice").to_string(), String::new()));
    // The submit script prints the job's id, which is all that counts of its output.
    let submit = "echo submitting >&2; test -r \"$X509_USER_PROXY\" && echo \"$X509_USER_PROXY\"; echo BLAHP_JOBID_PREFIX42";
    let ran = mapped_exec(&m, &player, &["/bin/sh", "-c", submit]).output();
    assert_eq!(ran.ok(), format!("{TARGET}\nBLAHP_JOBID_PREFIX42"));
    // A renewed proxy is copied by a command that does nothing.
    proxy_at(&m, "Alice", PROXY);
    let ran = mapped_exec(&m, &player, &["/bin/pwd"]).output();
    assert_eq!(ran.ok(), "/");
    let copy = fs::metadata(TARGET).unwrap();
    assert_eq!((copy.uid(), copy.mode() & 0o777), (m.uid("alice"), 0o600));
    assert!(fs::read(TARGET).unwrap() == fs::read(PROXY).unwrap());
    // It is removed as its owner.
    mapped_exec(&m, &player, &["/bin/rm", "-f", TARGET]).output().ok();
    assert!(!Path::new(TARGET).exists());
}

#[test]
#[needs(root, "setsid")]
fn a_stuck_command_is_ended_by_its_group() {
    let (m, player) = blah();
    let stuck = "trap '' TERM; echo $$ >/tmp/stuck; while :; do sleep 1; done";
    let running = mapped_exec(&m, &player, &["/bin/sh", "-c", stuck]).spawn();
    let pid: i32 = written("/tmp/stuck").parse().unwrap();
    let group = format!("-{}", running.pid());
    // The dashes are for the kill of Debian 12, which takes a negative number for nothing without them.
    mapped_exec(&m, &player, &["/bin/kill", "-s", "SIGTERM", "--", &group]).output().ok();
    std::thread::sleep(Duration::from_millis(300));
    assert!(lives(pid), "it ignores the first");
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), m.uid("alice"));
    mapped_exec(&m, &player, &["/bin/kill", "-s", "SIGKILL", "--", &group]).output().ok();
    running.end_within(Duration::from_secs(60));
    wait_gone(pid);
    assert!(m.processes_of("alice").is_empty());
}
