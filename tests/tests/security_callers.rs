//! Callers that are hostile themselves: limits, signals, environments, arguments and floods.
//!
//! Whatever a caller does to its own process, a call is served whole or refused whole. After the next good call there is
//! no session, no cgroup leaf and no process left, and each record is closed, lost or denied.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

use end_to_end::contract::{eventually, install_tool};
use end_to_end::security::{kill_supervisors, leaves, names, rounds, sessions, supervisors_are_done};
use harness::pki::Craft;
use harness::{GLEXEC_LOG, Machine, Ran, Run, needs};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

const PAYLOAD: &str = env!("CARGO_BIN_EXE_security-payload");
const TOOL: &str = "/opt/contract/security-payload";
const SPOOL: &str = "/var/spool/pilotage/records";

/// A machine where Alice's proxy lies at a known place.
fn site(policy: &str) -> (Machine, String) {
    let builder = Machine::builder().pilot("pilot").service("stranger").account("alice");
    let m = builder.policy_add(policy).build();
    m.map("Alice", "alice");
    assert_eq!(install_tool(&m, PAYLOAD), TOOL);
    let proxy = m.proxy("Alice", "pilot");
    (m, proxy)
}

fn call(m: &Machine, proxy: &str) -> Run {
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy)
}

/// Called with these options of prlimit(1).
fn limited(m: &Machine, proxy: &str, limit: &str, command: &[&str]) -> Ran {
    let run = m.command("/usr/bin/prlimit").as_user("pilot").env("GLEXEC_CLIENT_CERT", proxy);
    run.arg(limit).arg("/usr/sbin/glexec").args(command).output()
}

/// A good call, and then nothing is left of all the bad ones; returns the states of the records.
#[track_caller]
fn all_is_well_again(m: &Machine, proxy: &str) -> Vec<String> {
    assert_eq!(call(m, proxy).args(["/usr/bin/id", "-u"]).output().ok(), m.uid("alice").to_string());
    let alone = || m.processes_of("alice").is_empty() && m.processes_of("glexec").is_empty();
    eventually("the end of all processes", Duration::from_secs(60), || alone().then_some(()));
    supervisors_are_done();
    let log = m.log();
    assert_eq!(sessions(), Vec::<String>::new(), "sessions are left");
    let left = leaves(m);
    let of_them =
        |l: &&str| left.iter().any(|leaf| leaf.rsplit("glexec-").next().is_some_and(|id| l.contains(id)));
    let log: Vec<_> = log.lines().filter(of_them).collect();
    assert_eq!(left, Vec::<String>::new(), "cgroup leaves are left: {log:#?}");
    assert_eq!(names(format!("{SPOOL}/open")), Vec::<String>::new(), "records are open");
    let states: Vec<_> =
        m.records().iter().map(|r| r["state"].as_str().unwrap_or_default().to_owned()).collect();
    let bad: Vec<_> = states.iter().filter(|s| !["closed", "lost", "denied"].contains(&s.as_str())).collect();
    assert!(bad.is_empty(), "{bad:?}");
    states
}

#[test]
#[needs(root, "prlimit")]
fn small_limits_of_the_caller_give_a_whole_call_or_none() {
    let (m, proxy) = site("");
    let uid = m.uid("alice").to_string();
    let (mut whole, mut log_before) = (0, m.log().len());
    for (name, values) in [
        ("fsize", &["0", "1", "20", "500", "2000", "4096", "100000"][..]),
        ("nofile", &["0", "3", "4", "5", "6", "8", "10", "12", "16"]),
        ("as", &["100000", "3000000", "5000000", "8000000", "20000000"]),
        ("data", &["0", "100000", "1000000"]),
        ("stack", &["0", "4096", "16384", "65536"]),
        ("cpu", &["0", "1"]),
        ("nproc", &["0", "1", "2"]),
        ("memlock", &["0"]),
        ("sigpending", &["0"]),
        ("msgqueue", &["0"]),
        ("core", &["0", "unlimited"]),
    ] {
        for value in values {
            let limit = format!("--{name}={value}:{value}");
            let ran = limited(&m, &proxy, &limit, &["/usr/bin/id", "-u"]);
            let log = m.log().len();
            if ran.text() == uid {
                whole += 1;
                assert!(log > log_before, "{limit}: a payload ran and the log does not say so");
            } else {
                assert_eq!(ran.text(), "", "{limit}");
                assert_ne!(ran.code(), Some(0), "{limit}: {}", ran.errors());
            }
            log_before = log;
        }
    }
    let states = all_is_well_again(&m, &proxy);
    let recorded = states.iter().filter(|s| ["closed", "lost"].contains(&s.as_str())).count();
    assert!(recorded > whole, "{whole} payloads have run, {recorded} records");
    assert!(whole > 5, "most limits do no harm");
}

