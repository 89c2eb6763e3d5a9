//! No input of any command line or file makes a program of ours panic.
//!
//! The programs are cargo's own, with overflow checks, and run without privilege. Mutations are the same in every run:
//! a failure names the command, and can be had again.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use fuzz_targets::mutate::{Random, mutate};
use harness::pki::Pki;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a panic ends a Rust program with.
const PANIC: i32 = 101;
/// Mutated command lines of each seed.
const LINES: usize = 15;
/// Mutated copies of each file.
const FILES: usize = 25;
/// Who serves or waits for long has understood its input.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nobody's uid.
const NOBODY: u32 = 65_534;

/// Values that numbers, names, paths, durations and lists go astray on.
const NASTY: [&[u8]; 28] = [
    b"",
    b"-",
    b"--",
    b"-1",
    b"0",
    b"\xff\xfe",
    b"4294967296",
    b"18446744073709551615",
    b"213503982334601d",
    b"999999999999999999999999",
    b"1e400",
    b"-0",
    b"0-18446744073709551615",
    b"5-1",
    b"1-",
    b"a[",
    b"**/",
    b"/",
    b"..",
    b"/dev/null",
    b"/dev/full",
    b"=",
    b"A=\n",
    b"%n%s",
    b"\xe2\x80\xae",
    b"https://",
    b"https://[::1",
    b"{}",
];

/// Programs with command lines that go far without privilege and without a peer.
const SEEDS: [(&str, &str); 39] = [
    (
        "pilot",
        "submit --queue https://localhost:1 --proxy @PROXY@ --input @FILE@ --output out --env A=b --array 1-3 --walltime 1h -- /bin/true",
    ),
    ("pilot", "jobs --queue https://localhost:1 --proxy @PROXY@ --json --state held"),
    ("pilot", "show --queue https://localhost:1 --proxy @PROXY@ 01890000-0000-7000-8000-000000000000"),
    (
        "pilot",
        "logs --queue https://localhost:1 --proxy @PROXY@ 01890000-0000-7000-8000-000000000000 --attempt 1",
    ),
    (
        "pilot",
        "output --queue https://localhost:1 --proxy @PROXY@ 01890000-0000-7000-8000-000000000000 --to @DIR@",
    ),
    (
        "pilot",
        "run --queue https://localhost:1 --proxy @PROXY@ --give-up 0s --max-idle 1s --slots 2 --time-left 2h --no-switch",
    ),
    (
        "pilot",
        "queue --listen 127.0.0.1:0 --store sqlite:@DIR@/q.db --cert @FILE@ --key @FILE@ --lease 30s --grace 1s --pilot-dn /CN=p",
    ),
    ("site-policy", "check @POLICY@"),
    ("site-policy", "explain --proxy @PROXY@"),
    ("site-policy", "import @FILE@"),
    ("site-policy", "ports --policy @POLICY@ --port-dir @DIR@"),
    ("site-policy", "services --policy @POLICY@ --service gridftp"),
    (
        "site-policy",
        "firewall --policy @POLICY@ --role client --service gt2 --nat 192.0.2.1 --hosts 10.0.0.1:40000-40010 --peer 10.0.0.0/8",
    ),
    ("accounting", "list --json"),
    ("accounting", "show 01890000-0000-7000-8000-000000000000"),
    ("accounting", "who --uid 1000 --at 2026-01-01T00:00:00Z"),
    ("mapping-query", "--service gums --endpoint https://localhost:1/x --dn /CN=a --fqan /cms"),
    ("mapping-server", "--listen 127.0.0.1:0 --config @FILE@ --cert @FILE@ --key @FILE@ --ca-dir @DIR@"),
    ("glexec", "/bin/true"),
    ("glexec", "-v"),
    ("glexec", "-V"),
    ("glexec", "-h"),
    ("glexec", "--session 01890000-0000-7000-8000-000000000000 --end"),
    ("glexec-monitor", "--help"),
    ("glexec-verify", "--walls"),
    ("glexec-map", "--walls"),
    ("glexec-wrapenv", "A B"),
    ("glexec-unwrapenv", "/bin/true"),
    ("mkgltempdir", "-t @DIR@"),
    ("mkgltempdir", "-r @DIR@/x"),
    ("pilot", "wait --queue https://localhost:1 --proxy @PROXY@ 01890000-0000-7000-8000-000000000000"),
    ("pilot", "cancel --queue https://localhost:1 --proxy @PROXY@ 01890000-0000-7000-8000-000000000000"),
    ("pilot", "release --queue https://localhost:1 --proxy @PROXY@ 01890000-0000-7000-8000-000000000000"),
    ("pilot", "status --queue https://localhost:1 --proxy @PROXY@ --json"),
    ("accounting", "verify"),
    ("accounting", "serve --check --config /nowhere"),
    ("accounting", "forward --to https://localhost:1 --cert /nowhere --key /nowhere --ca-dir /nowhere"),
    ("site-policy", "--help"),
    ("pilot", "--help"),
];

