//! The programs beside `glexec`: environments wrapped and unwrapped as the Perl scripts of gLExec 0.9 did, and
//! directories that belong to the payload's account.

#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::contract::{GLEXEC, call, chmod, set_conf, site};
use harness::{Machine, Ran, Run, needs};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const WRAP: &str = "/usr/sbin/glexec_wrapenv.pl";
const UNWRAP: &str = "/usr/sbin/glexec_unwrapenv.pl";
const MKGLTEMPDIR: &str = "/usr/sbin/mkgltempdir";

/// The format, said in Perl: what the old scripts wrote and read.
const PERL_WRAP: &str = "use MIME::Base64; use Compress::Zlib; \
    print encode_base64(compress(join '', map { encode_base64(\"$_=$ENV{$_}\", '') . ' ' } keys %ENV), '')";
const PERL_UNWRAP: &str = "use MIME::Base64; use Compress::Zlib; \
    print map { decode_base64($_) . qq(\\0) } split / /, uncompress(decode_base64($ENV{GLEXEC_ENV}))";

fn wrap(m: &Machine) -> Run {
    m.command(WRAP).as_user("pilot")
}

fn unwrap(m: &Machine, blob: &str) -> Run {
    m.command(UNWRAP).as_user("pilot").env("GLEXEC_ENV", blob)
}

const ODD: &str = "a\nb = \"c\" 'd' $E \\ \u{fc}  ";

#[test]
#[needs(root, "prove")]
fn perl_reads_what_we_wrap() {
    let m = site();
    let blob = wrap(&m).env("T_ODD", ODD).env("T_EMPTY", "").output().ok();
    let run = m.command("/usr/bin/perl").as_user("pilot").env("GLEXEC_ENV", blob);
    let text = String::from_utf8(run.args(["-e", PERL_UNWRAP]).output().stdout).unwrap();
    let variables: Vec<_> = text.split('\0').collect();
    for expected in
        [format!("T_ODD={ODD}").as_str(), "T_EMPTY=", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
    {
        assert!(variables.contains(&expected), "{expected}: {text}");
    }
    assert!(!text.contains("HOME="), "{text}");
}

#[test]
#[needs(root, "prove")]
fn we_read_what_perl_wrapped() {
    let m = site();
    let run = m.command("/usr/bin/perl").as_user("bob").env("T_ODD", ODD).env("T_EMPTY", "");
    let blob = run.args(["-e", PERL_WRAP]).output().ok();
    let ran = unwrap(&m, &blob)
        .args(["--", "/bin/sh", "-c", "printf '%s|%s\\n' \"$T_ODD\" \"$T_EMPTY\"; env"])
        .output();
    assert!(ran.text().starts_with(&format!("{ODD}|")), "{}", ran.text());
    for own in ["HOME=/home/pilot", "USER=pilot", "LOGNAME=pilot"] {
        assert!(ran.text().lines().any(|l| l == own), "{own}, not Bob's: {}", ran.text());
    }
}

#[test]
#[needs(root)]
fn names_are_excluded_whole() {
    let m = site();
    let kept = ["ME", "U", "E", "NAME", "LOG", "USE", "PROXY", "X509", "T_A", "T_A[", "GLEXEC"];
    let run = kept.iter().fold(wrap(&m), |run, name| run.env(name, format!("value of {name}")));
    let ran = run.env("T_OUT", "x").env("X509_USER_PROXY", "x").arg("--exclude=T_OUT,T_").output();
    let text = unwrap(&m, &ran.ok()).args(["--", "/usr/bin/env"]).output().ok();
    for name in kept {
        assert!(text.lines().any(|l| l == format!("{name}=value of {name}")), "{name}: {text}");
    }
    assert!(!text.contains("T_OUT"), "{text}");
    let mut said: Vec<_> = ran.errors().lines().map(str::to_owned).collect();
    said.sort();
    let names = ["HOME", "LOGNAME", "T_OUT", "USER", "X509_USER_PROXY"];
    assert_eq!(said, names.map(|n| format!("Skipping {n}")));
}

#[test]
#[needs(root)]
fn a_blob_is_not_wrapped_into_the_next() {
    let m = site();
    let once = wrap(&m).output().ok();
    assert_eq!(wrap(&m).env("GLEXEC_ENV", &once).output().ok(), once);
}

#[test]
#[needs(root)]
fn what_no_variable_can_hold_is_not_printed() {
    let m = site();
    // Nothing that zlib could make small: every byte depends on all that were before it.
    let mut state = 1u32;
    let noise: String = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + u8::try_from((state >> 24) % 90).unwrap())
    })
    .take(100_000)
    .collect();
    let ran = wrap(&m).env("T_A", &noise).env("T_B", noise.replace('a', "z")).output();
    ran.refused(1, &["more than one variable may", "--exclude"]);
    assert_eq!(ran.text(), "");
}

