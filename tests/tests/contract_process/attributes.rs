//! Command line, environment, umask, directory: what is passed on as it is, and what is not.

use end_to_end::contract::{GLEXEC, call, install_tool, set_conf, sh, site};
use harness::needs;
use std::fs;
use std::path::Path;

const PLAYER: &str = env!("CARGO_BIN_EXE_contract-payload");
const ID: [&str; 2] = ["/usr/bin/id", "-un"];

/// CREAM starts it with nothing else.
#[test]
#[needs(root)]
fn two_variables_are_enough() {
    let m = site();
    let mut run = m.glexec().args(ID);
    run.raw().env_clear();
    let run =
        run.env("GLEXEC_MODE", "lcmaps_get_account").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let ran = run.output();
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("alice", ""));
}

#[test]
#[needs(root)]
fn modes_other_than_get_account_are_refused() {
    let m = site();
    let mode = |mode: &str| call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_MODE", mode).args(ID).output();
    mode("lcmaps_become_root").refused(201, &["GLEXEC_MODE"]);
    for known in ["lcmaps_get_account", "lcmaps_verify_account", ""] {
        assert_eq!(mode(known).ok(), "alice", "{known:?}");
    }
}

/// BLAH appends its settings to a copy of the old environment, so names can stand there twice.
#[test]
#[needs(root)]
fn of_repeated_names_the_first_counts_and_contradictions_are_refused() {
    let m = site();
    let player = install_tool(&m, PLAYER);
    let proxy = m.proxy("Alice", "pilot");
    let bobs = m.proxy("Bob", "pilot");
    let with = |variables: &[&str], command: &[&str]| {
        let run = m.command(&player).as_user("pilot").arg("call").args(variables);
        run.args(["GLEXEC_TARGET_PROXY=/dev/null", "--", GLEXEC]).args(command).output()
    };
    let client = format!("GLEXEC_CLIENT_CERT={proxy}");
    assert_eq!(with(&[&client, &client], &ID).ok(), "alice", "the same value twice is no contradiction");
    let contradiction = with(&[&client, &format!("GLEXEC_CLIENT_CERT={bobs}")], &ID);
    contradiction.refused(201, &["GLEXEC_CLIENT_CERT", "twice"]);
    let ran = with(&[&client, "GLEXEC_T=first", "GLEXEC_T=second"], &["/usr/bin/env"]);
    assert!(
        ran.ok().lines().any(|l| l == "GLEXEC_T=first") && !ran.text().contains("second"),
        "{}",
        ran.text()
    );
}

#[test]
#[needs(root)]
fn one_variable_may_be_as_long_as_the_kernel_takes() {
    let m = site();
    let value = "x".repeat(128 * 1024 - "GLEXEC_BIG=".len() - 1);
    let ran = sh(&m, "echo ${#GLEXEC_BIG}").env("GLEXEC_BIG", &value).output();
    assert_eq!(ran.ok(), value.len().to_string());
}

#[test]
#[needs(root)]
fn two_mebibytes_of_arguments_arrive() {
    let m = site();
    let big = "y".repeat(130_500);
    let count = "n=0; for a; do n=$((n + ${#a})); done; echo $# $n";
    let run = sh(&m, count).arg("sh").args(std::iter::repeat_n(&big, 16));
    assert_eq!(run.output().ok(), format!("16 {}", 16 * big.len()));
}

#[test]
#[needs(root)]
fn linked_commands_run_under_the_name_that_was_typed() {
    let m = site();
    m.write("/opt/tools/real", "root", 0o755, fs::read(fs::canonicalize("/bin/sh").unwrap()).unwrap());
    std::os::unix::fs::symlink("/opt/tools/real", "/opt/tools/linked").unwrap();
    let proxy = m.proxy("Alice", "pilot");
    let name =
        |program: &str| call(&m, &proxy).cwd("/opt/tools").args([program, "-c", "echo $0"]).output().ok();
    assert_eq!(name("/opt/tools/linked"), "/opt/tools/linked");
    assert_eq!(name("./linked"), "./linked");
    assert!(m.log().contains("cmd: \"/opt/tools/linked\" (=\"/opt/tools/real\")"), "{}", m.log());
}

#[test]
#[needs(root)]
fn scripts_run_by_their_first_line() {
    let m = site();
    m.write("/opt/tools/script", "root", 0o755, "#!/bin/sh\necho \"$0 $1\"; exit 5\n");
    let ran = call(&m, &m.proxy("Alice", "pilot")).args(["/opt/tools/script", "a b"]).output();
    assert_eq!(ran.exits(5).text(), "/opt/tools/script a b");
}

#[test]
#[needs(root)]
fn everything_after_the_command_is_the_commands() {
    let m = site();
    let proxy = m.proxy("Alice", "pilot");
    let words = ["-v", "--", "-h", "", "--version", "a\nb"];
    let text: String = words.map(|w| format!("[{w}]")).concat();
    for before in [&[][..], &["--"]] {
        let ran = call(&m, &proxy).args(before).args(["/usr/bin/printf", "[%s]"]).args(words).output();
        assert_eq!(ran.ok(), text);
    }
    call(&m, &proxy).arg("id").output().refused(201, &["path"]);
    call(&m, &proxy).arg("--frobnicate").output().refused(201, &["--frobnicate"]);
}

