//! No program of ours panics because nobody reads what it says: standard error closed, its reader gone, or its disk full.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Every program that is installed, with command lines that make it say something.
const CALLS: [(&str, &[&str]); 30] = [
    ("accounting", &["list", "--spool", "/nowhere"]),
    ("accounting", &["verify", "--spool", "/nowhere"]),
    ("accounting", &["--help"]),
    ("accounting", &["nonsense"]),
    ("glexec", &["-v"]),
    ("glexec", &["--nonsense"]),
    ("glexec", &["/bin/true"]),
    ("glexec-map", &[]),
    ("glexec-map", &["--nonsense"]),
    ("glexec-monitor", &["--nonsense"]),
    ("glexec-unwrapenv", &["nonsense"]),
    ("glexec-verify", &[]),
    ("glexec-verify", &["--nonsense"]),
    ("glexec-wrapenv", &["nonsense"]),
    ("mapping-query", &["--service", "gums", "--endpoint", "https://127.0.0.1:1/", "--dn", "/CN=x"]),
    ("mapping-query", &["--help"]),
    ("mapping-server", &["--config", "/nowhere"]),
    ("mapping-server", &["--check", "--config", "/nowhere"]),
    ("mkgltempdir", &["--nonsense"]),
    ("pilot", &["jobs", "--queue", "http://x"]),
    ("pilot", &["submit", "--queue", "https://127.0.0.1:1", "--", "/bin/true"]),
    ("pilot", &["queue", "--store", "nonsense"]),
    (
        "pilot",
        &[
            "queue",
            "--check",
            "--store",
            "sqlite:/nowhere/q",
            "--listen",
            "localhost:0",
            "--cert",
            "/x",
            "--key",
            "/x",
        ],
    ),
    ("pilot", &["run", "--queue", "https://127.0.0.1:1", "--no-switch"]),
    ("pilot", &["--version"]),
    ("pilot-runner", &["--version"]),
    ("pilot-runner", &["--nonsense"]),
    ("site-policy", &["check", "/nowhere"]),
    ("site-policy", &["import", "/nowhere"]),
    ("site-policy", &["services"]),
];

fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let beside = exe.ancestors().nth(2).expect("tests run from target/PROFILE/deps").to_path_buf();
    let path = std::env::var_os("PILOTAGE_BIN_DIR").map_or(beside, PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing; run `cargo build --workspace --bins`", path.display());
    path
}

/// An output that takes nothing.
fn useless(kind: &str) -> Stdio {
    match kind {
        "full" => File::options().write(true).open("/dev/full").unwrap().into(),
        // Nobody holds the other end.
        _ => std::io::pipe().unwrap().1.into(),
    }
}

#[test]
fn nobody_panics_because_nobody_reads() {
    for (name, args) in CALLS {
        for kind in ["full", "closed"] {
            let mut command = Command::new(program(name));
            command.args(args).env_clear().env("PATH", "/usr/bin:/bin").env("X509_USER_PROXY", "/nowhere");
            command.stdin(Stdio::null()).stdout(useless(kind)).stderr(useless(kind));
            let status = command.status().unwrap();
            assert_ne!(status.code(), Some(101), "{name} {args:?} panics with a {kind} output");
            assert!(
                status.code().is_some(),
                "{name} {args:?} dies by a signal with a {kind} output: {status}"
            );
        }
    }
}
