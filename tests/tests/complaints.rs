//! What users, sites and client developers complained about in gLExec, and what was done: one test a complaint.
//!
//! The numbers are those of the list in `docs/glexec-compat.md`, which names the sources of each complaint and also what is
//! cured elsewhere or not at all.

#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::contract::{
    CONF, GLEXEC, Syslog, call, catcher, catcher_ready, chmod, cpu_us, eventually, expired, install_tool,
    kill_as, let_root_call, lives, set_conf, sh, site, stop_catcher, wait_gone, written,
};
use harness::{Machine, Run, free_port, needs};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A site that asks only its mapping service.
fn site_with_service(port: u16, table: &str) -> Machine {
    let builder = Machine::builder().pilot("pilot").service("mapping").account("alice");
    let m = builder.mapping(&["gums"]).policy_add(table).build();
    let _ = (m.pki(), port);
    m
}

fn users(m: &Machine) -> String {
    format!("[users]\n{:?} = \"alice\"\n", m.dn("Alice"))
}

/// After the proxy had expired, the pilot could neither kill nor tidy up what it had started.
#[test]
#[needs(root)]
fn complaint_01_the_pilot_ends_its_payload_without_a_proxy() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let script = "echo $PILOT_SESSION >session; setsid sleep 1000 & trap '' TERM; while :; do sleep 1; done";
    let run = call(&m, &proxy).env("GLEXEC_WORK_DIR", "/tmp/job").args(["/bin/sh", "-c", script]);
    let running = run.spawn();
    let session = written("/tmp/job/session");
    let bytes = fs::read(m.craft(&expired(), "Alice", "pilot")).unwrap();
    m.write(&proxy, "pilot", 0o600, bytes);
    call(&m, &proxy).arg("/bin/true").output().refused(201, &["expired"]);
    fs::remove_file(&proxy).unwrap();
    m.glexec().args(["--session", &session, "--end"]).output().ok();
    running.end_within(LIMIT).exits(128 + 9);
    assert!(m.processes_of("alice").is_empty() && !Path::new("/tmp/job").exists());
}

/// Many calls for one job overloaded the mapping servers.
#[test]
#[needs(root)]
fn complaint_02_one_question_serves_many_calls() {
    let port = free_port();
    let m = site_with_service(port, &Machine::gums_table(port));
    let server = m.mapping_server(port, &users(&m)).unwrap();
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    catcher_ready(file);
    drop(server);
    // The service is not there any more, so nobody asks it: not for another call, not for a signal.
    for _ in 0..5 {
        assert_eq!(sh(&m, "id -un").output().ok(), "alice");
    }
    assert!(kill_as(&m, "pilot", "USR1", running.pid()));
    eventually("USR1", LIMIT, || written(file).ends_with("USR1").then_some(()));
    stop_catcher(file);
    running.end_within(LIMIT).exits(7);
}

/// A glitch of the mapping service put jobs on hold; clients had to bolt on retries.
#[test]
#[needs(root)]
fn complaint_03_another_endpoint_answers() {
    let (dead, port) = (free_port(), free_port());
    let table = Machine::gums_table(port).replace("[\"", &format!("[\"https://localhost:{dead}/gums\", \""));
    let m = site_with_service(port, &table);
    let server = m.mapping_server(port, &users(&m)).unwrap();
    assert_eq!(sh(&m, "id -un").output().ok(), "alice");
    // When all are gone, the code says that trying again makes sense.
    drop(server);
    fs::remove_dir_all("/run/glexec/cache").unwrap();
    sh(&m, "id -un").output().refused(203, &["localhost"]);
}

/// The environment was wiped, and three work-arounds grew.
#[test]
#[needs(root)]
fn complaint_04_the_environment_can_go_along() {
    let m = site();
    set_conf(&m, "preserve_env_variables", "KEPT_BY_SITE");
    let run = m.command("/usr/sbin/glexec_wrap.sh").as_user("pilot");
    let run = run.env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot")).env("LD_LIBRARY_PATH", "/opt/lib");
    let ran = run.env("ODD", "a\nb").args(["/bin/sh", "-c", "echo \"$LD_LIBRARY_PATH|$ODD|$HOME\""]).output();
    assert_eq!(ran.ok(), "/opt/lib|a\nb|/home/alice");
    assert_eq!(sh(&m, "echo $KEPT_BY_SITE").env("KEPT_BY_SITE", "yes").output().ok(), "yes");
}

