//! The regression suite, which runs as root.

use crate::{ID, refused};
use end_to_end::contract::{
    CONF, GLEXEC, POLICY, Syslog, call, chmod, chmod_add, let_root_call, set_conf, site,
};
use harness::pki::Craft;
use harness::{Machine, Run, needs};
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The regression suite calls as root, which must be listed like anybody else.
fn root_site() -> Machine {
    let m = site();
    let_root_call(&m);
    m
}

/// As the suite does: all three paths set, the caller is root.
fn root_call(m: &Machine, client: &str, source: &str, target: &str) -> Run {
    let run = m.command(GLEXEC).env("GLEXEC_CLIENT_CERT", client);
    run.env("GLEXEC_SOURCE_PROXY", source).env("GLEXEC_TARGET_PROXY", target).args(ID)
}

/// Shows that root's call is good, so that what follows fails for the reason that the test names.
fn good_root_call(m: &Machine) -> String {
    let proxy = m.proxy("Alice", "root");
    assert_eq!(root_call(m, &proxy, &proxy, "/tmp/myfile").output().ok(), m.uid("alice").to_string());
    proxy
}

fn defaults(m: &Machine) -> String {
    let ran = m.command(GLEXEC).arg("-V").output();
    let text = ran.ok() + &ran.errors();
    let line = text.lines().find_map(|l| l.split_once("GLEXEC_CONFIG_FILE="));
    line.expect("-V names the configuration").1.replace('"', "")
}

#[test]
#[needs(root)]
fn a01_a02_the_binary_stands_where_clients_look() {
    let m = root_site();
    assert!(fs::metadata(GLEXEC).unwrap().is_file());
    good_root_call(&m);
}

/// The suite wants exactly 6555, which later packages of gLExec gave up; DECIDE: 4111, as OSG and EMI ship it. Clients
/// test that it is a file and executable, which both modes are.
#[test]
#[needs(root)]
fn a03_mode_of_the_binary() {
    let _m = site();
    let meta = fs::metadata(GLEXEC).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4111, 0, 0));
}

#[test]
#[needs(root)]
fn a04_defaults_are_shown_to_root_alone() {
    let m = site();
    assert_eq!(defaults(&m), CONF);
    // The code for others is nowhere written; DECIDE: 201.
    refused(&m.glexec().arg("-V").output(), 201, &["root"]);
}

/// The suite wants 0640 and owner 0; packages also shipped root:glexec 0640 and glexec:root 0600. All are accepted.
#[test]
#[needs(root)]
fn a05_a06_owner_and_mode_of_the_configuration() {
    let m = root_site();
    let file = defaults(&m);
    let text = fs::read(&file).unwrap();
    for (user, group, mode) in [
        ("root", "root", 0o640),
        ("root", "glexec", 0o640),
        ("glexec", "root", 0o600),
        ("root", "root", 0o644),
    ] {
        m.write(&file, user, mode, &text);
        std::os::unix::fs::chown(&file, None, Some(m.account(group).gid)).unwrap();
        chmod(&file, mode);
        good_root_call(&m);
    }
    m.write(&file, "pilot", 0o640, &text);
    refused(&call(&m, &m.proxy("Alice", "pilot")).args(ID).output(), 202, &[&file]);
}

/// The old binary once carried a library path into a build directory of another product.
#[test]
#[needs(root, "readelf")]
fn a07_no_foreign_paths_in_the_binary() {
    let m = site();
    let bytes = fs::read(GLEXEC).unwrap();
    assert!(!bytes.windows(6).any(|w| w.eq_ignore_ascii_case(b"condor")));
    let dynamic = m.command("/usr/bin/readelf").args(["-d", GLEXEC]).output().ok();
    assert!(dynamic.contains("NEEDED"), "{dynamic}");
    assert!(!dynamic.contains("RPATH") && !dynamic.contains("RUNPATH"), "{dynamic}");
}

#[test]
#[needs(root)]
fn a08_client_proxy_readable_by_others() {
    let m = root_site();
    let proxy = good_root_call(&m);
    chmod(&proxy, 0o606);
    refused(&root_call(&m, &proxy, &proxy, "/tmp/myfile").output(), 201, &[&proxy, "mode"]);
}

#[test]
#[needs(root)]
fn a09_source_proxy_of_another_account() {
    let m = root_site();
    let proxy = good_root_call(&m);
    let foreign = m.give(&m.proxy("Alice", "root"), "daemon");
    refused(&root_call(&m, &proxy, &foreign, "/tmp/myfile").output(), 201, &[&foreign, "belongs"]);
}

#[test]
#[needs(root)]
fn a10_client_proxy_of_another_account() {
    let m = root_site();
    let proxy = good_root_call(&m);
    m.give(&proxy, "daemon");
    refused(&root_call(&m, &proxy, &proxy, "/tmp/myfile").output(), 201, &[&proxy, "belongs"]);
}

#[test]
#[needs(root)]
fn a11_foreign_target_stays_untouched() {
    let m = root_site();
    let proxy = good_root_call(&m);
    m.write("/tmp/foreign", "daemon", 0o666, "test");
    refused(&root_call(&m, &proxy, &proxy, "/tmp/foreign").output(), 201, &["/tmp/foreign"]);
    assert_eq!(fs::read_to_string("/tmp/foreign").unwrap(), "test");
    assert_eq!(fs::metadata("/tmp/foreign").unwrap().uid(), m.uid("daemon"));
}

