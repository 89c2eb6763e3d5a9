//! `[payload] pid_namespace`: a payload sees and reaches its own processes only, and none of them outlives it.
//!
//! What clients rely on stays as it is without: exit codes, signals, process group and session, standard streams.

use end_to_end::contract::{
    self, call, catcher, catcher_ready, eventually, install_tool, kill_as, lives, set_conf, sh, stop_catcher,
    wait_gone, written,
};
use end_to_end::security::{kill_supervisors, leaves, sessions, supervisor_of, without_cgroups};
use harness::{Machine, Run, needs};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const ON: &str = "[payload]\npid_namespace = true\n";
const ON_WITH_OLD_RIGHTS: &str = "[payload]\npid_namespace = true\nno_new_privs = false\n";

fn site(policy: &str) -> Machine {
    let m = Machine::builder().pilot("pilot").account("alice").account("bob").policy_add(policy).build();
    m.map("Alice", "alice");
    m.map("Bob", "bob");
    m
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").expect("every host has it").lines().count()
}

/// Nothing of any session is there: processes, directories, cgroup leaves, mounts.
#[track_caller]
fn nothing_left(m: &Machine, mounts_before: usize) {
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    assert_eq!((sessions(), leaves(m)), (vec![], vec![]));
    assert_eq!(mounts(), mounts_before, "mounts of a payload are its own");
    let ours = named("glexec-init").into_iter().filter(|pid| in_this_machine(*pid)).count();
    assert_eq!(ours, 0, "process 1 of a namespace is left");
}

fn named(name: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("every host has it").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == name))
        .collect()
}

/// Other tests have machines of their own at the same time.
fn in_this_machine(pid: i32) -> bool {
    let view = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    view(&pid.to_string()).is_some() && view(&pid.to_string()) == view("thread-self")
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim()
}

