//! `make install`: what it puts where, with which owner and mode.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use harness::{BUILT, Machine, Ran, Run, SOURCE, needs};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

fn install(m: &Machine) -> Run {
    m.command(&format!("{SOURCE}/packaging/install")).env("BIN_DIR", BUILT)
}

/// What users and packages rely on, by path.
const PROGRAMS: [(&str, u32); 13] = [
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
    ("/usr/sbin/gridfw", 0o755),
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

fn uninstall(m: &Machine) -> Run {
    m.command(&format!("{SOURCE}/packaging/uninstall"))
}

/// Every file and directory where an installation may put something, and the accounts.
fn snapshot(m: &Machine) -> Vec<String> {
    let found =
        m.command("/usr/bin/find").args(["/etc", "/usr", "/var", "/run", "/opt", "-xdev"]).output().ok();
    // What useradd and userdel leave beside the files that they change.
    let passing = |path: &&str| !path.ends_with('-') && *path != "/etc/.pwd.lock";
    let mut all: Vec<String> = found.lines().filter(passing).map(str::to_owned).collect();
    for file in ["/etc/passwd", "/etc/group"] {
        all.extend(fs::read_to_string(file).unwrap().lines().map(|line| format!("{file}: {line}")));
    }
    all.sort();
    all
}

fn more<'a>(before: &[String], after: &'a [String]) -> Vec<&'a str> {
    after.iter().filter(|path| before.binary_search(path).is_err()).map(String::as_str).collect()
}

#[test]
#[needs(root)]
fn uninstall_leaves_nothing_that_install_made() {
    let m = Machine::builder().bare().build();
    let before = snapshot(&m);
    install(&m).output().ok();
    let installed = snapshot(&m);
    for expected in [
        "/etc/pilotage/queue.toml",
        "/var/lib/pilotage/queue",
        "/usr/lib/systemd/system/pilotage-queue.service",
    ] {
        assert!(more(&before, &installed).contains(&expected), "{expected}");
    }
    // a second installation must not forget what the first one made
    install(&m).output().ok();
    uninstall(&m).env("PURGE", "1").output().ok();
    let after = snapshot(&m);
    assert_eq!((more(&before, &after), more(&after, &before)), (vec![], vec![]));
}

#[test]
#[needs(root)]
fn uninstall_keeps_configuration_and_data_unless_told() {
    let m = Machine::builder().bare().build();
    let before = snapshot(&m);
    install(&m).output().ok();
    m.write("/etc/pilotage/queue.toml", "root", 0o644, "# ours\n");
    uninstall(&m).output().ok();
    let after = snapshot(&m);
    let kept = [
        "/etc/glexec.conf",
        "/etc/pilotage",
        "/etc/pilotage/.made-by-install",
        "/etc/pilotage/accounting.toml",
        "/etc/pilotage/factory.toml",
        "/etc/pilotage/gridfw.toml",
        "/etc/pilotage/mapping-server.toml",
        "/etc/pilotage/policy.toml",
        "/etc/pilotage/queue.toml",
    ];
    assert_eq!(more(&before, &after), kept);
    assert_eq!(fs::read_to_string("/etc/pilotage/queue.toml").unwrap(), "# ours\n");
    install(&m).output().ok();
    // a record and a store are the site's; the account that owns the store stays with it
    m.write("/var/spool/pilotage/records/r", "root", 0o600, "record\n");
    m.write("/var/lib/pilotage/queue/queue.db", "pilotage-queue", 0o600, "store\n");
    let ran = uninstall(&m).output();
    let said = ran.errors();
    assert!(said.contains("kept: the account pilotage-queue owns files that stay"), "{said}");
    assert!(Path::new("/var/spool/pilotage/records/r").exists());
    assert!(Path::new("/var/lib/pilotage/queue/queue.db").exists());
    uninstall(&m).env("PURGE", "1").output().ok();
    let after = snapshot(&m);
    assert_eq!((more(&before, &after), more(&after, &before)), (vec![], vec![]));
}

#[test]
#[needs(root)]
fn a_staged_installation_can_be_taken_away() {
    let m = Machine::builder().bare().service("user").build();
    let stage = |run: Run| run.env("DESTDIR", "/tmp/stage").env("PREFIX", "/usr/local").as_user("user");
    stage(install(&m)).output().ok();
    let unit = fs::read_to_string("/tmp/stage/usr/local/lib/systemd/system/pilotage-queue.service").unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/pilot queue"), "{unit}");
    stage(uninstall(&m)).output().ok();
    let left = m.command("/usr/bin/find").args(["/tmp/stage", "-type", "f"]).output().ok();
    let mut left: Vec<_> = left.lines().collect();
    left.sort_unstable();
    let names = ["accounting", "factory", "gridfw", "mapping-server", "policy", "queue"];
    let names = names.map(|name| format!("/tmp/stage/etc/pilotage/{name}.toml"));
    let etc = [&["/tmp/stage/etc/glexec.conf".to_owned()][..], &names].concat();
    assert_eq!(left, etc);
    stage(uninstall(&m)).env("PURGE", "1").output().ok();
    assert!(!Path::new("/tmp/stage").exists());
    uninstall(&m).as_user("user").output().refused(1, &["root", "DESTDIR"]);
}

