//! The two programs that every call starts, as `packaging/build-image` links them for sites; other tests run cargo's own.

use harness::{Machine, image_dir, need, needs};
use std::path::Path;
use std::process::Command;

fn image() -> bool {
    let built = ["glexec", "glexec-verify"].iter().all(|name| image_dir().join(name).exists());
    need::that(built, "the image is not built; run packaging/build-image")
}

fn site() -> Machine {
    let m = Machine::builder().pilot("pilot").account("alice").image().build();
    m.map("Alice", "alice");
    m
}

/// What a program needs from outside of itself: libraries, and the loader that finds them.
fn libraries_of(program: &str) -> Vec<String> {
    let told =
        Command::new("readelf").args(["-W", "-d", "-l", program]).output().expect("readelf can be run");
    let told = String::from_utf8(told.stdout).expect("names of libraries");
    let wanted = told.lines().filter(|line| line.contains("(NEEDED)") || line.contains("INTERP"));
    wanted.map(|line| line.split_whitespace().last().unwrap_or_default().to_owned()).collect()
}

#[test]
#[needs(root, self::image, "readelf")]
fn a_call_loads_no_library_but_libc() {
    let _machine = site();
    assert!(libraries_of("/usr/sbin/glexec").contains(&"[libc.so.6]".to_owned()));
    assert!(!libraries_of("/usr/sbin/glexec").contains(&"[libgcc_s.so.1]".to_owned()));
    assert_eq!(libraries_of("/usr/libexec/pilotage/glexec-verify"), [""; 0]);
}

#[test]
#[needs(root, self::image)]
fn it_switches_and_refuses_as_cargo_s_does() {
    let m = site();
    let call = |proxy: &str| m.glexec().env("GLEXEC_CLIENT_CERT", proxy).args(["/usr/bin/id", "-u"]).output();
    let proxy = m.proxy("Alice", "pilot");
    assert_eq!(call(&proxy).ok(), m.uid("alice").to_string());
    assert_eq!(call(&proxy).ok(), m.uid("alice").to_string(), "from the cache");
    call(&m.tampered_proxy("Alice", "pilot")).refused(203, &["signature"]);
    call(&m.put_credential("no certificate", "pilot")).refused(201, &["certificate"]);
    let nested = format!("GLEXEC_CLIENT_CERT={proxy} exec /usr/sbin/glexec /usr/bin/id");
    let nested = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy).args(["/bin/sh", "-c", &nested]).output();
    nested.exits(204);
    assert!(nested.errors().contains("payload"), "{}", nested.errors());
}

#[test]
#[needs(root, self::image)]
fn its_verifier_has_the_same_walls() {
    let _machine = site();
    let walls = |program: &Path| {
        // Nothing of it runs as root.
        let ran = Command::new("/usr/bin/setpriv")
            .args(["--reuid", "65534", "--clear-groups"])
            .arg(program)
            .arg("--walls")
            .output();
        let ran = ran.expect("setpriv can be run");
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).expect("words")
    };
    let installed = Path::new("/usr/libexec/pilotage/glexec-verify");
    assert_eq!(walls(installed), walls(&Path::new(harness::BUILT).join("glexec-verify")));
}
