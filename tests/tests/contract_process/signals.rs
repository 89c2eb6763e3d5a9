//! Exit codes, signals, and the process tree that clients build on.

use end_to_end::contract::{
    GLEXEC, call, catcher, catcher_ready, eventually, kill_as, lives, set_conf, sh, site, stop_catcher,
    wait_gone, written,
};
use harness::{need, needs};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const FORWARDED: [&str; 6] = ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"];

#[test]
#[needs(root)]
fn codes_of_ours_become_204_and_others_pass() {
    let m = site();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 126", 126),
        ("exit 200", 200),
        ("exit 201", 204),
        ("exit 202", 204),
        ("exit 203", 204),
        ("exit 204", 204),
        ("exit 205", 205),
        ("kill -TERM $$", 128 + 15),
        ("kill -SEGV $$", 128 + 11),
        ("exec /no/such/program", 127),
    ] {
        sh(&m, script).output().exits(code);
    }
}

#[test]
#[needs(root)]
fn what_passes_the_checks_but_not_exec_is_126() {
    let m = site();
    m.write("/opt/tools/broken", "root", 0o755, "#!/no/such/interpreter\n");
    m.write("/opt/tools/garbage", "root", 0o755, b"\x7fELF but not really".as_slice());
    let mount = "mkdir /opt/noexec && mount -t tmpfs -o noexec none /opt/noexec && cp /bin/true /opt/noexec/";
    m.command("/bin/sh").args(["-c", mount]).output().ok();
    for program in ["/opt/tools/broken", "/opt/tools/garbage", "/opt/noexec/true"] {
        call(&m, &m.proxy("Alice", "pilot")).arg(program).output().refused(126, &[program]);
    }
}

/// Each signal, sent to the waiting glexec, arrives at the payload, once.
fn forwarded_from(sender: &str) {
    let m = site();
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    let payload = catcher_ready(file);
    assert_ne!(payload, running.pid(), "with linger glexec waits");
    let mut expected = written(file);
    for signal in FORWARDED {
        assert!(kill_as(&m, sender, signal, running.pid()), "{sender} may send {signal}");
        expected = format!("{expected}\n{signal}");
        eventually(signal, LIMIT, || (written(file) == expected).then_some(()));
    }
    stop_catcher(file);
    running.end_within(LIMIT).exits(7);
    assert_eq!(written(file), expected);
}

#[test]
fn signals_of_the_caller_reach_the_payload() {
    if need::root() {
        forwarded_from("pilot");
    }
}