/// The record of the only payload so far.
fn record(m: &Machine) -> Value {
    let mut records = m.records();
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

#[test]
#[needs(root)]
fn a_payload_sees_and_signals_its_own_processes_only() {
    let m = site(ON);
    let before = mounts();
    let bystander = m.command("/bin/sleep").as_user("alice").arg("60").spawn();
    let other = sh(&m, "echo up >/home/alice/up; sleep 600").spawn();
    written("/home/alice/up");
    let script = format!(
        "for p in /proc/[0-9]*; do echo \"sees $(cat $p/comm)\"; done; \
         kill -0 {0} 2>&1; kill -9 1 2>&1; kill -STOP 1 2>&1; cat /proc/1/environ /proc/1/maps 2>&1; ls /proc/1/fd 2>&1; \
         grep -E '^(Uid|Cap|NoNew)' /proc/1/status | tr '\\t' ' '; umount /proc 2>&1; umount -l /proc 2>&1; \
         ls /proc/1/root /proc/1/cwd/ 2>&1; unshare -Urm sh -c 'umount -l /proc; umount /proc; test -e /proc/{0} && echo there' 2>&1; \
         kill -TERM -1; test -e /proc/{0} && echo there; echo $PPID; exit 5",
        bystander.pid()
    );
    let ran = sh(&m, &script).output();
    let said = ran.text();
    ran.exits(5);
    let seen: Vec<_> = said.lines().filter_map(|l| l.strip_prefix("sees ")).collect();
    assert!((2..=4).contains(&seen.len()) && seen[0] == "glexec-init", "{said}");
    assert!(seen[1..].iter().all(|name| ["sh", "cat"].contains(name)), "{said}");
    assert_eq!(said.matches("No such process").count(), 1, "{said}");
    assert_eq!(said.matches("Operation not permitted").count(), 2, "process 1 is not the payload's: {said}");
    assert_eq!(said.matches("ermission denied").count(), 5, "{said}");
    assert!(said.contains("Uid: 0 0 0 0") && said.contains("NoNewPrivs: 1"), "{said}");
    let sets: Vec<_> = said.lines().filter(|l| l.starts_with("Cap")).collect();
    assert!(sets.len() == 5 && sets.iter().all(|l| l.ends_with(" 0000000000000000")), "{said}");
    assert!(said.matches("umount: /proc: ").count() >= 4, "{said}");
    assert!(said.ends_with("\n0") && !said.contains("there"), "{said}");
    assert!(lives(bystander.pid()) && lives(other.pid()));
    // The same without the wall: it is the wall that was tested.
    m.edit_policy(|old| old.replace("pid_namespace = true", "pid_namespace = false"));
    let said = sh(&m, &format!("kill -0 {0} && test -e /proc/{0} && echo there", bystander.pid())).output();
    assert_eq!(said.ok(), "there");
    drop(bystander);
    kill_as(&m, "pilot", "TERM", other.pid());
    other.end_within(LIMIT).exits(128 + 15);
    nothing_left(&m, before);
}

#[test]
#[needs(root)]
fn process_1_is_out_of_reach_and_holds_one_line_to_the_supervisor() {
    let m = site(ON);
    let running = sh(&m, "echo up >/home/alice/up; sleep 600").spawn();
    written("/home/alice/up");
    let supervisor = supervisor_of(&sessions()[0]);
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let first = named("glexec-init").into_iter().find(|p| children.split(' ').any(|c| c == p.to_string()));
    let first = first.expect("process 1 is a child of the supervisor");
    let status = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    assert_eq!((field(&status, "Uid:"), field(&status, "Groups:")), ("0\t0\t0\t0", ""), "{status}");
    assert!(field(&status, "NSpid:").ends_with("\t1"), "{status}");
    let fds = fs::read_dir(format!("/proc/{first}/fd")).unwrap().flatten();
    let mut held: Vec<_> = fds.map(|e| fs::read_link(e.path()).unwrap().display().to_string()).collect();
    held.sort();
    assert_eq!(held[..3], ["/dev/null"; 3], "{held:?}");
    assert!(
        held.len() == 5 && held[3] == "anon_inode:[signalfd]" && held[4].starts_with("socket:"),
        "{held:?}"
    );
    for who in ["alice", "pilot", "bob"] {
        assert!(!kill_as(&m, who, "KILL", first) && !kill_as(&m, who, "STOP", first), "{who}");
        let said = m.command("/bin/cat").as_user(who).arg(format!("/proc/{first}/maps")).output().errors();
        assert!(said.contains("ermission denied"), "{said}");
    }
    // Were it to end, everything else in the namespace would.
    assert!(kill_as(&m, "root", "KILL", first));
    running.end_within(LIMIT).exits(128 + 9);
}

const DAEMONS: &str = "setsid sh -c 'sleep 300 & setsid sleep 300 & echo up >/home/alice/up' & \
                       until [ -e /home/alice/up ]; do sleep 0.01; done; wait;";

fn daemons_end_with_the_payload(m: &Machine) {
    sh(m, &format!("{DAEMONS} exit 3")).output().exits(3);
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    let record = record(m);
    assert_eq!(record["exit"]["code"], 3, "{record}");
    assert_eq!(record["exit"]["leftovers"], 2, "{record}");
    assert!(record["ladder"].as_array().is_some_and(|l| l.contains(&"pid_namespace".into())), "{record}");
}

fn daemons_end_with_the_supervisor(m: &Machine) {
    let mut running = sh(m, &format!("{DAEMONS} exec sleep 300")).spawn();
    written("/home/alice/up");
    let all = eventually("payload and daemons", LIMIT, || {
        Some(m.processes_of("alice")).filter(|pids| pids.len() == 3)
    });
    kill_supervisors();
    eventually("its end", LIMIT, || (!running.is_running()).then_some(()));
    // No call, no monitor: the kernel ends them.
    all.into_iter().for_each(wait_gone);
    sh(m, "true").output().ok();
    let lost = m.records().into_iter().find(|r| r["state"] == "lost").expect("the next call closes it");
    assert_eq!(lost["exit"]["lost"], "helper_died", "{lost}");
}

#[test]
#[needs(root, "setsid")]
fn daemons_end_with_the_payload_and_with_a_killed_supervisor() {
    let m = site(ON);
    let before = mounts();
    daemons_end_with_the_payload(&m);
    fs::remove_file("/home/alice/up").unwrap();
    daemons_end_with_the_supervisor(&m);
    nothing_left(&m, before);
}

#[test]
#[needs(root, "setsid")]
fn daemons_end_without_cgroups_too() {
    let m = site(ON);
    without_cgroups();
    let before = mounts();
    daemons_end_with_the_payload(&m);
    fs::remove_file("/home/alice/up").unwrap();
    daemons_end_with_the_supervisor(&m);
    nothing_left(&m, before);
}

#[test]
#[needs(root)]
fn codes_and_signals_are_what_they_are_without() {
    let m = site(ON);
    for (script, code) in [
        ("exit 0", 0),
        ("exit 200", 200),
        ("exit 201", 204),
        ("exit 205", 205),
        ("kill -TERM $$", 128 + 15),
        ("kill -KILL $$", 128 + 9),
        ("exec /no/such/program", 127),
    ] {
        sh(&m, script).output().exits(code);
    }
    call(&m, &m.proxy("Alice", "pilot")).arg("/no/such/program").output().refused(201, &["/no/such/program"]);
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    catcher_ready(file);
    let mut expected = written(file);
    for signal in ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"] {
        assert!(kill_as(&m, "pilot", signal, running.pid()));
        expected = format!("{expected}\n{signal}");
        eventually(signal, LIMIT, || (written(file) == expected).then_some(()));
    }
    let payload = m.processes_of("alice")[0];
    for (signal, state) in [("TSTP", 'T'), ("CONT", 'S')] {
        assert!(kill_as(&m, "pilot", signal, running.pid()));
        eventually(signal, LIMIT, || {
            let stat = fs::read_to_string(format!("/proc/{payload}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with([state, 'R']).then_some(())
        });
    }
    stop_catcher(file);
    running.end_within(LIMIT).exits(7);
}

/// BLAH and batch systems: the group, or the session, of the process that they started.
#[test]
#[needs(root, "setsid")]
fn signals_to_the_caller_s_group_reach_the_payload() {
    let m = site(ON);
    let before = mounts();
    for (sender, signal, code) in
        [("pilot", "TERM", Some(143)), ("pilot", "KILL", None), ("root", "KILL", None)]
    {
        let run = m.command("/usr/bin/setsid").as_user("pilot");
        let run = run.env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let running = run
            .args([contract::GLEXEC, "/bin/sh", "-c", "echo up >/home/alice/up; sleep 1000 & wait"])
            .spawn();
        written("/home/alice/up");
        fs::remove_file("/home/alice/up").unwrap();
        let group = running.pid();
        let payloads = m.processes_of("alice");
        assert_eq!(payloads.len(), 2);
        for pid in &payloads {
            assert_eq!(nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(*pid))).unwrap().as_raw(), group);
        }
        let kill = m.command("/bin/kill").as_user(sender).args(["-s", signal, "--", &format!("-{group}")]);
        kill.output().ok();
        assert_eq!(running.end_within(LIMIT).code(), code, "{sender} {signal}");
        payloads.into_iter().for_each(wait_gone);
    }
    sh(&m, "true").output().ok();
    nothing_left(&m, before);
}

