//! Walls between payloads of different users, and between payloads and the pilot that calls.
//!
//! A victim of each kind makes one of everything; a payload of somebody else tries to get at it. What is not walled off
//! is asserted too, so that the threat model says the truth: the front hears its payload's signals, and terminal and
//! process group are the caller's, as clients of gLExec expect.

use end_to_end::contract::{chmod, eventually, install_tool, lives};
use end_to_end::security::{sessions, supervisors_are_done};
use harness::{Machine, Run, Running, free_port, needs};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const PAYLOAD: &str = env!("CARGO_BIN_EXE_security-payload");
const TOOL: &str = "/opt/contract/security-payload";

fn site() -> Machine {
    let m = Machine::builder().pilot("pilot").account("alice").account("bob").build();
    m.map("Alice", "alice");
    m.map("Bob", "bob");
    assert_eq!(install_tool(&m, PAYLOAD), TOOL);
    m
}

fn payload_of(m: &Machine, user: &str, command: &[&str]) -> Run {
    m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy(user, "pilot")).args(command)
}

fn alice(m: &Machine, script: &str) -> Run {
    payload_of(m, "Alice", &["/bin/sh", "-c", script])
}

/// Waits until the victim has made everything; returns its process id.
fn ready(file: &str) -> i32 {
    let text = eventually(file, Duration::from_secs(60), || fs::read_to_string(file).ok());
    text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("the victim tells its process id")
}

/// Every attempt failed, except those listed; there were at least as many as that.
#[track_caller]
fn all_failed(said: &str, at_least: usize, except: &[&str]) {
    let lines: Vec<_> = said.lines().collect();
    assert!(lines.len() >= at_least, "{said}");
    for line in lines {
        let excepted = except.iter().any(|e| line.ends_with(e));
        let refused = ["EPERM", "EACCES", "EADDRINUSE", "ESRCH", "ENOENT"].iter().any(|e| line.ends_with(e));
        assert!(refused || excepted, "{line}\nof\n{said}");
    }
}

/// Alice attacks what the victim made, and these processes. The tool's own account shows that the attacks work.
fn attacked(m: &Machine, victim: &str, owner: &str, others: &[i32]) -> String {
    let pids: Vec<_> = others.iter().map(ToString::to_string).collect();
    let command = [TOOL, "attack", victim].into_iter().chain(pids.iter().map(String::as_str));
    let said = payload_of(m, "Alice", &command.collect::<Vec<_>>()).output().ok();
    let pid = ready(victim);
    assert!(lives(pid) && others.iter().all(|p| lives(*p)), "{said}");
    let own = m.command(TOOL).as_user(owner).args(["attack", victim]).output().ok();
    for word in ["shmat DONE", "msgctl DONE", "shm_open DONE", "environ DONE", "kill DONE", "ptrace DONE"] {
        assert!(own.contains(word), "the attack itself does not work: {own}");
    }
    said
}

#[test]
#[needs(root)]
fn a_payload_gets_nothing_of_another_payload_or_its_supervisor() {
    let m = site();
    let port = free_port().to_string();
    let bob = payload_of(&m, "Bob", &[TOOL, "victim", "/tmp/bob", &port]).spawn();
    ready("/tmp/bob");
    let said = attacked(&m, "/tmp/bob", "bob", &[bob.pid()]);
    all_failed(&said, 40, &[]);
    assert!(said.contains("bind EADDRINUSE"), "{said}");
}

#[test]
#[needs(root)]
fn a_payload_gets_nothing_of_the_pilot() {
    let m = site();
    let port = free_port().to_string();
    let pilot = m.command(TOOL).as_user("pilot").args(["victim", "/tmp/pilot", &port]).spawn();
    ready("/tmp/pilot");
    let said = attacked(&m, "/tmp/pilot", "pilot", &[]);
    all_failed(&said, 25, &[]);
    drop(pilot);
}

#[test]
#[needs(root)]
fn of_its_own_supervisor_a_payload_gets_nothing() {
    let m = site();
    let port = free_port().to_string();
    let pilot = m.command(TOOL).as_user("pilot").args(["victim", "/tmp/pilot", &port]).spawn();
    ready("/tmp/pilot");
    let ran =
        alice(&m, &format!("trap 'echo heard' USR1; {TOOL} attack /tmp/pilot $PPID; sleep 0.5")).output();
    let said = ran.ok();
    assert!(!said.contains("heard"), "{said}");
    all_failed(&said, 40, &[]);
    drop(pilot);
}

