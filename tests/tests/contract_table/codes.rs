//! The suites of exit codes, 0.6 to 0.9.

use crate::{ID, refused};
use end_to_end::contract::{CONF, POLICY, call, chmod, expired, set_conf, sh, site};
use harness::{Machine, needs};
use std::fs;
use std::path::Path;

/// The suite for 0.6.0 expects 203, which came out of LCAS; since 0.6.9 the caller is told that the mistake is its own.
#[test]
#[needs(root)]
fn b01_c01_no_proxy_variables() {
    let m = site();
    let own = m.proxy("Alice", "pilot");
    // A good proxy where other programs look for it is no fallback.
    m.write(&format!("/tmp/x509up_u{}", m.uid("pilot")), "pilot", 0o600, fs::read(&own).unwrap());
    refused(&m.glexec().args(ID).output(), 201, &["GLEXEC_CLIENT_CERT"]);
    let run = m.glexec().args(ID).env("X509_USER_PROXY", own);
    refused(&run.output(), 201, &["GLEXEC_CLIENT_CERT"]);
}

#[test]
#[needs(root)]
fn b02_c02_expired_proxy_named_relative() {
    let m = site();
    let proxy = m.craft(&expired(), "Alice", "pilot");
    let name = Path::new(&proxy).file_name().unwrap().to_string_lossy().into_owned();
    refused(&call(&m, &name).cwd("/home/pilot").args(ID).output(), 201, &["expired"]);
}

#[test]
#[needs(root)]
fn b03_client_variable_empty() {
    let m = site();
    let run = call(&m, "").env("GLEXEC_SOURCE_PROXY", m.proxy("Alice", "pilot")).args(ID);
    refused(&run.output(), 201, &["GLEXEC_CLIENT_CERT", "empty"]);
}

#[test]
#[needs(root)]
fn b04_source_variable_empty() {
    let m = site();
    let run = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_SOURCE_PROXY", "").args(ID);
    refused(&run.output(), 201, &["GLEXEC_SOURCE_PROXY", "empty"]);
}

#[test]
#[needs(root)]
fn b05_target_below_the_callers_home() {
    let m = site();
    let run = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_TARGET_PROXY", "/home/pilot/fakedir");
    refused(&run.args(ID).output(), 201, &["/home/pilot/fakedir"]);
    assert!(!Path::new("/home/pilot/fakedir").exists());
}

#[test]
#[needs(root)]
fn d00_good_proxy_named_relative() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let name = Path::new(&proxy).file_name().unwrap().to_string_lossy().into_owned();
    for name in [name.clone(), format!("./{name}")] {
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", &name).env("GLEXEC_SOURCE_PROXY", &name);
        assert_eq!(run.cwd("/home/pilot").arg("/usr/bin/whoami").output().ok(), "alice");
    }
}

#[test]
#[needs(root)]
fn d01_proxy_deleted() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    fs::remove_file(&proxy).unwrap();
    refused(&m.glexec().args(ID).output(), 201, &["GLEXEC_CLIENT_CERT"]);
    refused(&call(&m, &proxy).args(ID).output(), 201, &[&proxy]);
}

/// The suite forgets to export the variables, so it really sees none; with them the answer is the same.
#[test]
#[needs(root)]
fn d02_proxy_open_to_everybody() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    chmod(&proxy, 0o666);
    refused(&m.glexec().args(ID).output(), 201, &["GLEXEC_CLIENT_CERT"]);
    refused(&call(&m, &proxy).args(ID).output(), 201, &["mode"]);
}

#[test]
#[needs(root)]
fn d03_target_is_the_home_of_root() {
    let m = site();
    let run = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_TARGET_PROXY", "/root");
    refused(&run.args(ID).output(), 201, &["/root"]);
}

#[test]
#[needs(root)]
fn d04_command_does_not_exist() {
    let m = site();
    let run = call(&m, &m.proxy("Alice", "pilot")).arg("/usr/bin/idontexist");
    refused(&run.output(), 201, &["/usr/bin/idontexist"]);
}

/// On the suite's systems only root could execute it; Debian lets everybody try, so its mode is set here.
#[test]
#[needs(root, "userdel")]
fn d05_command_not_executable_for_the_account() {
    let m = site();
    chmod("/usr/sbin/userdel", 0o750);
    let run = call(&m, &m.proxy("Alice", "pilot")).arg("/usr/sbin/userdel");
    refused(&run.output(), 201, &["/usr/sbin/userdel"]);
}

