//! glideinWMS: the glidein finds glexec, opens the way to its directories, and tests it in two ways before it advertises.

use crate::{directory, pilot_script};
use end_to_end::contract::{GLEXEC, site};
use harness::{Machine, Ran, needs};

/// What the glidein runs at start-up; the last line of each test is looked at.
const SETUP: &str = r#"
    glexec=
    if [ -n "${OSG_GLEXEC_LOCATION:-}" ]; then
        if [ -f "$OSG_GLEXEC_LOCATION" ]; then glexec=$OSG_GLEXEC_LOCATION; else glexec=/usr/sbin/glexec; fi
    elif [ -n "${GLEXEC_LOCATION:-}" ] && [ -f "$GLEXEC_LOCATION/sbin/glexec" ]; then glexec=$GLEXEC_LOCATION/sbin/glexec
    elif [ -n "${GLITE_LOCATION:-}" ] && [ -f "$GLITE_LOCATION/sbin/glexec" ]; then glexec=$GLITE_LOCATION/sbin/glexec
    else glexec=/opt/glite/sbin/glexec; fi
    [ -f "$glexec" ] && [ -x "$glexec" ] || { echo "no glexec at $glexec" >&2; exit 1; }
    cd "$WORK"
    dir=$WORK
    while [ "$dir" != / ] && chmod a+x "$dir" 2>/dev/null; do dir=$(dirname "$dir"); done
    sh=$(readlink -f /bin/sh)
    export GLEXEC_CLIENT_CERT="$X509_USER_PROXY"
    check() {
        "$@" >out 2>err || { echo "failed: $(cat err)" >&2; exit 1; }
        [ "$(tail -n 1 out)" = "Hello World" ] || { echo "unexpected: $(cat out)" >&2; exit 1; }
        [ ! -s err ] || { echo "noise: $(cat err)" >&2; exit 1; }
        grep -q '(alice)' out
    }
    check "$glexec" "$sh" -c 'id && echo "Hello World"'
    printf '#!/bin/sh\nid && echo "Hello World"\n' >glexec_test2.sh
    chmod a+x glexec_test2.sh
    check "$glexec" "$PWD/glexec_test2.sh"
    echo "$glexec works"
"#;

fn setup(m: &Machine, variable: (&str, &str)) -> Ran {
    directory(m, "/home/pilot/glide", "pilot", 0o700);
    let run = pilot_script(m, SETUP).env("WORK", "/home/pilot/glide").env(variable.0, variable.1);
    run.env("X509_USER_PROXY", m.proxy("Alice", "pilot")).output()
}

#[test]
#[needs(root)]
fn a_glidein_tests_before_it_advertises() {
    let m = site();
    for variable in [
        ("OSG_GLEXEC_LOCATION", GLEXEC),
        ("OSG_GLEXEC_LOCATION", "/moved/away/glexec"),
        ("GLEXEC_LOCATION", "/usr"),
        ("GLITE_LOCATION", "/usr"),
    ] {
        assert_eq!(setup(&m, variable).ok(), format!("{GLEXEC} works"), "{variable:?}");
    }
}

#[test]
#[needs(root)]
fn a_glidein_reports_what_is_wrong() {
    let m = site();
    m.map("Alice", "nosuchaccount");
    let ran = setup(&m, ("OSG_GLEXEC_LOCATION", GLEXEC));
    ran.refused(1, &["failed", "nosuchaccount"]);
}
