//! `[ports] opener`: the border is opened for a payload's ports before it starts, and closed when it has ended. The border's
//! service is the real `gridfw`, which knows the pilots of the queue and says what it would do.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::site::{Guard, LIMIT, Site};
use harness::needs;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Instant;

const NODE: &str = "2001:db8:2::7";

/// A service of the border for the pilots of a site's queue.
struct Border<'s> {
    site: &'s Site,
    port: u16,
    running: Option<Guard>,
}

impl<'s> Border<'s> {
    /// Nobody listens yet. `login` is what the pilot may act as.
    fn closed(site: &'s Site, login: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let queue = site.address.rsplit(':').next().unwrap();
        let config = format!(
            "batch = \"queue\"\nbackend = \"dry-run\"\nevery = \"1s\"\n{login}\n[queue]\nurl = \"https://localhost:{queue}\"\n"
        );
        std::fs::write(site.path("gridfw.toml"), config).unwrap();
        Self { site, port, running: None }
    }

    fn start(&mut self) {
        let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
        let mut command = self.site.knowing_hosts(&format!("127.0.0.1 localhost\n{NODE} {host}\n"));
        command
            .arg(harness::bin_dir().join("gridfw"))
            .args(["--listen", &format!("localhost:{}", self.port)]);
        command.arg("--ca-dir").arg(&self.site.pki.ca_dir).arg("--voms-dir").arg(&self.site.pki.voms_dir);
        command.arg("--cert").arg(&self.site.host.0).arg("--key").arg(&self.site.host.1);
        command.args(["--config", &self.site.path("gridfw.toml"), "--store", &self.site.path("gridfw.db")]);
        let log = File::options().create(true).append(true).open(self.site.path("gridfw.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.running = Some(Guard(child));
        assert!(line.starts_with("listening on https://"), "{line} {}", self.site.log("gridfw.log"));
    }

    fn agent(&self) -> Guard {
        let policy = self.site.path("policy.toml");
        let ports = format!(
            "[ports]\nrange = \"27200-27219\"\nper_payload = 10\nquarantine = \"0s\"\nhostname = \"nat.example.org\"\n\
             opener = \"https://localhost:{}/stable\"\n",
            self.port
        );
        std::fs::write(&policy, ports).unwrap();
        let dir = self.site.path("ports");
        self.site.agent("agent", &["--slots", "2", "--policy", &policy, "--port-dir", &dir])
    }

    /// What was done, the oldest first: what, and which ports.
    fn trail(&self) -> Vec<(String, String)> {
        let mut command = Command::new(harness::bin_dir().join("gridfw"));
        command.args([
            "--audit",
            "--config",
            &self.site.path("gridfw.toml"),
            "--store",
            &self.site.path("gridfw.db"),
        ]);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mut trail: Vec<_> =
            said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
        trail.reverse();
        let told = |line: &Value| {
            assert!(line["openings"][0]["addr"][0] == NODE, "{line}");
            (line["what"].as_str().unwrap().to_owned(), line["openings"][0]["port"].to_string())
        };
        trail.iter().map(told).collect()
    }

    fn logs(&self) -> String {
        format!("{}\n{}", self.site.log("agent"), self.site.log("gridfw.log"))
    }

    fn eventually(&self, what: &str, mut done: impl FnMut(&[(String, String)]) -> bool) {
        let end = Instant::now() + 2 * LIMIT;
        while !done(&self.trail()) {
            assert!(Instant::now() < end, "{what}: {:?}\n{}", self.trail(), self.logs());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn login(site: &Site, name: &str) -> String {
    format!("[users]\n{:?} = \"{name}\"\n", site.pilot_dn)
}

#[test]
#[needs(root, "unshare", "mount")]
fn ports_are_open_from_before_the_start_until_after_the_end() {
    let site = Site::new("30s");
    let mut border = Border::closed(&site, &login(&site, "robot"));
    border.start();
    let _agent = border.agent();
    let waiting = |name: &str| {
        format!(
            "echo $PILOT_PORTS > {0}.new; mv {0}.new {0}; while [ ! -e {0}.go ]; do sleep 0.1; done",
            site.path(name)
        )
    };
    let submit = |name: &str| site.submit(&["--ports", "1", "--", "/bin/sh", "-c", &waiting(name)]);
    let (one, two) = (submit("one"), submit("two"));
    let given = [site.await_file("one"), site.await_file("two")];
    let written = |ports: &str| ports.trim().replacen('-', "..", 1);
    let opened = border.trail();
    assert_eq!(opened.iter().filter(|(what, _)| what == "open").count(), 2, "{opened:?}");
    for ports in &given {
        assert!(opened.iter().any(|(_, open)| open.contains(&written(ports))), "{opened:?} {given:?}");
    }
    std::fs::write(site.path("one.go"), "").unwrap();
    assert_eq!(site.wait(&one), Some(0), "{}", border.logs());
    border.eventually("one is closed", |trail| trail.iter().any(|(what, _)| what == "close"));
    let closed: Vec<_> = border.trail().into_iter().filter(|(what, _)| what == "close").collect();
    assert!(
        closed.len() == 1 && closed[0].1.contains(&written(&given[0])),
        "the other one stays: {closed:?}"
    );
    std::fs::write(site.path("two.go"), "").unwrap();
    assert_eq!(site.wait(&two), Some(0), "{}", border.logs());
    border
        .eventually("both are closed", |trail| trail.iter().filter(|(what, _)| what == "close").count() == 2);
}

#[test]
#[needs(root, "unshare", "mount")]
fn a_refused_opening_is_a_reason_that_the_user_sees() {
    let mut site = Site::closed("30s");
    site.queue_args = vec!["--max-attempts".into(), "1".into()];
    site.start_queue();
    let mut border = Border::closed(&site, "");
    border.start();
    let _agent = border.agent();
    let id = site.submit(&["--ports", "1", "--", "/bin/true"]);
    assert_eq!(site.wait(&id), Some(1), "{}", border.logs());
    let shown = site.ok(&["show", &id]);
    for words in ["refused to open ports 272", "has no login here; name it in [users]"] {
        assert!(shown.contains(words), "{shown}");
    }
    assert!(border.trail().is_empty());
    let without = site.submit(&["--", "/bin/true"]);
    assert_eq!(site.wait(&without), Some(0), "whoever has no ports needs no opening");
}

#[test]
#[needs(root, "unshare", "mount")]
fn a_service_that_is_away_is_asked_again_and_a_dead_pilot_is_closed_for() {
    let site = Site::new("2s");
    let mut border = Border::closed(&site, &login(&site, "robot"));
    let mut agent = border.agent();
    let script = format!("echo > {0}.new; mv {0}.new {0}; sleep 1000", site.path("runs"));
    site.submit(&["--ports", "1", "--", "/bin/sh", "-c", &script]);
    let end = Instant::now() + LIMIT;
    while !site.log("agent").contains("trying again to open ports") {
        assert!(Instant::now() < end, "{}", site.log("agent"));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    border.start();
    site.await_file("runs");
    assert_eq!(border.trail()[0].0, "open", "{}", border.logs());
    agent.signal(nix::libc::SIGKILL);
    agent.code_within(LIMIT);
    border.eventually("the end of the job closes", |trail| trail.iter().any(|(what, _)| what == "end"));
}
