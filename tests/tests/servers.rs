//! What all servers of ours have in common: addresses, signals, readiness, certificates, logs, `--check`.
//! All on the loopback, without root.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use harness::fault::{Clock, SignalStorm, upgrade};
use harness::needs;
use harness::pki::Pki;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// Every server of ours.
const SERVERS: [&str; 4] = ["mapping-server", "pilot", "gridfw", "accounting"];

fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let beside = exe.ancestors().nth(2).expect("tests run from target/PROFILE/deps").to_path_buf();
    let path = std::env::var_os("PILOTAGE_BIN_DIR").map_or(beside, PathBuf::from).join(name);
    assert!(path.exists(), "{} is missing; run `cargo build --workspace --bins`", path.display());
    path
}

/// A host with a certificate.
struct Site {
    pki: Pki,
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(&dir.path().join("grid")).unwrap();
        std::fs::write(dir.path().join("mapping.toml"), "[callers]\nallow = [\"/C=XX/*\"]\n").unwrap();
        std::fs::write(dir.path().join("gridfw.toml"), "[agent]\nmasters = [\"/C=XX/CN=master\"]\n").unwrap();
        std::fs::create_dir(dir.path().join("records")).unwrap();
        Self { pki, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> String {
        format!("sqlite:{}", self.path("queue.db").display())
    }

    /// The command line of a server that is set up well.
    fn command(&self, server: &str, listen: &str) -> Command {
        self.trusting(server, listen, &self.pki.ca_dir)
    }

    /// The same with other authorities.
    fn trusting(&self, server: &str, listen: &str, ca_dir: &Path) -> Command {
        let mut command = Command::new(program(server));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("X509_CERT_DIR", ca_dir);
        command.env("X509_VOMS_DIR", &self.pki.voms_dir);
        match server {
            "mapping-server" => command.arg("--config").arg(self.path("mapping.toml")),
            "pilot" => command.args(["queue", "--pilot-dn", "/CN=pilot", "--store"]).arg(self.store()),
            // As an agent it needs neither a batch system nor a right to change the firewall.
            "gridfw" => {
                command.args(["--agent", "--backend", "dry-run", "--config"]).arg(self.path("gridfw.toml"))
            }
            "accounting" => {
                return self.accounting(command, listen, ca_dir);
            }
            other => panic!("{other}"),
        };
        command.arg("--cert").arg(&self.pki.host_cert).arg("--key").arg(&self.pki.host_key);
        command.args(["--listen", listen]);
        command
    }

    /// All but the log stands in its configuration.
    fn accounting(&self, mut command: Command, listen: &str, ca_dir: &Path) -> Command {
        let paths = [
            ("cert", self.pki.host_cert.as_path()),
            ("key", self.pki.host_key.as_path()),
            ("ca_dir", ca_dir),
            ("store", &self.path("records")),
        ];
        let paths: String =
            paths.iter().map(|(key, path)| format!("{key} = \"{}\"\n", path.display())).collect();
        let text = format!("listen = {listen:?}\n{paths}[writers]\nallow = [\"/C=XX/*\"]\n");
        std::fs::write(self.path("accounting.toml"), text).unwrap();
        command.args(["serve", "--config"]).arg(self.path("accounting.toml"));
        command
    }

    fn start(&self, server: &str, listen: &str) -> Running {
        self.start_with(server, listen, |_| ())
    }

    fn start_with(&self, server: &str, listen: &str, change: impl FnOnce(&mut Command)) -> Running {
        let mut command = self.command(server, listen);
        command.stdout(Stdio::piped());
        command.stderr(File::create(self.path("stderr")).unwrap());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = self.said();
        let address =
            line.trim().strip_prefix("listening on https://").unwrap_or_else(|| panic!("{line} {said}"));
        Running { child, address: address.to_owned() }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    fn await_said(&self, file: &str, words: &str) {
        let end = Instant::now() + LIMIT;
        let said = || std::fs::read_to_string(self.path(file)).unwrap_or_default();
        while !said().contains(words) {
            assert!(Instant::now() < end, "{words:?} is not said in {file}: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A server that is killed with its test.
struct Running {
    child: Child,
    address: String,
}

impl Running {
    fn signal(&self, name: &str) {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(done.unwrap().success());
    }

    fn code(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not end");
    }

    /// Serial number of the certificate that it shows.
    fn serial(&self) -> String {
        use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_verify(SslVerifyMode::NONE);
        let tcp = TcpStream::connect(&self.address).unwrap();
        let tls = builder.build().connect("localhost", tcp).unwrap();
        let serial = tls.ssl().peer_certificate().unwrap().serial_number().to_bn().unwrap();
        serial.to_hex_str().unwrap().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_name_is_an_address_and_sighup_never_ends_a_server() {
    let site = Site::new();
    for server in SERVERS {
        let mut running = site.start(server, "localhost:0");
        let before = running.serial();
        for _ in 0..3 {
            running.signal("HUP");
        }
        let renewed = site.pki.user("renewed", "renewed.example.org").unwrap();
        std::fs::copy(&renewed.cert, &site.pki.host_cert).unwrap();
        std::fs::copy(&renewed.key, &site.pki.host_key).unwrap();
        running.signal("HUP");
        site.await_said("stderr", "host certificate read again");
        assert_ne!(running.serial(), before, "{server}");
        running.signal("TERM");
        assert_eq!(running.code(), Some(0), "{server}: {}", site.said());
    }
}

#[test]
fn a_certificate_that_is_replaced_needs_no_signal() {
    let site = Site::new();
    for server in SERVERS {
        let mut running = site.start(server, "127.0.0.1:0");
        let before = running.serial();
        let renewed = site.pki.user(server, "renewed.example.org").unwrap();
        std::fs::copy(&renewed.cert, &site.pki.host_cert).unwrap();
        assert_eq!(running.serial(), before, "{server}: the key has not come yet");
        std::fs::copy(&renewed.key, &site.pki.host_key).unwrap();
        assert_ne!(running.serial(), before, "{server}");
        running.signal("INT");
        assert_eq!(running.code(), Some(0), "{server}");
    }
}

#[test]
fn bad_addresses_are_told_with_the_mend() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for server in SERVERS {
        let cases = [
            ("8443", 2, "localhost:8443"),
            ("no.such.host.invalid:8443", 3, "check the host name"),
            (taken.as_str(), 3, "another program has the port"),
        ];
        for (listen, code, words) in cases {
            let out = site.command(server, listen).output().unwrap();
            assert_eq!(out.status.code(), Some(code), "{server} {listen}: {}", text(&out));
            assert!(text(&out).contains(words), "{server} {listen}: {}", text(&out));
        }
    }
}

#[test]
fn the_service_manager_is_told() {
    let site = Site::new();
    for server in SERVERS {
        let socket = site.path(&format!("{server}.notify"));
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(LIMIT)).unwrap();
        let mut running = site.start_with(server, "localhost:0", |c| {
            c.env("NOTIFY_SOCKET", &socket);
        });
        let heard = || {
            let mut buffer = [0; 4096];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let ready = heard();
        assert!(ready.contains("READY=1") && ready.contains(&running.address), "{server}: {ready}");
        running.signal("TERM");
        assert!(heard().contains("STOPPING=1"), "{server}");
        assert_eq!(running.code(), Some(0), "{server}");
    }
}

#[test]
fn the_log_can_be_a_file_that_is_rotated() {
    let site = Site::new();
    for server in SERVERS {
        let log = site.path("server.log");
        let mut running = site.start_with(server, "localhost:0", |c| {
            c.arg("--log-file").arg(&log);
        });
        site.await_said("server.log", "listening");
        std::fs::rename(&log, site.path("server.log.1")).unwrap();
        running.signal("HUP");
        site.await_said("server.log", "SIGHUP");
        running.signal("TERM");
        assert_eq!(running.code(), Some(0), "{server}");
        site.await_said("server.log", "ended");
        assert!(!std::fs::read_to_string(site.path("server.log.1")).unwrap().contains("ended"), "{server}");
        let out = site.command(server, "localhost:0").args(["--log-file", "/nowhere/x.log"]).output();
        let out = out.unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", text(&out));
        assert!(text(&out).contains("/nowhere/x.log"), "{}", text(&out));
        std::fs::remove_file(&log).unwrap();
    }
}

#[test]
fn a_full_or_closed_output_ends_no_server() {
    let site = Site::new();
    for server in SERVERS {
        for output in ["full", "closed"] {
            // The address cannot be read from the output: another program looks for a free port first.
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut command = site.command(server, &free.to_string());
            if output == "full" {
                let full = || File::options().write(true).open("/dev/full").unwrap();
                command.stdout(full()).stderr(full());
            } else {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
            }
            let mut child = command.spawn().unwrap();
            // Nobody reads what was piped.
            drop((child.stdout.take(), child.stderr.take()));
            let mut running = Running { child, address: free.to_string() };
            let end = Instant::now() + LIMIT;
            while TcpStream::connect(free).is_err() {
                assert!(
                    Instant::now() < end && running.child.try_wait().unwrap().is_none(),
                    "{server} {output}"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            running.signal("TERM");
            assert_eq!(running.code(), Some(0), "{server} {output}");
        }
    }
}

#[test]
fn check_says_what_is_wrong_before_a_server_starts() {
    let site = Site::new();
    let check = |server: &str, ca_dir: &Path| {
        let out = site.trusting(server, "localhost:0", ca_dir).arg("--check").output().unwrap();
        (out.status.code(), text(&out))
    };
    let empty = site.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let open = site.path("open");
    std::fs::create_dir_all(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
    for server in SERVERS {
        let (code, said) = check(server, &site.pki.ca_dir);
        assert_eq!(code, Some(0), "{said}");
        for words in ["ok: host certificate", "ok: CA directory", "ok: address localhost:0: free"] {
            assert!(said.contains(words), "{server}: {words} is missing in {said}");
        }
        // A CA directory that cannot be used is named, with what is wrong and what to do.
        for (ca_dir, words) in [
            (empty.as_path(), "holds no certificate <hash>.0; install the CAs"),
            (Path::new("/nowhere"), "cannot be read (No such file"),
            (&site.path("mapping.toml"), "is not a directory"),
            (&open, "chmod o-w it"),
        ] {
            let (code, said) = check(server, ca_dir);
            let line = said.lines().find(|line| line.starts_with("error: CA directory")).unwrap_or_default();
            assert_eq!(code, Some(1), "{server}: {said}");
            assert!(line.contains(words) && line.contains(ca_dir.to_str().unwrap()), "{server}: {said}");
        }
        let other = site.pki.user(server, "other.example.org").unwrap();
        let keep = std::fs::read(&site.pki.host_key).unwrap();
        std::fs::copy(&other.key, &site.pki.host_key).unwrap();
        let (code, said) = check(server, &site.pki.ca_dir);
        assert!(code == Some(1) && said.contains("error: host certificate"), "{said}");
        std::fs::write(&site.pki.host_key, keep).unwrap();
    }
}

/// A server whose own certificate has run out serves on, and its clients refuse it by their own clocks; `--check` says what is wrong, and
/// a new certificate is taken without a restart.
#[test]
fn an_expired_certificate_is_told_and_can_be_replaced() {
    let site = Site::new();
    for server in SERVERS {
        let mut running = site.start(server, "localhost:0");
        let good = (std::fs::read(&site.pki.host_cert).unwrap(), std::fs::read(&site.pki.host_key).unwrap());
        let name = [("C", "XX"), ("O", "Test Grid"), ("CN", "over.example.org")];
        let over = site.pki.subject(&format!("over-{server}"), &name, -1).unwrap();
        std::fs::copy(&over.cert, &site.pki.host_cert).unwrap();
        std::fs::copy(&over.key, &site.pki.host_key).unwrap();
        let out = site.command(server, "localhost:0").arg("--check").output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{server}: {}", text(&out));
        assert!(
            text(&out).contains("expired on") && text(&out).contains("renew it"),
            "{server}: {}",
            text(&out)
        );
        let shown = running.serial();
        let refused = Command::new("openssl")
            .args(["s_client", "-purpose", "any", "-verify_return_error", "-CApath"])
            .arg(&site.pki.ca_dir)
            .args(["-connect", &running.address])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(text(&refused).contains("certificate has expired"), "{server}: {}", text(&refused));
        std::fs::write(&site.pki.host_cert, &good.0).unwrap();
        std::fs::write(&site.pki.host_key, &good.1).unwrap();
        assert_ne!(running.serial(), shown, "{server}: the good one is back");
        running.signal("TERM");
        assert_eq!(running.code(), Some(0), "{server}: {}", site.said());
    }
}

/// The mapping server, started from a copy of the program in the site's directory and after a change of its command.
fn mapping_server(site: &Site, change: impl FnOnce(&mut Command)) -> (Running, PathBuf) {
    let copy = site.path("mapping-server");
    std::fs::copy(program("mapping-server"), &copy).unwrap();
    let running = site.start_with("mapping-server", "localhost:0", |command| {
        let mut ours = Command::new(&copy);
        ours.args(command.get_args());
        ours.stdout(Stdio::piped()).stderr(File::create(site.path("stderr")).unwrap());
        change(&mut ours);
        *command = ours;
    });
    (running, copy)
}

#[test]
fn a_mapping_server_serves_on_through_a_storm_of_signals() {
    let site = Site::new();
    let (mut running, _) = mapping_server(&site, |_| ());
    let signals = [libc::SIGHUP, libc::SIGPIPE, libc::SIGWINCH, libc::SIGCONT, libc::SIGURG];
    let storm = SignalStorm::on(running.child.id().cast_signed(), &signals, Duration::from_millis(1));
    storm.wait_for(300);
    assert!(!running.serial().is_empty());
    drop(storm);
    running.signal("TERM");
    assert_eq!(running.code(), Some(0), "{}", site.said());
}

#[test]
fn a_mapping_server_outlives_an_upgrade_and_the_loss_of_its_directory() {
    let site = Site::new();
    let (mut running, copy) = mapping_server(&site, |_| ());
    let before = running.serial();
    upgrade(&copy);
    assert_eq!(running.serial(), before);
    // Certificate and configuration are gone; what was read stays.
    std::fs::remove_dir_all(site.dir.path().join("grid")).unwrap();
    std::fs::remove_file(site.path("mapping.toml")).unwrap();
    running.signal("HUP");
    assert_eq!(running.serial(), before);
    running.signal("TERM");
    assert_eq!(running.code(), Some(0), "{}", site.said());
}

#[test]
#[needs(faketime)]
fn a_mapping_server_serves_on_when_its_clock_is_stepped() {
    let site = Site::new();
    let clock = Clock::new(site.dir.path());
    let (mut running, _) = mapping_server(&site, |command| {
        command.envs(clock.env());
    });
    let before = running.serial();
    for offset in ["+2d", "-1h", "+0"] {
        clock.step(offset);
        assert_eq!(running.serial(), before, "{offset}");
    }
    running.signal("TERM");
    assert_eq!(running.code(), Some(0), "{}", site.said());
}
