//! `linger = no`: the payload takes the place of glexec.

use end_to_end::contract::{
    call, catcher, catcher_ready, eventually, kill_as, set_conf, sh, site, stop_catcher, written,
};
use harness::{Machine, needs};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// How soon after the payload its record must be closed.
const SOON: Duration = Duration::from_secs(60);

fn site_in_place() -> Machine {
    let m = site();
    set_conf(&m, "linger", "no");
    m
}

fn closed_record(m: &Machine) -> serde_json::Value {
    eventually("the record is closed", SOON, || {
        m.records().into_iter().find(|record| record["state"] == "closed")
    })
}

#[test]
#[needs(root)]
fn the_payload_has_the_process_id_that_the_caller_knows() {
    let m = site_in_place();
    let running = sh(&m, "echo $$ >/home/alice/pid; exit 7").spawn();
    let pid = running.pid();
    running.end_within(LIMIT).exits(7);
    assert_eq!(written("/home/alice/pid"), pid.to_string());
}

#[test]
#[needs(root)]
fn the_caller_sees_codes_and_signals_as_they_are() {
    let m = site_in_place();
    for code in [0, 1, 126, 201, 202, 203, 204, 255] {
        sh(&m, &format!("exit {code}")).output().exits(code);
    }
    for signal in [15, 9] {
        assert_eq!(sh(&m, &format!("kill -{signal} $$")).output().signal(), Some(signal));
    }
}

#[test]
#[needs(root)]
fn refusals_have_the_same_codes() {
    let m = site_in_place();
    let proxy = m.proxy("Alice", "pilot");
    call(&m, &proxy).arg("/usr/bin/idontexist").output().refused(201, &["/usr/bin/idontexist"]);
    m.write("/opt/broken", "root", 0o755, "#!/no/such/interpreter\n");
    call(&m, &proxy).arg("/opt/broken").output().refused(126, &["/opt/broken"]);
    let run = call(&m, &proxy).env("GLEXEC_TARGET_PROXY", "/root").arg("/bin/true");
    run.output().refused(201, &["/root"]);
    call(&m, &m.proxy("Nobody", "pilot")).arg("/bin/true").output().refused(203, &["no mapping source"]);
}

#[test]
#[needs(root)]
fn a_call_without_command_renews_the_copy_and_ends() {
    let m = site_in_place();
    let proxy = m.proxy("Alice", "pilot");
    let ran = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy).env("GLEXEC_TARGET_PROXY", "/tmp/copy").output();
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("", ""));
    assert!(fs::read("/tmp/copy").unwrap() == fs::read(&proxy).unwrap());
}

#[test]
#[needs(root)]
fn the_target_account_signals_the_payload_itself() {
    let m = site_in_place();
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    assert_eq!(catcher_ready(file), running.pid());
    assert!(kill_as(&m, "alice", "USR1", running.pid()));
    eventually("USR1", LIMIT, || written(file).ends_with("USR1").then_some(()));
    stop_catcher(file);
    running.end_within(LIMIT).exits(7);
}

#[test]
#[needs(root)]
fn somebody_closes_the_record_soon() {
    let m = site_in_place();
    let run = call(&m, &m.proxy("Alice", "pilot"));
    run.args(["/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; exit 3"])
        .output()
        .exits(3);
    let record = closed_record(&m);
    assert_eq!(record["account"], "alice");
    let sessions = || fs::read_dir("/run/glexec/sessions").map_or(0, Iterator::count);
    eventually("the session is gone", SOON, || (sessions() == 0).then_some(()));
}

#[test]
#[needs(root)]
fn a_payload_that_is_killed_has_a_closed_record_too() {
    let m = site_in_place();
    let running = sh(&m, "echo ready >/home/alice/ready; exec sleep 1000").spawn();
    written("/home/alice/ready");
    running.signal(9);
    assert_eq!(running.end_within(LIMIT).signal(), Some(9));
    closed_record(&m);
}

#[test]
#[needs(root)]
fn what_the_payload_leaves_is_ended() {
    let m = site_in_place();
    let escape = "setsid sh -c 'trap \"\" TERM; exec >/dev/null 2>&1; sleep 1000' & sleep 0.1; exit 0";
    sh(&m, escape).output().ok();
    eventually("nothing is left of the payload", SOON, || m.processes_of("alice").is_empty().then_some(()));
    closed_record(&m);
}

#[test]
#[needs(root)]
fn a_payload_meets_no_child_that_it_did_not_start() {
    let m = site_in_place();
    // wait(2) of a fresh payload finds nobody.
    let run = call(&m, &m.proxy("Alice", "pilot"));
    assert_eq!(run.args(["/usr/bin/perl", "-e", "print wait()"]).output().ok(), "-1");
}