#[test]
#[needs(root)]
fn a12_ca_directory_writable_by_others() {
    let m = root_site();
    let proxy = good_root_call(&m);
    let dir = "/etc/grid-security/certificates";
    chmod_add(dir, 0o003);
    refused(&root_call(&m, &proxy, &proxy, "/tmp/myfile").output(), 202, &[dir]);
}

#[test]
#[needs(root)]
fn a13_configuration_writable_by_others() {
    let m = root_site();
    let proxy = good_root_call(&m);
    chmod_add(CONF, 0o002);
    refused(&root_call(&m, &proxy, &proxy, "/tmp/myfile").output(), 202, &[CONF]);
}

#[test]
#[needs(root)]
fn a14_certificate_without_key() {
    let m = root_site();
    good_root_call(&m);
    let cert = m.put_credential(fs::read(m.user("Alice").cert).unwrap(), "root");
    refused(&root_call(&m, &cert, &cert, "/tmp/myfile").output(), 201, &["key"]);
}

/// There is no LCAS database here: what it decided is in `policy.toml` and in the ban files, and these must be safe.
#[test]
#[needs(root)]
fn a15_authorisation_database_writable_by_others() {
    let m = root_site();
    let proxy = good_root_call(&m);
    let bans = "/etc/grid-security/ban-mapfile";
    m.write(bans, "root", 0o646, "");
    refused(&root_call(&m, &proxy, &proxy, "/tmp/myfile").output(), 202, &[bans]);
    fs::remove_file(bans).unwrap();
    chmod_add(POLICY, 0o002);
    refused(&root_call(&m, &proxy, &proxy, "/tmp/myfile").output(), 202, &[POLICY]);
}

/// There is no LCMAPS database here: the mapping is in the grid-mapfile, and that must be safe.
#[test]
#[needs(root)]
fn a16_mapping_database_writable_by_others() {
    let m = root_site();
    let proxy = good_root_call(&m);
    let mapfile = "/etc/grid-security/grid-mapfile";
    chmod_add(mapfile, 0o002);
    refused(&root_call(&m, &proxy, &proxy, "/tmp/myfile").output(), 202, &[mapfile]);
}

#[test]
#[needs(root)]
fn a17_no_library_is_searched_in_foreign_directories() {
    let m = root_site();
    let proxy = m.proxy("Alice", "root");
    let run = root_call(&m, &proxy, &proxy, "/dev/null").env("LD_DEBUG", "all");
    run.env("LD_DEBUG_OUTPUT", "/tmp/loader").output().ok();
    let reports = || {
        let files = fs::read_dir("/tmp").unwrap().flatten().map(|e| e.path());
        files.filter(|p| p.to_string_lossy().starts_with("/tmp/loader"))
    };
    let text: String =
        reports().map(|f| String::from_utf8_lossy(&fs::read(f).unwrap()).into_owned()).collect();
    assert!(text.contains("find library"), "root's own loader reports: {text:.200}");
    assert!(!text.to_lowercase().contains("condor"));
    assert!(!text.lines().any(|l| l.contains("trying file=") && l.contains("/target/")));
    // For anybody else the kernel starts it in secure mode, and the variable means nothing.
    reports().for_each(|f| fs::remove_file(f).unwrap());
    let run = call(&m, &m.proxy("Alice", "pilot")).args(ID).env("LD_DEBUG", "all");
    run.env("LD_DEBUG_OUTPUT", "/tmp/loader").output().ok();
    assert_eq!(reports().count(), 0, "neither the setuid program nor its children listen to LD_DEBUG");
}

#[test]
#[needs(root)]
fn a18_newline_in_the_identifier() {
    let m = root_site();
    let proxy = m.proxy("Alice", "root");
    let run =
        root_call(&m, &proxy, &proxy, "/dev/null").env("GLEXEC_ID", "first\nsecond half: root logged in");
    run.output().ok();
    let log = m.log();
    assert!(log.contains("first") && log.contains("second half"), "the identifier is in the log: {log}");
    assert!(!log.lines().any(|l| l.starts_with("second half")), "{log}");
    // The same through syslog, where a line break would come out inside of one message.
    let syslog = Syslog::start(&m);
    set_conf(&m, "log_destination", "syslog");
    let forged = "first\nglexec.mon[1#2]: Terminated\n\" id: \"second half";
    root_call(&m, &proxy, &proxy, "/dev/null").env("GLEXEC_ID", forged).output().ok();
    let line = syslog.wait_for("second half");
    assert!(line.contains("first") && !line.trim_end().contains('\n'), "{line:?}");
    assert_eq!(line.matches(" id: \"").count(), 1, "a quote ends no field: {line}");
    assert!(!syslog.lines().iter().any(|l| l.contains("mon[1#2]")), "{line}");
}

/// The suite expects 202, which it gets from its own broken database; too long a proxy is a decision, so DECIDE: 203.
#[test]
#[needs(root)]
fn a19_proxy_longer_than_the_site_allows() {
    let m = Machine::builder()
        .pilot("pilot")
        .account("alice")
        .policy_add("[trust]\nmax_proxy_lifetime = \"24h\"\n")
        .build();
    m.map("Alice", "alice");
    let two_days = Craft { to: 48 * 3600, ..Craft::default() };
    refused(&call(&m, &m.craft(&two_days, "Alice", "pilot")).args(ID).output(), 203, &["24 h"]);
    call(&m, &m.proxy("Alice", "pilot")).args(ID).output().ok();
}
