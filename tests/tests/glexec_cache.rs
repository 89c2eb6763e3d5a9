//! What `glexec` remembers between calls, and what it must not remember.

use harness::{Machine, needs};

/// A machine on which Alice was just verified, and whose verifier then stopped working.
fn remembered() -> (Machine, String) {
    let machine = Machine::builder().pilot("pilot").account("alice").build();
    machine.map("alice", "alice");
    let proxy = machine.proxy("alice", "pilot");
    call(&machine, &proxy).ok();
    let over = ["--bind", "/bin/false", "/usr/libexec/pilotage/glexec-verify"];
    assert!(std::process::Command::new("mount").args(over).status().expect("mount can be run").success());
    (machine, proxy)
}

fn call(machine: &Machine, proxy: &str) -> harness::Ran {
    machine.glexec().env("GLEXEC_CLIENT_CERT", proxy).arg("/bin/true").output()
}

#[test]
#[needs(root, "grid-proxy-init")]
fn the_same_proxy_is_not_verified_again_within_cache_ttl() {
    let (machine, proxy) = remembered();
    call(&machine, &proxy).ok();
    machine.write(&proxy, "pilot", 0o600, [&std::fs::read(&proxy).unwrap()[..], b"\n"].concat());
    call(&machine, &proxy).refused(202, &["glexec-verify"]);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_ban_counts_at_once() {
    let (machine, proxy) = remembered();
    let ban = format!("\"{}\"\n", machine.dn("alice"));
    machine.write("/etc/grid-security/ban-mapfile", "root", 0o644, ban);
    call(&machine, &proxy).refused(203, &["banned"]);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn new_revocation_lists_make_it_ask_again() {
    let (machine, proxy) = remembered();
    let list = std::fs::read_dir("/etc/grid-security/certificates").unwrap().flatten();
    let list = list.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "r0")).unwrap();
    let fetched = list.with_extension("new");
    std::fs::copy(&list, &fetched).unwrap();
    std::fs::rename(&fetched, &list).unwrap();
    call(&machine, &proxy).refused(202, &["glexec-verify"]);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn other_rules_make_it_ask_again() {
    let (machine, proxy) = remembered();
    machine.edit_policy(|policy| format!("{policy}\n[trust]\nallow_limited = false\n"));
    call(&machine, &proxy).refused(202, &["glexec-verify"]);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn without_cache_ttl_nothing_is_kept() {
    let (machine, proxy) = remembered();
    machine.edit_policy(|policy| match policy.contains("[mapping]") {
        true => policy.replace("[mapping]", "[mapping]\ncache_ttl = \"0s\""),
        false => format!("{policy}\n[mapping]\ncache_ttl = \"0s\"\n"),
    });
    call(&machine, &proxy).refused(202, &["glexec-verify"]);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn another_callers_copy_must_still_be_his_own_file() {
    let (machine, proxy) = remembered();
    let bytes = std::fs::read(&proxy).unwrap();
    machine.write("/tmp/stolen.pem", "alice", 0o644, bytes);
    let stolen = machine.glexec().env("GLEXEC_CLIENT_CERT", "/tmp/stolen.pem").arg("/bin/true").output();
    stolen.refused(201, &["belongs to uid"]);
}

/// Whoever has a proxy can make any number of others, and each is kept apart.
#[test]
#[needs(root, "grid-proxy-init")]
fn what_is_kept_has_a_bound() {
    let machine = Machine::builder().pilot("pilot").account("alice").build();
    machine.map("alice", "alice");
    let proxy = machine.proxy("alice", "pilot");
    // The first eight bytes say when an entry expires, in nanoseconds since boot.
    let (cache, mut many) = ("/run/glexec/cache", vec![0; 16 << 20]);
    many[..8].copy_from_slice(&u64::MAX.to_be_bytes());
    machine.write(&format!("{cache}/verdict-of-others"), "root", 0o600, &many);
    let kept = || std::fs::read_dir(cache).unwrap().count();
    call(&machine, &proxy).ok();
    assert_eq!(kept(), 1, "nothing is added to a full cache");
    many[..8].fill(0);
    machine.write(&format!("{cache}/verdict-of-others"), "root", 0o600, &many);
    call(&machine, &proxy).ok();
    assert!(!std::path::Path::new(&format!("{cache}/verdict-of-others")).exists(), "the expired one goes");
    assert_eq!(kept(), 1, "and makes room");
}
