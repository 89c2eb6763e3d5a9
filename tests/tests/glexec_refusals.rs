//! Bad input is refused with the right code and a line that names the cause: 201 the caller must mend something, 202
//! the site must, 203 not allowed.

use end_to_end::contract::site;
use harness::pki::Craft;
use harness::{Machine, Ran, Run, needs};
use std::os::unix::fs::PermissionsExt;

const ID: [&str; 2] = ["/usr/bin/id", "-u"];

/// Calls with this file as the payload's credential.
fn with(m: &Machine, proxy: impl AsRef<std::ffi::OsStr>) -> Ran {
    call(m, proxy).output()
}

fn call(m: &Machine, proxy: impl AsRef<std::ffi::OsStr>) -> Run {
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy).args(ID)
}

/// A refusal starts nothing and prints nothing on standard output.
fn nothing_ran(ran: &Ran) {
    assert_eq!(ran.text(), "", "a refused call prints nothing on standard output");
}

/// Shows that the machine is good, so that the refusal has the cause that the test thinks it has.
fn good(m: &Machine) {
    assert_eq!(with(m, m.proxy("Alice", "pilot")).ok(), m.uid("alice").to_string());
}

#[test]
#[needs(root)]
fn an_expired_proxy_is_the_callers_to_renew() {
    let m = site();
    good(&m);
    let expired = Craft { from: -7200, to: -60, ..Craft::default() };
    let ran = with(&m, m.craft(&expired, "Alice", "pilot"));
    nothing_ran(ran.refused(201, &["expired"]));
}

#[test]
#[needs(root)]
fn a_proxy_that_others_can_read_is_refused() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    for mode in [0o640, 0o604, 0o666, 0o620, 0o602, 0o610, 0o601, 0o4600, 0o2600, 0o1600] {
        std::fs::set_permissions(&proxy, std::fs::Permissions::from_mode(mode)).unwrap();
        nothing_ran(with(&m, &proxy).refused(201, &["mode"]));
    }
    for mode in [0o400, 0o600, 0o700] {
        std::fs::set_permissions(&proxy, std::fs::Permissions::from_mode(mode)).unwrap();
        with(&m, &proxy).ok();
    }
}

#[test]
#[needs(root)]
fn the_proxy_of_another_account_cannot_be_used() {
    let m = site();
    for owner in ["other", "alice", "root"] {
        let stolen = m.proxy("Alice", owner);
        nothing_ran(with(&m, &stolen).refused(201, &[&stolen]));
    }
    // Reachable, but not the caller's own.
    std::fs::copy(m.proxy("Alice", "other"), "/tmp/stolen.pem").unwrap();
    m.give("/tmp/stolen.pem", "other");
    nothing_ran(with(&m, "/tmp/stolen.pem").refused(201, &["/tmp/stolen.pem", "denied"]));
    std::fs::set_permissions("/tmp/stolen.pem", std::fs::Permissions::from_mode(0o604)).unwrap();
    nothing_ran(with(&m, "/tmp/stolen.pem").refused(201, &["/tmp/stolen.pem", "belongs to"]));
}

#[test]
#[needs(root)]
fn what_is_no_credential_is_refused() {
    let m = site();
    with(&m, "").refused(201, &["GLEXEC_CLIENT_CERT"]);
    m.glexec().args(ID).output().refused(201, &["GLEXEC_CLIENT_CERT"]);
    with(&m, "/home/pilot/none.pem").refused(201, &["/home/pilot/none.pem"]);
    with(&m, m.put_credential("nonsense", "pilot")).refused(201, &["PEM"]);
    with(&m, "/home/pilot").refused(201, &["/home/pilot"]);
    std::os::unix::fs::symlink(m.proxy("Alice", "pilot"), "/home/pilot/link.pem").unwrap();
    with(&m, "/home/pilot/link.pem").refused(201, &["symbolic link"]);
}

#[test]
#[needs(root)]
fn an_unknown_authority_is_not_believed() {
    let m = site();
    let stranger = m.pki().stranger("stranger", "Alice").unwrap();
    let path = m.new_path("pilot");
    Craft::default().below_user(&stranger, std::path::Path::new(&path)).unwrap();
    let ran = with(&m, m.give(&path, "pilot"));
    nothing_ran(ran.refused(203, &["CA"]));
}

#[test]
#[needs(root)]
fn a_tampered_signature_is_not_believed() {
    let m = site();
    let ran = with(&m, m.tampered_proxy("Alice", "pilot"));
    nothing_ran(ran.refused(203, &["signature"]));
}

#[test]
#[needs(root)]
fn a_user_that_nobody_maps_is_refused_by_name() {
    let m = site();
    let ran = with(&m, m.proxy("Carol", "pilot"));
    nothing_ran(ran.refused(203, &[&m.dn("Carol"), "no mapping source"]));
}