#[test]
#[needs(root, "setsid")]
fn a_session_is_signalled_and_ended_from_outside() {
    let m = site(ON);
    let before = mounts();
    let script = "trap 'exit 9' TERM; setsid sleep 300 & echo $PILOT_SESSION >/home/alice/id; wait";
    for (action, code) in [(&["--signal", "TERM"][..], 9), (&["--kill"], 137), (&["--end"], 137)] {
        let run = sh(&m, script).env("GLEXEC_WORK_DIR", "/home/alice/work");
        let running = run.spawn();
        let id = written("/home/alice/id");
        fs::remove_file("/home/alice/id").unwrap();
        let session = |action: &[&str]| m.glexec().args(["--session", &id]).args(action).output().ok();
        let status = session(&["--status"]);
        assert!(status.ends_with("processes=2"), "process 1 does not count: {status}");
        session(action);
        running.end_within(LIMIT).exits(code);
        assert!(!fs::exists("/home/alice/work").unwrap());
        nothing_left(&m, before);
    }
}

#[test]
#[needs(root)]
fn cpu_time_is_counted_also_of_orphans_and_without_cgroups() {
    let m = site(ON);
    without_cgroups();
    let burn = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done";
    sh(&m, &format!("(sh -c '{burn}; echo up >/home/alice/up' &) ; until [ -e /home/alice/up ]; do sleep 0.05; done; sleep 0.2"))
        .output()
        .ok();
    let record = record(&m);
    assert_eq!(record["usage"]["cpu_source"], "subreaper", "{record}");
    assert!(record["usage"]["cpu_user_us"].as_u64().unwrap() > 100_000, "{record}");
}

