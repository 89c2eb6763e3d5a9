//! The CMS probe: which version, another account than the pilot's, files in and out, five calls with one target proxy.

use crate::pilot_script;
use end_to_end::contract::site;
use harness::needs;
use std::fs;

const PROBE: &str = r#"
    glexec=${GLEXEC_LOCATION:-/usr}/sbin/glexec
    mkgltempdir=${GLEXEC_LOCATION:-/usr}/sbin/mkgltempdir
    version=`$glexec -v 2>/dev/null`
    [ "$(echo "$version" | wc -l)" = 1 ] && [ -n "$version" ] && [ ${#version} -lt 80 ]
    export GLEXEC_CLIENT_CERT="$USER_PROXY" GLEXEC_SOURCE_PROXY="$USER_PROXY"
    dir=$($mkgltempdir)
    export GLEXEC_TARGET_PROXY="$dir/proxy"
    payload=$($glexec /usr/bin/id -u)
    [ -n "$payload" ] && [ "$payload" != "$(id -u)" ]
    groups=$($glexec /usr/bin/id -G)
    [ "$groups" != "$(id -G)" ]
    above=$(dirname "$dir")
    printf '#!/bin/sh\ncat "$1/copied"\nid -u\n' >"$above/wrapper.sh"
    chmod a+x "$above/wrapper.sh"
    echo "from the pilot" >"$above/file"
    chmod a+r "$above/file"
    $glexec /bin/cp "$above/file" "$dir/copied"
    answer=$($glexec "$above/wrapper.sh" "$dir")
    [ "$answer" = "from the pilot
$payload" ]
    $glexec /bin/rm "$dir/copied" "$dir/proxy"
    rm "$above/wrapper.sh" "$above/file"
    export GLEXEC_TARGET_PROXY=/dev/null
    $mkgltempdir -r "$dir"
    [ ! -e "$above" ]
    echo "OK: $payload"
"#;

#[test]
#[needs(root)]
fn the_probe_is_green() {
    let m = site();
    let run = pilot_script(&m, PROBE).env("USER_PROXY", m.proxy("Alice", "pilot"));
    let ran = run.env("X509_USER_PROXY", "/home/pilot/pilots-own-proxy").output();
    assert_eq!(ran.ok(), format!("OK: {}", m.uid("alice")));
    assert_eq!(ran.errors(), "");
    assert_eq!(fs::read_dir("/tmp").unwrap().count(), 0, "nothing is left");
}

#[test]
#[needs(root)]
fn the_probe_is_red_when_glexec_refuses() {
    let m = site();
    let proxy = m.proxy("Nobody", "pilot");
    let ran = pilot_script(&m, PROBE).env("USER_PROXY", &proxy).output();
    // mkgltempdir is the first that calls it, and hands its code and its reason on.
    ran.refused(203, &[&m.dn("Nobody"), "no mapping source"]);
    assert_eq!(ran.text(), "");
}
