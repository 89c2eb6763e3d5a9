//! Nobody makes root wait: what closes sessions, counts refusals and keeps records is not stopped, delayed or kept from its
//! end by a caller, by its limits, or by what else its account runs.

use end_to_end::contract::{eventually, install_tool, kill_as, set_conf};
use end_to_end::security::{kill_supervisors, sessions, supervisor_of};
use harness::{Machine, Run, needs};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const PAYLOAD: &str = env!("CARGO_BIN_EXE_security-payload");
const TOOL: &str = "/opt/contract/security-payload";
const SOON: Duration = Duration::from_secs(60);

fn site() -> (Machine, String) {
    let m = Machine::builder().pilot("pilot").service("stranger").account("alice").build();
    m.map("Alice", "alice");
    assert_eq!(install_tool(&m, PAYLOAD), TOOL);
    let proxy = m.proxy("Alice", "pilot");
    (m, proxy)
}

fn call(m: &Machine, proxy: &str) -> Run {
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy)
}

/// `glexec` under limits of prlimit(1).
fn limited(m: &Machine, who: &str, limit: &str, arguments: &[&str]) -> Run {
    let run = m.command("/usr/bin/prlimit").as_user(who).args([limit, "/usr/sbin/glexec"]);
    run.args(arguments).limit(Duration::from_secs(120))
}

/// A session whose supervisor was killed, with a process that lives on; returns its id.
fn lost(m: &Machine, proxy: &str, work_dir: Option<&str>, script: &str) -> String {
    let script = format!(
        "{script}; (setsid sleep 300 &) >/dev/null 2>&1; echo $PILOT_SESSION > /tmp/s.new; mv /tmp/s.new /tmp/s; sleep 300"
    );
    let run = call(m, proxy).args(["/bin/sh", "-c", &script]);
    let running = match work_dir {
        Some(dir) => run.env("GLEXEC_WORK_DIR", dir).spawn(),
        None => run.spawn(),
    };
    let id = eventually("the session", SOON, || fs::read_to_string("/tmp/s").ok());
    fs::remove_file("/tmp/s").expect("it was just read");
    kill_supervisors();
    running.signal(9);
    drop(running);
    id.trim().to_owned()
}

#[test]
#[needs(root, "prlimit")]
fn what_cannot_be_closed_is_refused_and_not_tried_for_ever() {
    let (m, proxy) = site();
    let id = lost(&m, &proxy, None, "true");
    let began = Instant::now();
    let ran = limited(&m, "pilot", "--fsize=0:0", &["--session", &id, "--end"]).output();
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    // Where root may raise limits again, the session is closed all the same.
    if ran.code() != Some(0) {
        ran.refused(202, &["cannot be closed"]);
        assert_eq!(sessions(), std::slice::from_ref(&id));
    }
    let _ = m.glexec().args(["--session", &id, "--end"]).output();
    assert_eq!(sessions(), Vec::<String>::new());
    assert_eq!(m.records().iter().filter(|r| r["state"] == "lost").count(), 1);
}

#[test]
#[needs(root)]
fn a_caller_that_wants_to_be_woken_late_delays_nobody() {
    let (m, proxy) = site();
    lost(&m, &proxy, None, "true");
    let began = Instant::now();
    let run = m.command(TOOL).as_user("stranger").args(["late", "/usr/sbin/glexec", "/bin/true"]);
    run.limit(Duration::from_secs(60)).output().exits(203);
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    assert_eq!((sessions(), m.processes_of("alice")), (Vec::new(), Vec::new()));
    // And the payload wakes in time, too.
    let run = m.command(TOOL).as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy);
    let run = run.args(["late", "/usr/sbin/glexec", "/bin/sleep", "0.1"]).limit(Duration::from_secs(60));
    run.output().ok();
}

/// The working directory is removed as the account, so the account can stop whoever does that.
#[test]
#[needs(root)]
fn an_account_that_stops_all_its_processes_holds_no_sweep() {
    let (m, proxy) = site();
    let id = lost(&m, &proxy, Some("/tmp/job"), "i=0; while [ $i -lt 20000 ]; do : > $i; i=$((i+1)); done");
    let stopper = "echo > /tmp/stops; while :; do kill -s STOP -- -1; done 2>/dev/null";
    let mut stopper = m.command("/bin/sh").as_user("alice").args(["-c", stopper]).spawn();
    eventually("the stopper", SOON, || Path::new("/tmp/stops").exists().then_some(()));
    let began = Instant::now();
    m.command("/usr/sbin/glexec")
        .as_user("stranger")
        .arg("/bin/true")
        .limit(Duration::from_secs(90))
        .output()
        .exits(203);
    let took = began.elapsed();
    assert!(stopper.is_running());
    assert!(took < Duration::from_secs(5), "another caller waits for it: {took:?}");
    eventually("the end of the session", Duration::from_secs(60), || sessions().is_empty().then_some(()));
    let record = m.records().into_iter().find(|r| r["record_id"] == id.as_str()).expect("its record stays");
    assert!(
        record["exit"]["leftovers"].as_u64() > Some(0),
        "what the first try ended was forgotten: {record}"
    );
    let told = m.log().lines().any(|l| l.contains(&id) && l.contains("working directory /tmp/job stays"));
    assert!(told || !Path::new("/tmp/job").exists(), "{}", m.log());
    drop(stopper);
    eventually("the end", SOON, || m.processes_of("alice").is_empty().then_some(()));
}

