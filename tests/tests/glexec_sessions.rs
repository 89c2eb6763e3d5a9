//! Sessions: what the caller that opened one can do to it, and what happens when its supervisor is gone.

use end_to_end::contract::wait_gone;
use end_to_end::security::{kill_supervisors, supervisor_of, supervisors_are_done, without_cgroups};
use harness::{Machine, Running, needs};
use std::path::Path;
use std::time::{Duration, Instant};

fn machine() -> (Machine, String) {
    let machine = Machine::builder().pilot("pilot").pilot("rival").account("alice").build();
    machine.map("alice", "alice");
    let proxy = machine.proxy("alice", "pilot");
    (machine, proxy)
}

/// Starts a payload that tells its session and then sleeps with a child that has left the process group.
fn start(machine: &Machine, proxy: &str, work_dir: Option<&str>) -> (Running, String) {
    let mut run = machine.glexec().env("GLEXEC_CLIENT_CERT", proxy);
    if let Some(dir) = work_dir {
        run = run.env("GLEXEC_WORK_DIR", dir);
    }
    let script = "echo $PILOT_SESSION > /tmp/session.new; pwd > where; \
                  trap 'echo term > /tmp/term; exit 9' TERM; setsid sleep 300 & mv /tmp/session.new /tmp/session; wait";
    let running = run.args(["/bin/sh", "-c", script]).spawn();
    let id = wait_for(|| std::fs::read_to_string("/tmp/session").ok());
    let _ = std::fs::remove_file("/tmp/session");
    (running, id.trim().to_owned())
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn session_exists(id: &str) -> bool {
    Path::new("/run/glexec/sessions").join(id).exists()
}

#[test]
#[needs(root, "grid-proxy-init")]
fn the_caller_ends_its_session_after_the_proxy_is_gone() {
    let (machine, proxy) = machine();
    let (running, id) = start(&machine, &proxy, Some("/tmp/job-1"));
    assert!(Path::new("/tmp/job-1/where").exists(), "the payload starts in the directory made for it");
    std::fs::remove_file(&proxy).unwrap();
    let status = machine.glexec().args(["--session", &id, "--status"]).output();
    let line = status.ok();
    assert!(line.contains("state=running") && line.contains("account=alice"), "{line}");
    machine.glexec().args(["--session", &id, "--end"]).output().ok();
    assert_eq!(machine.processes_of("alice"), Vec::<i32>::new(), "the child outside the group is ended too");
    assert!(!Path::new("/tmp/job-1").exists() && !session_exists(&id));
    running.end_within(Duration::from_secs(60)).exits(137);
    let record = machine.records().into_iter().find(|r| r["record_id"] == id.as_str()).unwrap();
    assert_eq!((&record["state"], &record["exit"]["signal"]), (&"closed".into(), &9.into()));
}

#[test]
#[needs(root, "grid-proxy-init")]
fn signals_reach_the_payload_s_first_process() {
    let (machine, proxy) = machine();
    let (running, id) = start(&machine, &proxy, None);
    machine.glexec().args(["--session", &id, "--signal", "TERM"]).output().ok();
    running.end_within(Duration::from_secs(60)).exits(9);
    assert_eq!(std::fs::read_to_string("/tmp/term").unwrap(), "term\n");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn nobody_but_the_opener_may_touch_a_session() {
    let (machine, proxy) = machine();
    let (running, id) = start(&machine, &proxy, None);
    for action in ["--status", "--kill", "--end"] {
        let rival = machine.glexec().as_user("rival").args(["--session", &id, action]).output();
        rival.refused(201, &["no session"]);
    }
    machine.glexec().args(["--session", &id, "--kill"]).output().ok();
    running.end_within(Duration::from_secs(60)).exits(137);
}

fn is_closed_as_lost(machine: &Machine, id: &str) {
    assert!(!session_exists(id) && !Path::new("/tmp/job-2").exists());
    assert_eq!(machine.processes_of("alice"), Vec::<i32>::new());
    let record = machine.records().into_iter().find(|r| r["record_id"] == id).expect("it stays");
    assert_eq!((&record["state"], &record["exit"]["lost"]), (&"lost".into(), &"helper_died".into()));
    assert_eq!(record["exit"]["leftovers"].as_u64().map(|n| n > 0), Some(true), "{record}");
    assert!(record["usage"]["wall_ns"].as_u64() > Some(0), "{record}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_killed_front_s_session_is_closed_by_its_supervisor_at_once() {
    let (machine, proxy) = machine();
    let (running, id) = start(&machine, &proxy, Some("/tmp/job-2"));
    let supervisor = supervisor_of(&id);
    for user in ["alice", "pilot"] {
        for signal in ["-9", "-STOP", "-CONT"] {
            let kill =
                machine.command("/bin/kill").as_user(user).args([signal, &supervisor.to_string()]).output();
            assert!(kill.errors().contains("not permitted"), "{user}: {}", kill.errors());
        }
    }
    running.signal(9);
    wait_for(|| (!session_exists(&id)).then_some(()));
    wait_gone(supervisor);
    assert!(!Path::new("/tmp/job-2").exists());
    assert_eq!(machine.processes_of("alice"), Vec::<i32>::new());
    let record = machine.records().into_iter().find(|r| r["record_id"] == id).expect("it stays");
    assert_eq!((&record["state"], &record["exit"]["signal"]), (&"closed".into(), &9.into()), "{record}");
    assert_eq!(record["exit"]["killed_by"], "the glexec that waited was killed", "{record}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_killed_supervisor_leaves_nothing_after_the_next_call() {
    let (machine, proxy) = machine();
    let (mut running, id) = start(&machine, &proxy, Some("/tmp/job-2"));
    kill_supervisors();
    wait_for(|| (!running.is_running()).then_some(()));
    assert!(session_exists(&id), "nobody was there to close it");
    assert!(!machine.processes_of("alice").is_empty(), "the child outside the group lives on until then");
    let again = machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).arg("/bin/true").output();
    again.ok();
    is_closed_as_lost(&machine, &id);
}

/// The caller is a shell that waits for glexec; returns whether the payload outlived it by a while.
fn payload_outlives_its_caller(machine: &Machine, proxy: &str) -> bool {
    let payload = "setsid setsid sleep 300 & sleep 300 & echo $PILOT_SESSION > /tmp/session.new; mv /tmp/session.new /tmp/session; wait";
    let call = format!("/usr/sbin/glexec /bin/sh -c '{payload}'; true");
    let mut shell = machine
        .command("/bin/sh")
        .as_user("pilot")
        .env("GLEXEC_CLIENT_CERT", proxy)
        .args(["-c", &call])
        .spawn();
    wait_for(|| std::fs::read_to_string("/tmp/session").ok());
    wait_for(|| (machine.processes_of("alice").len() >= 3).then_some(()));
    shell.signal(9);
    wait_for(|| (!shell.is_running()).then_some(()));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !machine.processes_of("alice").is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    !machine.processes_of("alice").is_empty()
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_payload_ends_with_its_caller_when_the_policy_says_so() {
    let (machine, proxy) = machine();
    assert!(payload_outlives_its_caller(&machine, &proxy), "clients may leave glexec behind on purpose");
    let id = std::fs::read_to_string("/tmp/session").unwrap();
    machine.glexec().args(["--session", id.trim(), "--end"]).output().ok();
    std::fs::remove_file("/tmp/session").unwrap();
    machine.edit_policy(|p| format!("{p}\n[payload]\nend_with_caller = true\n"));
    assert!(!payload_outlives_its_caller(&machine, &proxy));
    let id = std::fs::read_to_string("/tmp/session").unwrap().trim().to_owned();
    wait_for(|| (!session_exists(&id)).then_some(()));
    let record = machine.records().into_iter().find(|r| r["record_id"] == id.as_str()).unwrap();
    assert_eq!(
        (&record["state"], &record["exit"]["killed_by"]),
        (&"closed".into(), &"its caller ended".into())
    );
    machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).arg("/bin/true").output().ok();
}

/// Clients leave `glexec` behind on purpose, so it goes on; whoever has the caller's account next can end it.
#[test]
#[needs(root, "grid-proxy-init")]
fn a_killed_caller_leaves_a_session_that_its_account_can_end() {
    let (machine, proxy) = machine();
    let script = "echo $PILOT_SESSION > /tmp/s.new; setsid sleep 300 & mv /tmp/s.new /tmp/s; wait";
    // The shell stays, as a pilot does.
    let pilot = format!("/usr/sbin/glexec /bin/sh -c '{script}'; exit 9");
    let run = machine.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy);
    let mut caller = run.args(["-c", &pilot]).spawn();
    let id = wait_for(|| std::fs::read_to_string("/tmp/s").ok());
    let id = id.trim();
    std::fs::remove_file(&proxy).unwrap();
    caller.signal(9);
    wait_for(|| (!caller.is_running()).then_some(()));
    assert!(session_exists(id) && !machine.processes_of("alice").is_empty());
    machine.glexec().args(["--session", id, "--end"]).output().ok();
    assert!(!session_exists(id));
    assert_eq!(machine.processes_of("alice"), Vec::<i32>::new());
    let record = machine.records().into_iter().find(|r| r["record_id"] == id).unwrap();
    assert_eq!(record["state"], "closed", "{record}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn without_cgroups_the_end_of_a_lost_session_is_not_claimed_unproven() {
    let (machine, proxy) = machine();
    without_cgroups();
    let end = |id: &str| machine.glexec().args(["--session", id, "--end"]).output();
    let (mut running, id) = start(&machine, &proxy, None);
    kill_supervisors();
    wait_for(|| (!running.is_running()).then_some(()));
    end(&id).refused(202, &["live on", "without cgroups"]);
    for pid in machine.processes_of("alice") {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        wait_gone(pid);
    }
}

#[test]
#[needs(root, "grid-proxy-init")]
fn no_call_goes_on_when_the_sessions_cannot_be_listed() {
    let (machine, proxy) = machine();
    let call = || machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).arg("/bin/true").output();
    call().ok();
    let sessions = Path::new("/run/glexec/sessions");
    std::fs::remove_dir(sessions).unwrap();
    std::fs::write(sessions, "").unwrap();
    call().refused(202, &["sessions cannot be listed"]);
    std::fs::remove_file(sessions).unwrap();
    call().ok();
    // One that cannot be read may be the caller's own: whoever cannot open enough files must not get past it.
    let (running, id) = start(&machine, &proxy, None);
    let lock = sessions.join(&id).join("lock");
    std::fs::rename(&lock, "/run/glexec/lock").unwrap();
    std::fs::create_dir(&lock).unwrap();
    call().refused(202, &["sessions cannot be listed"]);
    std::fs::remove_dir(&lock).unwrap();
    std::fs::rename("/run/glexec/lock", &lock).unwrap();
    call().ok();
    machine.glexec().args(["--session", &id, "--end"]).output().ok();
    let _ = running.end_within(Duration::from_secs(60));
}

/// The call refuses a directory that is there. Killed before it came to that, it must not leave it to the next call.
#[test]
#[needs(root, "grid-proxy-init")]
fn a_directory_that_was_there_before_stays_however_the_call_ends() {
    let (machine, proxy) = machine();
    let dir = "/home/alice/results";
    machine.write(&format!("{dir}/kept"), "alice", 0o600, "of an earlier job");
    std::os::unix::fs::chown(dir, Some(machine.uid("alice")), None).unwrap();
    let call = || {
        let run = machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).env("GLEXEC_WORK_DIR", dir);
        run.arg("/bin/true")
    };
    call().output().refused(201, &[dir]);
    let began = Instant::now();
    call().output().refused(201, &[dir]);
    let whole = began.elapsed();
    let mut killed = 0;
    for n in 1..=60 {
        let running = call().spawn();
        std::thread::sleep(whole * n / 60);
        running.signal(9);
        killed += u32::from(running.end_within(Duration::from_secs(60)).signal() == Some(9));
        // A reaper or the next call closes what is left.
        supervisors_are_done();
        call().output().refused(201, &[dir]);
        assert!(Path::new(dir).join("kept").exists(), "removed in round {n}");
    }
    assert!(killed > 0, "no call was killed in the middle");
}

/// Who looks for unfinished sessions keeps others from making some; a call fails rather than waits for ever.
#[test]
#[needs(root, "grid-proxy-init")]
fn the_wait_for_others_has_an_end() {
    let (machine, proxy) = machine();
    let call = || machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).arg("/bin/true").output();
    call().ok();
    let making = std::fs::File::options().write(true).open("/run/glexec/making").unwrap();
    making.lock().unwrap();
    let began = Instant::now();
    call().refused(202, &["/run/glexec/sessions"]);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    making.unlock().unwrap();
    call().ok();
}