/// PATH was overwritten, and `X509_USER_PROXY` meant one thing outside and another inside.
#[test]
#[needs(root)]
fn complaint_05_path_is_usable_and_the_proxy_is_the_payloads() {
    let m = site();
    let run = sh(&m, "tar --version >/dev/null && id -un && cat \"$X509_USER_PROXY\" | grep -c BEGIN.CERT");
    let run = run.env("PATH", "/nowhere").env("X509_USER_PROXY", "/home/pilot/own");
    assert_eq!(run.env("GLEXEC_TARGET_PROXY", "/tmp/copy").output().ok(), "alice\n2");
    assert_eq!(
        sh(&m, "echo \"${X509_USER_PROXY-unset}\"").env("X509_USER_PROXY", "/x").output().ok(),
        "unset"
    );
}

/// Copies of proxies piled up in /tmp, one a call.
#[test]
#[needs(root)]
fn complaint_06_no_default_copy_outlives_its_session() {
    let m = site();
    for user in ["Alice", "Bob", "Alice", "Alice", "Bob"] {
        m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy(user, "pilot")).arg("/bin/true").output().ok();
    }
    let left: Vec<_> = fs::read_dir("/tmp").unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
    // And a place that does not exist is named, not guessed.
    let run = sh(&m, "exit 0").env("GLEXEC_TARGET_PROXY", "/no/such/place/proxy");
    run.output().refused(201, &["/no/such/place/proxy"]);
}

/// A process that lingered held the caller's descriptors, and the caller hung.
#[test]
#[needs(root)]
fn complaint_07_nobody_holds_the_callers_descriptors() {
    let m = site();
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        let mut run = sh(&m, "exec >&- 2>&- <&-; echo $$ >/home/alice/pid; sleep 1000");
        run.raw().stdout(Stdio::piped());
        let mut child = run.start();
        drop(run);
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut child.stdout.take().unwrap(), &mut text).unwrap();
        let pid: i32 = written("/home/alice/pid").parse().unwrap();
        assert!(lives(pid), "linger = {linger}: the end of output came before the end of the payload");
        assert!(kill_as(&m, "alice", "KILL", pid));
        child.wait().unwrap();
        fs::remove_file("/home/alice/pid").unwrap();
    }
}

/// The umask changed from version to version.
#[test]
#[needs(root)]
fn complaint_08_the_umask_is_passed_on() {
    let m = site();
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let script = format!("umask 0137; exec {GLEXEC} /bin/sh -c 'umask; id -un'");
        assert_eq!(run.args(["-c", &script]).output().ok(), "0137\nalice");
    }
}

/// In log-only mode payloads started without standard descriptors.
#[test]
#[needs(root)]
fn complaint_09_standard_descriptors_are_always_there() {
    let m = site();
    let _syslog = Syslog::start(&m);
    let player = install_tool(&m, env!("CARGO_BIN_EXE_contract-payload"));
    set_conf(&m, "log_destination", "syslog");
    chmod(CONF, 0o644);
    chmod(GLEXEC, 0o555);
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let script = format!("exec {GLEXEC} {player} fds /home/pilot/fds <&- >&- 2>&-");
    run.args(["-c", &script]).output().exits(0);
    let text = fs::read_to_string("/home/pilot/fds").unwrap();
    assert_eq!(text, "0 /dev/null\n1 /dev/null\n2 /dev/null\n");
}

/// Symbolic links to executables were refused.
#[test]
#[needs(root)]
fn complaint_10_linked_executables_run() {
    let m = site();
    std::os::unix::fs::symlink("/bin/sh", "/opt/linked-shell").unwrap();
    let run = call(&m, &m.proxy("Alice", "pilot")).args(["/opt/linked-shell", "-c", "echo $0; id -un"]);
    assert_eq!(run.output().ok(), "/opt/linked-shell\nalice");
}

/// Keys travelled in the environment, where others can see them, and lay readable in files for a moment.
#[test]
#[needs(root, "strace")]
fn complaint_11_no_key_where_others_can_see_it() {
    let m = site();
    let_root_call(&m);
    let text = fs::read_to_string(m.proxy("Alice", "root")).unwrap();
    let run = m.command(GLEXEC).env("SSL_CLIENT_CERT", &text).env("GLEXEC_TARGET_PROXY", "/dev/null");
    assert!(!run.arg("/usr/bin/env").output().ok().contains("PRIVATE KEY"));
    // From the first moment on, the copy is its owner's alone, whatever the umask.
    let trace = "umask 0; exec strace -f -e trace=openat,open,creat -o /tmp/trace \"$@\"";
    let run = m.command("/bin/sh").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "root"));
    let run = run.env("GLEXEC_TARGET_PROXY", "/srv/copy").args(["-c", trace, "sh", GLEXEC, "/bin/true"]);
    chmod("/srv", 0o1777);
    run.output().ok();
    let trace = fs::read_to_string("/tmp/trace").unwrap();
    let made: Vec<_> = trace.lines().filter(|l| l.contains("/srv/") && l.contains("O_CREAT")).collect();
    assert!(!made.is_empty() && made.iter().all(|l| l.contains("O_EXCL") && l.contains("0600")), "{made:?}");
    assert_eq!(fs::metadata("/srv/copy").unwrap().mode() & 0o7777, 0o600);
}