#[test]
#[needs(root)]
fn signals_to_everybody_stay_with_the_account() {
    let m = site();
    let mut pilot = m.command("/bin/sleep").as_user("pilot").arg("60").spawn();
    let mut bob = payload_of(&m, "Bob", &["/bin/sleep", "600"]).spawn();
    let proxy = m.proxy("Alice", "pilot");
    eventually("bob's payload", Duration::from_secs(60), || {
        (!m.processes_of("bob").is_empty()).then_some(())
    });
    // A pilot that is in the process group of its payload, as they all are, survives what the payload sends there.
    let group =
        format!("GLEXEC_CLIENT_CERT={proxy} /usr/sbin/glexec /bin/sh -c 'kill -s KILL 0'; echo survived");
    let ran = m.command("/bin/sh").as_user("pilot").args(["-c", &group]).output();
    assert_eq!(ran.ok(), "survived");
    let _ = alice(&m, "sleep 1; kill -s KILL -- -1; exec sleep 20").output();
    assert!(pilot.is_running() && bob.is_running());
    // It may have ended its supervisor: the reaper closes the session, or else the next call.
    alice(&m, "true").output().ok();
    supervisors_are_done();
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    assert_eq!(sessions().len(), 1, "bob's");
}

#[test]
#[needs(root)]
fn the_pilot_s_keys_stay_behind() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let run = m.command(TOOL).as_user("pilot").env("GLEXEC_CLIENT_CERT", proxy);
    let said = run.args(["with-key", "/usr/sbin/glexec", TOOL, "keys"]).output().ok();
    assert!(said.contains("read EACCES") && said.contains("search ENOKEY"), "{said}");
}

#[test]
#[needs(root)]
fn only_three_descriptors_are_handed_on() {
    let m = site();
    m.write("/home/pilot/secret", "pilot", 0o600, "secret\n");
    let proxy = m.proxy("Alice", "pilot");
    let script = "exec 3</home/pilot/secret 5<>/home/pilot/secret 9</home/pilot 17</dev/null; \
                  exec /usr/sbin/glexec /bin/ls /proc/self/fd";
    let run = m.command("/bin/bash").as_user("pilot").env("GLEXEC_CLIENT_CERT", proxy);
    let said = run.args(["-c", script]).output().ok();
    // ls has the directory itself open.
    assert_eq!(said.lines().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
#[needs(root)]
fn names_in_tmp_that_others_took_are_not_used() {
    let m = site();
    let policy = "/etc/pilotage/policy.toml";
    let text = fs::read_to_string(policy).unwrap() + "\n[payload]\ntarget_proxy = \"account\"\n";
    m.write(policy, "root", 0o644, text);
    m.write("/tmp/bobs", "bob", 0o666, "bob's\n");
    let name = format!("/tmp/x509up_u{}", m.uid("alice"));
    let squat = [
        format!("echo bob > {name}"),
        format!("echo bob > {name}; chmod 666 {name}"),
        format!("ln -s /tmp/bobs {name}"),
        format!("ln -s /nowhere {name}"),
        format!("mkfifo -m 666 {name}"),
        format!("mkdir -m 777 {name}"),
        format!("ln /tmp/bobs {name}"),
    ];
    for taken in squat {
        m.command("/bin/sh").as_user("bob").args(["-c", &taken]).output().ok();
        let ran = alice(&m, "echo ran").output();
        ran.refused(201, &["target proxy", &name]);
        assert_eq!(ran.text(), "", "{taken}");
        let run = alice(&m, "echo ran").env("GLEXEC_TARGET_PROXY", "/dev/null");
        assert_eq!(run.output().ok(), "ran", "another name can be chosen");
        m.command("/bin/rm").args(["-rf", &name]).output().ok();
        assert_eq!(fs::read_to_string("/tmp/bobs").unwrap(), "bob's\n");
    }
    assert!(!Path::new("/nowhere").exists());
}

#[test]
#[needs(root)]
fn the_proxy_copy_is_private_under_any_umask() {
    let m = site();
    for umask in ["000", "077", "777"] {
        let proxy = m.proxy("Alice", "pilot");
        let call = "exec /usr/sbin/glexec /bin/sh -c 'stat -c %a:%U $X509_USER_PROXY'";
        let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", proxy);
        let ran = run.args(["-c", &format!("umask {umask}; {call}")]).output();
        assert_eq!(ran.ok(), "600:alice", "umask {umask}");
    }
}

#[test]
#[needs(root)]
fn a_crash_leaves_no_picture_of_root_s_memory() {
    let m = site();
    fs::create_dir("/tmp/cores").unwrap();
    chmod("/tmp/cores", 0o777);
    let proxy = m.proxy("Alice", "pilot");
    for signal in [4, 6, 8] {
        let script = "ulimit -c unlimited; exec /usr/sbin/glexec /bin/sleep 600";
        let run = m.command("/bin/bash").as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy).cwd("/tmp/cores");
        let running = run.args(["-c", script]).spawn();
        eventually("the payload", Duration::from_secs(60), || {
            (!m.processes_of("alice").is_empty()).then_some(())
        });
        let read = fs::metadata(format!("/proc/{}/environ", running.pid()))
            .map(|m| std::os::unix::fs::MetadataExt::uid(&m));
        assert_eq!(read.ok(), Some(0), "its memory is root's to look at");
        running.signal(signal);
        let _ = running.end_within(Duration::from_secs(60));
        eventually("the end", Duration::from_secs(60), || m.processes_of("alice").is_empty().then_some(()));
    }
    let cores: Vec<_> = fs::read_dir("/tmp/cores").unwrap().flatten().collect();
    let of_root = cores
        .iter()
        .filter(|e| std::os::unix::fs::MetadataExt::uid(&e.metadata().unwrap()) != m.uid("alice"));
    assert_eq!(of_root.count(), 0, "{cores:?}");
}

/// Same session and terminal as the caller: gLExec's clients stop and continue payloads by the terminal. But what a
/// payload types there would be executed by the caller's shell.
#[test]
#[needs(root)]
fn a_payload_cannot_type_into_the_terminal_that_it_shares() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let run = m.command(TOOL).as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy);
    let said = run.args(["pty", "/usr/sbin/glexec", TOOL, "push"]).output().ok();
    assert!(said.contains("push EPERM"), "{said}");
    m.edit_policy(|policy| format!("{policy}\n[payload]\nno_new_privs = false\n"));
    let run = m.command(TOOL).as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy);
    let said = run.args(["pty", "/usr/sbin/glexec", TOOL, "push"]).output().ok();
    assert!(said.contains("push EPERM"), "without no_new_privs: {said}");
    // Without a terminal, as pilots run, there is nothing to push into.
    assert!(alice(&m, &format!("{TOOL} push")).output().ok().contains("push ENOTTY"));
    assert!(alice(&m, "exec 3<>/dev/tty").output().errors().contains("/dev/tty"));
}

