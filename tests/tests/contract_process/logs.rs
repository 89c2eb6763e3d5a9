//! What the site can read afterwards, and what accounting probes parse.

use end_to_end::contract::{Syslog, call, eventually, set_conf, sh, site};
use harness::{Machine, needs};
use std::fs;
use std::path::Path;
use std::time::Duration;

#[test]
#[needs(root)]
fn one_line_says_who_became_whom() {
    let m = site();
    let run = call(&m, &m.proxy("Alice", "pilot")).cwd("/srv").args(["/bin/echo", "one", "two"]);
    run.output().ok();
    let real = fs::canonicalize("/bin/echo").unwrap();
    let expected = format!(
        "real_user(pilot),real_group(pilot)->mapped_user(alice),mapped_group(alice) cwd: \"/srv\" \
         cmd: \"/bin/echo\" (=\"{}\") args: \"one two\"",
        real.display()
    );
    assert!(m.log().contains(&expected), "{expected}\n{}", m.log());
}

#[test]
#[needs(root)]
fn the_line_is_there_before_the_payload() {
    let m = site();
    let running =
        sh(&m, "echo ready >/home/alice/ready; while [ ! -e /home/alice/go ]; do sleep 0.02; done").spawn();
    end_to_end::contract::written("/home/alice/ready");
    assert!(m.log().contains("->mapped_user(alice)"), "{}", m.log());
    m.write("/home/alice/go", "alice", 0o600, "");
    running.end_within(Duration::from_secs(60)).exits(0);
}

#[test]
#[needs(root)]
fn texts_of_the_caller_cannot_make_lines() {
    let m = site();
    let forged = "x\nglexec[1]: real_user(root)->mapped_user(root)";
    let dir = format!("/srv/{forged}");
    m.write(&format!("{dir}/{forged}"), "pilot", 0o755, "#!/bin/sh\nexit 0\n");
    let proxy = m.proxy("Alice", "pilot");
    call(&m, &proxy).env("GLEXEC_ID", forged).cwd(&dir).args(["/bin/true", forged]).output().ok();
    call(&m, &proxy).cwd(&dir).args([&format!("./{forged}"), forged]).output().ok();
    call(&m, &proxy).arg(format!("/no/such/{forged}")).output().exits(201);
    call(&m, &format!("/home/pilot/{forged}")).arg("/bin/true").output().exits(201);
    call(&m, &proxy).env("GLEXEC_MODE", forged).arg("/bin/true").output().exits(201);
    let log = m.log();
    assert!(log.contains("mapped_user(root)"), "the text is in the log, escaped: {log}");
    assert!(!log.lines().any(|l| l.starts_with("glexec[1]")), "{log}");
}

#[test]
#[needs(root)]
fn messages_go_to_syslog_under_the_name_glexec() {
    let m = site();
    let syslog = Syslog::start(&m);
    set_conf(&m, "log_destination", "syslog");
    set_conf(&m, "syslog_facility", "LOG_LOCAL1");
    sh(&m, "exit 0").output().ok();
    let line = syslog.wait_for("real_user(pilot)");
    // LOG_LOCAL1 is facility 17, LOG_NOTICE severity 5.
    assert!(line.starts_with(&format!("<{}>", 17 * 8 + 5)), "{line}");
    assert!(line.contains(" glexec["), "{line}");
    call(&m, "/home/pilot/none").arg("/bin/true").output().exits(201);
    syslog.wait_for("/home/pilot/none");
    assert!(syslog.lines().iter().all(|l| l.contains("glexec")), "{:?}", syslog.lines());
}

#[test]
#[needs(root)]
fn levels_and_silence_are_the_sites_choice() {
    let m = site();
    set_conf(&m, "log_level", "0");
    set_conf(&m, "silent_logging", "yes");
    let ran = call(&m, "/home/pilot/none").arg("/bin/true").output();
    ran.exits(201);
    assert_eq!((m.log().as_str(), ran.errors().as_str()), ("", ""));
    set_conf(&m, "log_level", "1");
    sh(&m, "exit 0").output().ok();
    assert_eq!(m.log(), "", "a notice is level 3");
    call(&m, "/home/pilot/none").arg("/bin/true").output().exits(201);
    assert!(m.log().contains("/home/pilot/none"), "{}", m.log());
}

/// 1 errors, 2 warnings, 3 who became whom, 4 steps on the way, 5 everything.
#[test]
#[needs(root)]
fn each_level_adds_to_the_one_before() {
    let m = site();
    // No key of gLExec: a reason to warn.
    set_conf(&m, "no_such_key", "x");
    for level in 0..=5 {
        set_conf(&m, "log_level", &level.to_string());
        let before = m.log().len();
        call(&m, "/home/pilot/none").arg("/bin/true").output().exits(201);
        call(&m, &m.proxy("Alice", "pilot")).arg("/bin/true").output().ok();
        let log = m.log()[before..].to_owned();
        for (from, words) in [
            (1, "refused 201"),
            (2, "no_such_key"),
            (3, "real_user(pilot)"),
            (3, "Used DN"),
            (4, " by grid-mapfile"),
        ] {
            assert_eq!(log.contains(words), level >= from, "{words} at level {level}: {log}");
        }
    }
}

