//! A grid with a queue, for tests of the real `pilot` program: queue, agent and users' commands over TLS on the loopback.
//! The agent runs with `--no-switch`, so no root is needed; the switch has its own tests.
//!
//! Tests that inject faults (`harness::fault`) put them into [`Site::queue_env`], [`Site::agent_env`], below
//! [`Site::store`], or between agent and queue with [`Site::between`].

use harness::fault::FaultyProxy;
use harness::pki::{Pki, User};
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::X509;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take; a loaded machine is slow.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A child that does not outlive its test.
#[derive(Debug)]
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Guard {
    /// Process id.
    pub fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    /// Sends a signal by number.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory to misuse.
        let sent = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(sent, 0, "kill -{signal} {}", self.pid());
    }

    /// Its exit code, if it ends in time and not by a signal.
    ///
    /// # Panics
    /// When somebody else has waited for it.
    pub fn code_within(&mut self, limit: Duration) -> Option<i32> {
        let give_up = Instant::now() + limit;
        while Instant::now() < give_up {
            if let Some(status) = self.0.try_wait().expect("the child is ours") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// When somebody else has waited for it.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("the child is ours").is_none()
    }
}

/// The grid, its queue, and a directory for everything.
pub struct Site {
    /// The running queue.
    pub queue: Option<Guard>,
    /// Where it listens: `HOST:PORT`.
    pub address: String,
    /// Its URL.
    pub url: String,
    /// Alice's proxy.
    pub alice: PathBuf,
    /// The pilot's proxy.
    pub pilot: PathBuf,
    /// The pilot's subject.
    pub pilot_dn: String,
    /// Certificate and key of the host.
    pub host: (PathBuf, PathBuf),
    /// The grid.
    pub pki: Pki,
    /// `--lease` of the queue.
    pub lease: String,
    /// The program that everything is done with; cargo's own, until a test puts a copy here.
    pub program: PathBuf,
    /// Directory of the queue's store.
    pub store: PathBuf,
    /// More options of the queue.
    pub queue_args: Vec<String>,
    /// More environment of the queue.
    pub queue_env: Vec<(OsString, OsString)>,
    /// More environment of agents.
    pub agent_env: Vec<(OsString, OsString)>,
    /// Everything lies below it; `TMPDIR` of everybody.
    pub dir: tempfile::TempDir,
}

fn program() -> PathBuf {
    let path = harness::bin_dir().join("pilot");
    assert!(path.exists(), "{} is missing; run `cargo build --workspace --bins`", path.display());
    path
}

/// A plain proxy of the user in a directory.
///
/// # Panics
/// When `grid-proxy-init` fails.
pub fn proxy(pki: &Pki, user: &User, dir: &Path) -> PathBuf {
    let out = dir.join(format!("{}.pem", user.name));
    pki.grid_proxy(user, &out, &["-rfc"]).expect("grid-proxy-init makes a proxy")
}

/// A batch job's script: a pilot that examines its node and finds no queue, which ends it with 3.
pub fn lonely_pilot(proxy: &str) -> String {
    let run = "exec /usr/bin/pilot run --no-switch --queue https://127.0.0.1:1 --give-up 1s";
    format!("#!/bin/sh\nX509_USER_PROXY={proxy} {run}\n")
}

/// The seconds that a pilot says it has left, in what it says of its node.
///
/// # Panics
/// When it does not say.
pub fn time_left(said: &str) -> u64 {
    let after = said.split("time_left_s=").nth(1).unwrap_or_else(|| panic!("no time is left: {said}"));
    let digits = after.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|e| panic!("{e}: {said}"))
}

/// Whether a process of this id exists.
pub fn is_alive(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}

impl Site {
    /// A site whose queue runs with `--lease`.
    pub fn new(lease: &str) -> Self {
        let mut site = Self::closed(lease);
        site.start_queue();
        site
    }