/// A file may not grow beyond the caller's limit, and the log is larger than that.
#[test]
#[needs(root, "prlimit")]
fn a_limit_on_file_size_does_not_silence_the_log() {
    let (m, proxy) = site("");
    call(&m, &proxy).arg("/bin/true").output().ok();
    m.write(GLEXEC_LOG, "root", 0o640, "an earlier line\n".repeat(3000));
    let before = m.log().len();
    let ran = limited(&m, &proxy, "--fsize=20000:20000", &["/usr/bin/id", "-u"]);
    assert!(ran.text().is_empty() || m.log().len() > before, "a payload ran unseen: {ran:?}");
    let run = m.command("/usr/bin/prlimit").as_user("stranger").arg("--fsize=20000:20000");
    run.args(["/usr/sbin/glexec", "/bin/true"]).output().exits(203);
    let uid = m.uid("stranger");
    let logged = m.log().contains(&format!("refused 203 uid {uid}"));
    let recorded = m.records().iter().any(|r| r["caller_uid"] == uid);
    assert!(logged || recorded, "a refusal that nobody hears of");
    all_is_well_again(&m, &proxy);
}

/// Kills the whole call after a while that differs each time.
#[test]
#[needs(root)]
fn a_caller_that_kills_glexec_at_any_moment_leaves_nothing() {
    let (m, proxy) = site("");
    let started = std::time::Instant::now();
    call(&m, &proxy).args(["/bin/sleep", "0.01"]).output().ok();
    let whole = u32::try_from(started.elapsed().as_micros()).unwrap() + 10_000;
    let kills = rounds("PILOTAGE_KILL_ROUNDS", 200);
    for n in 0..kills {
        let running = call(&m, &proxy)
            .args(["/bin/sh", "-c", "(setsid sleep 5 &) >/dev/null 2>&1; sleep 0.01"])
            .spawn();
        // Spread over the call, in an order that jumps about.
        std::thread::sleep(Duration::from_micros(u64::from(whole / kills * (n * 77 % kills))));
        running.signal(9);
        drop(running);
    }
    let states = all_is_well_again(&m, &proxy);
    assert!(states.iter().any(|s| s == "closed"), "{states:?}");
}

/// The same at system calls, counted: what falls between two of them is a state that a crash can leave.
#[test]
#[needs(root)]
fn a_call_that_ends_at_any_system_call_leaves_nothing() {
    let (m, proxy) = site("");
    let uid = m.uid("pilot").to_string();
    let killed = |n: u32| {
        let run = m.command(TOOL).env("GLEXEC_CLIENT_CERT", &proxy).env("GLEXEC_TARGET_PROXY", "/dev/null");
        run.args(["kill-at", &n.to_string(), &uid, "/usr/sbin/glexec", "/bin/true"]).output().ok()
    };
    let said = killed(1_000_000);
    let all = said.strip_prefix("ended ").and_then(|l| l.split(' ').next()?.parse::<u32>().ok());
    let all = all.unwrap_or_else(|| panic!("{said}"));
    assert!(said.ends_with(" 0"), "the call works while it is traced: {said}");
    let step = (all / rounds("PILOTAGE_KILL_ROUNDS", 200)).max(1);
    let mut stale = Vec::new();
    for n in (1..all).step_by(step as usize) {
        killed(n);
        // The sweep is the next call's; what it does not find was left for good.
        call(&m, &proxy).env("GLEXEC_TARGET_PROXY", "/dev/null").arg("/bin/true").output().ok();
        let left = [sessions(), leaves(&m), names(format!("{SPOOL}/open"))].concat();
        if left.len() > stale.len() {
            eprintln!("killed at system call {n} of {all}: {left:?}");
            stale = left;
        }
    }
    all_is_well_again(&m, &proxy);
}

