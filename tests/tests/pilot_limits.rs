//! What becomes of a payload near its limits, through the real programs: it is warned, it is told what to ask for, and it is
//! tried again with more.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::site::Site;

#[test]
fn a_payload_is_warned_before_its_time_is_over_and_knows_when_that_is() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &["--slots", "2"]);
    let script =
        "trap 'echo warned; exit 0' USR2; echo $PILOT_END_TIME $(date +%s); while :; do sleep 0.2; done";
    let warn = ["--walltime", "1h", "--warn", "3590s", "--warn-signal", "USR2"];
    let id = site.submit(&[&warn[..], &["--", "/bin/sh", "-c", script]].concat());
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    let said = site.ok(&["logs", &id]);
    let mut words = said.split_whitespace();
    let mut number = || words.next().unwrap().parse::<u64>().unwrap();
    let (end, start) = (number(), number());
    assert!((start + 1800..=start + 3600).contains(&end), "{said}");
    assert!(said.ends_with("warned\n"), "{said}");
    let untold = site.submit(&["--", "/bin/sh", "-c", "trap 'echo warned' USR1; env; sleep 1"]);
    assert_eq!(site.wait(&untold), Some(0));
    let said = site.ok(&["logs", &untold]);
    assert!(!said.contains("PILOT_END_TIME") && !said.contains("warned"), "{said}");
    let late = site.alice(&["submit", "--walltime", "60s", "--warn", "2m", "--", "true"]);
    let told = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(late.status.code() == Some(2) && told.contains("warn: must be shorter"), "{told}");
}

#[test]
fn a_payload_that_reached_a_limit_runs_again_with_more_and_both_are_told() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &["--slots", "2"]);
    // The first time it takes what it is given and more, and waits for the end.
    let script =
        |mark: &str, take: &str| format!("[ -e {mark} ] && exit 0; echo > {mark}; {take}; sleep 1000");
    let memory = script(&site.path("memory"), "x=$(head -c 60000000 /dev/zero | tr '\\0' x)");
    let memory = ["--memory", "20M", "--retry-memory", "2x", "--", "/bin/sh", "-c", &memory];
    let disk = script(&site.path("disk"), "head -c 3000000 /dev/zero > f");
    let disk = ["--disk", "1M", "--retry-disk", "1.5x", "--", "/bin/sh", "-c", &disk];
    let ids = [site.submit(&memory), site.submit(&disk)];
    for (id, kind, before, after) in
        [(&ids[0], "memory", 20u64 << 20, 40u64 << 20), (&ids[1], "disk", 1 << 20, 3 << 19)]
    {
        assert_eq!(site.wait(id), Some(0), "{}\n{}", site.show(id), site.log("agent"));
        let shown = site.show(id);
        assert_eq!(shown["spec"][kind], after, "{shown}");
        let first = &shown["attempts"][0];
        assert_eq!(
            (&first["outcome"], shown["attempts"].as_array().unwrap().len()),
            (&"limit".into(), 2),
            "{shown}"
        );
        let limit = &first["report"]["limit"];
        assert_eq!(
            (limit["kind"].as_str(), limit["allowed"].as_u64()),
            (Some(kind), Some(before)),
            "{shown}"
        );
        assert!(limit["used"].as_u64().unwrap() > before, "{shown}");
        let text = site.ok(&["show", id]).split_whitespace().collect::<Vec<_>>().join(" ");
        for words in
            [format!("ask for --{kind}"), format!("tried again with {}M of {kind}", after.div_ceil(1 << 20))]
        {
            assert!(text.contains(&words), "{words}: {text}");
        }
    }
    let alone = site.alice(&["submit", "--retry-memory", "2x", "--", "true"]);
    assert_eq!(alone.status.code(), Some(2), "{}", String::from_utf8_lossy(&alone.stderr));
}
