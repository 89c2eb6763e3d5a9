//! Firewall rules as `site-policy firewall` writes them: loaded by the real programs, and met by packets. What must pass passes
//! in its direction, and of everything else nothing does.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::networks::{Net, PATIENCE, SILENCE, ThreeNetworks};
use harness::needs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

fn site_policy() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let beside = exe.ancestors().nth(2).expect("tests run from target/PROFILE/deps").to_path_buf();
    let path = std::env::var_os("PILOTAGE_BIN_DIR").map_or(beside, PathBuf::from).join("site-policy");
    assert!(path.exists(), "{} is missing; run `cargo build --workspace --bins`", path.display());
    path
}

/// The rules that a command line writes.
fn written(line: &str) -> String {
    written_with("/dev/null", line)
}

fn written_with(policy: &str, line: &str) -> String {
    let mut command = Command::new(site_policy());
    let out = command.args(["firewall", "--policy", policy]).args(line.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Ports beside the rules and far from them, none of which may be open.
const SWEEP: [u16; 12] = [21, 23, 80, 443, 2118, 2120, 2810, 2812, 22125, 39999, 40011, 65535];

#[test]
#[needs(root, "ip", "nft")]
fn what_a_server_site_needs_passes_the_router_and_nothing_else_does() {
    let net = ThreeNetworks::connected();
    let rules = written(
        "--role server --service gridftp --range 40000,40010 --peer-ports 41000,41010 \
         --host 192.0.2.2 --host 2001:db8:2::2 --peer 198.51.100.0/24 --peer 2001:db8:1::/64",
    );
    for _ in 0..2 {
        net.router.load("nft", &["-f", "-"], &rules);
    }
    let open_in = [2811, 40000, 40005, 40010];
    let _v4: Vec<_> =
        open_in.iter().chain(&SWEEP).map(|port| net.host.listen(&format!("0.0.0.0:{port}"))).collect();
    for port in open_in {
        assert!(net.outside.reaches(&format!("192.0.2.2:{port}"), PATIENCE), "{port} is closed");
    }
    for port in SWEEP {
        assert!(!net.outside.reaches(&format!("192.0.2.2:{port}"), SILENCE), "{port} is open");
    }
    let _v6 = net.host.listen("[2001:db8:2::2]:2811");
    let _v6_other = net.host.listen("[2001:db8:2::2]:2812");
    assert!(net.outside.reaches("[2001:db8:2::2]:2811", PATIENCE), "closed over IPv6");
    assert!(!net.outside.reaches("[2001:db8:2::2]:2812", SILENCE), "open over IPv6");
    // The other way: active mode to the client's range, and nothing that a client would do.
    let open_out = [41000, 41010];
    let _theirs: Vec<_> = open_out
        .iter()
        .chain(&[40999, 41011, 2811, 80])
        .map(|port| net.outside.listen(&format!("0.0.0.0:{port}")))
        .collect();
    for port in open_out {
        assert!(
            net.host.reaches(&format!("198.51.100.2:{port}"), PATIENCE),
            "{port} is closed to the outside"
        );
    }
    for port in [40999, 41011, 2811, 80] {
        assert!(!net.host.reaches(&format!("198.51.100.2:{port}"), SILENCE), "{port} is open to the outside");
    }
}

#[test]
#[needs(root, "ip", "iptables-restore")]
fn rules_of_iptables_on_the_host_itself_let_through_the_same() {
    let net = ThreeNetworks::connected();
    let rules =
        written("--role client --service gram --range 40000,40010 --peer 198.51.100.0/24 --format iptables");
    net.host.load("iptables-restore", &["--test"], &rules);
    net.host.load("iptables-restore", &[], &rules);
    let _ours: Vec<_> =
        [40000, 40010, 40011, 2119].map(|port| net.host.listen(&format!("0.0.0.0:{port}"))).into();
    let _theirs: Vec<_> = [2119, 2811].map(|port| net.outside.listen(&format!("0.0.0.0:{port}"))).into();
    for (from, to, open) in [
        (&net.outside, "192.0.2.2:40000", true),
        (&net.outside, "192.0.2.2:40010", true),
        (&net.outside, "192.0.2.2:40011", false),
        (&net.outside, "192.0.2.2:2119", false),
        (&net.host, "198.51.100.2:2119", true),
        (&net.host, "127.0.0.1:40011", true),
    ] {
        assert_eq!(from.reaches(to, if open { PATIENCE } else { SILENCE }), open, "{to}");
    }
}

#[test]
#[needs(root, "ip", "nft")]
fn shares_are_forwarded_to_their_hosts_with_the_same_port() {
    let net = ThreeNetworks::connected();
    net.host.run("ip addr add 192.0.2.3/24 dev site0");
    let rules = written(
        "--role client --service gridftp --peer 198.51.100.0/24 --nat 198.51.100.1 --hosts 192.0.2.2:40000-40004 \
         --hosts 192.0.2.3:40005-40009",
    );
    net.router.load("nft", &["-f", "-"], &rules);
    let _ours: Vec<_> =
        ["192.0.2.2:40004", "192.0.2.3:40005", "192.0.2.2:40007"].map(|at| net.host.listen(at)).into();
    assert!(
        net.outside.reaches("198.51.100.1:40004", PATIENCE)
            && net.outside.reaches("198.51.100.1:40005", PATIENCE)
    );
    for wrong in ["198.51.100.1:40010", "198.51.100.1:2811", "198.51.100.1:40007"] {
        let to: SocketAddr = wrong.parse().unwrap();
        let reached = net.outside.within(|| TcpStream::connect_timeout(&to, SILENCE).is_ok());
        assert!(!reached, "{wrong}");
    }
    // Outside sees one address.
    let theirs = net.outside.listen("0.0.0.0:2811");
    assert!(net.host.reaches("198.51.100.2:2811", PATIENCE));
    assert_eq!(theirs.accept().unwrap().1.ip().to_string(), "198.51.100.1");
}

/// The commands that `docs/ports.md` shows, each with the policy that stands above it.
fn examples() -> Vec<(String, String)> {
    const DOC: &str = include_str!("../../docs/ports.md");
    let (mut policy, mut found) = (String::new(), Vec::new());
    for block in DOC.split("\n```").skip(1).step_by(2) {
        if let Some(toml) = block.strip_prefix("toml\n") {
            policy = toml.to_owned();
        }
        let lines = block.replace("\\\n", " ");
        let commands = lines.lines().filter_map(|line| line.strip_prefix("# site-policy firewall "));
        found.extend(
            commands.map(|line| (policy.clone(), line.split(" | ").next().unwrap_or_default().to_owned())),
        );
    }
    found
}

/// Each scenario of the docs, played with the addresses that it names: what must be open from outside, what from inside.
#[test]
#[needs(root, "ip", "nft")]
fn each_example_of_the_docs_does_what_it_says() {
    let scenarios: [(&str, &[&str], &[&str]); 4] = [
        (
            "--role client --service gt2 --nat",
            &["198.51.100.1:40000", "198.51.100.1:40500"],
            &["198.51.100.2:2119", "198.51.100.2:2811", "198.51.100.2:2135"],
        ),
        (
            "--role client --service gt2 --host",
            &["192.0.2.2:40000", "192.0.2.2:40999"],
            &["198.51.100.2:2119", "198.51.100.2:2811", "198.51.100.2:7512"],
        ),
        (
            "--role both --service gt2 --host",
            &["192.0.2.2:2119", "192.0.2.2:2811", "192.0.2.2:22", "192.0.2.2:40999"],
            &["198.51.100.2:2811", "198.51.100.2:50000"],
        ),
        (
            "--role server --service dcache --host",
            &["192.0.2.2:22128", "192.0.2.2:2811", "192.0.2.2:8443", "192.0.2.2:20000", "192.0.2.2:25000"],
            &["198.51.100.2:50000", "198.51.100.2:8443"],
        ),
    ];
    let examples = examples();
    let dir = tempfile::tempdir().unwrap();
    for (begin, from_outside, from_inside) in scenarios {
        let (policy, line) = examples.iter().find(|(_, line)| line.starts_with(begin)).expect(begin);
        let file = dir.path().join("policy.toml");
        std::fs::write(&file, policy).unwrap();
        let net = ThreeNetworks::connected();
        if begin.ends_with("--nat") {
            net.router.run("ip addr add 10.0.0.254/24 dev rsite0");
            net.host.run(
                "ip addr add 10.0.0.1/24 dev site0; ip addr add 10.0.0.2/24 dev site0; \
                 ip route replace default via 10.0.0.254 src 10.0.0.1",
            );
        }
        let rules = written_with(file.to_str().unwrap(), line);
        net.router.load("nft", &["-f", "-"], &rules);
        let port = |at: &str| at.rsplit_once(':').unwrap().1.to_owned();
        let ours: Vec<_> = from_outside.iter().map(|at| format!("0.0.0.0:{}", port(at))).collect();
        let _ours: Vec<_> =
            ours.iter().chain(&["0.0.0.0:39999".to_owned()]).map(|at| net.host.listen(at)).collect();
        let theirs: Vec<_> = from_inside.iter().map(|at| format!("0.0.0.0:{}", port(at))).collect();
        let _theirs: Vec<_> =
            theirs.iter().chain(&["0.0.0.0:79".to_owned()]).map(|at| net.outside.listen(at)).collect();
        for at in from_outside {
            assert!(net.outside.reaches(at, PATIENCE), "{line}: {at} is closed");
        }
        assert!(!net.outside.reaches("192.0.2.2:39999", SILENCE), "{line}: open");
        for at in from_inside {
            assert!(net.host.reaches(at, PATIENCE), "{line}: {at} is closed from inside");
        }
        assert!(!net.host.reaches("198.51.100.2:79", SILENCE), "{line}: open");
    }
    for (_, line) in &examples {
        assert!(scenarios.iter().any(|(begin, ..)| line.starts_with(begin)), "{line} is not played");
    }
}

/// Command lines of every kind.
fn lines() -> Vec<String> {
    let mut lines = Vec::new();
    for service in ["globus", "dcache", "pilotage", "dns", "gt2", "gt4", "dcap-local"] {
        for role in ["client", "server", "both"] {
            for place in ["", "--host 192.0.2.2 --host 2001:db8:2::2", "--peer 10.0.0.0/8 --peer fd00::/8"] {
                lines.push(format!("--role {role} --service {service} --range 40000-40999 --force {place}"));
            }
        }
    }
    lines
}

#[test]
#[needs(root, "ip", "nft", "iptables-restore", "ip6tables-restore")]
fn each_rendering_is_taken_by_its_program() {
    let net = Net::apart();
    for line in lines() {
        net.load("nft", &["-c", "-f", "-"], &written(&format!("{line} --format nft")));
        net.load("iptables-restore", &["--test"], &written(&format!("{line} --format iptables")));
        net.load("ip6tables-restore", &["--test"], &written(&format!("{line} --format ip6tables")));
    }
    let nat =
        "--role client --service globus --nat 192.0.2.1 --hosts 10.0.0.1:40000-40499,10.0.0.2:40500-40999";
    net.load("nft", &["-c", "-f", "-"], &written(nat));
    net.load("iptables-restore", &["--test"], &written(&format!("{nat} --format iptables")));
    let shell =
        Command::new("/bin/sh").args(["-n", "-c", &written("--format wrapper --range 40000,40010")]).status();
    assert!(shell.unwrap().success());
}

#[test]
#[needs(root, "firewall-offline-cmd")]
fn firewalld_takes_its_script_twice() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("firewalld");
    std::fs::create_dir(&config).unwrap();
    let offline = format!("firewall-offline-cmd --system-config {}", config.display());
    // The program is started anew for each line of the script, which takes its time.
    for (times, line) in [
        (2, "--role client --service gridftp --range 40000-40999 --peer 10.0.0.0/8 --format firewalld"),
        (
            1,
            "--role server --service gsidcap --range 40000-40999 --host 192.0.2.7 --peer 198.51.100.0/24 --format firewalld",
        ),
    ] {
        for _ in 0..times {
            let mut command = Command::new("/bin/sh");
            let out = command.args(["-c", &written(line)]).env("FIREWALL_CMD", &offline).output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() && !said.contains("rror"), "{line}: {said}");
        }
    }
    let zone = std::fs::read_to_string(config.join("zones/pilotage.xml")).unwrap();
    assert!(zone.contains("40000-40999") && zone.contains("10.0.0.0/8") && zone.contains("DROP"), "{zone}");
    let out = std::fs::read_to_string(config.join("policies/pilotage-out.xml")).unwrap();
    assert!(out.contains("2811") && out.contains("HOST"), "{out}");
    let forward = std::fs::read_to_string(config.join("policies/pilotage-forward.xml")).unwrap();
    assert!(forward.contains("192.0.2.7") && forward.contains("22128"), "{forward}");
}