#[test]
#[needs(root)]
fn a_mapping_to_root_or_below_the_floor_is_refused() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    for account in ["root", "daemon", "glexec", "pilot", "other", "stranger"] {
        m.map("Alice", account);
        nothing_ran(with(&m, &proxy).refused(203, &["mapped to"]));
    }
    // Not even when the site lists them.
    m.edit_policy(|p| {
        p.replace("[accounts]\nallow = [", "[accounts]\nallow = [\"root\", \"daemon\", \"0-499\", ")
    });
    for account in ["root", "daemon"] {
        m.map("Alice", account);
        let ran = with(&m, m.proxy("Alice", "pilot"));
        assert!(matches!(ran.code(), Some(202 | 203)), "{account}: {ran:?}");
        nothing_ran(&ran);
    }
    m.map("Alice", "nosuchaccount");
    nothing_ran(with(&m, m.proxy("Alice", "pilot")).refused(203, &["nosuchaccount"]));
}

#[test]
#[needs(root)]
fn only_listed_callers_may_call() {
    let m = site();
    let proxy = m.proxy("Alice", "stranger");
    nothing_ran(call(&m, proxy).as_user("stranger").output().refused(203, &["stranger"]));
    let proxy = m.proxy("Alice", "alice");
    nothing_ran(call(&m, proxy).as_user("alice").output().refused(203, &["payload"]));
    let proxy = m.proxy("Alice", "root");
    nothing_ran(call(&m, proxy).as_user("root").output().refused(203, &["root"]));
    let proxy = m.proxy("Alice", "other");
    call(&m, proxy).as_user("other").output().ok();
}

#[test]
#[needs(root)]
fn a_broken_policy_stops_everything() {
    let m = site();
    let policy = std::fs::read("/etc/pilotage/policy.toml").unwrap();
    let proxy = m.proxy("Alice", "pilot");
    let file = "/etc/pilotage/policy.toml";
    for broken in ["no toml at all [", "[callers]\nallowed = []\n", "[ports]\nrange = \"80-90\"\n"] {
        m.write(file, "root", 0o644, broken);
        nothing_ran(with(&m, &proxy).refused(202, &[file]));
    }
    m.write(file, "root", 0o666, &policy);
    nothing_ran(with(&m, &proxy).refused(202, &[file]));
    m.write(file, "pilot", 0o644, &policy);
    nothing_ran(with(&m, &proxy).refused(202, &[file]));
    m.write(file, "root", 0o644, &policy);
    with(&m, &proxy).ok();
    let conf = std::fs::read("/etc/glexec.conf").unwrap();
    std::fs::remove_file("/etc/glexec.conf").unwrap();
    nothing_ran(with(&m, &proxy).refused(202, &["/etc/glexec.conf"]));
    m.write("/etc/glexec.conf", "root", 0o646, conf);
    nothing_ran(with(&m, &proxy).refused(202, &["/etc/glexec.conf"]));
}

#[test]
#[needs(root)]
fn a_command_that_cannot_run_is_named() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    m.write("/home/alice/secret.sh", "alice", 0o644, "#!/bin/sh\n");
    m.write("/home/bob/tool.sh", "bob", 0o755, "#!/bin/sh\n");
    for command in ["/usr/bin/idontexist", "/home/alice/secret.sh", "/home/bob/tool.sh", "/tmp"] {
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy);
        nothing_ran(run.arg(command).output().refused(201, &[command]));
    }
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy);
    nothing_ran(run.arg("id").output().refused(201, &["needs a path"]));
}

#[test]
#[needs(root)]
fn a_payload_cannot_call_glexec() {
    let m = site();
    let nested = "GLEXEC_CLIENT_CERT=$X509_USER_PROXY /usr/sbin/glexec /usr/bin/id -u";
    let cleared = "/usr/bin/env -i GLEXEC_CLIENT_CERT=$X509_USER_PROXY /usr/sbin/glexec /usr/bin/id -u";
    let proxy = m.proxy("Alice", "pilot");
    for script in [nested, cleared] {
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy);
        let ran = run.args(["/bin/sh", "-c", &format!("{script}; echo $?")]).output();
        assert_eq!(ran.ok(), "203", "{}", ran.errors());
    }
}

#[test]
#[needs(root)]
fn an_account_that_is_payload_and_caller_cannot_nest() {
    let m = site();
    // The site has made the mistake to list a payload account as a caller.
    m.write("/etc/glexec.conf", "root", 0o640, "[glexec]\nlinger = yes\nuser_white_list = *\n");
    let script = "GLEXEC_CLIENT_CERT=$X509_USER_PROXY /usr/sbin/glexec /usr/bin/id -u; echo $?";
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let ran = run.args(["/bin/sh", "-c", script]).output();
    assert!(!ran.text().contains(&m.uid("alice").to_string()), "{}", ran.text());
}