/// Programs with a file of their own, and where seeds of it are: in the repository, below the top.
const READERS: [(&str, &str, &str); 9] = [
    ("site-policy", "check --glexec-conf /dev/null @INPUT@", "packaging/policy.toml"),
    ("site-policy", "check --glexec-conf @INPUT@ /dev/null", "packaging/glexec.conf"),
    ("site-policy", "import @INPUT@", "packaging/glexec.conf"),
    (
        "mapping-server",
        "--listen 127.0.0.1:0 --config @INPUT@ --cert @FILE@ --key @FILE@ --ca-dir @DIR@ --check",
        "packaging/mapping-server.toml",
    ),
    ("pilot", "queue --config @INPUT@ --check", "packaging/queue.toml"),
    (
        "pilot",
        "run --queue https://localhost:1 --proxy @PROXY@ --give-up 0s --max-idle 1s --no-switch --policy @INPUT@",
        "packaging/policy.toml",
    ),
    ("pilot", "jobs --queue https://localhost:1 --proxy @INPUT@", "tests/fuzz/corpus/pem_chain/rfc"),
    (
        "pilot",
        "submit --queue https://localhost:1 --proxy @INPUT@ -- /bin/true",
        "tests/fuzz/corpus/pem_chain/voms",
    ),
    (
        "mapping-query",
        "--service gums --endpoint https://localhost:1/x --cert @INPUT@ --key @INPUT@ --dn /CN=a",
        "tests/fuzz/corpus/pem_chain/user",
    ),
];

/// Programs that read their input from a peer: a seed of it.
const LISTENERS: [(&str, &str, &str); 4] = [
    ("glexec-verify", "", "tests/fuzz/corpus/frames"),
    ("glexec-map", "", "tests/fuzz/corpus/frames"),
    ("glexec-unwrapenv", "/bin/true", "tests/fuzz/corpus/environment_blob"),
    ("pilot-runner", "", "tests/fuzz/corpus/runner_frames"),
];

struct Stage {
    dir: tempfile::TempDir,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let beside = exe.ancestors().nth(2).expect("tests run from target/PROFILE/deps").to_path_buf();
    let path = std::env::var_os("PILOTAGE_BIN_DIR").map_or(beside, PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing; run `cargo build --workspace --bins`", path.display());
    path
}

impl Stage {
    /// A directory that nobody owns, with a proxy and files in it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let pki = Pki::new(&dir.path().join("grid")).unwrap();
        let alice = pki.user("alice", "Alice").unwrap();
        let proxy = pki.short_proxy(&alice, &dir.path().join("proxy.pem"), 3600).unwrap();
        fs::write(dir.path().join("file"), "content\n").unwrap();
        fs::copy(top().join("packaging/policy.toml"), dir.path().join("policy.toml")).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&proxy, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The words of a line, each with the names of files filled in.
    fn words(&self, line: &str) -> Vec<OsString> {
        let fill = |word: &str| {
            let put = |text: String, name: &str, file: &str| {
                text.replace(name, &self.path(file).display().to_string())
            };
            let text = put(put(word.to_owned(), "@PROXY@", "proxy.pem"), "@FILE@", "file");
            OsString::from(
                put(put(text, "@POLICY@", "policy.toml"), "@INPUT@", "input")
                    .replace("@DIR@", &self.path("").display().to_string()),
            )
        };
        line.split_whitespace().map(fill).collect()
    }

