//! The two programs that every call starts, as `packaging/build-image` links them for sites; other tests run cargo's own.

use harness::{Machine, image_dir, need};
use std::path::Path;
use std::process::Command;

fn site() -> Option<Machine> {
    let built = ["glexec", "glexec-verify"].iter().all(|name| image_dir().join(name).exists());
    let here = need::root() && need::that(built, "the image is not built; run packaging/build-image");
    let m = here.then(|| Machine::builder().pilot("pilot").account("alice").image().build())?;
    m.map("Alice", "alice");
    Some(m)
}

/// What a program needs from outside of itself: libraries, and the loader that finds them.
fn needs(program: &str) -> Vec<String> {
    let told =
        Command::new("readelf").args(["-W", "-d", "-l", program]).output().expect("readelf can be run");
    let told = String::from_utf8(told.stdout).expect("names of libraries");
    let wanted = told.lines().filter(|line| line.contains("(NEEDED)") || line.contains("INTERP"));
    wanted.map(|line| line.split_whitespace().last().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_call_loads_no_library_but_libc() {
    let Some(_machine) = site() else { return };
    if !need::tool("readelf") {
        return;
    }
    assert!(needs("/usr/sbin/glexec").contains(&"[libc.so.6]".to_owned()));
    assert!(!needs("/usr/sbin/glexec").contains(&"[libgcc_s.so.1]".to_owned()));
    assert_eq!(needs("/usr/libexec/pilotage/glexec-verify"), [""; 0]);
}

#[test]
fn it_switches_and_refuses_as_cargo_s_does() {
    let Some(m) = site() else { return };
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
fn its_verifier_has_the_same_walls() {
    let Some(_machine) = site() else { return };
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