#[test]
#[needs(root, "prlimit")]
fn a_counter_of_refusals_is_not_set_back_by_a_limit() {
    let (m, _) = site();
    let script = "r=0; while [ $r -lt 4 ]; do i=0; while [ $i -lt 61 ]; do /usr/sbin/glexec /bin/true; i=$((i+1)); done; \
                  for size in 0 1 5 15; do prlimit --fsize=$size:$size /usr/sbin/glexec /bin/true; done; r=$((r+1)); done 2>/dev/null; true";
    let began = Instant::now();
    m.command("/bin/sh")
        .as_user("stranger")
        .args(["-c", script])
        .limit(Duration::from_secs(120))
        .output()
        .ok();
    let uid = m.uid("stranger");
    let records = m.records().iter().filter(|r| r["caller_uid"] == uid).count();
    let minutes = usize::try_from(began.elapsed().as_secs() / 60).unwrap() + 2;
    assert!(records >= 60 && records <= 60 * minutes && records < 240, "{records} in {minutes} minutes");
}

/// Without linger nobody needs to signal the process that closes the record.
#[test]
#[needs(root)]
fn the_detached_supervisor_is_out_of_everybody_s_reach() {
    let (m, proxy) = site();
    set_conf(&m, "linger", "no");
    let running = call(&m, &proxy).args(["/bin/sh", "-c", "echo > /tmp/runs; sleep 300"]).spawn();
    eventually("the payload", SOON, || Path::new("/tmp/runs").exists().then_some(()));
    let detached = detached();
    assert!(!detached.is_empty());
    for (pid, signal) in detached.iter().flat_map(|pid| [(pid, "STOP"), (pid, "KILL")]) {
        assert!(!kill_as(&m, "pilot", signal, *pid), "the caller may send {signal}");
        assert!(!kill_as(&m, "alice", signal, *pid), "the payload may send {signal}");
    }
    running.signal(9);
    drop(running);
    let closed = || m.records().iter().any(|r| r["state"] == "closed").then_some(());
    eventually("the record", SOON, closed);
    assert_eq!(sessions(), Vec::<String>::new());
}

/// Processes that execute this machine's `glexec`.
fn detached() -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    let ours = fs::metadata("/usr/sbin/glexec").expect("it is installed");
    let pids = fs::read_dir("/proc")
        .expect("every host has it")
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let same = |pid: &i32| {
        let exe = fs::metadata(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| (exe.dev(), exe.ino()) == (ours.dev(), ours.ino()))
    };
    let pids: Vec<i32> = pids.filter(same).collect();
    let of_this_machine = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == fs::read_link("/proc/thread-self/ns/mnt").ok()
    };
    pids.into_iter().filter(of_this_machine).collect()
}

#[test]
#[needs(root, "prlimit")]
fn who_may_not_write_leaves_the_records_of_an_earlier_boot_to_the_next() {
    let (m, proxy) = site();
    call(&m, &proxy).arg("/bin/true").output().ok();
    // What another boot left open, made from a real record.
    let spool = Path::new("/var/spool/pilotage/records");
    let id = m.records()[0]["record_id"].as_str().unwrap().to_owned();
    let name = format!("{id}.jsonl");
    let text = fs::read_to_string(spool.join("closed").join(&name)).unwrap();
    fs::remove_file(spool.join("closed").join(&name)).unwrap();
    fs::write(spool.join("open").join(&name), format!("{}\n", text.lines().next().unwrap())).unwrap();
    fs::write("/tmp/boot_id", "00000000-0000-4000-8000-000000000000\n").unwrap();
    end_to_end::security::bind("/tmp/boot_id", "/proc/sys/kernel/random/boot_id");
    limited(&m, "stranger", "--fsize=0:0", &["/bin/true"]).output().exits(203);
    call(&m, &proxy).arg("/bin/true").output().ok();
    let record = m.records().into_iter().find(|r| r["record_id"] == id.as_str()).unwrap();
    assert_eq!((&record["state"], &record["exit"]["lost"]), (&"lost".into(), &"reboot".into()));
}

/// Process ids come again: the session's one may be somebody else's while its record is being closed.
#[test]
#[needs(root)]
fn a_number_that_became_somebody_else_s_is_not_signalled() {
    let (m, proxy) = site();
    let script = "echo $PILOT_SESSION > /tmp/s.new; mv /tmp/s.new /tmp/s; sleep 300";
    let running = call(&m, &proxy).args(["/bin/sh", "-c", script]).spawn();
    let id = eventually("the session", SOON, || fs::read_to_string("/tmp/s").ok());
    let mut other = m.command("/bin/sleep").arg("300").spawn();
    let state = format!("/run/glexec/sessions/{}/state", id.trim());
    let text = fs::read_to_string(&state).unwrap();
    let named = |pid: i32| format!("\nsupervisor={pid}\n");
    let supervisor = supervisor_of(id.trim());
    assert!(text.contains(&named(supervisor)), "{text}");
    fs::write(&state, text.replace(&named(supervisor), &named(other.pid()))).unwrap();
    let ran = m.glexec().args(["--session", id.trim(), "--signal", "TERM"]).output();
    ran.refused(201, &["has just ended"]);
    assert!(other.is_running());
    fs::write(&state, text).unwrap();
    m.glexec().args(["--session", id.trim(), "--signal", "TERM"]).output().ok();
    running.end_within(SOON).exits(143);
}
