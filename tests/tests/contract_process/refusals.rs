//! What a refusal looks like: one clean line for the caller, the same with ids in the log, whatever the caller wrote.

use end_to_end::contract::{GLEXEC, call, expired, site};
use harness::{Machine, Ran, Run, needs};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

/// Line breaks, a carriage return, an escape sequence, a delete.
const EVIL: &str = "x\nglexec: all is well\r\u{1b}[2J\u{7f}y";

/// One line on standard error, nothing on standard output. Returns the reason.
#[track_caller]
fn one_clean_line(what: &str, ran: &Ran, codes: &[i32]) -> String {
    assert!(ran.code().is_some_and(|code| codes.contains(&code)), "{what}: {ran:?}");
    assert_eq!(ran.text(), "", "{what}");
    let errors = ran.errors();
    let line = errors.strip_suffix('\n').unwrap_or_else(|| panic!("{what}: no whole line: {errors:?}"));
    assert!(!line.chars().any(char::is_control), "{what}: {line:?}");
    let reason = line.strip_prefix("glexec: ").unwrap_or_else(|| panic!("{what}: {line:?}"));
    assert!(reason.len() > 10, "{what}: {reason}");
    reason.to_owned()
}

/// The log line that was written meanwhile has the reason and the id of a record or session.
#[track_caller]
fn logged_with_id(what: &str, log: &str, reason: &str) {
    let line = log.lines().find(|l| l.contains(reason)).unwrap_or_else(|| panic!("{what}: {reason}\n{log}"));
    let is_id = |word: &str| word.len() == 36 && word.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    assert!(line.split(|c: char| !c.is_ascii_hexdigit() && c != '-').any(is_id), "{what}: {line}");
}

/// Calls that are wrong in one place, each with the place and the codes that fit.
fn wrong_calls(m: &Machine) -> Vec<(&'static str, Run, &'static [i32])> {
    let proxy = m.proxy("Alice", "pilot");
    m.write(&format!("/opt/{EVIL}/here"), "root", 0o644, "");
    m.write(&format!("/opt/{EVIL}/plain"), "root", 0o644, "#!/bin/sh\n");
    m.write(&format!("/opt/{EVIL}/broken"), "root", 0o755, format!("#!/no/{EVIL}\n"));
    m.write(&format!("/tmp/{EVIL}/open"), "pilot", 0o666, fs::read(&proxy).unwrap());
    let good = |words: &[&str]| call(m, &proxy).args(words);
    let with = |name: &str, value: String| good(&["/bin/true"]).env(name, value);
    let bytes = OsStr::from_bytes(b"/tmp/\xff\xfe\n\x80");
    let long = format!("/tmp/{}", "d/".repeat(2000));
    let caller: &[i32] = &[201];
    vec![
        ("client proxy", call(m, &format!("/no/{EVIL}")).arg("/bin/true"), caller),
        ("client proxy's mode", call(m, &format!("/tmp/{EVIL}/open")).arg("/bin/true"), caller),
        ("client proxy's bytes", good(&["/bin/true"]).env("GLEXEC_CLIENT_CERT", bytes), caller),
        ("long client proxy", call(m, &long).arg("/bin/true"), caller),
        ("source proxy", with("GLEXEC_SOURCE_PROXY", format!("/no/{EVIL}")), caller),
        ("target proxy", with("GLEXEC_TARGET_PROXY", format!("/no/{EVIL}/x")), caller),
        ("long target proxy", with("GLEXEC_TARGET_PROXY", long.clone()), caller),
        ("mode", with("GLEXEC_MODE", EVIL.into()), caller),
        ("working directory", with("GLEXEC_WORK_DIR", format!("/tmp/{EVIL}")), caller),
        ("text that is no proxy", m.glexec().env("SSL_CLIENT_CERT", EVIL).arg("/bin/true"), caller),
        ("command", good(&[&format!("/no/{EVIL}")]), caller),
        ("command's bytes", call(m, &proxy).arg(bytes), caller),
        ("long command", good(&[&long]), caller),
        ("command without path", good(&[EVIL]), caller),
        ("command's mode", good(&[&format!("/opt/{EVIL}/plain")]), caller),
        ("command's interpreter", good(&[&format!("/opt/{EVIL}/broken")]), &[126]),
        ("option", good(&[&format!("--{EVIL}")]), caller),
        ("uid and gid of old", good(&["20001", "20001", "/bin/true"]), caller),
        ("session", m.glexec().args(["--session", EVIL, "--end"]), caller),
        ("caller", call(m, &m.proxy("Alice", "stranger")).as_user("stranger").arg("/bin/true"), &[203]),
        ("user", call(m, &m.proxy("Nobody", "pilot")).arg("/bin/true"), &[203]),
        ("expired", call(m, &m.craft(&expired(), "Alice", "pilot")).arg("/bin/true"), caller),
    ]
}

#[test]
#[needs(root)]
fn every_refusal_is_one_clean_line_here_and_in_the_log() {
    let m = site();
    for (what, run, codes) in wrong_calls(&m) {
        let before = m.log().len();
        let reason = one_clean_line(what, &run.output(), codes);
        let log = m.log();
        logged_with_id(what, &log[before..], &reason);
        // The place alone helps nobody: a long one must not push the reason out.
        let why = reason.rsplit(['/', '.']).next().unwrap_or_default();
        assert!(!what.starts_with("long") || why.contains(" "), "{what}: {reason}");
    }
    assert!(!m.log().lines().any(|l| l.starts_with("glexec: all is well")), "{}", m.log());
}

#[test]
#[needs(root)]
fn what_the_site_must_mend_names_file_and_remedy() {
    let m = site();
    for file in ["/etc/glexec.conf", "/etc/pilotage/policy.toml", "/etc/grid-security/grid-mapfile"] {
        let mode = fs::metadata(file).unwrap().permissions();
        fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
        let ran = call(&m, &m.proxy("Alice", "pilot")).arg("/bin/true").output();
        let reason = one_clean_line(file, &ran, &[202]);
        assert!(reason.contains(file) && reason.contains("chmod go-w"), "{reason}");
        fs::set_permissions(file, mode).unwrap();
    }
    call(&m, &m.proxy("Alice", "pilot")).arg("/bin/true").output().ok();
}

/// What asks for information needs neither proxy nor permission, and answers on standard output.
#[test]
#[needs(root)]
fn help_and_version_are_for_everybody() {
    let m = site();
    fs::remove_file("/etc/glexec.conf").unwrap();
    for (option, word) in [("-h", "Usage: glexec"), ("-v", "glexec ")] {
        let ran = m.command(GLEXEC).as_user("stranger").arg(option).output();
        assert!(ran.ok().starts_with(word) && ran.errors().is_empty(), "{option}: {ran:?}");
    }
}
