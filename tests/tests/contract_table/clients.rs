//! The wrapping of environments, and what clients run before they trust a site.

use crate::ID;
use end_to_end::contract::{GLEXEC, call, chmod, let_root_call, site};
use harness::{Machine, needs};
use std::fs;

/// Wraps as the pilot, unwraps as the payload; returns the payload's environment.
fn wrapped(m: &Machine, wrap: &[&str], unwrap: &[&str]) -> String {
    let run = m.command("/usr/sbin/glexec_wrapenv.pl").as_user("pilot").args(wrap);
    let blob = run.env("T_ONE", "1").env("T_TWO", "two words").env("T_LINES", "a\nb=c").output();
    assert!(!blob.ok().contains('\n'), "one line");
    let run = call(m, &m.proxy("Alice", "pilot")).env("GLEXEC_ENV", blob.text());
    run.arg("/usr/sbin/glexec_unwrapenv.pl").args(unwrap).arg("/usr/bin/env").output().ok()
}

#[track_caller]
fn has(environment: &str, present: &[&str], absent: &[&str]) {
    let line = |wanted: &str| environment.lines().any(|l| l == wanted || l.split('=').next() == Some(wanted));
    for name in present {
        assert!(line(name), "{name} is missing: {environment}");
    }
    for name in absent {
        assert!(!line(name), "{name} must not be there: {environment}");
    }
    for own in ["HOME=/home/alice", "USER=alice", "LOGNAME=alice"] {
        assert!(line(own), "{own}: {environment}");
    }
}

#[test]
#[needs(root)]
fn f01_environment_wrapped_and_unwrapped() {
    let m = site();
    for dashes in [&[][..], &["--"]] {
        has(&wrapped(&m, &[], dashes), &["T_ONE=1", "T_TWO=two words", "T_LINES=a", "b=c"], &[]);
    }
}

#[test]
#[needs(root)]
fn f02_names_excluded_when_wrapping() {
    let m = site();
    for options in [&["--exclude=T_ONE,T_LINES"][..], &["--exclude=T_ONE", "--exclude=T_LINES"]] {
        has(&wrapped(&m, options, &["--"]), &["T_TWO=two words"], &["T_ONE", "T_LINES"]);
    }
}

#[test]
#[needs(root)]
fn f03_names_excluded_when_unwrapping() {
    let m = site();
    for options in [&["--exclude=T_ONE,T_LINES"][..], &["--exclude=T_ONE", "--exclude=T_LINES", "--"]] {
        has(&wrapped(&m, &[], options), &["T_TWO=two words"], &["T_ONE", "T_LINES"]);
    }
}

#[test]
#[needs(root)]
fn f04_names_excluded_on_both_sides() {
    let m = site();
    let environment = wrapped(&m, &["--exclude=T_ONE"], &["--exclude=T_TWO", "--"]);
    has(&environment, &["T_LINES=a"], &["T_ONE", "T_TWO"]);
}

#[test]
#[needs(root)]
fn o01_root_with_a_copied_proxy() {
    let m = site();
    let_root_call(&m);
    let copy = "/tmp/x509_client_cert";
    fs::copy(m.proxy("Alice", "root"), copy).unwrap();
    chmod(copy, 0o600);
    let run = m.command(GLEXEC).env("GLEXEC_CLIENT_CERT", copy).args(ID);
    assert_eq!(run.output().ok(), m.uid("alice").to_string());
}

#[test]
#[needs(root)]
fn g01_last_line_of_a_shell() {
    let m = site();
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let ran = run.arg(&shell).args(["-c", "id && echo \"Hello World\""]).output();
    assert_eq!(ran.ok().lines().last(), Some("Hello World"));
    assert!(ran.text().contains("(alice)"), "{}", ran.text());
}

#[test]
#[needs(root)]
fn g02_script_in_the_working_directory() {
    let m = site();
    let script = "#!/bin/sh\nid && echo \"Hello World\"\n";
    m.write("/srv/work/glexec_test2.sh", "pilot", 0o755, script);
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot")).cwd("/srv/work");
    assert_eq!(run.arg("/srv/work/glexec_test2.sh").output().ok().lines().last(), Some("Hello World"));
}

#[test]
#[needs(root)]
fn n01_other_ids_than_the_pilots() {
    let m = site();
    let own = |option: &str| m.command("/usr/bin/id").as_user("pilot").arg(option).output().ok();
    let payload =
        |option: &str| call(&m, &m.proxy("Alice", "pilot")).args(["/usr/bin/id", option]).output().ok();
    for option in ["-u", "-G"] {
        assert!(!payload(option).is_empty());
        assert_ne!(payload(option), own(option));
    }
    let version = m.glexec().arg("-v").output();
    assert_eq!((version.ok().lines().count(), version.errors()), (1, String::new()));
}

#[test]
#[needs(root, "bash")]
fn r01_script_in_a_login_shell() {
    let m = site();
    m.write("/srv/work/test.sh", "pilot", 0o755, "#!/bin/bash\nid; hostname; date; cat $X509_USER_PROXY\n");
    let proxy = m.proxy("Alice", "pilot");
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy).env("GLEXEC_SOURCE_PROXY", &proxy);
    let ran = run.args(["/bin/bash", "-lc", "/srv/work/test.sh"]).output();
    assert!(ran.code().is_some_and(|code| code < 127), "{ran:?}");
    assert!(ran.text().contains("BEGIN CERTIFICATE"), "{}", ran.text());
}

#[test]
#[needs(root)]
fn s01_the_same_answer_again_and_again() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    for round in 0..50 {
        let ran = call(&m, &proxy).arg("/usr/bin/whoami").output();
        assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("alice", ""), "round {round}");
    }
}
