//! The faults that other tests inject take place: each is met here by a program that is not ours.

use harness::fault::{Answer, Clock, Disk, FaultyCalls, FaultyProxy, SignalStorm, private_mounts, upgrade};
use harness::needs;
use harness::pki::Pki;
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch directory")
}

#[test]
#[needs(root)]
fn a_small_disk_is_full_and_works_again_when_there_is_space() {
    private_mounts();
    let dir = scratch();
    let disk = Disk::small(&dir.path().join("disk"), 1 << 20);
    let file = disk.path().join("data");
    fs::write(&file, [1; 9000]).expect("there is space");
    disk.fill();
    let full = fs::write(disk.path().join("more"), [1; 5000]).expect_err("the disk is full");
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read(&file).expect("the old file").len(), 9000);
    disk.free();
    fs::write(disk.path().join("more"), [1; 5000]).expect("there is space again");
    disk.fill_but(8192);
    fs::write(disk.path().join("two pages"), [1; 8192]).expect("two pages are left");
    fs::write(disk.path().join("third"), [1; 1]).expect_err("and no more");
}

fn sync(faults: &FaultyCalls, file: &Path) -> (Output, Duration) {
    let began = Instant::now();
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=10", "count=1", "conv=fsync"]).arg(format!("of={}", file.display()));
    (dd.envs(faults.env()).output().expect("dd can be run"), began.elapsed())
}

#[test]
#[needs("cc", "dd")]
fn calls_fail_and_are_slow_only_where_a_rule_says_so() {
    let dir = scratch();
    let faults = FaultyCalls::new(dir.path());
    let file = dir.path().join("precious");
    assert!(sync(&faults, &file).0.status.success());
    faults.fail("fsync", libc::EIO, "precious");
    let (failed, _) = sync(&faults, &file);
    assert!(
        !failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("Input/output error")
    );
    assert_eq!(faults.met(), [format!("fsync {}", file.display())]);
    assert!(sync(&faults, &dir.path().join("other")).0.status.success(), "another file is well");
    faults.heal();
    faults.delay("fsync", Duration::from_millis(700), "");
    let (slow, took) = sync(&faults, &file);
    assert!(slow.status.success() && took >= Duration::from_millis(700), "{took:?}");
    faults.fail("write", libc::ENOSPC, "precious");
    assert!(String::from_utf8_lossy(&sync(&faults, &file).0.stderr).contains("No space left"));
    faults.heal();
    faults.fail("open", libc::EMFILE, "precious");
    assert!(String::from_utf8_lossy(&sync(&faults, &file).0.stderr).contains("Too many open files"));
}

#[test]
#[needs(faketime, "date")]
fn a_clock_is_stepped() {
    let dir = scratch();
    let clock = Clock::new(dir.path());
    let mut shell = Command::new("date");
    shell.args(["-u", "+%s"]).envs(clock.env());
    let now = |shell: &mut Command| -> i64 {
        let out = shell.output().expect("date can be run").stdout;
        String::from_utf8_lossy(&out).trim().parse().expect("seconds")
    };
    let before = now(&mut shell);
    clock.step("+2h");
    let ahead = now(&mut shell) - before;
    assert!((7200..7260).contains(&ahead), "{ahead}");
    clock.step("-1d");
    let behind = before - now(&mut shell);
    assert!((86_000..=86_400).contains(&behind), "{behind}");
}

/// A server that says which call it got, and a proxy in front of it.
struct Between {
    proxy: FaultyProxy,
    server: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Between {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn between() -> Between {
    let dir = scratch();
    let pki = Pki::new(&dir.path().join("grid")).expect("a grid");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let mut server = Command::new("openssl");
    server.args(["s_server", "-quiet", "-www", "-accept", &free.to_string(), "-cert"]).arg(&pki.host_cert);
    server.arg("-key").arg(&pki.host_key).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = server.spawn().expect("openssl can be run");
    let end = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(free).is_err() {
        assert!(Instant::now() < end, "openssl s_server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let user = pki.user("alice", "Alice").expect("a user");
    let credential = pki.short_proxy(&user, &dir.path().join("proxy.pem"), 600).expect("a proxy");
    let proxy = FaultyProxy::start(&pki.host_cert, &pki.host_key, &free.to_string(), &credential);
    Between { proxy, server, _dir: dir }
}

/// What a client gets that asks on a connection of its own.
fn ask(proxy: &FaultyProxy, path: &str) -> String {
    let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("a connector");
    builder.set_verify(SslVerifyMode::NONE);
    let address = proxy.url().rsplit(':').next().map(|port| format!("127.0.0.1:{port}")).expect("a port");
    let stream = TcpStream::connect(address).expect("the proxy listens");
    stream.set_read_timeout(Some(Duration::from_millis(1500))).expect("a time limit");
    let mut stream = builder.build().connect("localhost", stream).expect("a TLS connection");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
#[needs("openssl")]
fn a_proxy_gives_the_answers_that_a_test_asks_for() {
    let Between { proxy, .. } = &between();
    let whole = ask(proxy, "/stats");
    assert!(whole.starts_with("HTTP/1.0 200") && whole.ends_with("</HTML>\r\n\r\n"), "{whole}");
    proxy.spoil_next(1, "GET", "/stats", Answer::Status(502));
    assert!(ask(proxy, "/other").starts_with("HTTP/1.0 200"), "another call is passed on");
    assert!(ask(proxy, "/stats").starts_with("HTTP/1.1 502"));
    assert!(ask(proxy, "/stats").starts_with("HTTP/1.0 200"), "once only");
    proxy.spoil_next(1, "", "", Answer::Json(429, "{}".to_owned()));
    assert!(ask(proxy, "/stats").ends_with("application/json\r\ncontent-length: 2\r\n\r\n{}"));
    proxy.spoil_next(1, "", "", Answer::Half);
    let half = ask(proxy, "/stats");
    assert!(half.starts_with("HTTP/1.0 200") && half.len() < whole.len() * 3 / 4, "{half}");
    for silent in [Answer::Nothing, Answer::Lost, Answer::Silence] {
        proxy.spoil_next(1, "", "", silent);
        assert_eq!(ask(proxy, "/stats"), "");
    }
    proxy.spoil("", "", Answer::Late(Duration::from_millis(600)));
    let began = Instant::now();
    assert!(ask(proxy, "/stats").starts_with("HTTP/1.0 200"));
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert_eq!(proxy.seen().len(), 10);
    assert!(proxy.seen()[2].starts_with("GET /stats Status(502)"), "{:?}", proxy.seen());
}

#[test]
#[needs("sleep")]
fn programs_are_replaced_and_signalled_while_they_run() {
    let dir = scratch();
    let program = dir.path().join("sleeper");
    fs::copy("/bin/sleep", &program).expect("a copy of sleep");
    let mut child = Command::new(&program).arg("60").spawn().expect("it runs");
    upgrade(&program);
    let exe = fs::read_link(format!("/proc/{}/exe", child.id())).expect("it runs");
    assert!(exe.to_string_lossy().ends_with("(deleted)"), "{}", exe.display());
    let storm =
        SignalStorm::on(child.id().cast_signed(), &[libc::SIGCONT, libc::SIGWINCH], Duration::from_millis(1));
    storm.wait_for(50);
    assert!(child.try_wait().expect("it is ours").is_none(), "these signals end nobody");
    drop(storm);
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}
