//! PanDA pilot 1: a directory of the account made by mkgltempdir, the pilot's environment wrapped around the payload,
//! the payload as one string for the shell. The helpers are found beside glexec.

use crate::{directory, pilot_script, proxy_at};
use end_to_end::contract::{GLEXEC, site};
use harness::needs;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[test]
#[needs(root)]
fn a_payload_in_its_own_directory_with_the_pilots_environment() {
    let m = site();
    directory(&m, "/srv/panda", "pilot", 0o755);
    directory(&m, "/srv/panda/job", "pilot", 0o755);
    proxy_at(&m, "Alice", "/srv/panda/user_proxy");
    // Step by step as one script, since every step builds on variables of the one before.
    let script = r#"
        cd /srv/panda/job
        glexec=${OSG_GLEXEC_LOCATION}
        helpers=$(dirname "$glexec")
        export GLEXEC_CLIENT_CERT=/srv/panda/user_proxy GLEXEC_SOURCE_PROXY=/srv/panda/user_proxy
        dir=$("$helpers/mkgltempdir" -t 777 "$(pwd)" 2>mkgltempdir.err)
        test ! -s mkgltempdir.err
        echo "payload input" >"$dir/input"
        export GLEXEC_TARGET_DIR="$dir" GLEXEC_TARGET_PROXY="$dir/user_proxy"
        export ATLAS_SETUP="with blanks; and a semicolon" LD_LIBRARY_PATH=/opt/atlas/lib
        export GLEXEC_ENV=`"$helpers/glexec_wrapenv.pl" 2>/dev/null`
        "$glexec" "$helpers/glexec_unwrapenv.pl" -- 'cd '"$dir"'; id -un; cat input; echo "$ATLAS_SETUP"; echo $LD_LIBRARY_PATH; echo $X509_USER_PROXY; echo to stderr >&2; echo output >result.root 2>&1;'
        echo "code $?"
        cat "$dir/result.root"
        "$helpers/mkgltempdir" -r -f "$dir" 2>mkgltempdir.err || cat mkgltempdir.err >&2
        test ! -s mkgltempdir.err
        echo "dir $dir"
    "#;
    let run = pilot_script(&m, script).env("OSG_GLEXEC_LOCATION", GLEXEC);
    let ran = run.env("X509_USER_PROXY", "/home/pilot/pilots-own-proxy").output();
    let text = ran.ok();
    let (before, dir) = text.rsplit_once("dir ").unwrap();
    assert_eq!(
        before,
        format!(
            "alice\npayload input\nwith blanks; and a semicolon\n/opt/atlas/lib\n{dir}/user_proxy\ncode 0\noutput\n"
        )
    );
    assert_eq!(ran.errors(), "to stderr\n");
    assert!(dir.contains("gltmpdir") && !Path::new(dir).exists(), "{dir}");
    let left: Vec<_> = fs::read_dir("/srv/panda/job").unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["mkgltempdir.err"], "the job's directory is as it was");
    assert_eq!(fs::metadata("/srv/panda/job").unwrap().uid(), m.uid("pilot"));
}

/// The pilot reads the end of a payload from the code alone.
#[test]
#[needs(root)]
fn the_payloads_code_comes_through_both_layers() {
    let m = site();
    proxy_at(&m, "Alice", "/home/pilot/user_proxy");
    for (payload, code) in
        [("[ $USER = alice ] && exit 65", 65), ("nosuchprogram_at_all", 127), ("kill -KILL $$", 128 + 9)]
    {
        let script = format!(
            "export GLEXEC_ENV=`/usr/sbin/glexec_wrapenv.pl 2>/dev/null`; {GLEXEC} /usr/sbin/glexec_unwrapenv.pl -- '{payload};'"
        );
        let run = pilot_script(&m, &script).env("GLEXEC_CLIENT_CERT", "/home/pilot/user_proxy");
        run.env("GLEXEC_TARGET_PROXY", "/dev/null").output().exits(code);
    }
}
