//! The built program against spools on disk.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use record::{Batch, Denied, Event, Exit, Opened, Spool, Subject, Usage};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const ADA: &str = "/DC=org/DC=example/CN=Ada Analyst";
const HOUR: u64 = 3_600_000_000_000;
/// 2026-07-01T08:30:00Z
const START: u64 = 1_782_894_600_000_000_000;
const CLOSED: &str = "019fb000-0000-7000-8000-00000000aaaa";
const RUNNING: &str = "019fb000-0001-7000-8000-00000000bbbb";
const DENIED: &str = "019fb000-0002-7000-8000-00000000cccc";

fn session(id: &str, start: u64) -> Opened {
    Opened {
        record_id: id.into(),
        host: "wn042.example.org".into(),
        batch: Some(Batch { lrms: "slurm".into(), jobid: "4711".into(), ..Batch::default() }),
        caller_uid: 1000,
        caller_name: Some("pilot".into()),
        payload: Subject {
            dn: ADA.into(),
            issuer: "/DC=org/DC=example/CN=CA".into(),
            fqans: vec!["/cms/Role=NULL/Capability=NULL".into()],
            vo: Some("cms".into()),
            voms_issuer: None,
        },
        cred_sha256: "0a1b2c".into(),
        account: "cms017".into(),
        uid: 51017,
        gid: 51000,
        policy_source: "gums".into(),
        argv0: "/bin/sh".into(),
        argv: vec!["/bin/sh".into(), "job.sh".into()],
        start_unix_ns: start,
        ..Opened::default()
    }
}

/// One closed session of an hour, one that runs since then, one refusal.
fn spool() -> TempDir {
    let dir = TempDir::new().unwrap();
    let spool = Spool::new(dir.path());
    let mut closed = spool.open(&session(CLOSED, START)).unwrap();
    closed.append(&Event::Exec { pid: 48211 }).unwrap();
    let usage = Usage {
        wall_ns: HOUR,
        cpu_user_us: 3_000_000_000,
        cpu_sys_us: 60_000_000,
        cpu_source: "cgroup-v2".into(),
        mem_peak_bytes: Some(300 << 20),
        mem_kind: Some("cgroup_peak".into()),
        ..Usage::default()
    };
    let exit = Exit { code: Some(3), ..Exit::default() };
    let end_unix_ns = START + HOUR;
    closed
        .close(&Event::Close { end_unix_ns, usage: usage.into(), exit: exit.into(), clock_stepped: false })
        .unwrap();
    drop(spool.open(&session(RUNNING, START + 2 * HOUR)).unwrap());
    let denied = Denied {
        record_id: DENIED.into(),
        host: "wn042.example.org".into(),
        at_unix_ns: START + 3 * HOUR,
        code: 203,
        reason: "the DN is banned".into(),
        ..Denied::default()
    };
    spool.deny(&denied).unwrap();
    dir
}

fn accounting(spool: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_accounting")).arg("--spool").arg(spool).args(args).output().unwrap()
}

