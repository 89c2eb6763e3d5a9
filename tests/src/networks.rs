//! Networks of a test's own: namespaces with cables between them, which no other test and nobody on the host sees.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]
#![allow(clippy::missing_panics_doc, reason = "whatever fails here fails the test")]

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Long enough for a packet within one kernel, on a loaded machine, too.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must come through. A rule that lets through does so at once.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A network namespace of its own, without a name: it ends with the last descriptor of it.
#[derive(Debug)]
pub struct Net(File);

impl Net {
    /// One with nothing but a loopback interface.
    pub fn apart() -> Self {
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let net = Self(File::open("/proc/thread-self/ns/net").unwrap());
        setns(home, CloneFlags::CLONE_NEWNET).unwrap();
        net.run("ip link set lo up");
        net
    }

    /// Does something in the namespace; the thread goes home.
    pub fn within<T>(&self, what: impl FnOnce() -> T) -> T {
        let home = File::open("/proc/thread-self/ns/net").unwrap();
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
        let done = what();
        setns(home, CloneFlags::CLONE_NEWNET).unwrap();
        done
    }

    /// Runs a script there, as the account that runs the tests.
    pub fn run(&self, script: &str) {
        let out = self.within(|| Command::new("/bin/sh").args(["-ec", script]).output().unwrap());
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Gives a text to a program's standard input.
    pub fn feed(&self, program: &str, args: &[&str], text: &str) -> Output {
        self.within(|| {
            let mut command = Command::new(program);
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
    }

    /// The same for a program that must succeed.
    pub fn load(&self, program: &str, args: &[&str], text: &str) {
        let out = self.feed(program, args, text);
        assert!(out.status.success(), "{program}: {}\n{text}", String::from_utf8_lossy(&out.stderr));
    }

    /// Listens there.
    pub fn listen(&self, at: &str) -> TcpListener {
        self.within(|| TcpListener::bind(at).unwrap_or_else(|e| panic!("{at}: {e}")))
    }

    /// Whether a connection is made to somebody who listens there.
    pub fn reaches(&self, to: &str, wait: Duration) -> bool {
        let to: SocketAddr = to.parse().unwrap();
        self.within(|| match TcpStream::connect_timeout(&to, wait) {
            Ok(_) => true,
            // A host that refuses was reached: only rules keep silent, or the kernel's own output chain says no.
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => panic!("nobody listens at {to}"),
            Err(_) => false,
        })
    }
}

/// A process that stands for its namespace, and ends with this.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A client outside, a router, and the site's host behind it; `198.51.100.2`, `192.0.2.2`, and the same with `2001:db8:`.
#[derive(Debug)]
pub struct ThreeNetworks {
    /// `198.51.100.2`
    pub outside: Net,
    /// Between them.
    pub router: Net,
    /// `192.0.2.2`
    pub host: Net,
}

impl ThreeNetworks {
    /// All three, with cables and routes.
    pub fn connected() -> Self {
        let (outside, router, host) = (Net::apart(), Net::apart(), Net::apart());
        for (net, end, v4, v6) in
            [(&outside, "out0", "198.51.100", "2001:db8:1"), (&host, "site0", "192.0.2", "2001:db8:2")]
        {
            // The other end of the cable is handed to the router by the process id of somebody in its namespace.
            let holder = Holder(router.within(|| Command::new("sleep").arg("600").spawn().unwrap()));
            net.run(&format!(
                "ip link add {end} type veth peer name r{end}; ip link set r{end} netns {}; \
                 ip addr add {v4}.2/24 dev {end}; ip addr add {v6}::2/64 dev {end} nodad; ip link set {end} up",
                holder.0.id()
            ));
            router.run(&format!(
                "ip addr add {v4}.1/24 dev r{end}; ip addr add {v6}::1/64 dev r{end} nodad; ip link set r{end} up"
            ));
            net.run(&format!("ip route add default via {v4}.1; ip -6 route add default via {v6}::1"));
        }
        router.run("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
        let all = Self { outside, router, host };
        // Rules are only worth a test where everything passes without them.
        let _there = all.host.listen("0.0.0.0:9");
        assert!(all.outside.reaches("192.0.2.2:9", PATIENCE), "the three networks are not connected");
        all
    }
}
