//! What a pilot meets in a day: pauses between payloads, wrong answers of the queue, upgrades, cleaners of temporary files,
//! strange signals, strange output, a node that has become useless.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::site::{Guard, LIMIT, Site};
use harness::fault::{Answer, Disk, private_mounts, replace_file, upgrade};
use harness::needs;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Puts copies of pilot and runner into the site, and the site on them.
fn own_programs(site: &mut Site) -> [std::path::PathBuf; 2] {
    let built = site.program.parent().unwrap().to_owned();
    let bin = site.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let copied = ["pilot", "pilot-runner"].map(|name| {
        std::fs::copy(built.join(name), bin.join(name)).unwrap();
        bin.join(name)
    });
    site.program.clone_from(&copied[0]);
    copied
}

fn attempts(site: &Site, id: &str) -> usize {
    site.show(id)["attempts"].as_array().unwrap().len()
}

fn await_log(site: &Site, log: &str, words: &str) {
    let give_up = Instant::now() + LIMIT;
    while !site.log(log).contains(words) {
        assert!(Instant::now() < give_up, "{words:?} does not come:\n{}", site.log(log));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn idle_time_counts_from_the_end_of_the_last_payload() {
    let site = Site::new("30s");
    let ids: Vec<String> = (0..3).map(|_| site.submit(&["--", "/bin/sleep", "4"])).collect();
    let mut agent = site.agent("agent", &["--slots", "1", "--max-idle", "3s"]);
    for id in &ids {
        assert_eq!(site.wait(id), Some(0), "{}", site.log("agent"));
    }
    assert_eq!(agent.code_within(LIMIT), Some(0), "{}", site.log("agent"));
    assert_eq!(site.log("agent").matches("pilot registered").count(), 1);
}

#[test]
fn every_signal_a_payload_dies_by_is_a_code_and_output_comes_home_or_is_said() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &["--slots", "2"]);
    for number in [34, 40, 64] {
        let id = site.shell(&format!("(sh -c 'kill -{number} $$') & wait; kill -{number} $$"));
        assert_eq!(site.wait(&id), Some(128 + number), "{}", site.log("agent"));
        let report = site.show(&id)["attempts"][0]["report"].clone();
        assert!(report["reason"].as_str().unwrap().contains(&format!("signal {number}")), "{report}");
        assert!(report["wall_ms"].is_u64() && report["cpu_ms"].is_u64(), "{report}");
    }
    let script = "truncate -s 3M sparse; echo y > after; printf x > \"$(printf 'caf\\351.dat')\"; mkdir d; echo z > d/closed; \
                  chmod 0 d/closed; chmod 0 d; ln -s /etc/passwd out";
    let patterns = ["sparse", "after", "*.dat", "d/", "./out", "none*"];
    let mut args: Vec<&str> = patterns.iter().flat_map(|pattern| ["--output", pattern]).collect();
    args.extend(["--", "/bin/sh", "-c", script]);
    let id = site.submit(&args);
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("agent"));
    let report = site.show(&id)["attempts"][0]["report"].clone();
    let output = &report["output"];
    assert_eq!((&output["files"], &output["left_out"]), (&json!(4), &json!(1)), "{report}");
    assert_eq!(output["unmatched"], json!(["none*"]));
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.contains("none*") && reason.contains("1 output files"), "{reason}");
    args.splice(0..0, ["--missing-output", "fail"]);
    let strict = site.submit(&args);
    site.wait(&strict);
    assert_eq!(site.show(&strict)["attempts"][0]["outcome"], "user", "{}", site.show(&strict));
    assert_eq!(site.show(&strict)["state"], "failed");
}

#[test]
fn wrong_answers_of_the_queue_cost_a_payload_nothing_and_a_renewed_proxy_is_taken() {
    let site = Site::new("60s");
    let between = site.between();
    let agent = site.agent_of(between.url(), "agent", &["--slots", "2"]);
    let go = site.path("go");
    let id = site.shell(&format!("echo before; while [ ! -e {go} ]; do sleep 0.1; done; echo after"));
    site.await_state(&id, "running");
    for status in [500, 404, 429, 403] {
        between.spoil_next(1, "POST", "/claim", Answer::Status(status));
    }
    let refused =
        json!({"status": 503, "code": "credential_refused", "title": "not now", "retryable": false})
            .to_string();
    between.spoil_next(1, "POST", "/claim", Answer::Json(403, refused));
    between.spoil_next(2, "PUT", "/logs/", Answer::Status(500));
    between.spoil_next(2, "POST", "/result", Answer::Status(500));
    let renewed = site.dir.path().join("renewed.pem");
    std::fs::copy(&site.pilot, &renewed).unwrap();
    replace_file(&site.pilot, &renewed);
    await_log(&site, "agent", "proxy renewed");
    std::fs::write(&go, "").unwrap();
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("agent"));
    assert_eq!(site.ok(&["logs", &id]), "before\nafter\n");
    assert_eq!(attempts(&site, &id), 1, "{}", site.show(&id));
    let next = site.shell("echo next");
    assert_eq!(site.wait(&next), Some(0), "{}", site.log("agent"));
    drop(agent);
}

