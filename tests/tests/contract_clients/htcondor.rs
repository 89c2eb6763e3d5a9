//! HTCondor, glexec in job mode: the starter hands the sandbox over by tar, starts the job through a wrapper that it
//! talks to over a socket, signals process by process, renews the proxy in place, and takes the sandbox back by tar.

use crate::{directory, pilot_script, proxy_at};
use end_to_end::contract::{GLEXEC, eventually, install_tool, kill_as, lives, site, wait_gone, written};
use harness::{Machine, Ran, Run, needs};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs::{self, File};
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

const SANDBOX: &str = "/srv/execute/dir_42";
const OURS: &str = "/srv/execute/dir_42.condor";
const RETRIES: usize = 3;

/// The starter of one job.
struct Starter<'a> {
    m: &'a Machine,
    shell: String,
}

impl<'a> Starter<'a> {
    fn new(m: &'a Machine) -> Self {
        directory(m, "/srv/execute", "root", 0o1777);
        directory(m, OURS, "pilot", 0o700);
        proxy_at(m, "Alice", &format!("{OURS}/job_proxy"));
        m.write(&format!("{OURS}/input"), "pilot", 0o644, "from the submit side\n");
        let job = "#!/bin/sh\ncat; echo \"job $1 in $JOB_ENV\"; echo out >result; exec sleep 1000\n";
        m.write(&format!("{OURS}/condor_exec.exe"), "pilot", 0o755, job);
        let shell = fs::canonicalize("/bin/sh").unwrap().to_string_lossy().into_owned();
        Self { m, shell }
    }

    /// The daemon's environment and the two variables of the job.
    fn environment(&self, run: Run) -> Run {
        run.env("GLEXEC_CLIENT_CERT", format!("{OURS}/job_proxy"))
            .env("GLEXEC_TARGET_PROXY", "/dev/null")
            .env("X509_USER_PROXY", "/home/pilot/pilots-own-proxy")
            .env("_CONDOR_EXECUTE", "/srv/execute")
    }

    fn script(&self, script: &str) -> Run {
        let script = script.replace("GLEXEC", GLEXEC).replace("SH", &self.shell);
        self.environment(pilot_script(self.m, &script.replace("SB", SANDBOX)))
    }

    /// 202 and 203 are tried again, everything else is final.
    fn persistently(&self, mut run: impl FnMut() -> Run) -> Ran {
        for _ in 1..RETRIES {
            let ran = run().output();
            if !matches!(ran.code(), Some(202 | 203)) {
                return ran;
            }
        }
        run().output()
    }

    fn setup(&self) -> Ran {
        let script = "tar -C SB.condor -c . | GLEXEC SH -c 'install -m 755 -d \"SB\" && tar -C \"SB\" -x'";
        self.persistently(|| self.script(script))
    }

    /// Standard input is a socket, output and errors are one pipe.
    fn run(&self, wrapper: &str) -> (Child, UnixStream, std::io::PipeReader) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let cd_and_exec = format!("cd \"{SANDBOX}\" && exec \"$@\"");
        let mut run = self.environment(self.m.command(GLEXEC).as_user("pilot").cwd("/"));
        run = run.args([&self.shell, "-c", &cd_and_exec, "cd-and-exec", wrapper, "job-wrapper"]);
        run = run.args(["./input", "./condor_exec.exe", "seven"]);
        run.raw()
            .stdin(OwnedFd::from(theirs))
            .stdout(writer.try_clone().unwrap())
            .stderr(Stdio::from(writer));
        (run.start(), ours, reader)
    }

    fn kill(&self, signal: i32, pid: i32) -> Ran {
        self.script(&format!("GLEXEC SH -c '/bin/kill -{signal} {pid}'")).output()
    }

    fn update_proxy(&self) -> Ran {
        let script = "cat SB.condor/new | GLEXEC SH -c \
                      'umask 077 && cat > \"SB/new.copy\" && mv -f \"SB/new.copy\" \"SB/job_proxy\"' && \
                      mv -f SB.condor/new SB.condor/job_proxy";
        self.script(script).output()
    }

    fn cleanup(&self) -> Ran {
        let script = "GLEXEC SH -c 'rm -f \"SB/job_proxy\" && tar -C \"SB\" -c . && rm -rf \"SB\"' | \
                      tar -C SB.condor -x";
        self.persistently(|| self.script(script))
    }
}

/// Sends the job's environment and the stream for its errors over the socket, once the wrapper says that it is there.
fn greet(socket: &UnixStream, errors: &File) {
    let mut hello = [0; 4];
    { socket }.read_exact(&mut hello).unwrap();
    assert_eq!(u32::from_be_bytes(hello), 0xdead_beef, "the wrapper runs, so glexec worked");
    let environment = b"JOB_ENV=its own environment\0PATH=/bin:/usr/bin\0";
    let rights = [errors.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(environment)], &rights, MsgFlags::empty(), None)
        .unwrap();
}