#[test]
#[needs(root)]
fn the_umask_is_the_callers() {
    let m = site();
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        for mask in ["0000", "0022", "0027", "0077"] {
            let run =
                m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
            let run = run.env("GLEXEC_TARGET_PROXY", "/tmp/masked");
            let script = format!("umask {mask}; exec {GLEXEC} /bin/sh -c umask");
            assert_eq!(run.args(["-c", &script]).output().ok(), mask, "linger = {linger}");
            let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata("/tmp/masked").unwrap());
            assert_eq!(mode & 0o7777, 0o600, "the copy of the proxy is private under umask {mask}");
        }
    }
}

#[test]
#[needs(root)]
fn the_working_directory_is_the_callers_where_the_account_may_be() {
    let m = site();
    let pwd = |dir: &str| sh(&m, "pwd -P").cwd(dir).output().ok();
    assert_eq!(pwd("/srv"), "/srv");
    assert_eq!(pwd("/home/pilot"), "/home/alice");
    fs::remove_dir_all("/home/alice").unwrap();
    assert_eq!(pwd("/home/pilot"), "/", "a missing home is no reason to fail");
}

#[test]
#[needs(root)]
fn the_environment_is_the_accounts_own() {
    let m = site();
    let keep = "KEPT, LD_PRELOAD, MALLOC_CHECK_, X509_USER_PROXY, ,";
    set_conf(&m, "preserve_env_variables", keep);
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let run = run.env("KEPT", "k").env("LOST", "l").env("LD_PRELOAD", "/x").env("MALLOC_CHECK_", "3");
    let run =
        run.env("GLEXEC_ENV", "blob").env("GLEXEC_TARGET_DIR", "/d").env("GLEXEC_EPILOG_TARGET_UID", "0");
    let run = run.env("X509_USER_PROXY", "/home/pilot/own").env("HOME", "/home/pilot").env("PATH", "");
    let text = run.arg("/usr/bin/env").output().ok();
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    for (name, expected) in [
        ("KEPT", Some("k")),
        ("GLEXEC_ENV", Some("blob")),
        ("GLEXEC_TARGET_DIR", Some("/d")),
        ("HOME", Some("/home/alice")),
        ("USER", Some("alice")),
        ("LOGNAME", Some("alice")),
        ("PATH", Some("/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")),
        ("LOST", None),
        ("LD_PRELOAD", None),
        ("MALLOC_CHECK_", None),
        ("GLEXEC_EPILOG_TARGET_UID", None),
    ] {
        assert_eq!(value(name), expected, "{name}: {text}");
    }
    let proxy = value("X509_USER_PROXY").expect("the payload has a proxy of its own");
    assert_ne!(proxy, "/home/pilot/own");
    assert!(
        proxy.starts_with("/tmp/x509up_u") && !Path::new(proxy).exists(),
        "it goes with the session: {proxy}"
    );
    // Sites wrote yes or no where names belong; that names no variable and is no error.
    for odd in ["yes", "no", ""] {
        set_conf(&m, "preserve_env_variables", odd);
        sh(&m, "exit 0").output().ok();
    }
}

#[test]
#[needs(root)]
fn a_site_may_let_the_callers_home_through() {
    let m = site();
    set_conf(&m, "preserve_env_variables", "HOME, CONDOR_CONFIG");
    assert_eq!(sh(&m, "echo $HOME").output().ok(), "/home/pilot");
}

#[test]
#[needs(root)]
fn the_text_of_a_proxy_in_the_environment_still_counts() {
    let m = site();
    let text = fs::read_to_string(m.proxy("Alice", "pilot")).unwrap();
    let run = m.glexec().env("SSL_CLIENT_CERT", &text).env("GLEXEC_TARGET_PROXY", "/dev/null").args(ID);
    assert_eq!(run.output().ok(), "alice");
    // The path decides where both are given, and the payload never gets the text.
    let run = call(&m, &m.proxy("Bob", "pilot")).env("SSL_CLIENT_CERT", &text);
    let environment = run.arg("/usr/bin/env").output().ok();
    assert!(environment.contains("USER=bob") && !environment.contains("PRIVATE KEY"), "{environment}");
}

/// A shell's `ulimit`, `nice` and `trap` in the caller, seen from the payload.
#[test]
#[needs(root)]
fn limits_priority_and_ignored_signals_are_the_callers() {
    let m = site();
    let nice: i32 = m.command("/usr/bin/nice").output().ok().parse().unwrap();
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let payload =
            "ulimit -n; ulimit -c; nice; kill -HUP $$; echo survived; kill -PIPE $$; echo not reached";
        let script =
            format!("ulimit -n 77; ulimit -c 0; trap '' HUP; exec nice -n 5 {GLEXEC} /bin/sh -c \"$1\"");
        let ran = run.args(["-c", &script, "sh", payload]).output();
        assert_eq!(ran.text(), format!("77\n0\n{}\nsurvived", (nice + 5).min(19)), "linger = {linger}");
    }
}