/// A line of the monitor as the Gratia probe takes it apart: the time in four words, the key, the text.
fn monitor_lines(log: &str) -> Vec<(String, String)> {
    let parse = |line: &str| {
        let words: Vec<_> = line.splitn(6, ' ').collect();
        let [month, day, time, _host, key, text] = words.as_slice() else { return None };
        let key = key.strip_prefix("glexec.mon[")?.strip_suffix("]:")?;
        let (monitor, glexec) = key.split_once('#')?;
        let numbers = [monitor, glexec].iter().all(|n| n.parse::<u32>().is_ok());
        let dated = month.len() == 3 && day.len() <= 2 && time.len() == 8 && time.matches(':').count() == 2;
        assert!(numbers && dated, "{line}");
        Some((key.to_owned(), (*text).to_owned()))
    };
    // A day of one digit has two blanks before it.
    log.lines().map(|l| l.replacen("  ", " ", 1)).filter_map(|l| parse(&l)).collect()
}

fn all_logs() -> String {
    let files = fs::read_dir("/var/log/glexec").unwrap().flatten().map(|e| e.path());
    files.filter_map(|f| fs::read_to_string(f).ok()).collect()
}

/// The monitor lines, once the payload's end is among them.
fn finished_monitor() -> Vec<(String, String)> {
    eventually("the monitor says Terminated", Duration::from_secs(60), || {
        Some(monitor_lines(&all_logs()))
            .filter(|lines| lines.iter().any(|(_, t)| t.starts_with("Terminated")))
    })
}

fn monitored(m: &Machine, proxy: &str) -> Vec<String> {
    let running = call(m, proxy).arg("/bin/true").spawn();
    let glexec = running.pid();
    running.end_within(Duration::from_secs(60)).ok();
    let lines = finished_monitor();
    let key = &lines[0].0;
    assert!(lines.iter().all(|(k, _)| k == key), "one session, one key: {lines:?}");
    assert!(key.ends_with(&format!("#{glexec}")), "it names the glexec of the other lines: {key}, {glexec}");
    lines.into_iter().map(|(_, text)| text).collect()
}

#[test]
#[needs(root)]
fn accounting_probes_find_the_lines_of_the_monitor() {
    for linger in ["yes", "no"] {
        let m = site();
        set_conf(&m, "linger", linger);
        let lines = monitored(&m, &m.proxy("Alice", "pilot"));
        assert_eq!(
            lines,
            [
                format!("Started, target uid {}", m.uid("alice")),
                format!("Used DN: \"{}\"", m.dn("Alice")),
                "Terminated, CPU user 0 system 0".to_owned(),
            ],
            "linger = {linger}"
        );
    }
}

#[test]
#[needs(root, "voms-proxy-fake")]
fn the_primary_fqan_comes_first() {
    let m = site();
    let path = m.new_path("pilot");
    let fqans = ["/cms/production/Role=NULL", "/cms/Role=pilot", "/cms"];
    m.pki().voms_proxy(&m.user("Alice"), Path::new(&path), "cms", &fqans).unwrap();
    let lines = monitored(&m, &m.give(&path, "pilot"));
    let vo = lines.iter().find(|l| l.starts_with("Used VO: ")).unwrap();
    assert!(vo.starts_with("Used VO: \"cms\" Issuer: \"/") && vo.ends_with('"'), "{vo}");
    let used: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("Used FQAN: \"")).collect();
    assert!(used[0].starts_with("/cms/production"), "{used:?}");
    assert_eq!(used.len(), 3, "{used:?}");
}

#[test]
#[needs(root)]
fn cpu_time_is_in_whole_seconds() {
    let m = site();
    let burn = "my $end = (times)[0] + 1.3; while ((times)[0] < $end) {}";
    call(&m, &m.proxy("Alice", "pilot")).args(["/usr/bin/perl", "-e", burn]).output().ok();
    let lines = finished_monitor();
    let (_, last) = lines.last().unwrap();
    let words: Vec<_> = last.split(' ').collect();
    assert_eq!([words[0], words[1], words[2], words[4]], ["Terminated,", "CPU", "user", "system"], "{last}");
    assert_eq!(words[3], "1", "{last}");
    assert!(words[5].parse::<u32>().is_ok(), "{last}");
}

/// Without linger, too, a probe that reads syslog by program names that begin with `glexec` finds the monitor.
#[test]
#[needs(root)]
fn monitor_lines_in_syslog_have_the_monitors_name() {
    let m = site();
    let syslog = Syslog::start(&m);
    set_conf(&m, "log_destination", "syslog");
    sh(&m, "exit 0").output().ok();
    syslog.wait_for("Terminated, CPU user");
    let started = syslog.wait_for("Started, target uid");
    let name = started.split(' ').find(|w| w.starts_with("glexec.mon[")).unwrap_or_default().to_owned();
    assert!(name.ends_with("]:") && name.contains('#'), "{started}");
}