#[test]
#[needs(root)]
fn d06_payload_ends_with_a_code_of_ours() {
    let m = site();
    m.write("/opt/exit201", "root", 0o755, "#!/bin/sh\nexit 201\n");
    call(&m, &m.proxy("Alice", "pilot")).arg("/opt/exit201").output().exits(204);
}

/// A service card of EGEE says that built-in defaults apply; the suite expects 202, and so do we.
#[test]
#[needs(root)]
fn e01_configuration_moved_away() {
    let m = site();
    fs::rename(CONF, "/etc/glexec.conf.away").unwrap();
    refused(&call(&m, &m.proxy("Alice", "pilot")).args(ID).output(), 202, &[CONF]);
}

/// Without LCAS, its database is `policy.toml` and every ban file that this names.
#[test]
#[needs(root)]
fn e02_authorisation_database_moved_away() {
    let bans = "/etc/grid-security/banned-users";
    let named = format!("[bans]\ndn_file = \"{bans}\"\n");
    let m = Machine::builder().pilot("pilot").account("alice").policy_add(&named).build();
    m.map("Alice", "alice");
    m.write(bans, "root", 0o644, "");
    let proxy = m.proxy("Alice", "pilot");
    call(&m, &proxy).args(ID).output().ok();
    fs::remove_file(bans).unwrap();
    refused(&call(&m, &proxy).args(ID).output(), 202, &[bans]);
    m.write(bans, "root", 0o644, "");
    fs::rename(POLICY, "/etc/pilotage/away").unwrap();
    refused(&call(&m, &proxy).args(ID).output(), 202, &[POLICY]);
}

#[test]
#[needs(root)]
fn e03_mapping_database_moved_away() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let mapfile = "/etc/grid-security/grid-mapfile";
    fs::rename(mapfile, "/etc/grid-security/away").unwrap();
    refused(&call(&m, &proxy).args(ID).output(), 202, &[mapfile]);
}

/// The suite appends a section of another name and expects 202; the manual page says that such are ignored. DECIDE:
/// the manual page. What is no ini file is 202.
#[test]
#[needs(root)]
fn e04_other_section_in_the_configuration() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let text = fs::read_to_string(CONF).unwrap();
    for extra in ["[dummy]\n", "[dummy]\nlinger = perhaps\n"] {
        m.write(CONF, "root", 0o640, format!("{text}{extra}"));
        call(&m, &proxy).args(ID).output().ok();
    }
    for broken in ["[dummy\n", "[glexec]\nno equals sign\n", "[glexec]\nlinger = perhaps\n"] {
        m.write(CONF, "root", 0o640, format!("{text}{broken}"));
        refused(&call(&m, &proxy).args(ID).output(), 202, &[CONF]);
    }
}

/// Not in any suite, but behind all of them: a call that is refused for one reason is not refused for another.
#[test]
#[needs(root)]
fn checks_come_in_their_order() {
    let m = site();
    let bad_everything = |m: &Machine| {
        let proxy = m.craft(&expired(), "Nobody", "pilot");
        call(m, &proxy).env("GLEXEC_TARGET_PROXY", "/root").arg("/usr/bin/idontexist").output()
    };
    refused(&bad_everything(&m), 201, &["expired"]);
    set_conf(&m, "user_white_list", "nobody");
    m.edit_policy(|p| p.replace("[\"pilot\", \"other\"]", "[]"));
    refused(&bad_everything(&m), 203, &["pilot"]);
    chmod(CONF, 0o666);
    refused(&bad_everything(&m), 202, &[CONF]);
    chmod(CONF, 0o640);
    set_conf(&m, "user_white_list", "pilot");
    let unmapped = call(&m, &m.proxy("Nobody", "pilot")).env("GLEXEC_TARGET_PROXY", "/root");
    refused(&unmapped.arg("/usr/bin/idontexist").output(), 203, &["no mapping source"]);
    let no_target = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_TARGET_PROXY", "/root");
    refused(&no_target.arg("/usr/bin/idontexist").output(), 201, &["/root"]);
    sh(&m, "exit 3").output().exits(3);
}