#[test]
fn a_pilot_outlives_its_own_upgrade_a_cleaner_and_its_terminal() {
    let mut site = Site::new("30s");
    let programs = own_programs(&mut site);
    let log = std::fs::File::create(site.dir.path().join("agent")).unwrap();
    let mut nohup = std::process::Command::new("nohup");
    let args = ["run", "--queue", &site.url, "--no-switch"];
    nohup.arg(&site.program).args(args).env_clear().envs([
        ("PATH", Path::new("/usr/bin:/bin")),
        ("X509_CERT_DIR", &site.pki.ca_dir),
        ("TMPDIR", site.dir.path()),
        ("X509_USER_PROXY", &site.pilot),
    ]);
    let mut agent = Guard(nohup.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let first = site.shell("echo first");
    assert_eq!(site.wait(&first), Some(0), "{}", site.log("agent"));
    programs.iter().for_each(|program| upgrade(program));
    let private = std::fs::read_dir(site.dir.path()).unwrap().flatten();
    let private =
        private.map(|e| e.path()).find(|p| p.to_string_lossy().contains("pilotage-agent-")).unwrap();
    std::fs::remove_dir_all(private).unwrap();
    agent.signal(libc::SIGHUP);
    let second = site.shell("echo second");
    assert_eq!(site.wait(&second), Some(0), "{}\n{}", site.show(&second), site.log("agent"));
    assert_eq!(attempts(&site, &second), 1, "{}", site.show(&second));
    assert!(agent.is_running(), "{}", site.log("agent"));
    agent.signal(libc::SIGTERM);
    assert_eq!(agent.code_within(LIMIT), Some(0), "{}", site.log("agent"));
}

#[test]
fn a_node_that_fails_one_payload_after_the_other_ends_its_pilot_with_a_code_of_its_own() {
    let mut site = Site::new("30s");
    let scratch = site.dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    // Times that no clock can show are no limit, on the command line and from the batch system.
    let most = "18446744073709551615";
    site.agent_env = vec![("SLURM_JOB_ID".into(), "1".into()), ("SLURM_JOB_END_TIME".into(), most.into())];
    let named = scratch.display().to_string();
    let args = ["--scratch", &named, "--max-failures", "3", "--max-idle", "213503982334601d"];
    let mut agent = site.agent("agent", &args);
    let good = site.shell("pwd");
    assert_eq!(site.wait(&good), Some(0), "{}", site.log("agent"));
    assert!(site.ok(&["logs", &good]).starts_with(&named), "payloads work in --scratch");
    std::fs::remove_dir_all(&scratch).unwrap();
    let began = Instant::now();
    let bad = site.shell("true");
    assert_eq!(agent.code_within(LIMIT), Some(4), "{}", site.log("agent"));
    assert!(began.elapsed() >= Duration::from_secs(2), "it paused between two failures");
    assert!(site.log("agent").contains("one payload after the other"), "{}", site.log("agent"));
    assert!(site.show(&bad)["attempts"].as_array().unwrap().iter().all(|a| a["outcome"] == "infra"));
    let mut refused = site.agent("refused", &["--scratch", "/nowhere"]);
    assert_eq!(refused.code_within(LIMIT), Some(2));
    assert!(site.log("refused").contains("--scratch /nowhere"), "{}", site.log("refused"));
}

/// How many processes have this word in their command line.
fn processes_with(word: &str) -> usize {
    let lines = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(word.len()).any(|part| part == word.as_bytes())).count()
}

#[test]
fn a_chain_of_forks_does_not_outlive_its_payload_without_a_switch() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    for run in 0..3 {
        let word = format!("chain-{}-{run}", std::process::id());
        // Each process ends as soon as it has forked: whoever looks sees only the one before.
        let chain = format!("setpgrp; $0 = q({word}); fork and exit while 1");
        let id = site.submit(&["--", "/bin/sh", "-c", &format!("perl -e '{chain}' & sleep 0.3; exit 5")]);
        assert_eq!(site.wait(&id), Some(5), "{}\n{}", site.show(&id), site.log("agent"));
        assert_eq!(processes_with(&word), 0, "{}", site.show(&id));
    }
}

