//! DIRAC: a login shell for the payload, the bare binary to renew its proxy; below 127 is the payload's own result.

use crate::{directory, pilot_script, proxy_at};
use end_to_end::contract::{GLEXEC, eventually, site, written};
use harness::{Machine, Run, needs};
use std::fs;
use std::time::Duration;

const PAYLOAD_PROXY: &str = "/home/pilot/payload_proxy";
const LIMIT: Duration = Duration::from_secs(60);

fn glexec(m: &Machine) -> Run {
    let run = m.command(GLEXEC).as_user("pilot").cwd("/srv");
    run.env("GLEXEC_CLIENT_CERT", PAYLOAD_PROXY).env("GLEXEC_SOURCE_PROXY", PAYLOAD_PROXY)
}

fn payload(m: &Machine, text: &str) -> Run {
    m.write("/srv/dirac/payload.sh", "pilot", 0o755, format!("#!/bin/bash\n{text}\n"));
    glexec(m).args(["/bin/bash", "-lc", "/srv/dirac/payload.sh"])
}

#[test]
#[needs(root, "bash")]
fn the_test_script_and_the_payloads_own_result() {
    let m = site();
    proxy_at(&m, "Alice", PAYLOAD_PROXY);
    let ran = payload(&m, "id; hostname; date; openssl x509 -noout -subject -in $X509_USER_PROXY").output();
    assert!(ran.ok().contains("(alice)") && ran.text().contains("CN = Alice"), "{}", ran.text());
    for code in [1, 42, 126] {
        payload(&m, &format!("exit {code}")).output().exits(code);
    }
    // These it names as failures of glexec or of the shell.
    payload(&m, "exec /no/such/program").output().exits(127);
    payload(&m, "kill -HUP $$").output().exits(129);
    m.map("Alice", "nosuchaccount");
    assert_eq!(payload(&m, "true").output().code(), Some(203));
}

#[test]
#[needs(root, "bash")]
fn renewing_reaches_the_running_payload() {
    let m = site();
    proxy_at(&m, "Alice", PAYLOAD_PROXY);
    let watch = "old=$(cat $X509_USER_PROXY); echo ready >/home/alice/ready; \
                 while [ \"$(cat $X509_USER_PROXY)\" = \"$old\" ]; do sleep 0.05; done; echo renewed";
    let running = payload(&m, watch).spawn();
    written("/home/alice/ready");
    let shorter = harness::pki::Craft { to: 3600, ..Default::default() };
    let renewed = fs::read(m.craft(&shorter, "Alice", "pilot")).unwrap();
    m.write(PAYLOAD_PROXY, "pilot", 0o600, renewed);
    let ran = glexec(&m).output();
    assert!(ran.code().is_some_and(|code| code < 127), "{ran:?}");
    assert_eq!(running.end_within(LIMIT).ok(), "renewed");
}

/// Its search: the variable of OSG names the program, that of gLite a prefix, then PATH.
#[test]
#[needs(root)]
fn it_finds_glexec() {
    let m = site();
    let script = "for p in \"${OSG_GLEXEC_LOCATION:-}\" \"${GLITE_LOCATION:+$GLITE_LOCATION/sbin/glexec}\" \
                  \"$(command -v glexec || :)\"; do if [ -n \"$p\" ]; then echo \"$p\"; break; fi; done";
    for (name, value) in [("OSG_GLEXEC_LOCATION", GLEXEC), ("GLITE_LOCATION", "/usr"), ("NONE", "")] {
        let found = pilot_script(&m, script).env(name, value).output().ok();
        assert_eq!(fs::canonicalize(&found).unwrap(), fs::canonicalize(GLEXEC).unwrap());
        proxy_at(&m, "Alice", PAYLOAD_PROXY);
        let run = m.command(&found).as_user("pilot").env("GLEXEC_CLIENT_CERT", PAYLOAD_PROXY);
        assert_eq!(run.arg("/usr/bin/whoami").output().ok(), "alice", "{name}");
    }
}

/// It builds the payload's directory itself: one of its own, open for the moment in which glexec makes another inside.
#[test]
#[needs(root)]
fn a_directory_of_its_own_making() {
    let m = site();
    directory(&m, "/srv/dirac", "pilot", 0o755);
    proxy_at(&m, "Alice", PAYLOAD_PROXY);
    let script = "cd /srv/dirac; mkdir -m 711 secure; mkdir secure/open; chmod 1777 secure/open; \
                  dir=/srv/dirac/secure/open/job; GLEXEC_TARGET_PROXY=/dev/null $glexec /bin/mkdir -m 755 $dir; \
                  chmod 755 secure/open; export GLEXEC_TARGET_PROXY=$dir/proxy; \
                  $glexec /bin/sh -c \"cd $dir && grep -c BEGIN.CERT proxy >certificates && id -un >who\"; \
                  cat $dir/certificates $dir/who; stat -c '%U %a' $dir $dir/proxy; \
                  chmod 1777 secure/open; GLEXEC_TARGET_PROXY=/dev/null $glexec /bin/rm -r $dir; rmdir secure/open secure";
    let run = pilot_script(&m, script).env("glexec", GLEXEC).env("GLEXEC_CLIENT_CERT", PAYLOAD_PROXY);
    let ran = run.output();
    assert_eq!(ran.ok(), "2\nalice\nalice 755\nalice 600", "{}", ran.errors());
    assert_eq!(fs::read_dir("/srv/dirac").unwrap().count(), 0);
}

/// When a payload hangs, the agent ends the group of its own child, and nothing stays.
#[test]
#[needs(root, "bash")]
fn a_payload_that_is_given_up_leaves_nothing() {
    let m = site();
    proxy_at(&m, "Alice", PAYLOAD_PROXY);
    let running = payload(&m, "sleep 1000 & echo ready >/home/alice/ready; wait").spawn();
    written("/home/alice/ready");
    assert!(end_to_end::contract::kill_as(&m, "pilot", "TERM", running.pid()));
    running.end_within(LIMIT).exits(128 + 15);
    eventually("nothing is left", LIMIT, || m.processes_of("alice").is_empty().then_some(()));
}
