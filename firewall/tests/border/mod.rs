//! A border in namespaces: a caller, a router with `gridfw` and real nftables, and a node. The batch system is a double of
//! `squeue` and `sinfo` that prints a file.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of several tests; a failing helper fails its test"
)]

use nix::sched::{CloneFlags, setns};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the host may be busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The node's address, and the caller's.
pub const NODE: &str = "2001:db8:2::2";
pub const CALLER: &str = "2001:db8:1::2";

/// A host: a network namespace that lives as long as this.
pub struct Host(Child);

impl Host {
    fn start(setup: &str) -> Self {
        let script = format!("ip link set lo up && {setup} echo ready && exec sleep infinity");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{script}");
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// A program of this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(), "--net", "--mount", "--"]).arg(program);
        command
    }

    /// Runs a line of shell; what it said.
    pub fn sh(&self, line: &str) -> String {
        let output = self.command("sh").args(["-ec", line]).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Does something with sockets of this host.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let net = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::scope(|scope| {
            let done = scope.spawn(move || {
                setns(&net, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            done.join().unwrap()
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The hosts, and what the router's programs see.
pub struct Border {
    pub caller: Host,
    pub router: Host,
    pub node: Host,
    pub dir: tempfile::TempDir,
}

impl Border {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("bin")).unwrap();
        fs::write(
            path("hosts"),
            format!("127.0.0.1 localhost\n{NODE} wn1-ipv6\n2001:db8:2::3 wn2\n203.0.113.2 wn1\n"),
        )
        .unwrap();
        fs::write(path("nsswitch"), "hosts: files\n").unwrap();
        let mount = |from: &str, to: &str| format!("mount --bind {} {to} &&", path(from).display());
        let names = format!("{} {}", mount("hosts", "/etc/hosts"), mount("nsswitch", "/etc/nsswitch.conf"));
        let router = Host::start(&names);
        let (caller, node) = (Host::start(""), Host::start(""));
        for (host, net, name) in [(&caller, 1, "tocaller"), (&node, 2, "tonode")] {
            router.sh(&format!(
                "ip link add {name} type veth peer name eth netns {} && ip addr add 2001:db8:{net}::1/64 dev {name} nodad && \
                 ip link set {name} up && ip addr add 203.0.{}.1/24 dev {name}",
                host.pid(),
                if net == 1 { 112 } else { 113 }
            ));
            host.sh(&format!(
                "ip addr add 2001:db8:{net}::2/64 dev eth nodad && ip link set eth up && ip route add default via 2001:db8:{net}::1 && \
                 ip addr add 203.0.{}.2/24 dev eth && ip route add default via 203.0.{}.1",
                if net == 1 { 112 } else { 113 },
                if net == 1 { 112 } else { 113 }
            ));
        }
        router.sh("echo 0 >/proc/sys/net/ipv6/icmp/ratelimit; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; echo 1 >/proc/sys/net/ipv4/ip_forward");
        let this = Self { caller, router, node, dir };
        this.program("squeue", &format!("cat {}", this.path("jobs").display()));
        this.program("sinfo", "printf 'wn1|2\\nwn2|2\\n'");
        this.jobs("7|alice|RUNNING|OK|2|wn1\n8|bob|RUNNING|OK|2|wn2\n");
        this.config("");
        this
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a shell script before the programs of the host.
    pub fn program(&self, name: &str, script: &str) {
        let (path, new) = (self.path("bin").join(name), self.path("new"));
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// What `squeue` prints.
    pub fn jobs(&self, lines: &str) {
        let new = self.path("jobs.new");
        fs::write(&new, lines).unwrap();
        fs::rename(new, self.path("jobs")).unwrap();
    }

    /// Writes the configuration; looks come with SIGHUP and not by themselves.
    pub fn config(&self, more: &str) {
        let text = format!(
            "batch = \"slurm\"\nevery = \"1h\"\n[front]\naddresses = [\"127.0.0.1\"]\n[nft]\n\
             protect = [\"2001:db8:2::/48\", \"203.0.113.0/24\"]\n{more}"
        );
        fs::write(self.path("gridfw.toml"), text).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = self.router.command(env!("CARGO_BIN_EXE_gridfw"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", self.path("bin").display()));
        command.args(["--listen", "127.0.0.1:0", "--config"]).arg(self.path("gridfw.toml"));
        command.arg("--store").arg(self.path("gridfw.db"));
        command
    }

    pub fn start(&self) -> Gridfw<'_> {
        self.start_with(&[])
    }

    /// With more on its command line.
    pub fn start_with(&self, more: &[&str]) -> Gridfw<'_> {
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        let mut command = self.command();
        command.args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("{line} {}", self.log())).parse().unwrap();
        Gridfw { border: self, child, address }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The elements of one of its sets.
    pub fn set(&self, name: &str) -> String {
        self.router.sh(&format!("nft list set inet gridfw {name}"))
    }

    /// Whether the caller reaches a TCP port of the node; a closed border answers at once.
    pub fn reaches(&self, port: u16) -> bool {
        let to = SocketAddr::from((NODE.parse::<Ipv6Addr>().unwrap(), port));
        self.caller.inside(move || TcpStream::connect_timeout(&to, LIMIT).is_ok())
    }
}

/// A running service; killed when dropped.
pub struct Gridfw<'b> {
    border: &'b Border,
    child: Child,
    address: SocketAddr,
}

impl Gridfw<'_> {
    /// Asks as a front end for a login; status and body.
    pub fn ask(&self, who: &str, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nX-Api-User-CN: {who}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let address = self.address;
        let text = self.border.router.inside(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut text = Vec::new();
            // Whoever is killed in the middle says nothing more.
            let _ = stream.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let status = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        (status, text)
    }

    /// Opens for Alice's job; the status.
    pub fn open(&self, body: &str) -> u16 {
        let (status, text) = self.ask("alice", "POST", "/sites/here/firewall/7", body);
        assert!(status != 0 && status < 300, "{text} {}", self.border.log());
        status
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// `kill -9`, and its end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Gridfw<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something that has no event.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a file is there.
pub fn there(path: &Path) -> bool {
    path.exists()
}
