//! The site's own program after each payload.

use end_to_end::contract::{
    call, catcher, catcher_ready, chmod, eventually, kill_as, set_conf, sh, site, stop_catcher, written,
};
use harness::{Machine, needs};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const EPILOGUE: &str = "/opt/site/epilogue";
const SEEN: &str = "/var/log/glexec/epilogue";

fn site_with(script: &str) -> Machine {
    let m = site();
    m.write(EPILOGUE, "root", 0o755, format!("#!/bin/sh\n{script}\n"));
    set_conf(&m, "epilogue", EPILOGUE);
    m
}

#[test]
#[needs(root)]
fn it_learns_what_happened() {
    let m = site_with(&format!("env >{SEEN}; echo ids=$(id -u):$(id -g) >>{SEEN}; echo done >>{SEEN}"));
    let run = call(&m, &m.proxy("Alice", "pilot")).env("GLEXEC_EPILOG_TARGET_UID", "0").env("SECRET", "x");
    let run = run.args(["/bin/sh", "-c", "echo $$ >/home/alice/pid; exit 7", "name", "two words"]);
    let running = run.spawn();
    let glexec = running.pid();
    running.end_within(Duration::from_secs(60)).exits(7);
    let text = fs::read_to_string(SEEN).unwrap();
    let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    let (pilot, alice) = (m.uid("pilot").to_string(), m.uid("alice").to_string());
    for (name, expected) in [
        ("GLEXEC_USER", "pilot"),
        ("GLEXEC_GROUP", "pilot"),
        ("GLEXEC_UID", &pilot),
        ("GLEXEC_GID", &pilot),
        ("GLEXEC_PID", &glexec.to_string()),
        ("TARGET_USER", "alice"),
        ("TARGET_GROUP", "alice"),
        ("TARGET_UID", &alice),
        ("TARGET_GID", &alice),
        ("TARGET_PID", &written("/home/alice/pid")),
        ("TARGET_RC", "7"),
        ("ARGV0", "/bin/sh"),
        ("ARGV3", "name"),
        ("ARGV4", "two words"),
    ] {
        assert_eq!(value(&format!("GLEXEC_EPILOG_{name}")), Some(expected), "{name}: {text}");
    }
    for name in ["GLEXEC_SGIDS", "TARGET_SGIDS", "GLEXEC_SID", "GLEXEC_PGID", "TARGET_PGID"] {
        assert!(value(&format!("GLEXEC_EPILOG_{name}")).is_some(), "{name}: {text}");
    }
    assert_eq!(value("ids"), Some("0:0"), "root unless the site says otherwise");
    assert!(value("PILOT_SESSION").is_some_and(|id| id.len() == 36), "{text}");
    assert!(!text.contains("SECRET"), "{text}");
}

/// Interpreters execute what they find by these names: it is root that would do so.
#[test]
#[needs(root)]
fn home_and_path_are_its_own() {
    let m = site_with(&format!("env >{SEEN}; echo done >>{SEEN}"));
    set_conf(&m, "preserve_env_variables", "HOME, PATH, BASH_ENV, PYTHONPATH");
    let mut run = call(&m, &m.proxy("Alice", "pilot"));
    for name in ["HOME", "PATH", "BASH_ENV", "PYTHONPATH"] {
        run = run.env(name, "/home/pilot/own");
    }
    let said = run.env("GLEXEC_ID", "job-7").args(["/bin/sh", "-c", "echo $HOME $PYTHONPATH"]).output();
    assert_eq!(said.ok(), "/home/pilot/own /home/pilot/own", "the payload gets them");
    let text = fs::read_to_string(SEEN).unwrap();
    assert!(!text.contains("/home/pilot/own") && !text.contains("/home/alice"), "{text}");
    for line in ["HOME=/root", "USER=root", "LOGNAME=root", "PATH=/usr/local/bin:", "GLEXEC_ID=job-7"] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line}: {text}");
    }
}

/// What the kernel still lets the payload have may be too much for it, which gets the same words and more.
#[test]
#[needs(root)]
fn many_words_do_not_keep_it_from_running() {
    let m = site_with(&format!("echo $GLEXEC_EPILOG_TARGET_RC of $GLEXEC_EPILOG_TARGET_USER >{SEEN}"));
    let mut run = call(&m, &m.proxy("Alice", "pilot"));
    for n in 0..8 {
        run = run.env(&format!("GLEXEC_{n}"), "x".repeat(120_000));
    }
    let words = (0..80_000).map(|n| n.to_string());
    run.args(["/bin/sh", "-c", "exit 7"]).args(words).output().exits(7);
    assert_eq!(written(SEEN), "7 of alice");
}

#[test]
#[needs(root)]
fn its_failure_is_the_sites() {
    let m = site();
    set_conf(&m, "epilogue", EPILOGUE);
    for (script, code) in
        [("exit 0", 0), ("exit 1", 202), ("kill -9 $$", 202), ("exit 203", 204), ("exit 201", 204)]
    {
        m.write(EPILOGUE, "root", 0o755, format!("#!/bin/sh\n{script}\n"));
        sh(&m, "exit 0").output().exits(code);
    }
    m.write(EPILOGUE, "root", 0o755, "#!/bin/sh\nexit 0\n");
    sh(&m, "exit 9").output().exits(9);
}

