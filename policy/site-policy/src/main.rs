//! `site-policy`: tells an administrator what the site's policy means before a job finds out.
//!
//! | looking for | see |
//! |---|---|
//! | the command line | [`cli`] |
//! | `check`: files, accounts and programs around the policy | [`check`] |
//! | `explain`: one decision, step by step | [`explain`] |
//! | `import`: from `lcmaps.db` to `policy.toml` | [`import`] |
//! | `ports`: blocks that are leased on this node | [`ports`] |
//! | `pool`: who holds which pool account, and the end of leases | [`pool`] |
//! | `firewall`: rules that a site can load | [`firewall`] |
//! | `services`: what services need from a firewall | [`services`] |
//! | this machine as the decision sees it | [`host`] |
//! | which paths root may trust | [`outside`] |
//! | local accounts | [`accounts`] |
//! | listeners, locks and ephemeral ports of this node | [`node`] |
//! | running `glexec-verify` and `glexec-map` | [`child`] |
//!
//! It needs no privilege and changes nothing, but for `pool expire` and `pool retire`, which end leases as root. Exit codes: 0 clean or would run, 1 errors or would be refused, 2 usage,
//! 3 something could not be read.
//!
//! Must never: decide by rules of its own; it asks `policy` and the helpers, as `glexec` does. Called by: administrators.
#![forbid(unsafe_code)]

mod accounts;
mod check;
mod child;
mod cli;
mod conf;
mod explain;
mod finding;
mod firewall;
mod host;
mod import;
mod node;
mod outside;
mod pool;
mod ports;
mod services;

use clap::Parser;
use policy::SitePolicy;
use policy::file::POLICY_FILE;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// What goes to standard output, and the exit code.
struct Reply {
    text: String,
    code: u8,
}

impl Reply {
    fn done(text: String) -> Self {
        Self { text, code: 0 }
    }

    /// A word on the command line that means nothing; said on standard error.
    fn usage(why: String) -> Self {
        let _ = writeln!(std::io::stderr(), "site-policy: {why}");
        Self { text: String::new(), code: 2 }
    }

    /// What must not be; said on standard error.
    fn refused(why: String) -> Self {
        Self { code: 1, ..Self::usage(why) }
    }
}

/// The policy that a command was given, or the installed one; a site that has none runs on defaults.
fn site_or_default(named: Option<&Path>) -> Result<SitePolicy, String> {
    let installed = Path::new(POLICY_FILE);
    if named.is_none() && !installed.exists() {
        return SitePolicy::parse(installed, "").map_err(|e| e.to_string());
    }
    SitePolicy::load(named.unwrap_or(installed)).map_err(|e| e.to_string())
}

/// Exit code when something could not be read, so that nothing can be told.
const UNREADABLE: u8 = 3;

fn main() -> ExitCode {
    let reply = match cli::Cli::parse().command {
        cli::Command::Check(args) => check::run(&args),
        cli::Command::Explain(args) => explain::run(&args),
        cli::Command::Import(args) => import::run(&args),
        cli::Command::Ports(args) => ports::run(&args),
        cli::Command::Pool(args) => pool::run(&args),
        cli::Command::Firewall(args) => firewall::run(&args),
        cli::Command::Services(args) => services::run(&args),
    };
    let reply = reply.unwrap_or_else(|reason| {
        let _ = writeln!(std::io::stderr(), "site-policy: {reason}");
        Reply { text: String::new(), code: UNREADABLE }
    });
    match std::io::stdout().lock().write_all(reply.text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "site-policy: standard output: {error}");
            ExitCode::from(UNREADABLE)
        }
        // A reader that closed its pipe has seen enough.
        _ => ExitCode::from(reply.code),
    }
}