/// A payload that has taken a port keeps it; what it left behind when it ended does not.
#[test]
#[needs(root)]
fn ports_are_free_when_the_session_is_over() {
    let m = site();
    let port = free_port().to_string();
    let script = format!(
        "(setsid {TOOL} victim /tmp/hijacker {port} >/dev/null 2>&1 &); until [ -e /tmp/hijacker ]; do sleep 0.05; done"
    );
    alice(&m, &script).output().ok();
    let mut bob = payload_of(&m, "Bob", &[TOOL, "victim", "/tmp/bob", &port]).spawn();
    ready("/tmp/bob");
    assert!(bob.is_running());
}

/// Starts a payload that tries to stop its supervisor, which is root's alone; returns it with its session.
fn stopped_supervisor(m: &Machine) -> (Running, String) {
    let script = "echo $PILOT_SESSION > /tmp/s.new; kill -STOP $PPID && exit 3; mv /tmp/s.new /tmp/s; setsid sleep 300 & sleep 300";
    let running = alice(m, script).spawn();
    let id = eventually("the session", Duration::from_secs(60), || fs::read_to_string("/tmp/s").ok());
    (running, id.trim().to_owned())
}

#[test]
#[needs(root)]
fn a_payload_that_stops_its_supervisor_is_ended_all_the_same() {
    let m = site();
    let (running, id) = stopped_supervisor(&m);
    let began = Instant::now();
    let ended = m.glexec().args(["--session", &id, "--end"]).output();
    let (took, left) = (began.elapsed(), m.processes_of("alice"));
    assert!(
        ended.code() == Some(0) && sessions().is_empty() && left.is_empty(),
        "after {took:?}: {}{left:?}",
        ended.errors()
    );
    drop(running);
}

/// A terminal that is nobody's controlling one could be made the payload's own, and then typed into.
#[test]
#[needs(root)]
fn a_terminal_without_a_session_cannot_be_taken_and_typed_into() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let run = m.command(TOOL).as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy);
    let said = run.args(["loose-pty", "/usr/sbin/glexec", TOOL, "push"]).output().ok();
    assert!(said.contains("push EPERM"), "{said}");
}
