//! `make install`: what it puts where, with which owner and mode.

use harness::{BUILT, Machine, Ran, Run, SOURCE, needs};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn install(m: &Machine) -> Run {
    m.command(&format!("{SOURCE}/packaging/install")).env("BIN_DIR", BUILT)
}

/// What users and packages rely on, by path.
const PROGRAMS: [(&str, u32); 12] = [
    ("/usr/sbin/glexec", 0o4111),
    ("/usr/libexec/pilotage/glexec-verify", 0o755),
    ("/usr/libexec/pilotage/glexec-map", 0o755),
    ("/usr/sbin/glexec_wrapenv.pl", 0o755),
    ("/usr/sbin/glexec_unwrapenv.pl", 0o755),
    ("/usr/sbin/glexec_wrap.sh", 0o755),
    ("/usr/sbin/mkgltempdir", 0o755),
    ("/usr/bin/pilot", 0o755),
    ("/usr/bin/site-policy", 0o755),
    ("/usr/bin/accounting", 0o755),
    ("/usr/bin/mapping-query", 0o755),
    ("/usr/sbin/mapping-server", 0o755),
];

fn assert_owned_by_root(path: impl AsRef<Path>, mode: u32) {
    let path = path.as_ref();
    let found = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(found.permissions().mode() & 0o7777, mode, "mode of {}", path.display());
    assert_eq!((found.uid(), found.gid()), (0, 0), "owner of {}", path.display());
}

#[test]
#[needs(root)]
fn everything_is_where_clients_look_for_it() {
    let m = Machine::builder().bare().service("user").build();
    install(&m).output().ok();
    for (path, mode) in PROGRAMS {
        assert_owned_by_root(path, mode);
    }
    assert_owned_by_root("/etc/pilotage/policy.toml", 0o644);
    assert_owned_by_root("/run/glexec", 0o755);
    assert_owned_by_root("/var/log/glexec", 0o755);
    assert_owned_by_root("/var/spool/pilotage/records", 0o700);
    let glexec = m.account("glexec");
    assert!(glexec.uid != 0 && glexec.uid < 1000, "a system account: {glexec:?}");
    let conf = fs::metadata("/etc/glexec.conf").unwrap();
    assert_eq!((conf.mode() & 0o7777, conf.uid(), conf.gid()), (0o640, 0, glexec.gid));
}

#[test]
#[needs(root)]
fn a_fresh_installation_is_sound_and_lets_nobody_in() {
    let m = Machine::builder().bare().service("user").account("alice").build();
    install(&m).output().ok();
    let call = || m.command("/usr/sbin/glexec").as_user("user");
    assert!(!call().arg("-v").output().ok().is_empty());
    let proxy = m.proxy("Alice", "user");
    m.map("Alice", "alice");
    let id = || call().env("GLEXEC_CLIENT_CERT", &proxy).args(["/usr/bin/id", "-u"]).output();
    id().refused(203, &["user"]);
    // The three things that the administrator has to say.
    let (low, high) = m.uid_range();
    m.edit_policy(|p| {
        p.replace("allow = []", "allow = [\"user\"]").replace("20000-29999", &format!("{low}-{high}"))
    });
    assert_eq!(id().ok(), m.uid("alice").to_string());
    m.command("/usr/bin/site-policy").arg("check").output().ok();
}

#[test]
#[needs(root)]
fn a_second_installation_keeps_what_the_site_has_written() {
    let m = Machine::builder().bare().build();
    install(&m).output().ok();
    m.write("/etc/pilotage/policy.toml", "root", 0o644, "# ours\n");
    let uid = m.uid("glexec");
    let said = install(&m).output().ok();
    assert_eq!(fs::read_to_string("/etc/pilotage/policy.toml").unwrap(), "# ours\n");
    assert!(said.contains("kept: /etc/pilotage/policy.toml"), "{said}");
    assert_eq!(m.uid("glexec"), uid);
    assert_owned_by_root("/usr/sbin/glexec", 0o4111);
}

#[test]
#[needs(root)]
fn destdir_and_prefix_are_honoured() {
    let m = Machine::builder().bare().build();
    install(&m).env("DESTDIR", "/tmp/stage").env("PREFIX", "/usr/local").output().ok();
    assert_owned_by_root("/tmp/stage/usr/local/sbin/glexec", 0o4111);
    assert_owned_by_root("/tmp/stage/etc/pilotage/policy.toml", 0o644);
    for touched in ["/usr/sbin/glexec", "/etc/glexec.conf", "/tmp/stage/usr/sbin"] {
        assert!(!Path::new(touched).exists(), "{touched}");
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    assert!(!accounts.contains("\nglexec:"), "no account is made for a staged installation");
}

#[test]
#[needs(root)]
fn without_root_nothing_happens_to_the_host() {
    let m = Machine::builder().bare().service("user").build();
    let ran: Ran = install(&m).as_user("user").output();
    ran.refused(1, &["root", "DESTDIR"]);
    install(&m).as_user("user").env("DESTDIR", "/tmp/stage").output().ok();
    assert_eq!(fs::metadata("/tmp/stage/usr/sbin/glexec").unwrap().mode() & 0o7777, 0o4111);
}

#[test]
#[needs(root)]
fn what_is_not_built_is_not_installed_and_said_so() {
    let m = Machine::builder().bare().build();
    install(&m).env("BIN_DIR", "/tmp").output().refused(1, &["/tmp/glexec is not built"]);
    assert!(!Path::new("/etc/glexec.conf").exists());
}