/// Any call closes lost sessions first. Whoever makes that call must not be able to hold it at that point.
#[test]
#[needs(root)]
fn a_stranger_that_stops_its_own_call_keeps_no_lost_session_open() {
    let (m, proxy) = site("");
    let script = "(setsid sleep 300 &) >/dev/null 2>&1; echo > /tmp/runs; sleep 300";
    let running = call(&m, &proxy).args(["/bin/sh", "-c", script]).spawn();
    eventually("the payload", Duration::from_secs(60), || Path::new("/tmp/runs").exists().then_some(()));
    kill_supervisors();
    running.signal(9);
    drop(running);
    let uid = m.uid("stranger").to_string();
    let mut stopper =
        m.command(TOOL).args(["stop-at-lock", "/tmp/stopped", &uid, "/usr/sbin/glexec", "/bin/true"]);
    stopper.raw().stdin(std::process::Stdio::piped());
    let mut stopper = stopper.start();
    let said = eventually("the stop", Duration::from_secs(60), || fs::read_to_string("/tmp/stopped").ok());
    assert!(said.starts_with("locks 2"), "{said}");
    call(&m, &proxy).arg("/bin/true").output().ok();
    // The stranger's call closes it; how soon is not the point.
    let gone = || sessions().is_empty() && m.processes_of("alice").is_empty();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !gone() && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = (sessions(), m.processes_of("alice"));
    drop(stopper.stdin.take());
    stopper.wait().unwrap();
    assert!(left.0.is_empty() && left.1.is_empty(), "{said} {left:?}");
    all_is_well_again(&m, &proxy);
}

#[test]
#[needs(root)]
fn a_refusal_that_ends_at_any_system_call_leaves_a_readable_spool() {
    let (m, proxy) = site("");
    let uid = m.uid("stranger").to_string();
    let killed = |n: u32| {
        m.command(TOOL).args(["kill-at", &n.to_string(), &uid, "/usr/sbin/glexec", "/bin/true"]).output().ok()
    };
    let said = killed(1_000_000);
    let all = said.strip_prefix("ended ").and_then(|l| l.split(' ').next()?.parse::<u32>().ok());
    let all = all.filter(|_| said.ends_with(" 203")).unwrap_or_else(|| panic!("{said}"));
    let step = (all / rounds("PILOTAGE_KILL_ROUNDS", 200)).max(1);
    let mut damaged = 0;
    for n in (1..all).step_by(step as usize) {
        killed(n);
        if m.command("/usr/bin/accounting").arg("list").output().code() == Some(3) {
            eprintln!("killed at system call {n} of {all}: the spool is damaged");
            damaged += 1;
            for name in names(format!("{SPOOL}/closed")) {
                let file = format!("{SPOOL}/closed/{name}");
                let _ = fs::metadata(&file).ok().filter(|f| f.len() == 0).map(|_| fs::remove_file(&file));
            }
        }
    }
    assert_eq!(damaged, 0, "refusals without a word in the spool");
    assert!(m.records().iter().all(|r| r["state"] == "denied"), "{:?}", m.records());
    assert_eq!(
        names(format!("{SPOOL}/open")),
        Vec::<String>::new(),
        "a refusal that was killed leaves nothing"
    );
    all_is_well_again(&m, &proxy);
}

#[test]
#[needs(root)]
fn signals_while_it_starts_end_a_call_cleanly() {
    let (m, proxy) = site("");
    for n in 0..60_u64 {
        let signal = [1, 2, 15, 10, 14, 13, 17, 20][usize::try_from(n % 8).unwrap()];
        let running = call(&m, &proxy).args(["/bin/sleep", "0.2"]).spawn();
        std::thread::sleep(Duration::from_micros(n * 700));
        running.signal(signal);
        std::thread::sleep(Duration::from_millis(1));
        running.signal(18);
        let _ = running.end_within(Duration::from_secs(60));
    }
    let states = all_is_well_again(&m, &proxy);
    assert!(states.len() > 10, "{states:?}");
}

