//! Proxies that come in, and the copy that goes out.

use end_to_end::contract::{POLICY, call, chmod, expired, set_conf, sh, site};
use harness::pki::Craft;
use harness::{Machine, Run, needs};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn with_target(m: &Machine, proxy: &str, target: &str) -> Run {
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy).env("GLEXEC_TARGET_PROXY", target)
}

/// Two good proxies of Alice that are not the same.
fn two_proxies(m: &Machine) -> (String, String) {
    let shorter = Craft { to: 3600, ..Craft::default() };
    let both = (m.proxy("Alice", "pilot"), m.craft(&shorter, "Alice", "pilot"));
    assert!(fs::read(&both.0).unwrap() != fs::read(&both.1).unwrap());
    both
}

/// The copy holds the bytes of the source and belongs to the account alone.
#[track_caller]
fn is_copy(m: &Machine, target: &str, source: &str) {
    let meta = fs::symlink_metadata(target).unwrap();
    assert!(meta.is_file());
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (m.uid("alice"), 0o600), "{target}");
    assert!(fs::read(target).unwrap() == fs::read(source).unwrap(), "{target} is a copy of {source}");
}

#[test]
#[needs(root)]
fn relative_paths_count_from_the_working_directory() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    m.write("/home/pilot/sub/here", "pilot", 0o644, "");
    for (cwd, name) in [
        ("/home/pilot", Path::new(&proxy).file_name().unwrap().to_string_lossy().into_owned()),
        ("/home", proxy.trim_start_matches("/home/").to_owned()),
        ("/home/pilot/sub", format!("../{}", Path::new(&proxy).file_name().unwrap().to_string_lossy())),
    ] {
        assert_eq!(call(&m, &name).cwd(cwd).arg("/usr/bin/whoami").output().ok(), "alice", "{name} in {cwd}");
    }
}

#[test]
#[needs(root)]
fn identity_and_handed_over_proxy_can_differ() {
    let m = site();
    let (client, source) = two_proxies(&m);
    let run = with_target(&m, &client, "/tmp/copy").env("GLEXEC_SOURCE_PROXY", &source);
    assert_eq!(run.args(["/bin/sh", "-c", "echo $X509_USER_PROXY"]).output().ok(), "/tmp/copy");
    is_copy(&m, "/tmp/copy", &source);
    // The source is held to the same rules.
    chmod(&source, 0o644);
    let run = with_target(&m, &client, "/tmp/copy").env("GLEXEC_SOURCE_PROXY", &source);
    run.arg("/bin/true").output().refused(201, &["GLEXEC_SOURCE_PROXY", "mode"]);
}

/// DIRAC renews without a command, BLAH with one that does nothing.
#[test]
#[needs(root)]
fn a_call_without_command_renews_the_copy() {
    let m = site();
    let (first, second) = two_proxies(&m);
    with_target(&m, &first, "/tmp/copy").arg("/bin/true").output().ok();
    is_copy(&m, "/tmp/copy", &first);
    let ran = with_target(&m, &second, "/tmp/copy").output();
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("", ""));
    is_copy(&m, "/tmp/copy", &second);
    with_target(&m, &first, "/tmp/copy").arg("/bin/pwd").cwd("/").output().ok();
    is_copy(&m, "/tmp/copy", &first);
    // A bad one changes nothing.
    with_target(&m, &m.craft(&expired(), "Alice", "pilot"), "/tmp/copy").output().refused(201, &["expired"]);
    is_copy(&m, "/tmp/copy", &first);
}

#[test]
#[needs(root)]
fn the_default_copy_is_renewed_under_a_running_payload() {
    let m = site();
    let (first, second) = two_proxies(&m);
    let script = "echo $X509_USER_PROXY >/home/alice/where; while [ ! -e /home/alice/go ]; do sleep 0.02; done; \
                  cat $X509_USER_PROXY";
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", &first).args(["/bin/sh", "-c", script]);
    let running = run.spawn();
    let place = end_to_end::contract::written("/home/alice/where");
    assert!(place.starts_with(&format!("/tmp/x509up_u{}.", m.uid("alice"))) && place.len() > 45, "{place}");
    is_copy(&m, &place, &first);
    m.glexec().env("GLEXEC_CLIENT_CERT", &second).output().ok();
    m.write("/home/alice/go", "alice", 0o600, "");
    let ran = running.end_within(std::time::Duration::from_secs(60));
    ran.exits(0);
    assert!(
        ran.stdout == fs::read(&second).unwrap(),
        "the payload reads the renewed proxy at the same place"
    );
    assert!(!Path::new(&place).exists(), "the copy goes with its session");
}