/// Work areas had to be writable by everybody.
#[test]
#[needs(root)]
fn complaint_12_a_work_area_of_the_account_alone() {
    let m = site();
    let run = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_WORK_DIR", "/tmp/work");
    let ran = run.args(["/bin/sh", "-c", "pwd; stat -c '%U %a' ."]).output();
    assert_eq!(ran.ok(), "/tmp/work\nalice 700");
    assert!(!Path::new("/tmp/work").exists(), "it goes with the session");
    // The same over several calls; nothing on the way is writable by others when it is ready.
    let run = m.command("/usr/sbin/mkgltempdir").as_user("pilot");
    let dir = run.env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot")).output().ok();
    for part in Path::new(&dir).ancestors().take_while(|part| *part != Path::new("/tmp")) {
        assert_eq!(fs::metadata(part).unwrap().mode() & 0o022, 0, "{}", part.display());
    }
    sh(&m, &format!("echo kept >{dir}/file")).output().ok();
    assert_eq!(sh(&m, &format!("cat {dir}/file")).output().ok(), "kept");
}

/// Libraries chattered on standard error, and clients filtered it.
#[test]
#[needs(root)]
fn complaint_13_success_is_silent() {
    let m = site();
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        let ran = sh(&m, "id -un; echo err >&2").env("GLEXEC_TARGET_PROXY", "/tmp/copy").output();
        assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("alice", "err\n"));
    }
}

/// The monitor saw ends a minute late, counted no CPU time, and could kill processes of another job.
#[test]
#[needs(root)]
fn complaint_14_ends_are_exact_and_hit_nobody_else() {
    let m = site();
    let file = "/home/alice/signals";
    let other = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    let neighbour = catcher_ready(file);
    let start = Instant::now();
    let burn = "setsid sleep 1000 & exec perl -e 'my $end = (times)[0] + 0.5; while ((times)[0] < $end) {}'";
    sh(&m, burn).output().ok();
    assert!(start.elapsed() < Duration::from_secs(60), "the end is seen when it comes");
    let record = m.records().into_iter().find(|r| r["state"] == "closed").unwrap();
    assert!((250_000..5_000_000).contains(&cpu_us(&record)), "{record}");
    assert!(record["exit"]["leftovers"].as_u64() >= Some(1), "{record}");
    assert!(lives(neighbour), "another job of the same account goes on");
    stop_catcher(file);
    other.end_within(LIMIT).exits(7);
}

/// A payload killed by a signal looked like a failure of glexec.
#[test]
#[needs(root)]
fn complaint_16_the_record_tells_a_signal_from_a_refusal() {
    let m = site();
    sh(&m, "kill -TERM $$").output().exits(128 + 15);
    call(&m, &m.proxy("Nobody", "pilot")).arg("/bin/true").output().exits(203);
    let records = m.records();
    let killed = records.iter().find(|r| r["exit"]["signal"] == 15).unwrap();
    assert_eq!((&killed["account"], &killed["decision"]), (&"alice".into(), &"allowed".into()));
    let refused = records.iter().find(|r| r["code"] == 203).unwrap();
    assert_eq!(refused["decision"], "denied", "{refused}");
}

/// It just did not work, without a word, where set-uid programs cannot.
#[test]
#[needs(root, "setpriv")]
fn complaint_17_a_setuid_bit_without_effect_is_named() {
    let m = site();
    let run =
        m.command("/usr/bin/setpriv").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    run.args(["--no-new-privs", GLEXEC, "/bin/true"]).output().refused(203, &["no_new_privs"]);
    let nosuid = format!(
        "mkdir /mnt/n && mount -t tmpfs -o nosuid none /mnt/n && cp -p {GLEXEC} /mnt/n/ && chmod 4111 /mnt/n/glexec"
    );
    m.command("/bin/sh").args(["-c", &nosuid]).output().ok();
    let run =
        m.command("/mnt/n/glexec").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    run.arg("/bin/true").output().refused(202, &["nosuid"]);
    // Nor does it depend on libraries of a middleware that LD_LIBRARY_PATH would have to find.
    let run = call(&m, &m.proxy("Alice", "pilot")).env("LD_LIBRARY_PATH", "/nowhere").arg("/bin/true");
    run.output().ok();
}