#[test]
#[needs(root)]
fn commands_are_found_by_the_unwrapped_path() {
    let m = site();
    m.write("/opt/tools/mine", "root", 0o755, "#!/bin/sh\nprintf '[%s]' \"$@\"\n");
    let blob = wrap(&m).env("PATH", "/opt/tools:/bin").env("LD_LIBRARY_PATH", "/opt/lib").output().ok();
    let ran = unwrap(&m, &blob).args(["--", "mine", "a b", "", "*", "--exclude=x"]).output();
    assert_eq!(ran.ok(), "[a b][][*][--exclude=x]");
    let ran = unwrap(&m, &blob).args(["mine", "-x", "--", "y"]).output();
    assert_eq!(ran.ok(), "[-x][--][y]", "options stop where the command begins");
    assert_eq!(
        unwrap(&m, &blob).args(["--", "echo $LD_LIBRARY_PATH; exit 3"]).output().exits(3).text(),
        "/opt/lib"
    );
}

#[test]
#[needs(root)]
fn failures_have_codes() {
    let m = site();
    let blob = wrap(&m).output().ok();
    unwrap(&m, &blob).args(["--", "/no/such/program"]).output().refused(127, &["/no/such/program"]);
    unwrap(&m, &blob).args(["--", "nosuchprogram"]).output().refused(127, &["nosuchprogram"]);
    unwrap(&m, &blob).args(["--", "/etc/passwd"]).output().refused(126, &["/etc/passwd"]);
    unwrap(&m, &blob).output().refused(255, &["no command"]);
    unwrap(&m, "garbage!").arg("/bin/true").output().refused(255, &["GLEXEC_ENV", "base64"]);
    let without = m.command(UNWRAP).as_user("pilot").args(["--", "/bin/true"]).output();
    without.refused(255, &["GLEXEC_ENV is not set"]);
    unwrap(&m, &blob).args(["--", "/bin/sh", "-c", "kill -TERM $$"]).output().signal().unwrap();
}

#[test]
#[needs(root)]
fn one_script_does_both_around_a_call() {
    let m = site();
    for script in ["/usr/sbin/glexec_wrap.sh", "/usr/sbin/glexec_warp.sh"] {
        let run = m.command(script).as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let run = run.env("SECRET", "wanted here").args([
            "/bin/sh",
            "-c",
            "id -un; echo $SECRET; printf '[%s]' \"$@\"",
        ]);
        let ran = run.args(["sh", "a b", "*"]).output();
        assert_eq!(ran.ok(), "alice\nwanted here\n[a b][*]");
    }
    let run = m.command("/usr/sbin/glexec_wrap.sh").as_user("pilot");
    let run = run.env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot")).args(["/bin/sh", "-c", "exit 9"]);
    run.output().exits(9);
}

fn mkgltempdir(m: &Machine, user: &str) -> Run {
    m.command(MKGLTEMPDIR).as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy(user, "pilot"))
}