/// Names that make libraries read files or change their ways.
const EVIL: [&str; 34] = [
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_DEBUG_OUTPUT",
    "LD_PROFILE_OUTPUT",
    "LD_ORIGIN_PATH",
    "GCONV_PATH",
    "NLSPATH",
    "LOCPATH",
    "TZDIR",
    "TZ",
    "HOSTALIASES",
    "RES_OPTIONS",
    "LOCALDOMAIN",
    "RESOLV_HOST_CONF",
    "GETCONF_DIR",
    "MALLOC_TRACE",
    "GLIBC_TUNABLES",
    "TMPDIR",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "OPENSSL_ENGINES",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "X509_CERT_DIR",
    "X509_VOMS_DIR",
    "X509_USER_CERT",
    "X509_USER_KEY",
    "HTTPS_PROXY",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "LLVM_PROFILE_FILE",
    "LCMAPS_DB_FILE",
    "GRIDMAP",
];

#[test]
#[needs(root, "strace")]
fn no_variable_makes_root_or_the_verifier_look_at_the_caller_s_files() {
    let (m, proxy) = site("");
    fs::create_dir("/tmp/trace").unwrap();
    let mut run = m.command("/usr/bin/strace").env("GLEXEC_CLIENT_CERT", &proxy);
    for name in EVIL {
        // strace itself must not be the one who obeys.
        run = run.args(["-E".to_owned(), format!("{name}=/home/pilot/evil/{name}")]);
    }
    let run =
        run.args(["-f", "-ff", "-o", "/tmp/trace/t", "-u", "pilot", "/usr/sbin/glexec", "/usr/bin/env"]);
    let ran = run.output();
    let said = ran.ok();
    assert!(!said.contains("evil"), "{said}");
    for name in names("/tmp/trace") {
        let text = fs::read_to_string(format!("/tmp/trace/{name}")).unwrap();
        let touched = text.lines().find(|l| l.contains("/home/pilot/evil") && !l.starts_with("execve("));
        assert_eq!(touched, None);
    }
}

#[test]
#[needs(root)]
fn the_caller_s_authorities_are_not_the_site_s() {
    let (m, _) = site("");
    let stranger = m.pki().stranger("stranger", "Alice").unwrap();
    let path = m.new_path("pilot");
    Craft::default().below_user(&stranger, Path::new(&path)).unwrap();
    let run = call(&m, &m.give(&path, "pilot"));
    let dir = m.pki().dir().join("strangers");
    let run = run.env("X509_CERT_DIR", &dir).env("SSL_CERT_DIR", &dir).env("X509_VOMS_DIR", &dir);
    run.args(["/usr/bin/id", "-u"]).output().refused(203, &["CA"]);
}

#[test]
#[needs(root)]
fn odd_names_and_arguments_change_nothing() {
    let (m, proxy) = site("");
    let uid = m.uid("alice").to_string();
    let long = "x".repeat(100_000);
    for name in ["", "-", "--", "-V", "/bin/sh", "a\nrefused 203 uid 0: forged", "%s%n%x", "../../x", &long] {
        let mut run = call(&m, &proxy).args(["/usr/bin/id", "-u"]);
        run.raw().arg0(name);
        assert_eq!(run.output().ok(), uid, "{name:.30}");
    }
    let many: Vec<String> = (0..1500).map(|n| format!("{n}{}", "y".repeat(1000))).collect();
    let said = call(&m, &proxy).args(["/bin/sh", "-c", "echo $#", "sh"]).args(&many).output();
    assert_eq!(said.ok(), "1500");
    let sizes = names(format!("{SPOOL}/closed")).into_iter();
    let sizes = sizes.map(|name| fs::metadata(format!("{SPOOL}/closed/{name}")).unwrap().len());
    assert!(sizes.max().is_some_and(|most| most < 256 * 1024), "records are bounded");
    // No argv[0] at all, and strings in the environment that are no variables.
    let ran = m.command(TOOL).as_user("pilot").args(["no-argv", "/usr/sbin/glexec"]).output();
    ran.refused(201, &["GLEXEC_CLIENT_CERT"]);
    let forged = m.log().lines().filter(|l| l.starts_with("refused") || l.contains("\"forged")).count();
    assert_eq!(forged, 0, "{}", m.log());
    all_is_well_again(&m, &proxy);
}

