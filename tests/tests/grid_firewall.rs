//! The real Globus across a firewall: a client, a router with rules of `site-policy firewall`, and a server site, each in a network
//! of its own.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::networks::{Net, PATIENCE, ThreeNetworks};
use harness::{Machine, needs};
use policy::ports::PortRange;
use policy::ports::variables::usual;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// More than one buffer of a transfer, so that parallel streams have something to share.
const SIZE: usize = 4 << 20;

/// A program that is killed with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A machine whose programs find names in its own files only: a look-up that nobody answers costs Globus ten seconds.
fn machine() -> Machine {
    let machine = Machine::builder().pilot("pilot").account("alice").build();
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let hosts = format!("127.0.0.1 localhost {host}\n198.51.100.2 client.test\n192.0.2.2 site.test\n");
    machine.write("/etc/hosts", "root", 0o644, hosts);
    machine.write("/etc/nsswitch.conf", "root", 0o644, "passwd: files\ngroup: files\nhosts: files\n");
    machine.write("/tmp/sent", "root", 0o644, (0..SIZE).map(|n| ((n * n) >> 7) as u8).collect::<Vec<_>>());
    machine
}

fn globus(machine: &Machine, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/bin").env("HOME", "/root");
    command.env("X509_CERT_DIR", &machine.pki().ca_dir);
    command
}

/// A GridFTP server that root runs at the site, with a range of its own.
fn gridftp_server(machine: &Machine, at: &Net) -> Running {
    let gridmap = format!("\"{}\" root\n", machine.dn("Alice"));
    machine.write("/tmp/gridmap", "root", 0o644, gridmap);
    let mut command = globus(machine, "globus-gridftp-server");
    command.args([
        "-c",
        "/dev/null",
        "-p",
        "2811",
        "-no-detach",
        "-allow-root",
        "-s",
        "-l",
        "/tmp/gridftp.log",
    ]);
    // Globus programs of root take the host's own credential before a proxy; the client here shall not find it.
    for (name, mode) in [("hostcert.pem", 0o644), ("hostkey.pem", 0o400)] {
        let usual = format!("/etc/grid-security/{name}");
        machine.write(&format!("/tmp/{name}"), "root", mode, std::fs::read(&usual).unwrap());
        std::fs::remove_file(usual).unwrap();
    }
    command.env("X509_USER_CERT", "/tmp/hostcert.pem").env("X509_USER_KEY", "/tmp/hostkey.pem");
    command.env("GRIDMAP", "/tmp/gridmap");
    command.env("GLOBUS_TCP_PORT_RANGE", "40000,40010").env("GLOBUS_HOSTNAME", "192.0.2.2");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Running(at.within(|| command.spawn().unwrap()))
}

fn await_server(net: &ThreeNetworks) {
    let end = Instant::now() + LIMIT;
    let reached = || {
        net.outside
            .within(|| std::net::TcpStream::connect_timeout(&"192.0.2.2:2811".parse().unwrap(), PATIENCE))
    };
    while reached().is_err() {
        assert!(Instant::now() < end, "the GridFTP server does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One transfer by the real client, which dials from outside with a range of its own.
fn transfer(machine: &Machine, net: &ThreeNetworks, proxy: &str, seconds: u32, words: &[&str]) -> Output {
    let mut command = globus(machine, "timeout");
    let host = openssl_subject(&machine.pki().host_cert);
    command.args([&seconds.to_string(), "globus-url-copy", "-s", &host]).args(words);
    command.env("X509_USER_PROXY", proxy);
    command.env("GLOBUS_TCP_PORT_RANGE", "41000,41010").env("GLOBUS_HOSTNAME", "198.51.100.2");
    net.outside.within(|| command.output().unwrap())
}

fn openssl_subject(cert: &PathBuf) -> String {
    let out = Command::new("openssl")
        .args(["x509", "-noout", "-subject", "-nameopt", "compat", "-in"])
        .arg(cert)
        .output();
    let text = String::from_utf8(out.unwrap().stdout).unwrap();
    text.trim().trim_start_matches("subject=").trim().to_owned()
}

fn rules(more: &str) -> String {
    let line = "firewall --policy /dev/null --role server --range 40000,40010 --host 192.0.2.2 --peer 198.51.100.0/24";
    let out =
        Command::new("/usr/bin/site-policy").args(line.split(' ')).args(more.split(' ')).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
#[needs(root, "ip", "nft", "openssl", "grid-proxy-init", "globus-url-copy", "globus-gridftp-server")]
fn gridftp_passes_the_rules_in_every_mode_and_not_beside_them() {
    let machine = machine();
    let net = ThreeNetworks::connected();
    net.router.load("nft", &["-f", "-"], &rules("--service gridftp --peer-ports 41000,41010"));
    let proxy = machine.proxy("Alice", "pilot");
    let proxy = machine.give(&proxy, "root");
    let _server = gridftp_server(&machine, &net.host);
    await_server(&net);
    let sent = std::fs::read("/tmp/sent").unwrap();
    let (there, here) = ("gsiftp://site.test/tmp/there", "file:///tmp/here");
    for (mode, words, arrived) in [
        ("put", &["file:///tmp/sent", there][..], "/tmp/there"),
        ("get", &["gsiftp://site.test/tmp/sent", here], "/tmp/here"),
        ("put, four streams to the server", &["-p", "4", "file:///tmp/sent", there], "/tmp/there"),
        (
            "get, four streams from the server, which connects",
            &["-p", "4", "gsiftp://site.test/tmp/sent", here],
            "/tmp/here",
        ),
    ] {
        let _ = std::fs::remove_file(arrived);
        let done = transfer(&machine, &net, &proxy, 60, words);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{mode}: {said}");
        assert_eq!(std::fs::read(arrived).unwrap(), sent, "{mode}");
    }
    // The client's range is closed now: what the server connects for hangs, as the catalogue says, and the rest works.
    net.router.load("nft", &["-f", "-"], &rules("--service gridftp --peer-ports 42000,42010"));
    let _ = std::fs::remove_file("/tmp/here");
    let hung = transfer(&machine, &net, &proxy, 6, &["-p", "4", "gsiftp://site.test/tmp/sent", here]);
    assert!(!hung.status.success(), "parallel GET went round the rules");
    assert!(transfer(&machine, &net, &proxy, 60, &["-p", "4", "file:///tmp/sent", there]).status.success());
}

#[test]
#[needs(root, "ip", "grid-proxy-init", "globus-gass-server")]
fn gass_listens_where_the_payload_is_told_and_says_the_name_to_dial() {
    let machine = machine();
    let net = ThreeNetworks::connected();
    let proxy = machine.proxy("Alice", "pilot");
    let proxy = machine.give(&proxy, "root");
    let block = PortRange::parse("40000-40002").unwrap();
    let start = || {
        let mut command = globus(&machine, "globus-gass-server");
        command.args(["-r", "-w"]).env("X509_USER_PROXY", &proxy).stdin(Stdio::null());
        command.envs(usual().iter().flat_map(|variable| variable.settings(block, "192.0.2.2")));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = net.host.within(|| command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Running(child), line.trim().to_owned())
    };
    let servers: Vec<_> = (0..3).map(|_| start()).collect();
    let mut urls: Vec<_> = servers.iter().map(|(_, url)| url.as_str()).collect();
    urls.sort_unstable();
    assert_eq!(urls, ["https://192.0.2.2:40000", "https://192.0.2.2:40001", "https://192.0.2.2:40002"]);
    let (_, fourth) = start();
    assert!(!fourth.starts_with("https://"), "the block is full, and it listens at {fourth}");
}