/// Exactly the path on standard output, and silence beside it.
#[track_caller]
fn made(ran: &Ran) -> String {
    let path = ran.ok();
    assert_eq!(ran.errors(), "", "PanDA takes any word on standard error for a failure");
    assert_eq!(ran.stdout, format!("{path}\n").into_bytes());
    path
}

fn owner_and_mode(path: impl AsRef<Path>) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    assert!(meta.is_dir());
    (meta.uid(), meta.mode() & 0o7777)
}

#[test]
#[needs(root)]
fn a_directory_of_the_account_inside_one_of_the_callers() {
    let m = site();
    let path = made(&mkgltempdir(&m, "Alice").output());
    let parent = Path::new(&path).parent().unwrap();
    assert!(path.starts_with("/tmp/gltmpdir"), "{path}");
    assert_eq!(owner_and_mode(&path), (m.uid("alice"), 0o700));
    assert_eq!(owner_and_mode(parent), (m.uid("pilot"), 0o755));
    // The caller copies files beside it, the account works inside.
    let wrapper = parent.join("wrapper.sh").to_string_lossy().into_owned();
    let copy = m.command("/bin/cp").as_user("pilot").args(["/bin/true", &wrapper]);
    copy.output().ok();
    let run = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_TARGET_PROXY", format!("{path}/proxy"));
    run.arg(&wrapper).output().ok();
    assert_eq!(fs::metadata(format!("{path}/proxy")).unwrap().uid(), m.uid("alice"));
    assert!(!Path::new(&format!("/tmp/x509up_u{}", m.uid("alice"))).exists(), "no copy of the proxy is left");
}

#[test]
#[needs(root)]
fn modes_and_place_are_the_callers_choice() {
    let m = site();
    m.write("/home/pilot/work/sub/here", "pilot", 0o600, "");
    for dir in ["/home/pilot/work", "/home/pilot/work/sub"] {
        m.write(&format!("{dir}/x"), "pilot", 0o600, "");
        std::os::unix::fs::chown(dir, Some(m.uid("pilot")), Some(m.uid("pilot"))).unwrap();
        chmod(dir, 0o700);
    }
    let run = mkgltempdir(&m, "Alice").args(["-t", "777", "-m", "711", "."]).cwd("/home/pilot/work/sub");
    let path = made(&run.output());
    assert!(path.starts_with("/home/pilot/work/sub/gltmpdir"), "{path}");
    assert_eq!(owner_and_mode(&path), (m.uid("alice"), 0o777));
    assert_eq!(owner_and_mode(Path::new(&path).parent().unwrap()), (m.uid("pilot"), 0o711));
    for dir in ["/home/pilot", "/home/pilot/work", "/home/pilot/work/sub"] {
        assert_eq!(owner_and_mode(dir).1, 0o711, "{dir} lets the account pass and not look");
    }
    let run = mkgltempdir(&m, "Bob").env("TMPDIR", "/home/pilot/work");
    assert!(made(&run.output()).starts_with("/home/pilot/work/gltmpdir"));
}

