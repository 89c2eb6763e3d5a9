//! The mapping service, the central queue and the pilot, each under an account of its own.

use anyhow::{Context, Result, bail};
use harness::{Machine, Run};
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

/// A running service with its log file.
pub(crate) struct Service {
    name: &'static str,
    child: Child,
    log: String,
}

impl Service {
    /// Starts a program and sends what it says to a log file in the machine.
    pub(crate) fn start(name: &'static str, mut run: Run) -> Result<Self> {
        let log = format!("/var/log/{name}.log");
        let file = File::create(&log)?;
        run.raw().stdout(file.try_clone()?).stderr(file);
        Ok(Self { name, child: run.start(), log })
    }

    /// Waits until the service answers on its port.
    pub(crate) fn listens(mut self, port: u16) -> Result<Self> {
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.said());
            }
            if Instant::now() > end {
                bail!("{} does not listen on port {port}:\n{}", self.name, self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(self)
    }

    /// Waits for the end of the program; false when it was not a success.
    pub(crate) fn ends_within(&mut self, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            if Instant::now() > end {
                bail!("{} has not ended within {limit:?}:\n{}", self.name, self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of its log.
    pub(crate) fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines.len().saturating_sub(12);
        lines[last..]
            .iter()
            .map(|l| format!("    {}: {}\n", self.name, l.chars().take(300).collect::<String>()))
            .collect()
    }
}

/// A port that nobody listens on right now.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port on the loopback interface")?;
    Ok(listener.local_addr()?.port())
}

/// Starts the site's mapping service, which maps DNs as its configuration says.
pub(crate) fn mapping(machine: &Machine, port: u16) -> Result<Service> {
    let run = machine.command("/usr/sbin/mapping-server").as_user("mapping");
    let run =
        run.args(["--listen", &format!("127.0.0.1:{port}"), "--config", "/home/mapping/mapping-server.toml"]);
    let run = run.args(["--cert", "/home/mapping/cert.pem", "--key", "/home/mapping/key.pem"]);
    let run = run.args(["--ca-dir", "/etc/grid-security/certificates"]);
    Service::start("mapping-server", run)?.listens(port)
}

/// Starts the central queue on a SQLite database.
pub(crate) fn queue(machine: &Machine, port: u16, pilot_dn: &str) -> Result<Service> {
    let run = machine.command("/usr/bin/pilot").as_user("queue");
    let run = run.args([
        "queue",
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--store",
        "sqlite:/home/queue/queue.db",
    ]);
    let run = run.args(["--cert", "/home/queue/cert.pem", "--key", "/home/queue/key.pem"]);
    let run = run.args(["--ca-dir", "/etc/grid-security/certificates", "--pilot-dn", pilot_dn]);
    Service::start("pilot-queue", run)?.listens(port)
}

/// Starts the pilot's agent, as the batch system would: under the pilot account, without privilege.
pub(crate) fn agent(machine: &Machine, url: &str) -> Result<Service> {
    let run = machine
        .command("/usr/bin/pilot")
        .as_user("pilot")
        .env("X509_CERT_DIR", "/etc/grid-security/certificates");
    let run = run.env("NO_COLOR", "1").args(["run", "--queue", url, "--proxy", crate::grid::PILOT_PROXY]);
    Service::start("pilot-run", run.args(["--slots", "2", "--max-idle", "5s"]))
}