#[test]
#[needs(root, "grid-proxy-init")]
fn records_of_an_earlier_boot_are_closed_as_lost() {
    let (machine, proxy) = machine();
    let (running, id) = start(&machine, &proxy, None);
    machine.glexec().args(["--session", &id, "--kill"]).output().ok();
    let _ = running.end_within(Duration::from_secs(60));
    // A record that another boot left open, made from a real one: /run is empty after a boot, the spool is not.
    let spool = Path::new("/var/spool/pilotage/records");
    let text = std::fs::read_to_string(spool.join("closed").join(format!("{id}.jsonl"))).unwrap();
    let open_line = text.lines().next().unwrap();
    std::fs::remove_file(spool.join("closed").join(format!("{id}.jsonl"))).unwrap();
    std::fs::write(spool.join("open").join(format!("{id}.jsonl")), format!("{open_line}\n")).unwrap();
    for entry in std::fs::read_dir(spool).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("swept-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    boot_anew();
    machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).arg("/bin/true").output().ok();
    let record = machine.records().into_iter().find(|r| r["record_id"] == id.as_str()).unwrap();
    assert_eq!((&record["state"], &record["exit"]["lost"]), (&"lost".into(), &"reboot".into()));
}

/// Simulates a reboot: another boot id is mounted over the kernel's, in this machine's own namespace.
fn boot_anew() {
    let file = "/tmp/boot_id";
    std::fs::write(file, "00000000-0000-4000-8000-000000000000\n")
        .expect("the machine's own /tmp and mount work");
    let status = std::process::Command::new("mount")
        .args(["--bind", file, "/proc/sys/kernel/random/boot_id"])
        .status()
        .expect("mount can be run");
    assert!(status.success());
}