/// Payloads left processes behind that the batch system did not find.
#[test]
#[needs(root)]
fn complaint_18_nothing_survives_the_payload() {
    let m = site();
    let daemon = "for i in 1 2 3; do setsid setsid sh -c 'trap \"\" TERM HUP; exec >/dev/null 2>&1; sleep 1000 & wait' & done; \
                  sleep 0.2; id -un";
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        assert_eq!(sh(&m, daemon).output().ok(), "alice");
        let left = || m.processes_of("alice");
        eventually(&format!("linger = {linger}: nothing is left"), Duration::from_secs(60), || {
            left().is_empty().then_some(())
        });
    }
}

/// Errors in configuration files were common, and showed as failing jobs.
#[test]
#[needs(root)]
fn complaint_19_a_broken_configuration_is_named_by_file_and_line() {
    let m = site();
    let text = fs::read_to_string(CONF).unwrap();
    let line = text.lines().count() + 1;
    m.write(CONF, "root", 0o640, format!("{text}linger = perhaps\n"));
    sh(&m, "exit 0").output().refused(202, &[&format!("{CONF}:{line}"), "linger", "yes or no"]);
    m.write(CONF, "root", 0o640, &text);
    m.edit_policy(|p| p.replace("[mapping]\n", "[mapping]\ngrid_map_file = \"/x\"\n"));
    sh(&m, "exit 0").output().refused(202, &["policy.toml", "grid_map_file"]);
}

/// syslog lost lines, and with them what had happened.
#[test]
#[needs(root)]
fn complaint_19_the_record_does_not_need_syslog() {
    let m = site();
    let syslog = Syslog::start(&m);
    set_conf(&m, "log_destination", "syslog");
    fs::remove_file("/dev/log").unwrap();
    sh(&m, "exit 7").output().exits(7);
    assert!(syslog.lines().is_empty(), "nobody heard of it: {:?}", syslog.lines());
    let record = &m.records()[0];
    assert_eq!((&record["exit"]["code"], &record["state"]), (&7.into(), &"closed".into()), "{record}");
    assert_eq!((&record["account"], &record["caller_name"]), (&"alice".into(), &"pilot".into()), "{record}");
}

/// Callers could write lines of their own into the log, and the program searched libraries in odd places.
#[test]
#[needs(root)]
fn complaint_20_no_forged_log_lines() {
    let m = site();
    let forged = "\n2026-01-01T00:00:00Z glexec[1]: real_user(root)->mapped_user(root)\r\u{1b}[2J";
    let proxy = m.proxy("Alice", "pilot");
    call(&m, &proxy).env("GLEXEC_ID", forged).args(["/bin/true", forged]).output().ok();
    call(&m, forged).arg(format!("/bin/{forged}")).output().exits(201);
    let log = m.log();
    assert!(log.matches("mapped_user(root)").count() >= 2, "the text is there, escaped: {log}");
    assert!(!log.lines().any(|l| l.contains("glexec[1]:") && l.starts_with("2026-01-01")), "{log}");
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "{log:?}");
}

/// The Perl helpers left out variables that were only part of a name, hid failures of exec, and lost blanks.
#[test]
#[needs(root)]
fn complaint_21_the_helpers_are_exact() {
    let m = site();
    let wrapped = |run: Run| run.as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let run = wrapped(m.command("/usr/sbin/glexec_wrap.sh")).env("ME", "m").env("PROXY", "p");
    let ran = run
        .args([
            "/bin/sh",
            "-c",
            "printf '%s|' \"$(id -un)\" \"$ME\" \"$PROXY\" \"$@\"",
            "sh",
            "two words",
            "",
        ])
        .output();
    assert_eq!(ran.ok(), "alice|m|p|two words||");
    let run = wrapped(m.command("/usr/sbin/glexec_wrap.sh")).arg("/no/such/program");
    run.output().refused(127, &["/no/such/program"]);
}

/// 201 to 204 hid what the payload had returned; without linger nothing could be told apart.
#[test]
#[needs(root)]
fn complaint_23_the_record_has_the_payloads_own_code() {
    let m = site();
    sh(&m, "exit 203").output().exits(204);
    let record = &m.records()[0];
    assert_eq!((&record["exit"]["code"], &record["state"]), (&203.into(), &"closed".into()), "{record}");
    set_conf(&m, "linger", "no");
    sh(&m, "exit 203").output().exits(203);
}

/// Clean-up after a pilot often begins with SIGKILL for what it started: that takes the payload along.
#[test]
#[needs(root)]
fn complaint_18_a_killed_call_leaves_nothing_running() {
    let m = site();
    let running = sh(&m, "echo $$ >/home/alice/pid; exec sleep 1000").spawn();
    let pid: i32 = written("/home/alice/pid").parse().unwrap();
    running.signal(9);
    assert_eq!(running.end_within(LIMIT).signal(), Some(9));
    wait_gone(pid);
}