/// Sites whose tools look for gLExec's old name can have it; then the copy is one for all sessions, and stays.
#[test]
#[needs(root)]
fn the_old_name_of_the_copy_is_the_site_s_choice() {
    let m = site();
    let policy = fs::read_to_string(POLICY).unwrap() + "\n[payload]\ntarget_proxy = \"account\"\n";
    m.write(POLICY, "root", 0o644, policy);
    let (first, second) = two_proxies(&m);
    let name = format!("/tmp/x509up_u{}", m.uid("alice"));
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", &first).args(["/bin/sh", "-c", "echo $X509_USER_PROXY"]);
    assert_eq!(run.output().ok(), name);
    is_copy(&m, &name, &first);
    m.glexec().env("GLEXEC_CLIENT_CERT", &second).output().ok();
    is_copy(&m, &name, &second);
}

/// Two payloads of one account at a time: neither changes the other's identity, nor the account's own proxy.
#[test]
#[needs(root)]
fn one_session_s_copy_is_no_other_s() {
    let m = site();
    let own = format!("/tmp/x509up_u{}", m.uid("alice"));
    m.write(&own, "bob", 0o644, "taken\n");
    let (first, second) = two_proxies(&m);
    let script =
        "echo $X509_USER_PROXY >/home/alice/where; while [ ! -e /home/alice/go ]; do sleep 0.02; done";
    let running = m.glexec().env("GLEXEC_CLIENT_CERT", &first).args(["/bin/sh", "-c", script]).spawn();
    let place = end_to_end::contract::written("/home/alice/where");
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", &second).args(["/bin/sh", "-c", "echo $X509_USER_PROXY"]);
    assert_ne!(run.output().ok(), place, "a call with a command leaves other copies alone");
    is_copy(&m, &place, &first);
    // Another caller's renewal is not this one's.
    let others = fs::read(&second).unwrap();
    m.write("/home/other/proxy", "other", 0o600, others);
    m.glexec().as_user("other").env("GLEXEC_CLIENT_CERT", "/home/other/proxy").output().ok();
    is_copy(&m, &place, &first);
    assert_eq!(fs::read_to_string(&own).unwrap(), "taken\n");
    m.write("/home/alice/go", "alice", 0o600, "");
    running.end_within(std::time::Duration::from_secs(60)).exits(0);
}

#[test]
#[needs(root)]
fn dev_null_means_no_copy() {
    let m = site();
    let ran = sh(&m, "echo \"[$X509_USER_PROXY]\"").env("X509_USER_PROXY", "/home/pilot/own").output();
    assert_eq!(ran.ok(), "[]", "there is no proxy to point at");
    assert!(!Path::new(&format!("/tmp/x509up_u{}", m.uid("alice"))).exists());
    let null = fs::metadata("/dev/null").unwrap();
    assert!(!null.is_file() && null.uid() == 0, "/dev/null is what it was");
}

#[test]
#[needs(root)]
fn a_site_can_do_without_copies() {
    let m = site();
    set_conf(&m, "create_target_proxy", "no");
    let show = ["/bin/sh", "-c", "echo \"[$X509_USER_PROXY]\""];
    let run = || m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    assert_eq!(run().args(show).output().ok(), "[]");
    assert_eq!(run().env("GLEXEC_TARGET_PROXY", "/tmp/copy").args(show).output().ok(), "[]", "never");
    assert_eq!(fs::read_dir("/tmp").unwrap().count(), 0);
    assert!(m.records().iter().all(|r| r["target_proxy"].is_null()), "{:?}", m.records());
}