#[test]
#[needs(root, "setsid")]
fn nested_calls_are_refused_from_inside_and_recorded() {
    let m = site(ON_WITH_OLD_RIGHTS);
    without_cgroups();
    fs::rename(m.proxy("Bob", "alice"), "/home/alice/bob.pem").unwrap();
    let nested = "GLEXEC_CLIENT_CERT=/home/alice/bob.pem GLEXEC_TARGET_PROXY=/dev/null /usr/sbin/glexec /usr/bin/id -u 2>&1; echo code $?";
    for script in [
        nested.to_owned(),
        format!(
            "setsid sh -c '({nested} >/home/alice/o.new 2>&1; mv /home/alice/o.new /home/alice/o) & exit'; \
                 until [ -e /home/alice/o ]; do sleep 0.05; done; cat /home/alice/o"
        ),
        format!("env -i sh -c '{nested}'"),
    ] {
        let said = sh(&m, &script).output().text();
        assert!(said.contains("code 203") && said.contains("nested call"), "{said}");
    }
    let denied: Vec<_> = m.records().into_iter().filter(|r| r["state"] == "denied").collect();
    assert_eq!(denied.len(), 3);
    for record in denied {
        for sign in ["session_account", "payload_account", "supervisor_ancestor"] {
            assert!(
                record["nested_signs"].as_array().unwrap().iter().any(|s| s == sign),
                "no {sign} in {record}"
            );
        }
    }
    // By default the kernel takes the privilege away before.
    m.edit_policy(|old| old.replace("no_new_privs = false\n", ""));
    let said = sh(&m, nested).output().text();
    assert!(said.contains("code 203") && said.contains("no_new_privs"), "{said}");
}