#[test]
#[needs(root)]
fn closed_descriptors_never_become_root_s_files() {
    let (m, proxy) = site("");
    for closed in 0..8 {
        let close: String =
            (0..3).filter(|fd| closed & (1 << fd) != 0).map(|fd| format!("exec {fd}>&-;")).collect();
        let payload = "echo intruder; echo intruder >&2; cat >/dev/null; exit 7";
        let script = format!("{close} exec /usr/sbin/glexec /bin/sh -c '{payload}'");
        let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy);
        // A shell whose output is /dev/null may write there; one with a descriptor closed says so and fails.
        let ran = run.args(["-c", &script]).output();
        assert!(matches!(ran.code(), Some(7 | 1 | 2)), "{close} {ran:?}");
    }
    let call = "exec 0<&- 1>&- 2>&-; exec /usr/sbin/glexec /usr/bin/id";
    m.command("/bin/sh").as_user("stranger").args(["-c", call]).output().exits(203);
    all_is_well_again(&m, &proxy);
    assert!(!m.log().lines().any(|l| l.starts_with("intruder")));
    for dir in [format!("{SPOOL}/closed"), SPOOL.to_owned()] {
        for name in names(&dir) {
            let text = fs::read(format!("{dir}/{name}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            // The command line is recorded; a line that begins with the word would be the payload's own.
            assert!(!text.lines().any(|l| l.starts_with("intruder")), "{dir}/{name}");
        }
    }
}

#[test]
#[needs(root)]
fn refusals_by_the_hundred_are_bounded_in_the_spool_and_complete_in_the_log() {
    let (m, proxy) = site("[payload]\nno_new_privs = false");
    let flood =
        "i=0; while [ $i -lt 150 ]; do /usr/sbin/glexec /usr/bin/id; i=$((i+1)); done 2>/dev/null; true";
    m.command("/bin/sh").as_user("stranger").args(["-c", flood]).output().ok();
    call(&m, &proxy).args(["/bin/sh", "-c", flood]).output().ok();
    let log = m.log();
    for who in ["stranger", "alice"] {
        let uid = m.uid(who);
        let lines = log.lines().filter(|l| l.contains(&format!("refused 203 uid {uid}:"))).count();
        assert_eq!(lines, 150, "{who}: each refusal is logged");
        let of_it = |r: &&serde_json::Value| r["caller_uid"] == uid && r["state"] == "denied";
        let records = m.records().iter().filter(of_it).count();
        // A new minute may have begun on the way.
        assert!((60..=180).contains(&records) && records < 150, "{who}: {records} records");
    }
    let mut counters = names("/run/glexec/refusals");
    counters.sort_unstable();
    let mut uids = [m.uid("stranger"), m.uid("alice")].map(|u| u.to_string());
    uids.sort_unstable();
    assert_eq!(counters, uids, "one counter for each");
    all_is_well_again(&m, &proxy);
}

#[test]
#[needs(root)]
fn refused_calls_leave_nothing_in_root_s_directories() {
    let (m, proxy) = site("");
    all_is_well_again(&m, &proxy);
    let before = [names("/run/glexec"), names(SPOOL), names("/tmp"), names("/run/glexec/cache")];
    for run in [
        call(&m, "/nowhere").arg("/bin/true"),
        call(&m, &proxy).arg("/nowhere"),
        call(&m, &proxy).arg("nowhere"),
        call(&m, &proxy).env("GLEXEC_WORK_DIR", "/root/x").arg("/bin/true"),
        call(&m, &proxy).env("GLEXEC_TARGET_PROXY", "/root/x").arg("/bin/true"),
        call(&m, &m.tampered_proxy("Alice", "pilot")).arg("/bin/true"),
        m.glexec().args(["--session", "01890000-0000-7000-8000-000000000000", "--end"]),
    ] {
        assert!(matches!(run.output().code(), Some(201..=203)));
    }
    let mut after = [names("/run/glexec"), names(SPOOL), names("/tmp"), names("/run/glexec/cache")];
    after[0].retain(|n| n != "refusals");
    assert_eq!(after, before);
    all_is_well_again(&m, &proxy);
    assert!(Path::new(GLEXEC_LOG).exists());
}
