//! CREAM: called from Tomcat with two variables and nothing else, with a certificate whose key Tomcat does not keep.

use crate::directory;
use end_to_end::contract::{CONF, GLEXEC};
use harness::{Machine, Ran, needs};
use std::fs;

fn ce() -> Machine {
    let m = Machine::builder().pilot("tomcat").account("alice").build();
    m.map("Alice", "alice");
    let text = fs::read_to_string(CONF).unwrap();
    m.write(CONF, "root", 0o640, text + "omission_private_key_white_list = tomcat\n");
    m
}

/// The chain without the key.
fn delegated(m: &Machine) -> String {
    let whole = fs::read_to_string(m.proxy("Alice", "tomcat")).unwrap();
    let certificates: String = whole
        .split_inclusive("-----END ")
        .filter_map(|part| part.split_once("-----BEGIN CERTIFICATE-----\n"))
        .map(|(_, body)| format!("-----BEGIN CERTIFICATE-----\n{body}CERTIFICATE-----\n"))
        .collect();
    assert!(certificates.matches("BEGIN").count() > 1 && !certificates.contains("PRIVATE KEY"));
    m.put_credential(certificates, "tomcat")
}

fn glexec(m: &Machine, certificate: &str, command: &[&str]) -> Ran {
    let mut run = m.command(GLEXEC).as_user("tomcat").cwd("/");
    run.raw().env_clear();
    run.env("GLEXEC_MODE", "lcmaps_get_account").env("GLEXEC_CLIENT_CERT", certificate).args(command).output()
}

#[test]
#[needs(root)]
fn probe_sandbox_and_reading() {
    let m = ce();
    let certificate = delegated(&m);
    directory(&m, "/srv/sandbox", "root", 0o1777);
    let script = "#!/bin/sh\nmkdir -p \"$1/$2/$3\" && echo created >\"$1/$2/$3/status\" && $4\n";
    m.write("/opt/cream/createsandboxdir.sh", "root", 0o755, script);
    m.write("/opt/cream/probe.sh", "root", 0o755, "#!/bin/sh\nid -un\n");

    assert_eq!(glexec(&m, &certificate, &["/opt/cream/probe.sh"]).ok(), "alice");
    let create = ["/opt/cream/createsandboxdir.sh", "/srv/sandbox", "alice_dn", "CREAM42", "true"];
    let ran = glexec(&m, &certificate, &create);
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("", ""));
    let status = "/srv/sandbox/alice_dn/CREAM42/status";
    assert_eq!(glexec(&m, &certificate, &["/bin/cat", status]).ok(), "created");
    // What fails has a text for the user, and a code that is not zero.
    let ran = glexec(&m, &certificate, &["/bin/cat", "/srv/sandbox/none"]);
    assert_eq!(ran.code(), Some(1));
    assert!(ran.errors().contains("No such file"), "{}", ran.errors());
    glexec(&m, "/home/tomcat/none", &["/bin/true"]).refused(201, &["/home/tomcat/none"]);
}
