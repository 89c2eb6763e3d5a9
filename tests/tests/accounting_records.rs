//! What the record of a session says while it runs, and after the node went down under it.

use harness::fault::Disk;
use harness::{Machine, needs};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

fn machine() -> (Machine, String) {
    let policy = "[accounting]\ncheckpoint = \"1s\"\nbenchmark = \"HEPscore23 12.5\"\n";
    let machine = Machine::builder().pilot("pilot").account("alice").policy_add(policy).build();
    machine.map("alice", "alice");
    let proxy = machine.proxy("alice", "pilot");
    (machine, proxy)
}

/// Looks at the only record until it is as wanted.
fn record_when(machine: &Machine, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = machine.records().into_iter().find(&wanted);
        if let Some(record) = found {
            return record;
        }
        assert!(Instant::now() < deadline, "no such record: {:?}", machine.records());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[needs(root, "grid-proxy-init")]
fn usage_of_a_long_payload_is_recorded_while_it_runs_and_outlives_the_node() {
    let (machine, proxy) = machine();
    let burn = "end=$(($(date +%s) + 300)); while [ $(date +%s) -lt $end ]; do :; done";
    let run = machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).args(["/bin/sh", "-c", burn]).spawn();
    let cpu = |r: &Value| {
        r["usage"]["cpu_user_us"].as_u64().unwrap_or(0) + r["usage"]["cpu_sys_us"].as_u64().unwrap_or(0)
    };
    let running = record_when(&machine, |r| r["state"] == "running" && cpu(r) > 0);
    assert!(running["usage"]["wall_ns"].as_u64() >= Some(1_000_000_000), "{running}");
    assert!(
        running["usage"]["io_read_bytes"].is_u64() && running["usage"]["io_source"].is_string(),
        "{running}"
    );
    assert_eq!(running["benchmark"], "HEPscore23 12.5");
    let later =
        record_when(&machine, |r| r["usage"]["wall_ns"].as_u64() > running["usage"]["wall_ns"].as_u64());
    assert!(cpu(&later) > cpu(&running), "usage is cumulative: {later}");
    let id = later["record_id"].as_str().unwrap().to_owned();

    // What is on the disk now is all that a crash of the node leaves.
    let open = format!("/var/spool/pilotage/records/open/{id}.jsonl");
    let left = std::fs::read(&open).unwrap();
    machine.glexec().args(["--session", &id, "--end"]).output().ok();
    let _ = run.end_within(Duration::from_secs(60));
    std::fs::remove_file(format!("/var/spool/pilotage/records/closed/{id}.jsonl")).unwrap();
    std::fs::write(&open, left).unwrap();
    let spool = record::Spool::new("/var/spool/pilotage/records");
    assert_eq!(spool.close_lost_to_reboot("another-boot").unwrap(), 1);
    let lost = record_when(&machine, |r| r["record_id"] == id.as_str() && r["state"] == "lost");
    assert_eq!((&lost["exit"]["lost"], &lost["estimated"]), (&"reboot".into(), &true.into()));
    assert!(cpu(&lost) >= cpu(&later), "the last checkpoint holds: {lost}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn the_users_program_stands_beside_the_runner() {
    let (machine, proxy) = machine();
    let run = machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy);
    let run = run
        .env("GLEXEC_PAYLOAD_COMMAND", "./run.sh\u{1f}--events\u{1f}100")
        .env("GLEXEC_PILOT_DN", "/CN=pilot 7");
    let run = run.env("GLEXEC_PAYLOAD_CPUS", "4").env("GLEXEC_BATCH_JOB", "htcondor ce01#12.0#17 pil01");
    run.arg("/bin/true").output().ok();
    let record = record_when(&machine, |r| r["state"] == "closed");
    assert_eq!(record["claimed"]["argv"], serde_json::json!(["./run.sh", "--events", "100"]));
    assert_eq!((&record["argv0"], &record["claimed"]["cpus"]), (&"/bin/true".into(), &4.into()));
    assert_eq!((&record["pilot_dn"], &record["batch"]["owner"]), (&"/CN=pilot 7".into(), &"pil01".into()));
    let show = machine
        .command("/usr/bin/accounting")
        .args(["show", record["record_id"].as_str().unwrap()])
        .output()
        .ok();
    assert!(show.contains("./run.sh --events 100 (as the caller says)"), "{show}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn what_is_recorded_and_whether_it_must_be_is_the_site_s_choice() {
    let policy = "[accounting]\narguments = false\nrequire_record = false\n";
    let machine = Machine::builder().pilot("pilot").account("alice").policy_add(policy).build();
    machine.map("alice", "alice");
    let proxy = machine.proxy("alice", "pilot");
    let call = || machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).args(["/bin/echo", "s3cret"]).output();
    assert_eq!(call().ok(), "s3cret");
    let record = record_when(&machine, |r| r["state"] == "closed");
    assert!(!record.to_string().contains("s3cret"), "{record}");
    assert!(record["argv0"] == "/bin/echo", "{record}");

    std::fs::remove_dir_all("/var/spool/pilotage/records").unwrap();
    assert_eq!(call().ok(), "s3cret", "runs unrecorded");
    machine.edit_policy(|text| text.replace("require_record = false", "require_record = true"));
    call().refused(202, &["/var/spool/pilotage/records"]);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_store_on_a_full_disk_costs_no_record_and_works_again_with_space() {
    let (machine, proxy) = machine();
    machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).arg("/bin/true").output().ok();
    let id = record_when(&machine, |r| r["state"] == "closed")["record_id"].as_str().unwrap().to_owned();
    let disk = Disk::small(Path::new("/tmp/full"), 1 << 20);
    disk.fill();
    let fold = || machine.command("accounting").args(["fold", "--store", "/tmp/full/store"]).output();
    let failed = fold();
    assert_eq!(failed.code(), Some(3), "{}", failed.errors());
    assert!(failed.errors().contains("make space on the store's disk"), "{}", failed.errors());
    let spool = format!("/var/spool/pilotage/records/closed/{id}.jsonl");
    assert!(Path::new(&spool).exists(), "what the store did not take stays in the spool");
    disk.free();
    assert!(fold().ok().starts_with("1 records folded"), "works again with space");
}
