//! The built program as a site uses it: exports, incidents, a month's report, reconciliation.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use record::{Batch, Denied, Event, Exit, Opened, Spool, Subject, Usage};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const HOUR: u64 = 3_600_000_000_000;
/// 2026-07-01T08:30:00Z
const START: u64 = 1_782_894_600_000_000_000;

fn id(n: u64) -> String {
    format!("019fb000-0000-7000-8000-{n:012x}")
}

fn opened(n: u64) -> Opened {
    Opened {
        record_id: id(n),
        host: "wn042.example.org".into(),
        batch: Some(Batch { lrms: "slurm".into(), jobid: (4711 + n / 2).to_string(), ..Batch::default() }),
        payload: Subject {
            dn: format!("/DC=org/DC=example/CN=Ada Analyst {n}"),
            fqans: vec!["/cms/Role=NULL/Capability=NULL".into()],
            vo: Some("cms".into()),
            ..Subject::default()
        },
        account: "cms017".into(),
        uid: 51017,
        benchmark: Some("HEPscore23 12.5".into()),
        start_unix_ns: START + n * HOUR,
        ..Opened::default()
    }
}

/// Three closed sessions of an hour, one refusal, and one session that runs on this host.
fn site() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("spool")).unwrap();
    let spool = Spool::new(dir.path().join("spool"));
    for n in 0..3 {
        let usage = Usage { wall_ns: HOUR, cpu_user_us: 1_800_000_000, ..Usage::default() };
        let exit = Exit { code: Some(0), ..Exit::default() };
        let end_unix_ns = START + (n + 1) * HOUR;
        let close =
            Event::Close { end_unix_ns, usage: usage.into(), exit: exit.into(), clock_stepped: false };
        spool.open(&opened(n)).unwrap().close(&close).unwrap();
    }
    let denied = Denied {
        record_id: id(8),
        host: "wn042.example.org".into(),
        at_unix_ns: START + HOUR,
        code: 203,
        reason: "the DN is banned".into(),
        ..Denied::default()
    };
    spool.deny(&denied).unwrap();
    let here = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    drop(spool.open(&Opened { host: here, ..opened(9) }).unwrap());
    dir
}

fn run(site: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_accounting"));
    command.arg("--spool").arg(site.join("spool")).args(args).output().unwrap()
}

fn said(site: &Path, code: i32, args: &[&str]) -> String {
    let output = run(site, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap() + &error
}

#[test]
fn exports_go_to_a_queue_once() {
    let site = site();
    let (store, queue) = (site.path().join("store"), site.path().join("outgoing"));
    let to = format!("dirq:{}", queue.display());
    let export = |extra: &[&'static str]| -> Vec<String> {
        let fixed = ["export", "--format", "apel", "--to", &to, "--site", "EXAMPLE-T2", "--store"];
        let fixed = fixed.iter().map(|arg| (*arg).to_owned()).chain([store.display().to_string()]);
        fixed.chain(extra.iter().map(|arg| (*arg).to_owned())).collect()
    };
    let go = |code, extra: &[&'static str]| {
        let args = export(extra);
        said(site.path(), code, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    said(site.path(), 0, &["fold", "--store", store.to_str().unwrap()]);
    assert!(go(0, &["--check"]).starts_with("3 records can be sent, 0 cannot"));
    assert!(!queue.exists(), "a check sends nothing");
    assert!(go(0, &[]).starts_with("3 records sent, 0 not sendable, 0 refused there, 0 wait"));
    assert!(go(0, &[]).starts_with("0 records sent"), "the second time there is nothing to send");
    let messages: Vec<_> = std::fs::read_dir(&queue)
        .unwrap()
        .flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap())
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].matches("%%").count(), 3);
}

