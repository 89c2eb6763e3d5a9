//! `make bench`: what an identity switch costs, next to what others take for theirs.
//!
//! The programs take turns, so that whatever else happens on this host happens to all of them. Nothing is asserted:
//! times depend on the host, the ratio between the programs much less.

use harness::{Machine, Run, need};
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;
const WARM_UP: usize = 5;
const SUDOERS: &str = "pilot ALL=(alice) NOPASSWD: /bin/true\n";

/// A program to measure: what it is called, and how to run it.
struct Contender<'a> {
    name: &'static str,
    run: Box<dyn Fn() -> Run + 'a>,
    times: Vec<Duration>,
}

impl<'a> Contender<'a> {
    fn new(name: &'static str, run: impl Fn() -> Run + 'a) -> Self {
        let run = Box::new(run);
        Self { name, run, times: Vec::with_capacity(ROUNDS) }
    }

    fn once(&self) -> Duration {
        let mut run = (self.run)();
        let start = Instant::now();
        let status = run.start().wait();
        let took = start.elapsed();
        assert!(
            status.is_ok_and(|s| s.success()),
            "{} failed; run it by hand in a machine to see why",
            self.name
        );
        took
    }
}

fn main() {
    if !need::root() || !need::tool("sudo") || !need::tool("setpriv") {
        return;
    }
    let machine = Machine::builder().pilot("pilot").account("alice").build();
    machine.map("Alice", "alice");
    let proxy = machine.proxy("Alice", "pilot");
    machine.write("/etc/sudoers.d/bench", "root", 0o440, SUDOERS);
    let uid = machine.uid("alice").to_string();
    let glexec =
        || machine.glexec().env("GLEXEC_CLIENT_CERT", &proxy).env("GLEXEC_TARGET_PROXY", "/dev/null");
    let setpriv =
        || machine.command("/usr/bin/setpriv").args(["--reuid", &uid, "--regid", &uid, "--init-groups"]);
    let sudo = || machine.command("/usr/bin/sudo").as_user("pilot").args(["-n", "-u", "alice"]);
    let mut contenders = [
        Contender::new("glexec /bin/true", || glexec().arg("/bin/true")),
        Contender::new("sudo -n -u alice /bin/true", || sudo().arg("/bin/true")),
        Contender::new("setpriv --reuid alice /bin/true", || setpriv().arg("/bin/true")),
        Contender::new("/bin/true", || machine.command("/bin/true").as_user("pilot")),
    ];
    measure(&mut contenders);
    print(&mut contenders);
}

fn measure(contenders: &mut [Contender<'_>]) {
    contenders.iter().for_each(|c| {
        (0..WARM_UP).for_each(|_| {
            c.once();
        })
    });
    for _ in 0..ROUNDS {
        contenders.iter_mut().for_each(|c| c.times.push(c.once()));
    }
}

fn print(contenders: &mut [Contender<'_>]) {
    let millis = |d: Duration| d.as_secs_f64() * 1e3;
    contenders.iter_mut().for_each(|c| c.times.sort_unstable());
    let ours = millis(contenders[0].times[ROUNDS / 2]);
    println!("{ROUNDS} rounds, taking turns; wall time in ms\n");
    println!("{:<34} {:>8} {:>8} {:>14}", "program", "median", "p99", "glexec takes");
    for Contender { name, times, .. } in contenders {
        let (median, p99) = (millis(times[ROUNDS / 2]), millis(times[ROUNDS * 99 / 100]));
        println!("{name:<34} {median:>8.2} {p99:>8.2} {:>12.2} x", ours / median);
    }
}
