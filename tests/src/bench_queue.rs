//! What queue and pilot cost: submissions, and payloads that do nothing, through the real programs over TLS.

use crate::bench_report::{Goal, Measure};
use end_to_end::site::Site;
use std::process::Command;
use std::time::{Duration, Instant};

/// Payloads of the array that is submitted at once.
const ARRAY: u32 = 10_000;
/// Payloads that one pilot runs.
const NO_OPS: u32 = 100;

fn rate(count: u32, took: Duration) -> f64 {
    f64::from(count) / took.as_secs_f64()
}

/// Submissions and no-op payloads of one pilot, without a switch, beside a loop that starts the same program.
pub fn measures() -> Vec<Measure> {
    let site = Site::new("60s");
    let submitted = timed(|| drop(site.submit(&["--array", &format!("1-{ARRAY}"), "--", "/bin/true"])));
    let array = Measure {
        name: "payloads submitted in one array",
        value: rate(ARRAY, submitted),
        unit: "1/s",
        beside: None,
        goal: None,
    };
    let mut all = vec![array];
    all.extend(no_ops());
    all
}

/// From the pilot's start to the last result.
fn run(site: &Site, slots: usize, options: &[&str], command: &[&str]) -> f64 {
    let array = format!("1-{NO_OPS}");
    let ids = site.submit(&[&["--array", &array], options, &["--"], command].concat());
    let ids: Vec<&str> = ids.lines().collect();
    let took = timed(|| {
        let _agent = site.agent("agent", &["--slots", &slots.to_string()]);
        let waited = site.alice(&[&["wait"], &ids[..]].concat());
        assert!(waited.status.success(), "{}", site.log("agent"));
    });
    rate(NO_OPS, took)
}

fn no_ops() -> Vec<Measure> {
    let site = Site::new("60s");
    let slots = std::thread::available_parallelism().map_or(1, usize::from);
    let ours = run(&site, slots, &[], &["/bin/true"]);
    std::fs::write(site.path("in"), [b'x'; 4096]).expect("the site's directory is there");
    let script = "cp in out; head -c 1024 in; head -c 1024 in >&2";
    let with_files = run(&site, slots, &["--input", "in", "--output", "out"], &["/bin/sh", "-c", script]);
    let bare = timed(|| {
        for _ in 0..NO_OPS {
            let status = Command::new("/bin/true").status().expect("it can be run");
            assert!(status.success(), "/bin/true failed");
        }
    });
    let beside = |name, value, other: &str, rate, goal| Measure {
        name,
        value,
        unit: "1/s",
        beside: Some((other.to_owned(), rate)),
        goal: Some(Goal::AtLeast(goal)),
    };
    let plain = "no-op payloads of one pilot, --no-switch";
    let mut all = vec![
        beside(plain, ours, "a loop that starts /bin/true", rate(NO_OPS, bare), 0.5),
        beside("the same with 4 kB in and out, 1 kB of logs", with_files, plain, ours, 0.6),
    ];
    let peer = crate::bench_pilot::hyperqueue(NO_OPS, slots);
    all.extend(peer.map(|peer| beside(plain, ours, "HyperQueue's worker", peer, 1.6)));
    all
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}
