//! Installed without the setuid bit: decides, denies and logs, and runs payloads as the caller.

use end_to_end::contract::{CONF, GLEXEC, Syslog, call, chmod, expired, install_tool, set_conf, site};
use harness::{Machine, needs};
use std::fs;

/// What the manual page of gLExec asks for: mode 0555, everything readable, messages to syslog.
fn log_only() -> (Machine, Syslog) {
    let m = site();
    let syslog = Syslog::start(&m);
    set_conf(&m, "log_destination", "syslog");
    chmod(CONF, 0o644);
    chmod(GLEXEC, 0o555);
    (m, syslog)
}

#[test]
#[needs(root)]
fn payloads_run_as_the_caller() {
    let (m, syslog) = log_only();
    let ran = call(&m, &m.proxy("Alice", "pilot")).args(["/bin/sh", "-c", "id -un; exit 5"]).output();
    assert_eq!((ran.exits(5).text().as_str(), ran.errors().as_str()), ("pilot", ""));
    let line = syslog.wait_for("real_user(pilot)");
    assert!(line.contains("->mapped_user(alice)"), "the mapping is decided and logged: {line}");
}

/// The payload has the caller's uid, and so the name under which the caller's own programs look for a proxy.
#[test]
#[needs(root)]
fn the_callers_own_proxy_is_not_replaced() {
    let (m, _syslog) = log_only();
    let own = format!("/tmp/x509up_u{}", m.uid("pilot"));
    m.write(&own, "pilot", 0o600, "the pilot's");
    let payloads = m.proxy("Alice", "pilot");
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        chmod(CONF, 0o644);
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", &payloads);
        let ran = run.args(["/bin/sh", "-c", "cat $X509_USER_PROXY"]).output();
        assert!(ran.exits(0).stdout == fs::read(&payloads).unwrap(), "the payload has its own: {ran:?}");
        assert_eq!(fs::read_to_string(&own).unwrap(), "the pilot's", "linger = {linger}");
    }
}

/// The caller cannot write the site's log file; what would stand there goes to syslog, with a word about it.
#[test]
#[needs(root)]
fn a_log_file_gives_way_to_syslog() {
    let (m, syslog) = log_only();
    set_conf(&m, "log_destination", "file");
    chmod(CONF, 0o644);
    assert_eq!(call(&m, &m.proxy("Alice", "pilot")).args(["/usr/bin/id", "-un"]).output().ok(), "pilot");
    syslog.wait_for("using syslog");
    syslog.wait_for("->mapped_user(alice)");
    assert_eq!(m.log(), "");
}

#[test]
#[needs(root)]
fn without_linger_the_payload_takes_its_place() {
    let (m, syslog) = log_only();
    set_conf(&m, "linger", "no");
    chmod(CONF, 0o644);
    let run = call(&m, &m.proxy("Alice", "pilot")).args(["/bin/sh", "-c", "echo $$; id -un >&2; exit 203"]);
    let running = run.spawn();
    let pid = running.pid();
    let ran = running.end_within(std::time::Duration::from_secs(60));
    assert_eq!((ran.exits(203).text(), ran.errors()), (pid.to_string(), "pilot\n".to_owned()));
    syslog.wait_for("->mapped_user(alice)");
}

#[test]
#[needs(root)]
fn a_working_directory_comes_and_goes() {
    let (m, _syslog) = log_only();
    let run = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_WORK_DIR", "/tmp/job");
    assert_eq!(run.args(["/bin/sh", "-c", "pwd; touch left"]).output().ok(), "/tmp/job");
    assert!(!fs::exists("/tmp/job").unwrap());
}

#[test]
#[needs(root)]
fn refusals_are_refusals() {
    let (m, syslog) = log_only();
    call(&m, &m.craft(&expired(), "Alice", "pilot")).arg("/bin/true").output().refused(201, &["expired"]);
    call(&m, &m.proxy("Nobody", "pilot")).arg("/bin/true").output().refused(203, &["no mapping source"]);
    syslog.wait_for("no mapping source");
    let run = call(&m, &m.proxy("Alice", "stranger")).as_user("stranger").arg("/bin/true");
    run.output().refused(203, &["stranger"]);
    m.edit_policy(|p| p.replace("[\"pilot\", \"other\"]", "[\"other\"]"));
    set_conf(&m, "user_white_list", "other");
    chmod(CONF, 0o644);
    call(&m, &m.proxy("Alice", "pilot")).arg("/bin/true").output().refused(203, &["pilot"]);
}

#[test]
#[needs(root)]
fn codes_are_the_same() {
    let (m, _syslog) = log_only();
    let sh = |script: &str| call(&m, &m.proxy("Alice", "pilot")).args(["/bin/sh", "-c", script]).output();
    sh("exit 203").exits(204);
    sh("kill -TERM $$").exits(128 + 15);
    call(&m, &m.proxy("Alice", "pilot")).arg("/usr/bin/idontexist").output().refused(201, &["idontexist"]);
}

#[test]
#[needs(root)]
fn the_environment_is_cleaned_all_the_same() {
    let (m, _syslog) = log_only();
    let run = call(&m, &m.proxy("Alice", "pilot")).env("SECRET", "x").env("LD_NOTHING", "1");
    let text = run.env("GLEXEC_ENV", "kept").arg("/usr/bin/env").output().ok();
    assert!(!text.contains("SECRET") && !text.contains("LD_NOTHING"), "{text}");
    assert!(text.contains("GLEXEC_ENV=kept"), "{text}");
}

/// In log-only mode no C library reopens closed descriptors for us; HTCondor's payloads once started without them.
#[test]
#[needs(root)]
fn closed_standard_descriptors_become_dev_null() {
    let (m, _syslog) = log_only();
    let player = install_tool(&m, env!("CARGO_BIN_EXE_contract-payload"));
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let script = format!("exec {GLEXEC} \"$@\" <&- >&- 2>&-");
    run.args(["-c", &script, "sh", &player, "fds", "/home/pilot/fds"]).output().exits(0);
    let text = fs::read_to_string("/home/pilot/fds").unwrap();
    for number in 0..3 {
        assert!(text.contains(&format!("{number} /dev/null\n")), "{text}");
    }
}