#[test]
#[needs(root)]
fn it_runs_after_a_payload_and_only_then() {
    let m = site_with(&format!("echo done >>{SEEN}"));
    call(&m, "/home/pilot/none").arg("/bin/true").output().exits(201);
    call(&m, &m.proxy("Alice", "pilot")).arg("/usr/bin/idontexist").output().exits(201);
    assert!(!Path::new(SEEN).exists(), "nothing ran, so nothing is to be tidied up");
    sh(&m, "kill -KILL $$").output().exits(128 + 9);
    assert_eq!(written(SEEN), "done");
}

#[test]
#[needs(root)]
fn it_must_be_roots_alone() {
    let m = site_with(&format!("echo done >{SEEN}"));
    for (owner, mode) in [("pilot", 0o755), ("root", 0o757), ("root", 0o775)] {
        m.write(EPILOGUE, owner, mode, format!("#!/bin/sh\necho done >{SEEN}\n"));
        sh(&m, "exit 0").output().exits(202);
        assert!(!Path::new(SEEN).exists(), "{owner} {mode:o}");
    }
    fs::remove_file(EPILOGUE).unwrap();
    sh(&m, "exit 0").output().exits(202);
    // Whoever may write to a directory above can put another program in its place.
    let loose = "/opt/loose/epilogue";
    m.write(loose, "root", 0o755, format!("#!/bin/sh\necho done >{SEEN}\n"));
    chmod("/opt/loose", 0o777);
    set_conf(&m, "epilogue", loose);
    sh(&m, "exit 0").output().exits(202);
    assert!(!Path::new(SEEN).exists());
    assert!(m.log().contains("/opt/loose") || m.log().contains("loose: mode 0777"), "{}", m.log());
    chmod("/opt/loose", 0o755);
    sh(&m, "exit 0").output().ok();
    assert_eq!(written(SEEN), "done");
}

/// Without linger nobody is there when the payload ends.
#[test]
#[needs(root)]
fn without_linger_it_does_not_run() {
    let m = site_with(&format!("echo done >{SEEN}"));
    set_conf(&m, "linger", "no");
    sh(&m, "exit 9").output().exits(9);
    eventually("the record is closed", Duration::from_secs(60), || {
        m.records().iter().any(|r| r["state"] == "closed").then_some(())
    });
    assert!(!Path::new(SEEN).exists());
}

#[test]
#[needs(root)]
fn it_can_run_as_another_account() {
    let m = site_with("id -un >/tmp/epilogue-account; id -gn >>/tmp/epilogue-account");
    set_conf(&m, "epilogue_user", "daemon");
    set_conf(&m, "epilogue_group", "daemon");
    sh(&m, "exit 0").output().ok();
    assert_eq!(written("/tmp/epilogue-account"), "daemon\ndaemon");
    // That account may own it, nobody else may.
    let text = fs::read(EPILOGUE).unwrap();
    for (owner, code) in [("daemon", 0), ("pilot", 202)] {
        m.write(EPILOGUE, owner, 0o755, &text);
        sh(&m, "exit 0").output().exits(code);
    }
}

#[test]
#[needs(root)]
fn its_time_is_limited() {
    let m = site();
    set_conf(&m, "epilogue", EPILOGUE);
    set_conf(&m, "epilogue_timeout", "1");
    for (script, least) in [("exec sleep 1000", 1), ("trap '' TERM; sleep 1000 & wait; sleep 1000", 6)] {
        m.write(EPILOGUE, "root", 0o755, format!("#!/bin/sh\n{script}\n"));
        let start = Instant::now();
        sh(&m, "exit 0").output().exits(202);
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(least) && took < Duration::from_secs(20), "{script}: {took:?}");
        assert!(m.log().contains("did not end within 1 s"), "{}", m.log());
    }
}

#[test]
#[needs(root)]
fn it_does_not_hold_the_caller() {
    let m = site_with("echo noise; echo noise >&2");
    let ran = sh(&m, "echo answer").output();
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("answer", ""));
}

/// Somebody who could end glexec could keep the epilogue from running.
#[test]
#[needs(root)]
fn only_root_can_disturb_glexec_then() {
    let m = site_with("exit 0");
    let file = "/home/alice/signals";
    let running = call(&m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    let payload = catcher_ready(file);
    for account in ["pilot", "alice"] {
        for signal in ["KILL", "TERM"] {
            kill_as(&m, account, signal, running.pid());
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(written(file), format!("ready {payload}"), "not one signal got through");
    stop_catcher(file);
    running.end_within(Duration::from_secs(60)).exits(7);
    eventually("the payload is gone", Duration::from_secs(60), || {
        m.processes_of("alice").is_empty().then_some(())
    });
}