#[test]
#[needs(root)]
fn standard_streams_may_be_sockets() {
    let m = site(ON);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut run = sh(&m, "read line; echo \"heard $line\" >&0; exit 6");
    run.raw().stdin(OwnedFd::from(theirs));
    let mut child = run.start();
    drop(run);
    ours.write_all(b"words\n").unwrap();
    let mut answer = String::new();
    ours.read_to_string(&mut answer).unwrap();
    // The end of the stream came, so neither supervisor nor process 1 holds it.
    assert_eq!(answer, "heard words\n");
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

/// HTCondor's job wrapper gets its descriptors over a socket, from outside of the namespace.
#[test]
#[needs(root)]
fn descriptors_are_passed_into_the_namespace_and_out_of_it() {
    let m = site(ON);
    let player = install_tool(&m, env!("CARGO_BIN_EXE_contract-payload"));
    m.write("/home/pilot/secret", "pilot", 0o600, "only the pilot can open this\n");
    m.write("/home/alice/answer", "alice", 0o600, "only Alice can open this\n");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut run = call(&m, &m.proxy("Alice", "pilot")).args([&player, "pass-fd", "/home/alice/answer"]);
    run.raw().stdin(OwnedFd::from(theirs)).stdout(Stdio::piped());
    let mut child = run.start();
    drop(run);
    let mut hello = [0; 4];
    ours.read_exact(&mut hello).unwrap();
    assert_eq!(u32::from_be_bytes(hello), 0xdead_beef);
    let secret = File::open("/home/pilot/secret").unwrap();
    let (rights, byte) = ([secret.as_raw_fd()], [IoSlice::new(&[1])]);
    let rights = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(ours.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None).unwrap();
    let (mut byte, mut space) = ([0; 1], nix::cmsg_space!(RawFd));
    let mut slices = [IoSliceMut::new(&mut byte)];
    let got =
        recvmsg::<()>(ours.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let passed = got.cmsgs().unwrap().find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let answer = fs::read_to_string(format!("/proc/self/fd/{}", passed.unwrap())).unwrap();
    assert_eq!(answer, "only Alice can open this\n");
    let mut copied = String::new();
    child.stdout.take().unwrap().read_to_string(&mut copied).unwrap();
    assert_eq!(copied, "only the pilot can open this\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Payloads of one account at the same time all have the same number.
#[test]
#[needs(root)]
fn many_at_a_time_do_not_get_into_each_other_s_way() {
    let m = site(ON);
    let before = mounts();
    let proxy = m.proxy("Alice", "pilot");
    let start = |_| m.glexec().env("GLEXEC_CLIENT_CERT", &proxy).args(["/bin/sh", "-c", "echo $$"]).spawn();
    let all: Vec<_> = (0..12).map(start).collect();
    for running in all {
        assert_eq!(running.end_within(LIMIT).ok(), "2");
    }
    nothing_left(&m, before);
}

fn refused_naming_the_key(run: Run, m: &Machine) {
    run.output().refused(202, &["pid_namespace", "remove"]);
    assert!(sessions().is_empty() && leaves(m).is_empty());
}

#[test]
#[needs(root, "setpriv")]
fn where_it_cannot_be_had_nothing_runs() {
    let m = site(ON);
    let before = mounts();
    // As in a container: root there may not make namespaces.
    let pilot = m.account("pilot");
    let (uid, gid) = (pilot.uid.to_string(), pilot.gid.to_string());
    let proxy = m.proxy("Alice", "pilot");
    let run = m.command("/usr/bin/setpriv").env("GLEXEC_CLIENT_CERT", &proxy);
    let run = run.args(["--reuid", &uid, "--regid", &gid, "--clear-groups", "--bounding-set", "-sys_admin"]);
    refused_naming_the_key(run.args([contract::GLEXEC, "/usr/bin/touch", "/home/alice/ran"]), &m);
    set_conf(&m, "linger", "no");
    refused_naming_the_key(sh(&m, "touch /home/alice/ran"), &m);
    assert!(!fs::exists("/home/alice/ran").unwrap());
    nothing_left(&m, before);
}

#[test]
#[needs(root, "mount")]
fn other_views_of_processes_and_the_host_s_directory_are_out_of_sight() {
    let m = site(ON);
    fs::create_dir_all("/srv/jail/proc").unwrap();
    let mounted = m.command("/bin/mount").args(["-t", "proc", "proc", "/srv/jail/proc"]).output();
    mounted.ok();
    let before = mounts();
    let script = "ls /srv/jail/proc; pwd; ls -d [0-9]*";
    let run = sh(&m, script).cwd("/proc");
    assert_eq!(
        run.output().text().lines().filter(|l| l.starts_with(|c: char| c.is_ascii_digit())).count(),
        0
    );
    assert_eq!(mounts(), before, "outside it is where it was");
}

/// Automounters and CVMFS mount on the host, when a payload asks for a file; a cut line would hide it from payloads.
#[test]
#[needs(root, "mount")]
fn what_the_host_mounts_later_is_seen() {
    let m = site(ON);
    let mount = |script: &str| m.command("/bin/sh").args(["-c", script]).output().ok();
    mount(
        "mkdir -p /srv/auto && mount -t tmpfs none /srv/auto && mount --make-shared /srv/auto && mkdir /srv/auto/data",
    );
    let script = "echo up >/home/alice/up; until [ -e /srv/auto/data/file ]; do sleep 0.05; done; exit 4";
    let running = sh(&m, script).spawn();
    written("/home/alice/up");
    mount("mount -t tmpfs none /srv/auto/data && touch /srv/auto/data/file");
    running.end_within(LIMIT).exits(4);
    mount("umount /srv/auto/data && umount /srv/auto");
}
