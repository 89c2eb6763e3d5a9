//! `glexec` and the site's mapping service: good answers, bad answers, no answer.

use harness::{Machine, Ran, Service, free_port, needs};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// A site that asks only its mapping service, on this port.
fn site(port: u16) -> Machine {
    let builder = Machine::builder().pilot("pilot").service("mapping").account("alice").account("bob");
    let m = builder.mapping(&["gums"]).policy_add(&Machine::gums_table(port)).build();
    m.pki();
    m
}

fn server(m: &Machine, port: u16, config: &str) -> Service {
    m.mapping_server(port, config).expect("the mapping service starts")
}

fn id(m: &Machine, proxy: &str) -> Ran {
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy).args(["/usr/bin/id", "-u"]).output()
}

fn maps(m: &Machine, user: &str, account: &str) -> String {
    format!("[users]\n{:?} = {account:?}\n", m.dn(user))
}

#[test]
#[needs(root)]
fn the_service_decides_who_runs_as_whom() {
    let port = free_port();
    let m = site(port);
    let _server = server(&m, port, &maps(&m, "Alice", "alice"));
    assert_eq!(id(&m, &m.proxy("Alice", "pilot")).ok(), m.uid("alice").to_string());
    let refused = id(&m, &m.proxy("Bob", "pilot"));
    refused.refused(203, &[&m.dn("Bob")]);
    assert_eq!(refused.text(), "");
}

#[test]
#[needs(root)]
fn a_service_cannot_hand_out_what_the_policy_withholds() {
    let port = free_port();
    let m = site(port);
    let proxy = m.proxy("Alice", "pilot");
    m.edit_policy(|p| p.replace("[mapping]", "[mapping]\ncache_ttl = \"0s\""));
    for account in ["daemon", "pilot", "glexec", "mapping", "nosuchaccount"] {
        let _server = server(&m, port, &maps(&m, "Alice", account));
        let ran = id(&m, &proxy);
        ran.refused(203, &["glexec: "]);
        assert_eq!(ran.text(), "", "{account}");
        assert!(m.log().contains("refused 203"), "{account}: {}", m.log());
    }
    // An account that exists, with the numbers of another.
    let bob = m.uid("bob");
    let numbers = format!("{}[accounts.alice]\nuid = {bob}\ngid = {bob}\n", maps(&m, "Alice", "alice"));
    let _server = server(&m, port, &numbers);
    let ran = id(&m, &proxy);
    ran.refused(203, &["uid"]);
    assert_eq!(ran.text(), "");
}

#[test]
#[needs(root)]
fn an_answer_is_remembered_for_a_while_but_never_for_others() {
    let port = free_port();
    let m = site(port);
    let proxy = m.proxy("Alice", "pilot");
    let running = server(&m, port, &maps(&m, "Alice", "alice"));
    id(&m, &proxy).ok();
    drop(running);
    assert_eq!(
        id(&m, &proxy).ok(),
        m.uid("alice").to_string(),
        "within cache_ttl the service is not asked again"
    );
    id(&m, &m.proxy("Bob", "pilot")).refused(203, &["localhost"]);
}

#[test]
#[needs(root)]
fn a_service_that_is_down_is_named_and_blamed() {
    let m = site(free_port());
    let began = Instant::now();
    let ran = id(&m, &m.proxy("Alice", "pilot"));
    ran.refused(203, &["mapping service unavailable", "localhost"]);
    assert_eq!(ran.text(), "");
    assert!(began.elapsed() < Duration::from_secs(20), "the timeout of 5 s holds");
}

/// What a broken service may say, over good TLS.
const NONSENSE: [&str; 6] = [
    "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 9\r\n\r\n<nothing>",
    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 11\r\n\r\n<html>Hello",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops",
    "HTTP/1.1 302 Found\r\nLocation: https://localhost:1/\r\nContent-Length: 0\r\n\r\n",
    "SSH-2.0-OpenSSH_9.2\r\n",
];

#[test]
#[needs(root)]
fn a_service_that_talks_nonsense_maps_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let m = site(listener.local_addr().unwrap().port());
    let proxy = m.proxy("Alice", "pilot");
    let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    tls.set_certificate_file(&m.pki().host_cert, SslFiletype::PEM).unwrap();
    tls.set_private_key_file(&m.pki().host_key, SslFiletype::PEM).unwrap();
    let tls = tls.build();
    for nonsense in NONSENSE {
        let answered = std::thread::scope(|s| {
            let answering = s.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = tls.accept(stream).unwrap();
                let _ = stream.read(&mut [0; 65536]);
                let _ = stream.write_all(nonsense.as_bytes());
                let _ = stream.shutdown();
            });
            let ran = id(&m, &proxy);
            answering.join().unwrap();
            ran
        });
        answered.refused(203, &["localhost"]);
        assert_eq!(answered.text(), "", "{nonsense}");
    }
}

#[test]
#[needs(root)]
fn a_service_that_never_answers_costs_its_timeout_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let m = site(listener.local_addr().unwrap().port());
    m.edit_policy(|policy| {
        assert!(policy.contains("timeout = \"30s\""), "{policy}");
        policy.replace("timeout = \"30s\"", "timeout = \"3s\"")
    });
    let proxy = m.proxy("Alice", "pilot");
    let began = Instant::now();
    id(&m, &proxy).refused(203, &["mapping service unavailable", "no answer"]);
    assert!(began.elapsed() < Duration::from_secs(20), "took {:?}", began.elapsed());
}

#[test]
#[needs(root)]
fn a_service_of_an_unknown_authority_is_not_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let m = site(listener.local_addr().unwrap().port());
    let proxy = m.proxy("Alice", "pilot");
    let false_host = m.pki().stranger("false-host", "localhost").unwrap();
    let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    tls.set_certificate_file(&false_host.cert, SslFiletype::PEM).unwrap();
    tls.set_private_key_file(&false_host.key, SslFiletype::PEM).unwrap();
    let tls = tls.build();
    std::thread::scope(|s| {
        let accepting = s.spawn(|| {
            let (stream, _) = listener.accept().unwrap();
            let Ok(mut stream) = tls.accept(stream) else { return 0 };
            stream.read(&mut [0; 65536]).unwrap_or(0)
        });
        id(&m, &proxy).refused(203, &["localhost"]);
        assert_eq!(accepting.join().unwrap(), 0, "nothing was said to it");
    });
}