/// Neither a file of somebody else, nor a link, nor a directory, nor a place that the account cannot write.
#[test]
#[needs(root)]
fn unusable_targets_are_refused_and_left_alone() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    m.write("/tmp/bobs", "bob", 0o666, "test");
    m.write("/home/pilot/own", "pilot", 0o666, "test");
    m.write("/tmp/alices", "alice", 0o600, "test");
    std::os::unix::fs::symlink("/tmp/bobs", "/tmp/link-to-bob").unwrap();
    std::os::unix::fs::symlink("/tmp/alices", "/tmp/link-to-alice").unwrap();
    for target in [
        "/tmp/bobs",
        "/home/pilot/own",
        "/tmp/link-to-bob",
        "/tmp/link-to-alice",
        "/root",
        "/tmp",
        "/etc/shadow",
        "/no/such/directory/proxy",
        "/home/pilot/new",
        "",
    ] {
        let ran = with_target(&m, &proxy, target).args(["/usr/bin/touch", "/tmp/ran"]).output();
        ran.refused(201, &[if target.is_empty() { "GLEXEC_TARGET_PROXY" } else { target }]);
    }
    for untouched in ["/tmp/bobs", "/home/pilot/own", "/tmp/alices"] {
        assert_eq!(fs::read_to_string(untouched).unwrap(), "test", "{untouched}");
    }
    assert!(!Path::new("/tmp/ran").exists(), "nothing ran");
    let left: Vec<_> = fs::read_dir("/tmp").unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 4, "no half-written copy stays: {left:?}");
}

/// Directories as clients make them: /tmp, one of the account's with mode 0777, one that anybody can write.
#[test]
#[needs(root)]
fn usual_places_for_the_copy_work() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    for (dir, owner, mode) in
        [("/tmp", "root", 0o1777), ("/srv/a", "alice", 0o777), ("/srv/b", "pilot", 0o1777)]
    {
        m.write(&format!("{dir}/.here"), owner, 0o644, "");
        let account = m.account(owner);
        std::os::unix::fs::chown(dir, Some(account.uid), Some(account.gid)).unwrap();
        chmod(dir, mode);
        let target = format!("{dir}/proxy");
        for _ in 0..2 {
            with_target(&m, &proxy, &target).arg("/bin/true").output().ok();
            is_copy(&m, &target, &proxy);
        }
    }
}

/// A payload that swaps its copy for a link while it is renewed gains nothing: the link is not followed.
#[test]
#[needs(root)]
fn a_copy_is_replaced_never_written_into() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    with_target(&m, &proxy, "/tmp/copy").arg("/bin/true").output().ok();
    fs::hard_link("/tmp/copy", "/tmp/second-name").unwrap();
    let before = fs::metadata("/tmp/copy").unwrap().ino();
    with_target(&m, &two_proxies(&m).1, "/tmp/copy").output().ok();
    assert_ne!(fs::metadata("/tmp/copy").unwrap().ino(), before, "a new file has the name");
    is_copy(&m, "/tmp/second-name", &proxy);
}

/// CREAM keeps certificates without their keys.
#[test]
#[needs(root)]
fn a_listed_caller_may_leave_the_key_out() {
    let m = site();
    let whole = fs::read_to_string(m.proxy("Alice", "pilot")).unwrap();
    let mut inside = false;
    let without_key: String = whole
        .split_inclusive('\n')
        .filter(|line| {
            let mark = line.contains("PRIVATE KEY");
            inside ^= mark;
            !mark && !inside
        })
        .collect();
    assert!(
        !without_key.contains("PRIVATE KEY") && without_key.matches("BEGIN CERT").count() > 1,
        "{without_key}"
    );
    let client = m.put_credential(&without_key, "pilot");
    let who = |account: &str, client: &str| call(&m, client).as_user(account).arg("/usr/bin/whoami").output();
    who("pilot", &client).refused(201, &["key"]);
    set_conf(&m, "omission_private_key_white_list", "tomcat, pilot");
    assert_eq!(who("pilot", &client).ok(), "alice");
    who("other", &m.put_credential(&without_key, "other")).refused(201, &["key"]);
}

/// Pilots with several slots call at the same time, for the same account and the same copy.
#[test]
#[needs(root)]
fn calls_at_the_same_time_do_not_meet() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let calls: Vec<_> = (0..12)
        .map(|_| {
            m.glexec()
                .env("GLEXEC_CLIENT_CERT", &proxy)
                .args(["/bin/sh", "-c", "cat $X509_USER_PROXY"])
                .spawn()
        })
        .collect();
    let whole = fs::read(&proxy).unwrap();
    for running in calls {
        let ran = running.end_within(std::time::Duration::from_secs(60));
        assert_eq!((ran.code(), ran.errors()), (Some(0), String::new()));
        assert!(ran.stdout == whole, "nobody ever sees half a copy");
    }
    let left = fs::read_dir("/tmp").unwrap().count();
    assert_eq!(left, 0, "each copy goes with its session, and nothing half-written stays");
}