fn text(spool: &Path, code: i32, args: &[&str]) -> String {
    let output = accounting(spool, args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(spool: &Path, code: i32, args: &[&str]) -> Value {
    serde_json::from_str(&text(spool, code, args)).unwrap()
}

fn found(spool: &Path, args: &[&str]) -> Vec<String> {
    let answer = json(spool, 0, args);
    let records = answer["records"].as_array().unwrap();
    assert_eq!(answer["count"], records.len());
    records.iter().map(|r| r["record_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn list_shows_everything_and_fits_eighty_columns() {
    let spool = spool();
    let table = text(spool.path(), 0, &["list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert!(lines[0].starts_with("ID        START (UTC)"), "{table}");
    assert!(lines[1].starts_with("0000aaaa  2026-07-01 08:30  closed"), "{table}");
    assert!(lines.iter().all(|l| l.chars().count() <= 80), "{table}");
    let command = Command::new(env!("CARGO_BIN_EXE_accounting"))
        .arg("--spool")
        .arg(spool.path())
        .arg("list")
        .env("COLUMNS", "110")
        .output()
        .unwrap();
    let table = String::from_utf8(command.stdout).unwrap();
    for part in ["cms017", "wn042 ", "1h00m", "51m00s", " 3 ", "CN=Ada Analyst"] {
        assert!(table.lines().nth(1).unwrap().contains(part), "{part:?} in {table}");
    }
    assert!(text(spool.path(), 0, &["list", "--wide"]).contains(CLOSED));
}

#[test]
fn list_filters() {
    let spool = spool();
    let find = |args: &[&str]| found(spool.path(), &[&["list", "--json"], args].concat());
    assert_eq!(find(&[]), [CLOSED, RUNNING, DENIED]);
    assert_eq!(find(&["--dn", ADA]), [CLOSED, RUNNING]);
    assert_eq!(
        find(&["--fqan", "/cms", "--vo", "cms", "--uid", "51017", "--until", "2026-07-01T10:00Z"]),
        [CLOSED]
    );
    assert_eq!(find(&["--running"]), [RUNNING]);
    assert_eq!(find(&["--decision", "denied"]), [DENIED]);
    assert_eq!(find(&["--at", "2026-07-01T09:00Z"]), [CLOSED]);
    assert_eq!(find(&["--since", "2026-07-01T10:00Z"]), [RUNNING, DENIED]);
    assert_eq!(find(&["--since", "2026-07-01 10:00"]), [RUNNING, DENIED]);
}

#[test]
fn json_names_the_question_and_every_unit() {
    let spool = spool();
    let answer = json(spool.path(), 0, &["list", "--json", "--since", "2026-07-01", "--account", "cms017"]);
    assert_eq!(answer["query"]["since_utc"], "2026-07-01T00:00:00Z");
    let record = &answer["records"][0];
    assert_eq!(record["state"], "closed");
    assert_eq!(
        (&record["start_utc"], &record["end_utc"]),
        (&"2026-07-01T08:30:00Z".into(), &"2026-07-01T09:30:00Z".into())
    );
    assert_eq!((&record["usage"]["wall_ns"], &record["exit"]["code"]), (&HOUR.into(), &3.into()));
    let units = ["_ns", "_us", "_unix_s", "_utc", "_bytes"];
    for time in
        ["start", "end", "wall", "cpu_user", "cpu_sys", "cred_not_after", "mem_peak", "start_boottime"]
    {
        assert!(
            all_keys(record).iter().any(|k| units.iter().any(|u| k.starts_with(time) && k.ends_with(u))),
            "{time}"
        );
        assert!(!all_keys(record).contains(&time.to_owned()), "{time} has no unit");
    }
}

fn all_keys(value: &Value) -> Vec<String> {
    let Value::Object(map) = value else {
        return Vec::new();
    };
    map.iter().flat_map(|(key, inner)| [vec![key.clone()], all_keys(inner)].concat()).collect()
}

#[test]
fn who_answers_by_interval_and_host() {
    let spool = spool();
    let who = |host: &str, at: &str| {
        accounting(spool.path(), &["who", "--uid", "51017", "--host", host, "--at", at])
    };
    let answer = who("wn042", "2026-07-01T09:00Z");
    let said = String::from_utf8(answer.stdout).unwrap();
    assert_eq!(answer.status.code(), Some(0));
    for part in [ADA, "slurm 4711", "pilot (uid 1000)", "/bin/sh job.sh", CLOSED] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
    assert_eq!(who("wn042.example.org", "2026-07-01T08:30:00Z").status.code(), Some(0), "the start counts");
    assert_eq!(who("wn042", "2026-07-01T09:30:00Z").status.code(), Some(1), "the end does not");
    assert_eq!(who("wn042", "now").status.code(), Some(0), "one runs");
    assert_eq!(who("wn043", "2026-07-01T09:00Z").status.code(), Some(1));
    assert_eq!(who("wn042", "noon").status.code(), Some(2));
}

#[test]
fn show_takes_any_unique_part_of_an_id() {
    let spool = spool();
    for part in [CLOSED, "0000AAAA", "019fb000-0000"] {
        assert!(text(spool.path(), 0, &["show", part]).contains("closed, exit code 3"), "{part}");
    }
    assert!(text(spool.path(), 0, &["show", "cccc"]).contains("the DN is banned"));
    assert!(text(spool.path(), 1, &["show", "019fb000"]).contains("several"));
    assert!(text(spool.path(), 1, &["show", "ffffffff"]).contains("no record"));
    text(spool.path(), 2, &["show", "a"]);
    let answer = json(spool.path(), 0, &["show", CLOSED, "--json", "--events"]);
    let events: Vec<_> =
        answer["records"][0]["events"].as_array().unwrap().iter().map(|e| &e["event"]).collect();
    assert_eq!(events, ["open", "exec", "close"]);
    assert!(text(spool.path(), 0, &["show", CLOSED, "--events"]).contains(r#""pid":48211"#));
}

#[test]
fn a_damaged_record_is_named_and_hides_no_other() {
    let spool = spool();
    let file = spool.path().join("closed").join(format!("{CLOSED}.jsonl"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let output = accounting(spool.path(), &["list", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("{}:1: ", file.display())));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["count"], 2);
    assert_eq!(json(spool.path(), 3, &["verify", "--json"])["damaged"][0]["line"], 1);
    assert_eq!(accounting(spool.path(), &["show", CLOSED]).status.code(), Some(3));
}

#[test]
fn verify_counts_torn_records_as_good() {
    let spool = spool();
    assert_eq!(
        text(spool.path(), 0, &["verify"]),
        "3 records good, 0 of them with a torn last line, 0 damaged\n"
    );
    let file = spool.path().join("open").join(format!("{RUNNING}.jsonl"));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend_from_slice(br#"{"seq":1,"#);
    std::fs::write(&file, bytes).unwrap();
    assert!(text(spool.path(), 0, &["verify"]).starts_with("torn     "));
    std::fs::write(&file, "").unwrap();
    assert!(text(spool.path(), 0, &["verify"]).starts_with("unborn   "));
    text(spool.path(), 0, &["list"]);
}

#[test]
fn an_empty_spool_holds_nothing_and_a_missing_one_is_an_error() {
    let dir = TempDir::new().unwrap();
    assert_eq!(json(dir.path(), 1, &["list", "--json"])["count"], 0);
    let output = accounting(&dir.path().join("none"), &["list"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--spool"));
}

#[test]
fn a_closed_record_that_was_cut_or_emptied_is_damage_and_never_runs() {
    let spool = spool();
    let file = spool.path().join("closed").join(format!("{CLOSED}.jsonl"));
    let whole = std::fs::read(&file).unwrap();
    for length in [whole.len() - 20, 0] {
        std::fs::write(&file, &whole[..length]).unwrap();
        for question in [
            &["list", "--running", "--json"][..],
            &["who", "--uid", "51017", "--host", "wn042", "--at", "now", "--json"],
        ] {
            let output = accounting(spool.path(), question);
            assert_eq!(output.status.code(), Some(3));
            assert!(String::from_utf8(output.stderr).unwrap().contains(&file.display().to_string()));
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((&answer["count"], &answer["records"][0]["record_id"]), (&1.into(), &RUNNING.into()));
        }
        let verified = text(spool.path(), 3, &["verify"]);
        assert!(verified.contains(&format!("damaged  {}", file.display())), "{verified}");
        assert_eq!(accounting(spool.path(), &["show", CLOSED]).status.code(), Some(3));
    }
}

#[test]
fn a_fifo_in_the_spool_is_named_and_keeps_nobody_waiting() {
    for place in ["closed/f.jsonl", "open/f.jsonl", "open/pipe", "pipe"] {
        let spool = spool();
        let fifo = spool.path().join(place);
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for question in [&["list", "--json"][..], &["verify", "--json"]] {
            let output = accounting(spool.path(), question);
            assert_eq!(output.status.code(), Some(3), "{place}");
            let said = [output.stdout, output.stderr].concat();
            assert!(String::from_utf8(said).unwrap().contains(&fifo.display().to_string()), "{place}");
        }
    }
}

#[test]
fn folded_records_answer_as_those_of_the_spool() {
    let spool = spool();
    let store = TempDir::new().unwrap();
    let at = store.path().join("store");
    let at_text = at.to_str().unwrap().to_owned();
    let with =
        |args: &[&'static str]| -> Vec<&str> { args.iter().copied().chain(["--store", &at_text]).collect() };
    assert_eq!(accounting(spool.path(), &with(&["list"])).status.code(), Some(3), "no store yet");
    let questions = [
        &["list", "--json"][..],
        &["list", "--format", "csv", "--vo", "cms"],
        &["list", "--format", "jsonl"],
        &["who", "--uid", "51017", "--host", "wn042", "--at", "2026-07-01 09:00"],
        &["sum", "--by", "vo,month,user", "--json"],
        &["sum", "--format", "csv", "--by", "host"],
        &["tree", "--batch", "4711@wn042", "--until", "2026-07-01 10:00", "--json"],
        &["show", "0000aaaa", "--json", "--events"],
    ];
    let before: Vec<String> = questions.iter().map(|args| text(spool.path(), 0, args)).collect();
    assert_eq!(
        text(spool.path(), 0, &with(&["fold"])),
        "2 records folded, 0 were known, 0 stay in the spool\n"
    );
    assert_eq!(std::fs::read_dir(spool.path().join("closed")).unwrap().count(), 0);
    for (question, before) in questions.iter().zip(before) {
        assert_eq!(text(spool.path(), 0, &with(question)), before, "{question:?}");
    }
    let verified = text(spool.path(), 0, &with(&["verify"]));
    let head = verified.trim_end().rsplit(' ').next().unwrap().to_owned();
    assert!(verified.contains("2 records in the store are sealed"), "{verified}");
    text(spool.path(), 0, &["verify", "--store", &at_text, "--head", &head]);
    text(spool.path(), 3, &["verify", "--store", &at_text, "--head", &"0".repeat(64)]);
    let day = std::fs::read_dir(at.join("journal")).unwrap().next().unwrap().unwrap().path();
    let changed = std::fs::read_to_string(&day).unwrap().replace("cms017", "cms018");
    std::fs::write(&day, changed).unwrap();
    assert!(text(spool.path(), 3, &with(&["verify"])).contains(&format!("{}:1: ", day.display())));
}

#[test]
fn sums_say_their_time_zone_and_count_one_role() {
    let spool = spool();
    let sum = text(spool.path(), 0, &["sum", "--by", "vo", "--month", "2026-07"]);
    assert!(sum.contains("cms") && sum.contains("UTC"), "{sum}");
    let answer = json(spool.path(), 0, &["sum", "--by", "vo,month", "--json"]);
    assert_eq!(answer["time_zone"], "UTC");
    let cms = answer["sums"].as_array().unwrap().iter().find(|row| row["vo"] == "cms").unwrap();
    assert_eq!(
        (&cms["jobs"], &cms["month"], &cms["efficiency_percent"]),
        (&1.into(), &"2026-07".into(), &85.0.into())
    );
    text(spool.path(), 1, &["sum", "--role", "pilot"]);
    text(spool.path(), 1, &["sum", "--month", "2026-06"]);
    text(spool.path(), 2, &["sum", "--by", "nothing"]);
    text(spool.path(), 1, &["sum", "--until", "2026-07-01 09:30"]);
}

#[test]
fn what_others_wrote_is_shown_and_not_executed() {
    let dir = TempDir::new().unwrap();
    let evil = "/CN=a\u{202e}b\u{2028}c\u{1b}[31m";
    let mut opened = session(CLOSED, START);
    opened.payload.dn = evil.into();
    opened.cwd = evil.into();
    drop(Spool::new(dir.path()).open(&opened).unwrap());
    for args in [
        &["list"][..],
        &["list", "--wide"],
        &["list", "--json"],
        &["list", "--format", "jsonl"],
        &["list", "--format", "csv"],
        &["show", "0000aaaa", "--events"],
        &["tree"],
        &["who", "--uid", "51017", "--host", "wn042", "--at", "now"],
    ] {
        let said = text(dir.path(), 0, args);
        assert!(!said.contains(['\u{202e}', '\u{2028}', '\u{1b}']), "{args:?}: {said:?}");
    }
    assert_eq!(
        json(dir.path(), 0, &["list", "--json"])["records"][0]["payload"]["dn"],
        evil,
        "JSON loses nothing"
    );
}