/// A batch system suspends and resumes what it started.
#[test]
#[needs(root)]
fn stop_and_continue_reach_the_payload() {
    let m = site();
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    let payload = catcher_ready(file);
    let state = |wanted: fn(char) -> bool| {
        eventually("the payload's state", LIMIT, || {
            let stat = fs::read_to_string(format!("/proc/{payload}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next().filter(|c| wanted(*c))
        })
    };
    for sender in ["pilot", "alice"] {
        assert!(kill_as(&m, sender, "TSTP", running.pid()), "{sender} may stop it");
        assert_eq!(state(|c| c == 'T'), 'T');
        assert!(kill_as(&m, sender, "CONT", running.pid()), "{sender} may let it go on");
        state(|c| c != 'T');
    }
    stop_catcher(file);
    running.end_within(LIMIT).exits(7);
}

/// HTCondor's procd signals the root of the family as the target account, through a second call.
#[test]
fn signals_of_the_target_account_reach_the_payload() {
    if need::root() {
        forwarded_from("alice");
    }
}

#[test]
#[needs(root)]
fn signals_of_anybody_else_do_not() {
    let m = site();
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    let payload = catcher_ready(file);
    for stranger in ["bob", "other"] {
        assert!(!kill_as(&m, stranger, "TERM", running.pid()), "{stranger} has no say in this");
        assert!(!kill_as(&m, stranger, "KILL", payload));
    }
    stop_catcher(file);
    running.end_within(LIMIT).exits(7);
    assert_eq!(written(file), format!("ready {payload}"));
}

#[test]
#[needs(root)]
fn killing_the_waiter_ends_the_payload() {
    let m = site();
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    let payload = catcher_ready(file);
    assert!(kill_as(&m, "pilot", "KILL", running.pid()));
    assert_eq!(running.end_within(LIMIT).signal(), Some(9));
    wait_gone(payload);
}

/// As with gLExec: who started the call may go, and the payload goes on in the batch job. Its end is the batch system's
/// business, or that of the caller's session.
#[test]
#[needs(root)]
fn a_call_survives_the_process_that_started_it() {
    let m = site();
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let file = "/home/alice/signals";
    let script = format!("{GLEXEC} \"$@\" >/dev/null 2>&1 & echo $! >/tmp/glexec; wait");
    let running = run.args(["-c", &script, "sh"]).args(catcher(file)).spawn();
    let (payload, glexec) = (catcher_ready(file), written("/tmp/glexec").parse().unwrap());
    running.signal(9);
    assert_eq!(running.end_within(LIMIT).signal(), Some(9));
    assert!(lives(payload) && lives(glexec));
    stop_catcher(file);
    wait_gone(glexec);
    let record = &m.records()[0];
    assert_eq!((&record["exit"]["code"], &record["state"]), (&7.into(), &"closed".into()), "{record}");
}

/// HTCondor: one more call per process and signal.
#[test]
#[needs(root)]
fn a_second_call_kills_by_process_id() {
    let m = site();
    let running = sh(&m, "echo $$ >/home/alice/pid; exec sleep 1000").spawn();
    let pid: i32 = written("/home/alice/pid").parse().unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}")).unwrap());
    assert_eq!(owner, m.uid("alice"), "the number that the payload sees is the one that everybody sees");
    sh(&m, &format!("/bin/kill -9 {pid}")).output().ok();
    running.end_within(LIMIT).exits(128 + 9);
    // It has gone, and so the client is told.
    assert_ne!(sh(&m, &format!("/bin/kill -9 {pid}")).output().code(), Some(0));
}

/// A shell's background job becomes a child of the glexec that the shell executes, and so does `>(tee log)` of bash. Its
/// end is not the payload's, and it goes on when the payload ends.
#[test]
#[needs(root)]
fn children_that_the_caller_had_are_none_of_ours() {
    let m = site();
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        let jobs = "sleep 1000 & echo $! >/tmp/job; (sleep 0.2; exit 9) & \
                    (setsid sleep 1000 & echo $! >/tmp/orphan; sleep 0.3) & ";
        let script = format!("{jobs} exec {GLEXEC} /bin/sh -c 'sleep 1; exit 5'");
        let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let mut run = run.args(["-c", &script]);
        run.raw().stdout(std::process::Stdio::null());
        assert_eq!(run.start().wait().unwrap().code(), Some(5), "linger = {linger}");
        for file in ["/tmp/job", "/tmp/orphan"] {
            let pid: i32 = written(file).parse().unwrap();
            assert!(lives(pid), "linger = {linger}: {file} is the caller's");
            assert!(kill_as(&m, "pilot", "KILL", pid));
            fs::remove_file(file).unwrap();
        }
    }
    // What the payload leaves is still ended, and counted, beside them.
    set_conf(&m, "linger", "yes");
    let payload = "setsid sleep 1000 >/dev/null 2>&1 & exit 6";
    let script = format!("sleep 1000 & exec {GLEXEC} /bin/sh -c '{payload}'");
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let mut run = run.args(["-c", &script]);
    run.raw().stdout(std::process::Stdio::null());
    assert_eq!(run.start().wait().unwrap().code(), Some(6));
    assert!(m.processes_of("alice").is_empty(), "nothing is left of the payload");
}

/// BLAH: setsid, then the group of the process that it started.
#[test]
#[needs(root, "setsid")]
fn a_second_call_kills_the_group_that_the_caller_made() {
    let m = site();
    let run =
        m.command("/usr/bin/setsid").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let script = "sleep 1000 & echo $$ >/home/alice/pid; wait";
    let running = run.args([GLEXEC, "/bin/sh", "-c", script]).spawn();
    let payload: i32 = written("/home/alice/pid").parse().unwrap();
    let group = running.pid();
    let ids = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let rest = stat.rsplit_once(") ").unwrap().1.to_owned();
        rest.split(' ').skip(2).take(2).map(|n| n.parse::<i32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(payload), [group, group], "process group and session are the caller's");
    let run = call(&m, &m.proxy("Alice", "pilot")).args(["/bin/kill", "-s", "SIGTERM", "--"]);
    // The dashes: without them the kill of Debian 12 takes a negative number for nothing, silently.
    run.arg(format!("-{group}")).output().ok();
    running.end_within(LIMIT).exits(128 + 15);
    wait_gone(payload);
    assert!(m.processes_of("alice").is_empty());
}

#[test]
#[needs(root)]
fn all_calls_with_one_proxy_give_one_account() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let running =
        call(&m, &proxy).args(["/bin/sh", "-c", "echo $$ >/home/alice/pid; exec sleep 1000"]).spawn();
    let pid: i32 = written("/home/alice/pid").parse().unwrap();
    for _ in 0..5 {
        let ran = call(&m, &proxy).args(["/usr/bin/id", "-u"]).output();
        assert_eq!(ran.ok(), m.uid("alice").to_string(), "also while a payload runs");
    }
    assert!(lives(pid), "another call of the same user ends no payload");
    assert!(kill_as(&m, "alice", "TERM", pid));
    running.end_within(LIMIT).exits(128 + 15);
}

#[test]
#[needs(root, "bash")]
fn cpu_time_of_the_payload_is_the_callers_to_count() {
    let m = site();
    set_conf(&m, "linger", "yes");
    let burn = "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done";
    let run = m.command("/bin/bash").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let ran = run.args(["-c", "TIMEFORMAT=%U; time \"$@\"", "bash", GLEXEC, "/bin/sh", "-c", burn]).output();
    let seconds: f64 = ran.errors().trim().parse().unwrap();
    assert!(seconds > 0.1, "times(2) of the caller includes the payload: {seconds} s");
}
