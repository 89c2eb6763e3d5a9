//! The whole chain with the switch: two users hand payloads to the queue, one pilot runs each under its own user's
//! account, and the site's records tell who ran what.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use harness::{Machine, Ran, needs};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A child that does not outlive its test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A machine with a queue. Fields are dropped in this order: programs first.
struct Site {
    _queue: Guard,
    url: String,
    proxy: [(&'static str, String); 2],
    m: Machine,
}

fn await_line(file: &str) -> String {
    let give_up = Instant::now() + LIMIT;
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if text.ends_with('\n') {
            return text;
        }
        assert!(Instant::now() < give_up, "{file} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn site() -> Site {
    site_with("")
}

/// Records of calls that ran something. The pilot tries the node under its own name first, which this site does not map.
fn sessions(site: &Site) -> Vec<serde_json::Value> {
    site.m.records().into_iter().filter(|record| record["decision"] == "allowed").collect()
}

fn site_with(policy: &str) -> Site {
    let builder = Machine::builder().pilot("pilot").service("queue").service("home").policy_add(policy);
    let m = builder.account("alice").account("bob").build();
    m.map("Alice", "alice");
    m.map("Bob", "bob");
    for (name, from, mode) in
        [("cert.pem", m.pki().host_cert.clone(), 0o644), ("key.pem", m.pki().host_key.clone(), 0o600)]
    {
        m.write(&format!("/home/queue/{name}"), "queue", mode, std::fs::read(from).unwrap());
    }
    let queue = m.command("/usr/bin/pilot").as_user("queue").args(["queue", "--listen", "127.0.0.1:0"]);
    let queue = queue.args(["--store", "sqlite:/home/queue/queue.db", "--lease", "5s", "--grace", "1s"]);
    let queue = queue.args(["--cert", "/home/queue/cert.pem", "--key", "/home/queue/key.pem"]);
    let mut queue = queue.args(["--pilot-dn", &m.dn("Pilot")]);
    let address = std::fs::File::create("/home/queue/address").unwrap();
    queue.raw().stdout(address).stderr(Stdio::null());
    let queue = Guard(queue.start());
    let port = await_line("/home/queue/address").trim().rsplit(':').next().unwrap().to_owned();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let url = format!("https://{}:{port}", host.trim());
    let proxy = [("Alice", m.proxy("Alice", "home")), ("Bob", m.proxy("Bob", "home"))];
    Site { _queue: queue, url, proxy, m }
}

impl Site {
    fn agent(&self) -> Guard {
        let log = std::fs::File::create("/home/queue/agent.log").unwrap();
        let run = self.m.command("/usr/bin/pilot").as_user("pilot").args(["run", "--slots", "2"]);
        let proxy = self.m.proxy("Pilot", "pilot");
        let mut run =
            run.env("PILOT_QUEUE", &self.url).env("X509_USER_PROXY", proxy).env("SECRET", "pilots-own");
        run.raw().stdout(Stdio::null()).stderr(log);
        Guard(run.start())
    }

    fn as_user(&self, who: &str, args: &[&str]) -> Ran {
        let proxy = &self.proxy.iter().find(|(name, _)| *name == who).unwrap().1;
        let run = self.m.command("/usr/bin/pilot").as_user("home").args(args);
        run.env("PILOT_QUEUE", &self.url).env("X509_USER_PROXY", proxy).output()
    }

    fn shell(&self, who: &str, script: &str) -> String {
        self.as_user(who, &["submit", "--output", "*.out", "--ports", "1", "--", "/bin/sh", "-c", script])
            .ok()
    }

    fn show(&self, who: &str, id: &str) -> serde_json::Value {
        let text = self.as_user(who, &["show", "--json", id]).ok();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["payload"].clone()
    }

    fn log(&self) -> String {
        let agent = std::fs::read_to_string("/home/queue/agent.log").unwrap_or_default();
        format!("{agent}\n{}", self.m.log())
    }
}

impl Site {
    /// Waits until Alice's payload says that it is up.
    fn await_up(&self, id: &str) {
        let give_up = Instant::now() + LIMIT;
        while !self.as_user("Alice", &["logs", id]).text().contains("up") {
            assert!(Instant::now() < give_up, "{}", self.log());
        }
    }
}

#[test]
#[needs(root)]
fn one_pilot_runs_each_users_payload_under_that_users_account() {
    each_runs_under_its_own_account(&site());
}

fn each_runs_under_its_own_account(site: &Site) {
    let _agent = site.agent();
    let script = "id -un; echo $PILOT_SESSION; echo $GLOBUS_TCP_PORT_RANGE; stat -c '%U %a' $X509_USER_PROXY; echo $X509_USER_PROXY; env | grep -c pilots-own; id -un > who.out; exit 7";
    for (who, account) in [("Alice", "alice"), ("Bob", "bob")] {
        let id = site.shell(who, script);
        let code = site.as_user(who, &["wait", &id]).code();
        assert_eq!(code, Some(7), "{}\n{}", site.show(who, &id), site.log());
        let logs = site.as_user(who, &["logs", &id]).ok();
        let lines: Vec<&str> = logs.lines().collect();
        let report = site.show(who, &id)["attempts"][0]["report"].clone();
        assert_eq!(lines[0], account);
        assert_eq!(report["session"], lines[1], "the payload and the report name one session");
        assert!(lines[2].contains(','), "{logs}");
        assert_eq!((lines[3], lines[5]), (format!("{account} 600").as_str(), "0"), "{logs}");
        assert!(!Path::new(lines[4]).exists(), "the copy of the proxy is still there");
        assert_eq!(
            (report["account"].as_str(), report["uid"].as_u64()),
            (Some(account), Some(site.m.uid(account).into()))
        );
        let records = site.m.records();
        let of_session: Vec<_> = records.iter().filter(|r| r.to_string().contains(lines[1])).collect();
        assert_eq!(of_session.len(), 1, "one record per attempt: {records:?}");
        site.as_user(who, &["output", &id, "--to", &format!("/home/home/{account}")]).ok();
        assert_eq!(
            std::fs::read_to_string(format!("/home/home/{account}/who.out")).unwrap(),
            format!("{account}\n")
        );
        assert!(site.m.processes_of(account).is_empty());
    }
}

#[test]
#[needs(root)]
fn a_cancel_reaches_through_the_switch_and_leaves_nothing() {
    a_cancel_leaves_nothing(&site());
}

fn a_cancel_leaves_nothing(site: &Site) {
    let _agent = site.agent();
    let id = site.shell("Alice", "trap '' TERM; setsid sleep 1000 & echo up; while :; do sleep 1; done");
    site.await_up(&id);
    site.as_user("Alice", &["cancel", &id]).ok();
    assert_eq!(site.as_user("Alice", &["wait", &id]).code(), Some(143), "{}", site.log());
    assert!(site.m.processes_of("alice").is_empty(), "{:?}", site.m.processes_of("alice"));
}

#[test]
#[needs(root)]
fn a_pilot_notices_nothing_of_process_namespaces() {
    let site = site_with("[payload]\npid_namespace = true\n");
    each_runs_under_its_own_account(&site);
    a_cancel_leaves_nothing(&site);
    for record in sessions(&site) {
        assert!(record["ladder"].to_string().contains("pid_namespace"), "{record}");
    }
    let _agent = site.agent();
    let id = site.shell("Alice", "for p in /proc/[0-9]*; do cat $p/comm; done");
    assert_eq!(site.as_user("Alice", &["wait", &id]).code(), Some(0), "{}", site.log());
    let mut seen: Vec<_> = site.as_user("Alice", &["logs", &id]).ok().lines().map(str::to_owned).collect();
    seen.dedup();
    assert_eq!(seen[..3], ["glexec-init", "pilot-runner", "sh"], "process 1, the runner, the payload");
}

/// A payload can stop its own runner, which has the same account; it cannot stop the session.
#[test]
#[needs(root)]
fn a_payload_that_stops_its_runner_is_ended_by_its_session() {
    let site = site();
    let _agent = site.agent();
    let id = site.shell("Alice", "trap '' TERM; kill -STOP $PPID; echo up; while :; do sleep 1; done");
    site.await_up(&id);
    site.as_user("Alice", &["cancel", &id]).ok();
    assert_eq!(site.as_user("Alice", &["wait", &id]).code(), Some(143), "{}", site.log());
    assert!(site.m.processes_of("alice").is_empty(), "{:?}", site.m.processes_of("alice"));
    assert!(sessions(&site).iter().all(|r| r["state"] == "closed"), "{:?}", sessions(&site));
}

#[test]
#[needs(root)]
fn a_killed_agent_takes_its_payload_along_through_the_switch() {
    let site = site();
    let agent = site.agent();
    let id = site.shell("Alice", "setsid sleep 1000 & echo up; sleep 1000");
    site.await_up(&id);
    let give_up = Instant::now() + LIMIT;
    assert!(!site.m.processes_of("alice").is_empty());
    drop(agent);
    while !site.m.processes_of("alice").is_empty() {
        assert!(Instant::now() < give_up, "{:?}\n{}", site.m.processes_of("alice"), site.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    site.as_user("Alice", &["cancel", &id]).ok();
    assert_eq!(site.as_user("Alice", &["wait", &id]).code(), Some(143));
}

#[test]
#[needs(root)]
fn a_user_whom_the_site_does_not_know_is_refused_with_the_sites_reason() {
    let site = site();
    site.m.grid_mapfile(&[(&site.m.dn("Alice"), "alice")]);
    let _agent = site.agent();
    let id = site.shell("Bob", "id");
    assert_eq!(site.as_user("Bob", &["wait", &id]).code(), Some(1));
    let payload = site.show("Bob", &id);
    let attempts = payload["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "tried elsewhere, but not for ever");
    for attempt in attempts {
        assert_eq!(attempt["outcome"], "infra");
        let reason = attempt["report"]["reason"].as_str().unwrap();
        assert!(reason.contains("glexec refused (203)"), "{reason}");
    }
}

/// Locks what it can reach of the places where pilots agree on ports, says how much that was, and keeps it.
const HOLD_BLOCKS: &str = r#"
use Fcntl qw(:flock); my ($low, $high) = @ARGV; my @kept;
for (my $at = $low; $at + 4 <= $high; $at += 5) { my $name = $at . "-" . ($at + 4);
  if (open(my $shared, ">>", "/run/pilotage/ports/$name.lock")) { flock($shared, LOCK_EX | LOCK_NB) and push @kept, $shared }
  if (open(my $own, "<", "/run/glexec/blocks/$name")) { flock($own, LOCK_EX | LOCK_NB); print "root's $name\n" } }
open(my $told, ">", "/home/home/held.part"); print $told scalar(@kept), "\n"; close $told; rename "/home/home/held.part", "/home/home/held"; sleep 600;"#;

/// Blocks rest longer than any machine is slow.
fn long_rest() -> Site {
    let site = site();
    let file = end_to_end::contract::POLICY;
    let policy = std::fs::read_to_string(file).unwrap();
    let policy = policy.replace("per_payload = 5\n", "per_payload = 5\nquarantine = \"1h\"\n");
    site.m.write(file, "root", 0o644, policy);
    site
}

/// What root sees of a block.
fn block(site: &Site, range: &str) -> serde_json::Value {
    let shown = site.m.command("/usr/bin/site-policy").args(["ports", "--json"]).output().ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown["blocks"].as_array().unwrap().iter().find(|b| b["block"] == range).unwrap().clone()
}

/// A local account that nobody listed holds no block, whether it was there before the first pilot or came after it.
#[test]
#[needs(root, "perl")]
fn no_stranger_keeps_ports_from_payloads() {
    let site = long_rest();
    let (low, high) = site.m.ports();
    std::fs::create_dir_all("/run/pilotage/ports").unwrap();
    end_to_end::contract::chmod("/run/pilotage/ports", 0o1777);
    let stranger = |args: &[&str]| site.m.command(args[0]).as_user("home").args(&args[1..]);
    for round in 0..2 {
        let mut hold = stranger(&["/usr/bin/perl", "-e", HOLD_BLOCKS, &low.to_string(), &high.to_string()]);
        hold.raw().stdout(std::fs::File::create("/home/queue/stolen").unwrap());
        let hold = Guard(hold.start());
        let held: usize = await_line("/home/home/held").trim().parse().unwrap();
        assert_eq!(held, (usize::from(high - low) + 1) / 5, "the shared directory is the stranger's by now");
        assert_eq!(std::fs::read_to_string("/home/queue/stolen").unwrap(), "");
        let agent = site.agent();
        let id = site.shell("Alice", "echo $PILOT_PORTS");
        assert_eq!(site.as_user("Alice", &["wait", &id]).code(), Some(0), "{round}: {}", site.log());
        let ports = site.as_user("Alice", &["logs", &id]).ok();
        assert!(site.m.records().iter().any(|r| r["ports"]["range"] == ports.trim()), "{ports}");
        // The pilot lets go of the block once it has reported.
        let rests = end_to_end::contract::eventually("the rest", LIMIT, || {
            Some(block(&site, ports.trim())).filter(|block| block["state"] == "resting")
        });
        assert_eq!(rests["account"], "pilot", "{rests}");
        let asked = stranger(&["/usr/sbin/glexec", "--port-blocks", &low.to_string()]).output();
        assert_eq!(asked.code(), Some(203), "{}", asked.text());
        std::fs::remove_file("/home/home/held").unwrap();
        drop((agent, hold));
    }
    let other = site.m.glexec().args(["--port-blocks", &low.to_string()]).output();
    other.refused(201, &["local socket"]);
}

/// Two pilots of one node never have one block at a time, and a pilot that is killed keeps none.
#[test]
#[needs(root)]
fn pilots_of_a_node_share_root_s_blocks() {
    let site = long_rest();
    let agents = [site.agent(), site.agent()];
    let ids: Vec<String> =
        (0..4).map(|_| site.shell("Alice", "echo $PILOT_PORTS; echo up; sleep 1000")).collect();
    let mut ranges = std::collections::BTreeSet::new();
    for id in &ids {
        site.await_up(id);
        ranges
            .insert(site.as_user("Alice", &["logs", id]).ok().lines().next().unwrap_or_default().to_owned());
    }
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    drop(agents);
    for range in &ranges {
        end_to_end::contract::eventually("the rest", LIMIT, || {
            (block(&site, range)["state"] == "resting").then_some(())
        });
    }
}
