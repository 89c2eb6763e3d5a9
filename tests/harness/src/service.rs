//! Long-running programs of a machine.

use crate::machine::Machine;
use crate::run::Run;
use crate::view::Failed;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::{Duration, Instant};

/// Generous: a loaded host is slow, and a service that has ended is noticed at once.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// A running service with its log file; killed when dropped.
#[derive(Debug)]
pub struct Service {
    name: &'static str,
    child: Child,
    log: String,
}

impl Service {
    /// Starts a program and sends what it says to a log file in the machine.
    ///
    /// # Errors
    /// When the log file cannot be made.
    pub fn start(name: &'static str, mut run: Run) -> Result<Self, Failed> {
        let log = format!("/var/log/{name}.log");
        let file = File::create(&log)?;
        run.raw().stdout(file.try_clone()?).stderr(file);
        Ok(Self { name, child: run.start(), log })
    }

    /// Waits until the service answers on its port.
    ///
    /// # Errors
    /// When it ends, or does not listen within two minutes; with the end of its log.
    pub fn listens(mut self, port: u16) -> Result<Self, Failed> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended with {status}:\n{}", self.name, self.said()).into());
            }
            if Instant::now() > end {
                return Err(format!("{} does not listen on port {port}:\n{}", self.name, self.said()).into());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(self)
    }

    /// Waits for the end of the program; false when it was not a success.
    ///
    /// # Errors
    /// When it does not end in time; with the end of its log.
    pub fn ends_within(&mut self, limit: Duration) -> Result<bool, Failed> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.success());
            }
            if Instant::now() > end {
                return Err(format!("{} has not ended within {limit:?}:\n{}", self.name, self.said()).into());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of its log, each line with the service's name.
    pub fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(12)..];
        let short = |line: &str| line.chars().take(300).collect::<String>();
        last.iter().map(|line| format!("    {}: {}\n", self.name, short(line))).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on right now.
///
/// # Panics
/// When the loopback interface has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr());
    listener.unwrap_or_else(|e| panic!("no free port on the loopback interface: {e}")).port()
}

impl Machine {
    /// Starts the site's mapping service under its own account `mapping`. `config` is what stands in its file below
    /// `[callers]`, where this host is allowed to ask.
    ///
    /// # Errors
    /// When it does not start.
    pub fn mapping_server(&self, port: u16, config: &str) -> Result<Service, Failed> {
        let pki = self.pki();
        for (file, from) in [("cert", &pki.host_cert), ("key", &pki.host_key)] {
            self.write(&format!("/home/mapping/{file}.pem"), "mapping", 0o600, fs::read(from)?);
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let config = format!("[callers]\nallow = [\"/C=XX/O=Test Grid/CN={}\"]\n{config}", host.trim());
        self.write("/home/mapping/mapping-server.toml", "mapping", 0o600, config);
        let run = self.command("/usr/sbin/mapping-server").as_user("mapping");
        let run = run.args([
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--config",
            "/home/mapping/mapping-server.toml",
        ]);
        let run = run.args(["--cert", "/home/mapping/cert.pem", "--key", "/home/mapping/key.pem"]);
        Service::start("mapping-server", run)?.listens(port)
    }

    /// The `[mapping.gums]` table of a policy that asks the mapping service on this port.
    pub fn gums_table(port: u16) -> String {
        let path = "gums/services/GUMSXACMLAuthorizationServicePort";
        format!("[mapping.gums]\nendpoints = [\"https://localhost:{port}/{path}\"]\ntimeout = \"30s\"\n")
    }
}
