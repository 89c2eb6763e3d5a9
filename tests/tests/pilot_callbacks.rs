//! `pilot submit --callback` across a border: the queue and a pilot at a site, the user outside, a router with rules between them.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::networks::ThreeNetworks;
use end_to_end::site::{Guard, LIMIT, Site};
use harness::needs;
use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// What the border lets through to the user, besides answers: nothing, or calls to the user's ports.
const OPEN: &str = "iifname rsite0 tcp dport 40000-40009 accept";

struct Border {
    net: ThreeNetworks,
    site: Site,
    _pilot: Guard,
}

impl Border {
    fn with(calls: &str) -> Self {
        let net = ThreeNetworks::connected();
        let mut site = Site::closed("30s");
        site.address = "0.0.0.0:0".to_owned();
        site.queue_args = vec!["--notify-private".to_owned()];
        net.host.within(|| site.start_queue());
        let port = site.address.rsplit(':').next().unwrap();
        let rules = format!(
            "table inet border {{ chain forward {{ type filter hook forward priority 0; policy drop;
             ct state established,related accept
             iifname rout0 tcp dport {port} accept
             {calls}
             }}
             }}"
        );
        net.router.load("nft", &["-f", "-"], &rules);
        let pilot = net.host.within(|| site.agent("agent", &[]));
        Self { net, site, _pilot: pilot }
    }

    /// The user's command; what it says goes to `out` and `err`.
    fn submit(&self, script: &str) -> Guard {
        let site = &self.site;
        let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let user = site.command();
        let mut command = site.knowing_hosts(&format!("127.0.0.1 localhost\n192.0.2.2 {host}\n"));
        command.arg(user.get_program()).env_clear();
        command.envs(user.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("X509_USER_PROXY", &site.alice).env("PILOT_QUEUE", &site.url);
        command.env("GLOBUS_TCP_PORT_RANGE", "40000,40009").env("GLOBUS_HOSTNAME", "198.51.100.2");
        command.args(["submit", "--callback", "--", "/bin/sh", "-c", script]);
        let file = |name: &str| File::create(site.path(name)).unwrap();
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        Guard(self.net.outside.within(|| command.spawn().unwrap()))
    }

    fn await_said(&self, file: &str, words: &str) {
        let end = Instant::now() + 2 * LIMIT;
        while !self.site.log(file).contains(words) {
            assert!(Instant::now() < end, "{words:?} is not in {file}: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn said(&self) -> String {
        ["out", "err", "agent", "queue.log"].map(|name| self.site.log(name)).join("\n--\n")
    }

    /// The states that were printed of the one payload.
    fn states(&self) -> Vec<String> {
        let out = self.site.log("out");
        let (id, rest) = out.split_once('\n').unwrap();
        let state =
            |line: &str| line.strip_prefix(id).unwrap().trim_start().split(':').next().unwrap().to_owned();
        rest.lines().map(state).collect()
    }
}

fn wait_for(go: &str) -> String {
    format!("while [ ! -e {go} ]; do sleep 0.1; done; exit 7")
}

#[test]
#[needs(root, "ip", "nft", "unshare", "mount")]
fn calls_reach_the_user_through_an_open_port_and_are_printed_as_they_come() {
    let border = Border::with(OPEN);
    let go = border.site.path("go");
    let mut user = border.submit(&wait_for(&go));
    border.await_said("out", "running:");
    std::fs::write(&go, "").unwrap();
    assert_eq!(user.code_within(2 * LIMIT), Some(7), "{}", border.said());
    let states = border.states();
    assert_eq!(states.last().map(String::as_str), Some("failed"), "{}", border.said());
    assert!(states.contains(&"running".to_owned()) && states.contains(&"matched".to_owned()), "{states:?}");
    assert!(!border.site.log("err").contains("no callback has arrived"), "{}", border.said());
    assert!(border.site.log("queue.log").contains("callback taken"), "{}", border.said());
}

#[test]
#[needs(root, "ip", "nft", "unshare", "mount")]
fn behind_a_closed_port_the_queue_is_asked_and_nothing_is_missing_in_the_end() {
    let border = Border::with("");
    let go = border.site.path("go");
    let mut user = border.submit(&wait_for(&go));
    border.await_said("err", "no callback has arrived at http://198.51.100.2:4000");
    assert!(border.site.log("err").contains("GLOBUS_TCP_PORT_RANGE"), "{}", border.said());
    std::fs::write(&go, "").unwrap();
    assert_eq!(user.code_within(2 * LIMIT), Some(7), "{}", border.said());
    let states = border.states();
    assert!(states.contains(&"running".to_owned()), "{states:?}");
    assert_eq!(states.last().map(String::as_str), Some("failed"), "{}", border.said());
    assert!(border.site.log("queue.log").contains("callback not taken yet"), "{}", border.said());
}