#[test]
fn a_file_for_probes_grows_by_each_session_once() {
    let dir = TempDir::new().unwrap();
    let (spool_dir, store) = (dir.path().join("spool"), dir.path().join("store"));
    std::fs::create_dir(&spool_dir).unwrap();
    let spool = Spool::new(&spool_dir);
    let ran = |n: u64| {
        let mut record = spool.open(&Opened { supervisor_pid: 7, ..opened(n) }).unwrap();
        record.append(&Event::Exec { pid: 4000 + u32::try_from(n).unwrap() }).unwrap();
        let usage = Usage { wall_ns: HOUR, cpu_user_us: 1_800_000_000, ..Usage::default() };
        let end_unix_ns = START + (n + 1) * HOUR;
        let (usage, exit) = (usage.into(), Exit::default().into());
        record.close(&Event::Close { end_unix_ns, usage, exit, clock_stepped: false }).unwrap();
    };
    let file = dir.path().join("monitor.log");
    let to = format!("file:{}", file.display());
    let args = ["export", "--format", "glexec-mon", "--to", &to, "--store", store.to_str().unwrap()];
    let go = || said(dir.path(), 0, &args);
    (0..2).for_each(ran);
    said(dir.path(), 0, &["fold", "--store", store.to_str().unwrap()]);
    assert!(go().starts_with("2 records sent"));
    let first = std::fs::read_to_string(&file).unwrap();
    assert_eq!(first.matches("Terminated, CPU user 1800 system 0").count(), 2, "{first}");
    assert!(first.contains("glexec.mon[4000#7]: Started, target uid 51017"), "{first}");
    assert!(go().starts_with("0 records sent"), "nothing is due");
    // A run that was ended in the middle: the ledger knows where it began, and what it wrote is taken back.
    ran(2);
    said(dir.path(), 0, &["fold", "--store", store.to_str().unwrap()]);
    let name = format!("glexecmon {to}").to_lowercase();
    let mut ledger = accounting::export::ledger::Ledger::open(&store.join("ledger.sqlite")).unwrap();
    let (sending, from) = (accounting::export::ledger::State::Sending, first.len().to_string());
    ledger.note(&name, &[id(2)], sending, Some(&from), None, 1).unwrap();
    std::fs::write(&file, format!("{first}Jul  1 10:30:00 wn042 glexec.mon[4002#7]: Sta")).unwrap();
    assert!(go().starts_with("1 records sent"));
    let all = std::fs::read_to_string(&file).unwrap();
    assert!(all.starts_with(&first) && all.lines().count() == 15, "{all}");
    assert_eq!(all.matches("Terminated").count(), 3, "{all}");
}

#[test]
fn what_cannot_be_sent_is_named_with_the_remedy() {
    let site = site();
    let check = ["export", "--format", "auditor", "--check"];
    let told = said(site.path(), 1, &check);
    assert!(told.contains("0 records can be sent, 3 cannot") && told.contains("give --site"), "{told}");
    said(site.path(), 2, &["export", "--format", "apel", "--to", "somewhere"]);
    said(site.path(), 2, &["export", "--format", "apel", "--benchmark", "12"]);
    let none = ["export", "--format", "ur1", "--month", "2026-06"];
    said(site.path(), 1, &none);
}

#[test]
fn an_export_of_a_month_takes_what_ended_in_it() {
    let site = site();
    let xml = said(site.path(), 0, &["export", "--format", "ur1", "--month", "2026-07"]);
    assert_eq!(xml.matches("<urf:JobUsageRecord>").count(), 3);
    let until = ["export", "--format", "jsonl", "--decision", "allowed", "--until", "2026-07-01 10:30"];
    assert_eq!(said(site.path(), 0, &until).lines().count(), 1, "the end does not belong to it");
    let csv = said(site.path(), 0, &["export", "--format", "csv"]);
    assert!(csv.starts_with("record_id,state,") && csv.matches("\r\n").count() == 5, "{csv}");
}