/// Scratch holds the payload's files and what the pilot keeps of them.
#[test]
#[needs(root)]
fn a_full_disk_on_the_node_hangs_nothing_and_is_not_the_users_fault() {
    private_mounts();
    let site = Site::new("30s");
    let disk = Disk::small(&site.dir.path().join("disk"), 8 << 20);
    let scratch = disk.path().display().to_string();
    let _agent = site.agent("agent", &["--scratch", &scratch, "--max-failures", "100"]);
    let files = site.submit(&[
        "--output",
        "out",
        "--",
        "/bin/sh",
        "-c",
        "head -c 5000000 /dev/zero | tr '\\0' x > out",
    ]);
    site.wait(&files);
    let attempts = site.show(&files)["attempts"].clone();
    assert_eq!(attempts[0]["outcome"], "infra", "{attempts}");
    let reason = attempts[0]["report"]["reason"].as_str().unwrap();
    assert!(reason.contains("output files") && reason.contains("No space left"), "{reason}");
    // Something that goes well ends the pauses.
    let next = site.shell("echo next");
    assert_eq!(site.wait(&next), Some(0), "{}", site.log("agent"));
    let log = site.shell("head -c 20000000 /dev/zero | tr '\\0' x; echo done >&2; exit 3");
    site.wait(&log);
    let attempts = site.show(&log)["attempts"].clone();
    assert_eq!(attempts[0]["outcome"], "infra", "{attempts}");
    assert!(
        site.ok(&["logs", "--stream", "stdout", &log]).contains("pilot: the log is cut here"),
        "{}",
        site.log("agent")
    );
}

/// A pilot with a switch of its own, which answers for its version and then does this.
fn agent_with_switch(site: &Site, name: &str, then: &str) -> Guard {
    let switch = site.dir.path().join(format!("{name}.sh"));
    std::fs::write(&switch, format!("#!/bin/sh\n[ \"$1\" = -v ] && echo glexec 9 && exit 0\n{then}\n"))
        .unwrap();
    std::fs::set_permissions(&switch, std::fs::Permissions::from_mode(0o755)).unwrap();
    let log = std::fs::File::create(site.dir.path().join(name)).unwrap();
    let mut command = std::process::Command::new(&site.program);
    command.args(["run", "--queue", &site.url, "--glexec"]).arg(&switch).env_clear().envs([
        ("PATH", Path::new("/usr/bin:/bin")),
        ("X509_CERT_DIR", &site.pki.ca_dir),
        ("X509_USER_PROXY", &site.pilot),
    ]);
    Guard(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

#[test]
fn a_node_that_cannot_switch_says_so_and_burns_no_payload() {
    let site = Site::new("30s");
    let id = site.shell("echo fine");
    let mut broken = agent_with_switch(&site, "broken", "echo 'cannot read policy.toml' >&2; exit 202");
    assert_eq!(broken.code_within(LIMIT), Some(4), "{}", site.log("broken"));
    let pilots: serde_json::Value = serde_json::from_str(&site.ok(&["pilots", "--json"])).unwrap();
    assert_eq!((&pilots[0]["state"], &pilots[0]["attempts"]), (&"failed".into(), &0.into()), "{pilots}");
    let why = pilots[0]["reason"].as_str().unwrap();
    for words in ["this node cannot run payloads", "202", "cannot read policy.toml"] {
        assert!(why.contains(words), "{why}");
    }
    assert!(site.ok(&["pilots"]).contains("cannot run payloads"), "{}", site.ok(&["pilots"]));
    let _good = site.agent("agent", &[]);
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("agent"));
    assert_eq!(attempts(&site, &id), 1, "{}", site.show(&id));
}

#[test]
fn a_site_that_does_not_know_the_pilots_own_name_fails_no_probe() {
    let site = Site::new("30s");
    let mut pilot = agent_with_switch(&site, "unmapped", "echo 'nobody knows /CN=Pilot' >&2; exit 203");
    let ready = || {
        site.ok(&["pilots", "--json"]).contains("\"state\":\"ready\"")
            || site.ok(&["pilots"]).contains(" ready ")
    };
    let give_up = Instant::now() + LIMIT;
    while !ready() {
        assert!(Instant::now() < give_up && pilot.is_running(), "{}", site.log("unmapped"));
        std::thread::sleep(Duration::from_millis(50));
    }
    pilot.signal(libc::SIGTERM);
    assert_eq!(pilot.code_within(LIMIT), Some(0), "{}", site.log("unmapped"));
}