#[test]
#[needs(root)]
fn directories_are_removed_as_the_account() {
    let m = site();
    let removed = |path: &str| {
        let parent = Path::new(path).parent().unwrap();
        assert!(!Path::new(path).exists() && !parent.exists(), "{path}");
    };
    let path = made(&mkgltempdir(&m, "Alice").output());
    assert_eq!(mkgltempdir(&m, "Alice").args(["-r", &path]).output().ok(), "");
    removed(&path);
    let path = made(&mkgltempdir(&m, "Alice").output());
    let fill =
        format!("cd {path} && mkdir -p a/b .c && echo x >a/b/file && chmod 0 a/b && ln -s /etc/passwd link");
    call(&m, &m.proxy("Alice", "pilot")).args(["/bin/sh", "-c", &fill]).output().ok();
    chmod(&path, 0o777);
    let own = format!("mkdir {path}/own && echo x >{path}/own/file");
    m.command("/bin/sh").as_user("pilot").args(["-c", &own]).output().ok();
    mkgltempdir(&m, "Alice").args(["-r", &path]).output().refused(1, &["not empty", "-f"]);
    assert!(Path::new(&path).exists());
    mkgltempdir(&m, "Bob").args(["-r", "-f", &path]).output().refused(1, &[]);
    let ran = mkgltempdir(&m, "Alice").args(["-r", "-f", &path]).output();
    assert_eq!((ran.ok(), ran.errors()), (String::new(), String::new()));
    removed(&path);
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
#[needs(root)]
fn only_directories_of_its_own_are_removed() {
    let m = site();
    let path = made(&mkgltempdir(&m, "Alice").output());
    m.write("/home/pilot/precious/file", "pilot", 0o600, "");
    m.write("/tmp/gltmpdir.forged/inside/file", "bob", 0o644, "");
    for other in
        ["/home/pilot/precious", "/tmp", "/", "/tmp/gltmpdir.forged/inside", "/no/such", "/etc/passwd"]
    {
        mkgltempdir(&m, "Alice").args(["-r", "-f", other]).output().exits(1);
    }
    let parent = Path::new(&path).parent().unwrap().to_string_lossy().into_owned();
    mkgltempdir(&m, "Alice").args(["-r", "-f", &parent]).output().exits(1);
    assert!(Path::new("/home/pilot/precious/file").exists() && Path::new(&path).exists());
}

#[test]
#[needs(root)]
fn what_glexec_refuses_leaves_nothing() {
    let m = site();
    let ran = mkgltempdir(&m, "Nobody").output();
    ran.refused(203, &["no mapping source"]);
    assert_eq!((ran.text().as_str(), ran.errors().lines().count()), ("", 1));
    let run = m.command(MKGLTEMPDIR).as_user("pilot");
    run.output().refused(201, &["GLEXEC_CLIENT_CERT"]);
    assert_eq!(fs::read_dir("/tmp").unwrap().count(), 0);
    mkgltempdir(&m, "Alice").args(["-t", "rwx"]).output().refused(2, &["mode"]);
    assert!(mkgltempdir(&m, "Alice").arg("-h").output().ok().contains("mkgltempdir -r [-f]"));
}

#[test]
#[needs(root)]
fn glexec_is_found_where_clients_say() {
    let m = site();
    for program in ["mkgltempdir", "glexec_wrap.sh", "glexec_wrapenv.pl", "glexec_unwrapenv.pl"] {
        let bytes = fs::read(format!("/usr/sbin/{program}")).unwrap();
        m.write(&format!("/opt/elsewhere/{program}"), "root", 0o755, bytes);
    }
    let proxy = m.proxy("Alice", "pilot");
    let run = |program: &str| m.command(program).as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy);
    let tempdir = || run("/opt/elsewhere/mkgltempdir");
    tempdir().output().refused(1, &["/opt/elsewhere/glexec", "GLEXEC_LOCATION"]);
    for (name, value) in
        [("OSG_GLEXEC_LOCATION", GLEXEC), ("GLEXEC_LOCATION", "/usr"), ("GLITE_LOCATION", "/usr")]
    {
        made(&tempdir().env(name, value).output());
        let wrapped = run("/opt/elsewhere/glexec_wrap.sh").env(name, value).args(["/usr/bin/id", "-un"]);
        assert_eq!(wrapped.output().ok(), "alice", "{name}");
    }
}

#[test]
#[needs(root)]
fn without_linger_everything_works_the_same() {
    let m = site();
    set_conf(&m, "linger", "no");
    let path = made(&mkgltempdir(&m, "Alice").output());
    assert_eq!(owner_and_mode(&path), (m.uid("alice"), 0o700));
    mkgltempdir(&m, "Alice").args(["-r", "-f", &path]).output().ok();
    assert!(!Path::new(&path).exists());
}