#[test]
fn a_server_that_is_down_keeps_the_records_for_the_next_time() {
    let site = site();
    let store = site.path().join("store");
    let store = store.to_str().unwrap();
    said(site.path(), 0, &["fold", "--store", store]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let send = ["export", "--format", "auditor", "--site", "X", "--to", &url, "--store", store];
    let told = said(site.path(), 3, &send);
    assert!(told.contains("0 records sent") && told.contains("3 wait"), "{told}");
    let told = said(site.path(), 3, &send);
    assert!(told.contains("3 wait"), "they are tried again: {told}");
    let open = [
        "export",
        "--format",
        "auditor",
        "--site",
        "X",
        "--to",
        "http://auditor.example.org",
        "--store",
        store,
    ];
    assert!(said(site.path(), 3, &open).contains("write https://"));
}

#[test]
fn ban_check_names_lines_that_mean_nobody() {
    let site = site();
    let file = site.path().join("ban-mapfile");
    std::fs::write(&file, "# bans\n\"/DC=org/DC=example/CN=Ada Analyst 1\"\n").unwrap();
    let file_name = file.to_str().unwrap();
    let check = ["ban-check", file_name, "--since", "2026-06-01"];
    assert!(said(site.path(), 0, &check).contains("1 times, last 2026-07-01T09:30:00Z"));
    std::fs::write(&file, "\"/DC=org/DC=exmaple/CN=Ada Analyst 1\"\n").unwrap();
    let told = said(site.path(), 1, &check);
    assert!(
        told.contains("means NOBODY") && told.contains("did you mean  /DC=org/DC=example/CN=Ada Analyst 1")
    );
    std::fs::write(&file, "\"/DC=org\n").unwrap();
    said(site.path(), 3, &check);
    said(site.path(), 3, &["ban-check", "/nonexistent"]);
}

#[test]
fn kill_is_a_dry_run_unless_told_otherwise() {
    let site = site();
    let ran = site.path().join("ran");
    let glexec = site.path().join("glexec");
    std::fs::write(&glexec, format!("#!/bin/sh\necho \"$@\" >> {}\n", ran.display())).unwrap();
    std::fs::set_permissions(&glexec, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let glexec = glexec.to_str().unwrap();
    said(site.path(), 2, &["kill"]);
    let dry = said(site.path(), 0, &["kill", "--vo", "cms", "--glexec", glexec]);
    assert!(dry.contains(&id(9)) && dry.contains("nothing was done") && !ran.exists(), "{dry}");
    said(site.path(), 1, &["kill", "--vo", "atlas", "--glexec", glexec, "--yes"]);
    let done = said(site.path(), 0, &["kill", "--vo", "cms", "--glexec", glexec, "--yes"]);
    assert!(done.contains("ended, nothing is left"), "{done}");
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), format!("--session {} --end\n", id(9)));
    said(site.path(), 3, &["kill", "--vo", "cms", "--glexec", "/bin/false", "--yes"]);
}

#[test]
fn a_month_fits_one_page() {
    let site = site();
    let file = site.path().join("july.html");
    let output = file.to_str().unwrap();
    said(site.path(), 0, &["report", "--month", "2026-07", "--site", "EXAMPLE-T2", "--output", output]);
    let html = std::fs::read_to_string(&file).unwrap();
    for part in [
        "Usage of EXAMPLE-T2 in 2026-07",
        "<td>cms</td><td>3</td>",
        "50 %",
        "the DN is banned",
        "Idle in pilots",
    ] {
        assert!(html.contains(part), "{part} in {html}");
    }
    assert!(!html.contains("http"));
    said(site.path(), 2, &["report", "--month", "July"]);
    said(site.path(), 1, &["report", "--month", "2026-06"]);
}

#[test]
fn reconcile_finds_empty_slots_and_missing_switches() {
    let site = site();
    let (sacct, claims) = (site.path().join("sacct"), site.path().join("claims"));
    std::fs::write(&sacct, "4711|pil01|10000\n4712|pil01|4000\n4999|pil02|600\n").unwrap();
    std::fs::write(&claims, "{\"payload\":\"p1\",\"wall_s\":1,\"cpu_s\":1}\n").unwrap();
    let (sacct, claims) = (sacct.to_str().unwrap(), claims.to_str().unwrap());
    let month = ["reconcile", "--slurm", sacct, "--claims", claims, "--until", "2026-07-01 12:00"];
    let told = said(site.path(), 1, &month);
    for part in [
        "slurm 4999 of pil02",
        "p1: ran without glexec",
        "3 slots, held for 4.1 h, sessions in them took 3.0 h",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let answer: Value =
        serde_json::from_str(&said(site.path(), 1, &[&month[..], &["--json"]].concat())).unwrap();
    assert_eq!(answer["count"], 2);
    std::fs::write(sacct, "4711|pil01|10000\n4712|pil01|4000\n").unwrap();
    said(site.path(), 0, &["reconcile", "--slurm", sacct, "--until", "2026-07-01 12:00"]);
    let oarstat = site.path().join("oarstat");
    std::fs::write(&oarstat, r#"{"7": {"owner": "pil03", "start_time": 100, "stop_time": 700}}"#).unwrap();
    let told = said(site.path(), 1, &["reconcile", "--oar", oarstat.to_str().unwrap()]);
    assert!(told.contains("oar 7 of pil03: held for 600 s, and glexec was never called"), "{told}");
    std::fs::write(sacct, "no accounting\n").unwrap();
    assert!(said(site.path(), 3, &["reconcile", "--slurm", sacct]).contains(":"));
}