    /// A site whose queue is still to be started.
    ///
    /// # Panics
    /// When this host cannot make a grid.
    pub fn closed(lease: &str) -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let pki = Pki::new(&dir.path().join("grid")).expect("a grid");
        let alice = proxy(&pki, &pki.user("alice", "Alice").expect("a user"), dir.path());
        let robot = pki.robot("pilot", "Pilot").expect("a robot");
        let pilot = proxy(&pki, &robot, dir.path());
        Self {
            queue: None,
            address: "127.0.0.1:0".to_owned(),
            url: String::new(),
            alice,
            pilot,
            pilot_dn: robot.dn,
            host: (pki.host_cert.clone(), pki.host_key.clone()),
            pki,
            lease: lease.to_owned(),
            program: program(),
            store: dir.path().to_owned(),
            queue_args: Vec::new(),
            queue_env: Vec::new(),
            agent_env: Vec::new(),
            dir,
        }
    }

    /// The program with nothing but the site in its environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("X509_CERT_DIR", &self.pki.ca_dir);
        command.env("X509_VOMS_DIR", &self.pki.voms_dir).env("TMPDIR", self.dir.path());
        command
    }

    /// Begins a command, whose program and arguments are still to be added: it knows the hosts of these lines of `hosts(5)` and no
    /// others, since it sees files of its own.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn knowing_hosts(&self, hosts: &str) -> Command {
        let mount = |name: &str, text: &str, place: &str| {
            std::fs::write(self.path(name), text).expect("the directory is there");
            format!("mount --bind {} {place} && ", self.path(name))
        };
        let names =
            mount("hosts", hosts, "/etc/hosts") + &mount("nsswitch", "hosts: files\n", "/etc/nsswitch.conf");
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &format!("{names} exec \"$@\""),
            "sh",
        ]);
        command
    }

    /// Starts the queue, again at the address that it had; its log goes to `queue.log`.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start_queue(&mut self) {
        let mut command = self.command();
        command.envs(self.queue_env.iter().cloned());
        let store = format!("sqlite:{}", self.store.join("queue.db").display());
        command.args(["queue", "--listen", &self.address, "--store", &store]);
        command.args(["--lease", &self.lease, "--grace", "1s", "--pilot-dn", &self.pilot_dn]);
        command.arg("--cert").arg(&self.host.0).arg("--key").arg(&self.host.1).args(&self.queue_args);
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("queue.log"));
        let log = log.expect("a log can be made");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the queue can be started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        self.queue = Some(Guard(child));
        self.address = line.trim().rsplit("https://").next().unwrap_or_default().to_owned();
        assert!(self.address.contains(':'), "{line} {}", self.log("queue.log"));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("every host has a name");
        let port = self.address.rsplit(':').next().unwrap_or_default();
        self.url = format!("https://{}:{port}", host.trim());
    }

    /// Kills the queue, as a crash does.
    pub fn kill_queue(&mut self) {
        self.queue = None;
    }

    /// A server between the pilot and the queue that a test can have give wrong answers.
    pub fn between(&self) -> FaultyProxy {
        FaultyProxy::start(&self.host.0, &self.host.1, &self.address, &self.pilot)
    }

    /// The same for Alice's commands.
    pub fn between_alice(&self) -> FaultyProxy {
        FaultyProxy::start(&self.host.0, &self.host.1, &self.address, &self.alice)
    }

    /// The status of `GET /healthz`, asked by Alice.
    ///
    /// # Panics
    /// When the queue does not answer.
    pub fn health(&self) -> u16 {
        let pem = std::fs::read(&self.alice).expect("Alice has a proxy");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL works");
        // The queue is the test's own.
        builder.set_verify(SslVerifyMode::NONE);
        let mut chain = X509::stack_from_pem(&pem).expect("certificates").into_iter();
        builder.set_certificate(&chain.next().expect("a certificate")).expect("a certificate");
        builder.set_private_key(&*PKey::private_key_from_pem(&pem).expect("a key")).expect("a key");
        chain.for_each(|issuer| builder.add_extra_chain_cert(issuer).expect("an issuer"));
        let stream = TcpStream::connect(&self.address).expect("the queue listens");
        let mut tls = builder.build().connect("queue", stream).expect("a handshake");
        let request = b"GET /healthz HTTP/1.1\r\nhost: queue\r\nconnection: close\r\n\r\n";
        tls.write_all(request).expect("the queue reads");
        let mut line = String::new();
        BufReader::new(tls).read_line(&mut line).expect("the queue answers");
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    /// The content of a file of the site; empty when there is none.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    /// Starts a pilot; its log goes to a file of that name.
    pub fn agent(&self, name: &str, args: &[&str]) -> Guard {
        self.agent_of(&self.url, name, args)
    }

    /// The same for another queue, or for one behind [`Site::between`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn agent_of(&self, queue: &str, name: &str, args: &[&str]) -> Guard {
        let log = std::fs::File::create(self.dir.path().join(name)).expect("a log can be made");
        let mut command = self.command();
        command.envs(self.agent_env.iter().cloned()).env("X509_USER_PROXY", &self.pilot);
        command.args(["run", "--queue", queue, "--no-switch"]).args(args);
        Guard(command.stderr(log).stdin(Stdio::null()).spawn().expect("the pilot can be started"))
    }

    /// A command of Alice.
    pub fn alice(&self, args: &[&str]) -> Output {
        self.alice_at(&self.url, args)
    }

    /// A command of Alice for another queue, or for one behind [`Site::between_alice`].
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn alice_at(&self, queue: &str, args: &[&str]) -> Output {
        let mut command = self.command();
        command.env("X509_USER_PROXY", &self.alice).env("PILOT_QUEUE", queue).current_dir(self.dir.path());
        command.args(args).output().expect("pilot can be run")
    }

    /// What a command of Alice prints, after a success.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.alice(args);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {errors}\n{}\n{}", self.log("agent"), self.log("queue.log"));
        String::from_utf8(out.stdout).expect("text")
    }

    /// Alice submits; the ids of her payloads.
    #[track_caller]
    pub fn submit(&self, args: &[&str]) -> String {
        self.ok(&[&["submit"], args].concat()).trim().to_owned()
    }

    /// Alice submits a shell script; the id of her payload.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        self.submit(&["--", "/bin/sh", "-c", script])
    }

    /// The exit code of `pilot wait`; nothing when the payload does not end in time.
    ///
    /// # Panics
    /// When `pilot` cannot be run.
    pub fn wait(&self, id: &str) -> Option<i32> {
        let mut command = self.command();
        command.env("X509_USER_PROXY", &self.alice).env("PILOT_QUEUE", &self.url).args(["wait", id]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Guard(command.spawn().expect("pilot can be run")).code_within(2 * LIMIT)
    }

    /// What `pilot show --json` says of a payload.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn show(&self, id: &str) -> serde_json::Value {
        let text = self.ok(&["show", "--json", id]);
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["payload"].clone()
    }

    /// Waits until a payload is in this state.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn await_state(&self, id: &str, state: &str) {
        let give_up = Instant::now() + LIMIT;
        while self.show(id)["state"] != state {
            let now = Instant::now();
            assert!(now < give_up, "{id} is {} and not {state}\n{}", self.show(id), self.log("agent"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The content of a file of the site as soon as it ends with a newline.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn await_file(&self, name: &str) -> String {
        let give_up = Instant::now() + LIMIT;
        loop {
            let text = self.log(name);
            if text.ends_with('\n') {
                return text;
            }
            assert!(Instant::now() < give_up, "{name} does not come\n{}", self.log("agent"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The path of a file of the site.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// What payloads leave below TMPDIR: working directories.
    ///
    /// # Panics
    /// When the directory is gone.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).expect("the site's directory is there").flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|n| n.starts_with("pilotage-")).collect()
    }
}