#[test]
#[needs(root, "tar")]
fn a_job_from_setup_to_cleanup() {
    let m = site();
    let wrapper = install_tool(&m, env!("CARGO_BIN_EXE_contract-payload"));
    let starter = Starter::new(&m);
    let alice = m.uid("alice");

    let ran = starter.setup();
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("", ""));
    assert_eq!(fs::metadata(SANDBOX).unwrap().uid(), alice);
    assert_eq!(fs::metadata(format!("{SANDBOX}/job_proxy")).unwrap().uid(), alice);

    let (mut child, socket, mut output) = starter.run(&wrapper);
    m.write("/home/pilot/stderr", "pilot", 0o600, "");
    greet(&socket, &File::options().append(true).open("/home/pilot/stderr").unwrap());
    assert_eq!(written(&format!("{SANDBOX}/result")), "out");
    let job = *m.processes_of("alice").first().expect("the job runs");

    proxy_at(&m, "Alice", &format!("{OURS}/new"));
    let renewed = fs::read(format!("{OURS}/new")).unwrap();
    assert_eq!(starter.update_proxy().ok(), "");
    let copy = format!("{SANDBOX}/job_proxy");
    assert!(fs::read(&copy).unwrap() == renewed);
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);

    assert!(lives(job) && child.try_wait().unwrap().is_none());
    starter.kill(15, job).ok();
    wait_gone(job);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(128 + 15), "the starter learns how the job ended");
    drop(socket);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "from the submit side\njob seven in its own environment\n");
    assert_ne!(starter.kill(9, job).code(), Some(0), "a process that is gone is reported as gone");

    let ran = starter.cleanup();
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("", ""));
    assert!(!fs::exists(SANDBOX).unwrap());
    let result = fs::metadata(format!("{OURS}/result")).unwrap();
    assert_eq!(result.uid(), m.uid("pilot"), "output is the starter's again");
    assert!(m.processes_of("alice").is_empty());
}

/// The procd's soft kill goes to the root of the family, which is the waiting glexec, as the target account.
#[test]
#[needs(root, "tar")]
fn the_soft_signal_to_the_root_of_the_family_reaches_the_job() {
    let m = site();
    let wrapper = install_tool(&m, env!("CARGO_BIN_EXE_contract-payload"));
    let starter = Starter::new(&m);
    starter.setup().ok();
    let (mut child, socket, _output) = starter.run(&wrapper);
    let errors = File::options().append(true).create(true).open("/tmp/errors").unwrap();
    greet(&socket, &errors);
    written(&format!("{SANDBOX}/result"));
    starter.kill(15, i32::try_from(child.id()).unwrap()).ok();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    starter.cleanup().ok();
}

/// The procd closes every descriptor before it kills.
#[test]
#[needs(root)]
fn a_kill_without_any_descriptor() {
    let m = site();
    let starter = Starter::new(&m);
    let victim = starter.script("exec GLEXEC SH -c 'echo $$ >/tmp/victim; exec sleep 1000'").spawn();
    let pid: i32 = written("/tmp/victim").parse().unwrap();
    let script = format!("exec GLEXEC SH -c '/bin/kill -9 {pid}' <&- >&- 2>&-");
    starter.script(&script).output().ok();
    victim.end_within(Duration::from_secs(60)).exits(128 + 9);
}

/// Trouble at the site is retried, a mistake of the job is not; either has its reason in one line for the hold message.
#[test]
#[needs(root, "tar")]
fn codes_tell_what_is_worth_another_try() {
    let m = site();
    let starter = Starter::new(&m);
    let mapfile = "/etc/grid-security/grid-mapfile";
    fs::rename(mapfile, "/etc/grid-security/away").unwrap();
    let mut tries = 0;
    let ran = starter.persistently(|| {
        tries += 1;
        if tries == 2 {
            fs::rename("/etc/grid-security/away", mapfile).unwrap();
        }
        starter.script("GLEXEC SH -c true")
    });
    assert_eq!((ran.code(), tries), (Some(0), 2));
    end_to_end::contract::chmod(format!("{OURS}/job_proxy"), 0o644);
    let mut tries = 0;
    let ran = starter.persistently(|| {
        tries += 1;
        starter.script("GLEXEC SH -c true")
    });
    ran.refused(201, &["job_proxy"]);
    assert_eq!((tries, ran.errors().lines().count()), (1, 1));
}

/// No job may outlive its starter unnoticed: a starter that is killed takes the job with it.
#[test]
#[needs(root, "tar")]
fn a_dead_waiter_takes_the_job_with_it() {
    let m = site();
    let wrapper = install_tool(&m, env!("CARGO_BIN_EXE_contract-payload"));
    let starter = Starter::new(&m);
    starter.setup().ok();
    let (mut child, socket, _output) = starter.run(&wrapper);
    greet(&socket, &File::options().append(true).create(true).open("/tmp/errors").unwrap());
    written(&format!("{SANDBOX}/result"));
    assert!(!m.processes_of("alice").is_empty(), "the job runs as the user");
    assert!(kill_as(&m, "pilot", "KILL", i32::try_from(child.id()).unwrap()));
    child.wait().unwrap();
    eventually("the job has ended", Duration::from_secs(60), || {
        m.processes_of("alice").is_empty().then_some(())
    });
}
