//! The program `glexec-verify` from outside: frames, exit codes, confinement.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use harness::needs;
use harness::pki::{Craft, Pki, VOMS_HOST};
use helper::{VerifyReply, VerifyRequest, decode_verify_reply};
use identity::RefusalKind;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NOBODY: u32 = 65_534;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn request(pki: &Pki, credential: Vec<u8>) -> VerifyRequest {
    VerifyRequest {
        credential,
        ca_dir: pki.ca_dir.clone(),
        voms_dir: pki.voms_dir.clone(),
        require_crl: true,
        max_proxy_lifetime: Duration::from_secs(7 * 86_400),
        allow_limited: true,
        rules: identity::ChainRules::default(),
        require_key: true,
        now: now(),
    }
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glexec-verify"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.spawn().unwrap()
}

fn feed(mut child: Child, bytes: &[u8]) -> Output {
    let _ = child.stdin.take().unwrap().write_all(bytes);
    child.wait_with_output().unwrap()
}

fn ask(request: &VerifyRequest) -> VerifyReply {
    let ran = feed(start(&[]), &request.encode());
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
    decode_verify_reply(&ran.stdout).unwrap()
}

#[test]
fn a_verdict_comes_back_from_the_confined_child() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path()).unwrap();
    let alice = pki.user("alice", "Alice Adams").unwrap();
    let proxy = Craft::default().below_user(&alice, &dir.path().join("p.pem")).unwrap();
    let good = request(&pki, std::fs::read(&proxy).unwrap());
    let identity = ask(&good).unwrap();
    assert_eq!(identity.subject.as_str(), alice.dn);
    assert_eq!(identity.issuer.as_str(), pki.ca_dn());
    assert_eq!(identity.digest, openssl::sha::sha256(&good.credential));
    assert!(!String::from_utf8(identity.chain_pem).unwrap().contains("PRIVATE"));
    assert_eq!(Ok(ask(&good).unwrap().subject), credential::verify(&good).map(|i| i.subject));

    let mut bad = good.clone();
    bad.credential = std::fs::read(&alice.cert).unwrap();
    assert_eq!(ask(&bad).unwrap_err().kind, RefusalKind::Key);
    bad.credential = b"-----BEGIN nonsense".to_vec();
    assert_eq!(ask(&bad).unwrap_err().kind, RefusalKind::Malformed);
    bad = good.clone();
    bad.now += 2 * 86_400;
    assert_eq!(ask(&bad).unwrap_err().kind, RefusalKind::Expired);
    bad.ca_dir = dir.path().join("absent");
    let refusal = ask(&bad).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Site);
    assert!(refusal.reason.contains("absent"), "{}", refusal.reason);
}

#[test]
#[needs("voms-proxy-fake")]
fn the_filter_lets_the_voms_directory_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path()).unwrap();
    let alice = pki.user("alice", "Alice Adams").unwrap();
    let proxy = pki.voms_proxy(&alice, &dir.path().join("v.pem"), "cms", &["/cms/Role=pilot"]).unwrap();
    let request = request(&pki, std::fs::read(&proxy).unwrap());
    assert_eq!(ask(&request).unwrap().voms.unwrap().fqans[0].as_str(), "/cms/Role=pilot");
    std::fs::remove_file(pki.voms_dir.join("cms").join(format!("{VOMS_HOST}.lsc"))).unwrap();
    assert_eq!(ask(&request).unwrap_err().kind, RefusalKind::Voms);
    std::fs::copy(&pki.voms_server().cert, pki.voms_dir.join("cms/server.pem")).unwrap();
    assert_eq!(ask(&request).unwrap().voms.unwrap().signer.as_str(), pki.voms_server().dn);
}

#[test]
fn broken_requests_are_the_sites_problem_and_get_an_answer() {
    for bad in
        [&b""[..], b"PLT1", b"GET / HTTP/1.1\r\n\r\n", b"PLT1\x01\xff\xff\xff\xff", b"PLT1\x01\0\0\0\0"]
    {
        let ran = feed(start(&[]), bad);
        assert!(ran.status.success());
        let refusal = decode_verify_reply(&ran.stdout).unwrap().unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Site, "{}", refusal.reason);
    }
}

#[test]
fn nothing_is_read_before_privileges_are_gone() {
    let child = start(&[]);
    let status = format!("/proc/{}/status", child.id());
    let mut text = String::new();
    for _ in 0..200 {
        text = std::fs::read_to_string(&status).unwrap();
        if text.contains("Seccomp:\t2") {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(text.contains("Seccomp:\t2") && text.contains("NoNewPrivs:\t1"), "{text}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    feed(child, b"");
}

#[test]
fn usage_and_root() {
    let version = feed(start(&["--version"]), b"");
    assert!(version.status.success() && version.stdout.starts_with(b"glexec-verify "));
    assert!(String::from_utf8(feed(start(&["--help"]), b"").stdout).unwrap().contains("Exit codes"));
    assert_eq!(feed(start(&["file"]), b"").status.code(), Some(2));
    if nix::unistd::geteuid().is_root() {
        let ran = Command::new(env!("CARGO_BIN_EXE_glexec-verify")).stdin(Stdio::null()).output().unwrap();
        assert_eq!(ran.status.code(), Some(2));
        assert!(ran.stdout.is_empty());
    }
}
