//! The central queue and the pilot, each under an account of its own.

use anyhow::{Result, anyhow};
use harness::{Machine, Service};

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
    Service::start("pilot-queue", run).and_then(|service| service.listens(port)).map_err(|e| anyhow!(e))
}

/// Starts the pilot's agent, as the batch system would: under the pilot account, without privilege.
pub(crate) fn agent(machine: &Machine, url: &str) -> Result<Service> {
    let run = machine.command("/usr/bin/pilot").as_user("pilot").env("X509_CERT_DIR", crate::grid::CA_DIR);
    let run = run.env("NO_COLOR", "1").args(["run", "--queue", url, "--proxy", crate::grid::PILOT_PROXY]);
    Service::start("pilot-run", run.args(["--slots", "2", "--max-idle", "5s"])).map_err(|e| anyhow!(e))
}
