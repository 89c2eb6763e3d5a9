use crate::site::{Site, code, me, stderr, stdout};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use std::fs::File;
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

/// A range that no other test uses, and nobody on the machine, it is hoped; `ip_local_port_range` begins above it.
const RANGE: &str = "[ports]\nrange = \"26000-26039\"\nquarantine = \"1h\"\n";

fn host() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

#[test]
fn blocks_and_listeners_of_the_node_are_shown() {
    let site = Site::new();
    site.policy(RANGE);
    std::fs::create_dir(site.path("ports")).unwrap();
    let me_uid = nix::unistd::geteuid();
    let put = |block: &str, word: &str, age: u64| {
        site.write(&format!("ports/{block}.lock"), "");
        let mark = site.path(&format!("ports/{block}.{me_uid}"));
        std::fs::write(&mark, word).unwrap();
        let written = SystemTime::now() - Duration::from_secs(age);
        File::options().write(true).open(mark).unwrap().set_modified(written).unwrap();
    };
    put("26000-26009", "held", 5);
    put("26010-26019", "free", 600);
    put("26020-26029", "free", 7200);
    let lock = File::open(site.path("ports/26000-26009.lock")).unwrap();
    let _held = Flock::lock(lock, FlockArg::LockExclusive).unwrap();
    let listener = TcpListener::bind("127.0.0.1:26003").unwrap();
    let stray = TcpListener::bind("127.0.0.1:26035").unwrap();

    let dir = site.path("ports").display().to_string();
    let output = site.plain("ports", &["--port-dir", &dir, "--json"]);
    let view: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let states: Vec<_> =
        view["blocks"].as_array().unwrap().iter().map(|b| b["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["leased", "resting", "free", "free"], "{view}");
    let leased = &view["blocks"][0];
    assert_eq!((&leased["account"], &leased["pid"]), (&me().into(), &std::process::id().into()), "{view}");
    let rests = view["blocks"][1]["rests_s"].as_u64().unwrap();
    assert!((2900..=3000).contains(&rests), "{view}");
    let listeners = view["listeners"].as_array().unwrap();
    let of = |port: u16| listeners.iter().find(|l| l["port"] == port).unwrap_or_else(|| panic!("{view}"));
    assert_eq!((&of(26003)["leased"], &of(26035)["leased"]), (&true.into(), &false.into()));
    assert_eq!(of(26035)["pid"], std::process::id());

    let said = stdout(&site.plain("ports", &["--port-dir", &dir]));
    assert!(said.contains("26000-26039, 4 blocks of 10 ports: 1 leased, 1 resting, 2 free"), "{said}");
    assert!(
        said.contains(&format!("26000-26009  leased   by account {}, process {}", me(), std::process::id())),
        "{said}"
    );
    assert!(
        said.contains("26035        tcp listens on 127.0.0.1") && said.contains("is not leased"),
        "{said}"
    );
    let checked = stdout(&site.check(&[]));
    assert!(checked.contains("listens on tcp port 26035, and no payload has leased it; move"), "{checked}");
    drop((listener, stray));
}

#[test]
fn a_host_without_a_share_is_named_with_the_key() {
    let site = Site::new();
    site.policy("[ports]\nrange = \"26100-26139\"\nhosts = { \"wn1.example.org\" = \"26100-26119\" }\n");
    let named = format!("[ports] hosts does not name this host, {}", host());
    let output = site.plain("ports", &[]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains(&named), "{}", stdout(&output));
    let checked = stdout(&site.check(&[]));
    assert!(checked.lines().any(|line| line.contains("error: ") && line.contains(&named)), "{checked}");
}

#[test]
fn the_range_is_checked_against_the_kernel_and_rules_of_thumb() {
    let site = Site::new();
    // Above every range that a kernel gives out by itself is nothing; so the range takes the kernel's own first ports.
    let local = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let low: u16 = local.split_whitespace().next().unwrap().parse().unwrap();
    site.policy(&format!("[ports]\nrange = \"{low}-{}\"\n", low + 99));
    let said = stdout(&site.check(&[]));
    let reserved = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap();
    if reserved.trim().is_empty() {
        assert!(said.contains("ip_local_port_range") && said.contains("ip_local_reserved_ports="), "{said}");
    }
    assert!(
        said.contains("warning: [ports] range has 100 ports: by rule of thumb for 10 simultaneous users"),
        "{said}"
    );
}

#[test]
fn services_are_told_with_what_stops() {
    let site = Site::new();
    let output = site.plain("services", &["--service", "gridftp", "--json"]);
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    assert!(rows.iter().all(|row| row["service"] == "gridftp") && rows.len() == 6, "{rows:?}");
    assert!(rows.iter().any(|row| row["closed"].as_str().unwrap().contains("parallel PUT")));
    for key in ["source", "direction", "initiator", "protection", "closed", "purpose", "role", "ports"] {
        assert!(rows[0][key].as_str().is_some_and(|text| !text.is_empty()), "{key}");
    }
    let nothing = site.plain("services", &["--service", "gopher"]);
    assert_eq!(code(&nothing), 2);
    assert!(stderr(&nothing).contains("known are gram"), "{}", stderr(&nothing));
}