/// A block of shell in the docs, as a newcomer would paste it.
fn step(name: &str) -> String {
    let page = if name.starts_with("mapping ") { "mapping.md" } else { "queue.md" };
    let docs = fs::read_to_string(format!("{SOURCE}/docs/{page}")).unwrap();
    let block = docs
        .split(&format!("<!-- newcomer: {name} -->\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("no step {name}"));
    let lines = block.lines().skip(1).map(str::trim_start);
    lines.take_while(|line| !line.starts_with("```")).map(|line| format!("{line}\n")).collect()
}

fn shell(m: &Machine, script: &str) -> Run {
    m.command("/bin/sh").args(["-e", "-c", script])
}

#[test]
#[needs(root)]
fn the_documented_steps_lead_to_a_running_queue() {
    let m = Machine::builder().bare().service("alice").build();
    install(&m).output().ok();
    m.pki();
    // before the key is copied and pilots are named, the check says so
    let ran = shell(&m, &step("check")).output();
    let said = ran.exits(1).text();
    for words in ["error: host certificate", "/etc/grid-security/queue/hostcert.pem", "warning: pilot_dn"] {
        assert!(said.contains(words), "{words} is missing in {said}");
    }
    shell(&m, &step("key")).output().ok();
    let sample = fs::read_to_string("/etc/pilotage/queue.toml").unwrap();
    let port = harness::free_port();
    let mine =
        sample.replace("#: pilot_dn = [", "pilot_dn = [").replace("[::]:8443", &format!("localhost:{port}"));
    m.write("/etc/pilotage/queue.toml", "root", 0o644, mine);
    let said = shell(&m, &step("check")).output().ok();
    assert!(said.lines().all(|line| line.starts_with("ok: ")), "{said}");
    let queue = shell(&m, &format!("{}wait", step("start")));
    let queue = harness::Service::start("queue", queue).unwrap().listens(port).unwrap();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let alice = |args: &[&str]| {
        let run =
            m.command("/usr/bin/pilot").as_user("alice").env("X509_USER_PROXY", m.proxy("Alice", "alice"));
        run.env("PILOT_QUEUE", format!("https://{}:{port}", host.trim())).args(args).output()
    };
    assert!(alice(&["status"]).ok().contains("payloads  none"), "{}", queue.said());
    let id = alice(&["submit", "--", "/bin/true"]).ok();
    assert!(alice(&["jobs"]).ok().contains(id.trim()));
    let log = fs::metadata("/var/log/pilotage/queue/queue.log").unwrap();
    let account = m.account("pilotage-queue");
    assert_eq!((log.uid(), log.mode() & 0o777), (account.uid, 0o640));
    let store = fs::metadata("/var/lib/pilotage/queue/queue.db").unwrap();
    assert_eq!((store.uid(), store.mode() & 0o777), (account.uid, 0o600));
    drop(queue);
}

#[test]
#[needs(root)]
fn the_documented_steps_lead_to_a_running_mapping_server() {
    let m = Machine::builder().bare().build();
    install(&m).output().ok();
    m.pki();
    let port = harness::free_port();
    // The default port may be taken on this host.
    let here = |name: &str| {
        step(name).replace("-- mapping-server ", &format!("-- mapping-server --listen localhost:{port} "))
    };
    let ran = shell(&m, &here("mapping check")).output();
    assert!(ran.exits(1).text().contains("error: host certificate"), "{}", ran.text());
    shell(&m, &step("mapping key")).output().ok();
    let said = shell(&m, &here("mapping check")).output().ok();
    assert!(said.contains("warning: /etc/pilotage/mapping-server.toml: nobody may ask"), "{said}");
    let server = shell(&m, &format!("{}wait", here("mapping start")));
    let server = harness::Service::start("mapping", server).unwrap().listens(port).unwrap();
    let log = fs::metadata("/var/log/pilotage/mapping/mapping-server.log").unwrap();
    assert_eq!(log.uid(), m.account("pilotage-mapping").uid);
    drop(server);
}