    fn command(&self, name: &str, words: &[OsString]) -> Command {
        let mut command = Command::new(program(name));
        command.args(words.iter().filter(|word| !word.as_bytes().contains(&0)));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path());
        command
            .env("X509_CERT_DIR", self.path("grid/certificates"))
            .env("NO_COLOR", "1")
            .env("RUST_BACKTRACE", "0");
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Runs it with its standard error in a file; says why when that went wrong.
    fn run(&self, mut command: Command) -> Result<(), String> {
        let errors = tempfile::NamedTempFile::new().unwrap();
        command.stdout(Stdio::null()).stderr(errors.reopen().unwrap());
        let what = format!("{:?} {:?}", command.get_program(), command.get_args().collect::<Vec<&OsStr>>());
        // What the kernel refuses to start is nobody's panic.
        let Ok(child) = command.spawn() else { return Ok(()) };
        let verdict = judge(child);
        let mut said = Vec::new();
        File::open(errors.path()).unwrap().read_to_end(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said);
        match verdict {
            Err(why) => Err(format!("{what}: {why}\n{said}")),
            Ok(()) if said.contains("panicked at") => Err(format!("{what}: a part of it panicked\n{said}")),
            Ok(()) => Ok(()),
        }
    }
}

/// Whether it ended as a program should: with a code of its own, or by being killed here.
fn judge(mut child: Child) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().unwrap() {
            Some(status) if status.code() == Some(PANIC) => return Err("panicked".to_owned()),
            Some(status) if status.signal().is_some() => return Err(format!("died: {status}")),
            Some(_) => return Ok(()),
            None if Instant::now() > end => {
                child.kill().unwrap();
                child.wait().unwrap();
                return Ok(());
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn all_well(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// A changed copy of a command line: words go, come twice, change places, or become nasty.
fn mutated_line(random: &mut Random, words: &[OsString]) -> Vec<OsString> {
    let mut words = words.to_vec();
    for _ in 0..=random.below(2) {
        let at = random.below(words.len());
        let nasty = OsString::from_vec(NASTY[random.below(NASTY.len())].to_vec());
        match random.below(6) {
            _ if words.is_empty() => words.push(nasty),
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[at].clone()),
            2 => words.swap(at, 0),
            3 => words.insert(at, nasty),
            4 => {
                words[at] = OsString::from_vec(mutate(random, words[at].clone().as_bytes(), nasty.as_bytes()))
            }
            _ => words[at] = nasty,
        }
    }
    words
}

#[test]
fn no_command_line_makes_a_program_panic() {
    let stage = Stage::new();
    let mut failures = Vec::new();
    for (name, line) in SEEDS {
        let words = stage.words(line);
        let mut random = Random::of(&format!("{name} {line}"));
        let changed = (0..LINES).map(|_| mutated_line(&mut random, &words));
        for line in std::iter::once(words.clone()).chain(changed) {
            failures.extend(stage.run(stage.command(name, &line)).err());
        }
    }
    all_well(&failures);
}

#[test]
fn no_file_makes_a_program_panic() {
    let stage = Stage::new();
    let mut failures = Vec::new();
    for (name, line, seed) in READERS {
        let seed_bytes = fs::read(top().join(seed)).unwrap();
        let mut random = Random::of(&format!("{name} {line} {seed}"));
        for _ in 0..FILES {
            fs::write(stage.path("input"), mutate(&mut random, &seed_bytes, b"\"\n[x]\n= 1\n\xff")).unwrap();
            fs::set_permissions(stage.path("input"), fs::Permissions::from_mode(0o600)).unwrap();
            if nix::unistd::geteuid().is_root() {
                std::os::unix::fs::chown(stage.path("input"), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            failures.extend(stage.run(stage.command(name, &stage.words(line))).err());
        }
    }
    all_well(&failures);
}

#[test]
fn nothing_that_a_peer_says_makes_a_program_panic() {
    let stage = Stage::new();
    let mut failures = Vec::new();
    for (name, line, corpus) in LISTENERS {
        for entry in fs::read_dir(top().join(corpus)).unwrap() {
            let seed = fs::read(entry.unwrap().path()).unwrap();
            let mut random = Random::of(&format!("{name} {}", seed.len()));
            for _ in 0..5 {
                fs::write(stage.path("said"), mutate(&mut random, &seed, b"\xff\xff\xff\xff\0\0\0\0"))
                    .unwrap();
                let mut command = stage.command(name, &stage.words(line));
                let said = File::open(stage.path("said")).unwrap();
                command.env("GLEXEC_ENV", OsStr::new("x")).stdin(said);
                failures.extend(stage.run(command).err());
            }
        }
    }
    all_well(&failures);
}
