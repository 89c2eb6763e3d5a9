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
    vec![array, no_ops()]
}

fn no_ops() -> Measure {
    let site = Site::new("60s");
    let slots = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let ids = site.submit(&["--array", &format!("1-{NO_OPS}"), "--", "/bin/true"]);
    let ids: Vec<&str> = ids.lines().collect();
    let took = timed(|| {
        let _agent = site.agent("agent", &["--slots", &slots]);
        let waited = site.alice(&[&["wait"], &ids[..]].concat());
        assert!(waited.status.success(), "{}", site.log("agent"));
    });
    let bare = timed(|| {
        for _ in 0..NO_OPS {
            let status = Command::new("/bin/true").status().expect("it can be run");
            assert!(status.success(), "/bin/true failed");
        }
    });
    Measure {
        name: "no-op payloads of one pilot, --no-switch",
        value: rate(NO_OPS, took),
        unit: "1/s",
        beside: Some(("a loop that starts /bin/true".to_owned(), rate(NO_OPS, bare))),
        goal: Some(Goal::AtLeast(0.5)),
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}
