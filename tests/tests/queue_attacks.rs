//! Rule 10 of the threat model: no outsider and no single user can take what everybody shares. Each attack is held while
//! another user works; how quickly that goes is measured by `make bench`, not here.

use end_to_end::site::{Guard, Site, proxy};
use harness::needs;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long each attack is held: seconds in `PILOTAGE_ATTACK_SECONDS`, 8 otherwise.
fn held() -> Duration {
    let seconds = std::env::var("PILOTAGE_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
}

fn connector(credential: &Path) -> SslConnector {
    let pem = std::fs::read(credential).expect("a proxy");
    let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL works");
    // The queue is the test's own.
    builder.set_verify(SslVerifyMode::NONE);
    let mut chain = X509::stack_from_pem(&pem).expect("certificates").into_iter();
    builder.set_certificate(&chain.next().expect("a certificate")).expect("a certificate");
    builder.set_private_key(&*PKey::private_key_from_pem(&pem).expect("a key")).expect("a key");
    chain.for_each(|issuer| builder.add_extra_chain_cert(issuer).expect("an issuer"));
    builder.build()
}

fn request(site: &Site, tls: &SslConnector, head: &str) -> Option<SslStream<TcpStream>> {
    let stream = TcpStream::connect(&site.address).ok()?;
    let mut tls = tls.connect("queue", stream).ok()?;
    tls.write_all(head.as_bytes()).ok()?;
    Some(tls)
}

/// Alice works while the attack goes on: each of her commands is done, until it was held long enough.
#[track_caller]
fn alice_works(site: &Site, began: Instant) {
    let mut done = 0;
    while done < 3 || began.elapsed() < held() {
        site.submit(&["--", "/bin/true"]);
        done += 1;
    }
}

fn mallory(site: &Site) -> SslConnector {
    let user = site.pki.user("mallory", "Mallory").expect("a user");
    connector(&proxy(&site.pki, &user, site.dir.path()))
}

#[test]
#[needs("grid-proxy-init")]
fn strangers_who_only_connect() {
    let site = Site::new("30s");
    let began = Instant::now();
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..1024 {
        idle.push(TcpStream::connect(&site.address).expect("the queue accepts"));
    }
    alice_works(&site, began);
    let _agent: Guard = site.agent("agent", &[]);
    let id = site.submit(&["--", "/bin/true"]);
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("agent"));
    drop(idle);
}

#[test]
#[needs("grid-proxy-init")]
fn uploads_whose_body_never_comes() {
    let mut site = Site::closed("30s");
    site.queue_args = ["--max-user-requests", "40"].map(str::to_owned).to_vec();
    site.start_queue();
    let tls = mallory(&site);
    let began = Instant::now();
    let head = format!(
        "PUT /v1/blobs/{} HTTP/1.1\r\nhost: queue\r\ncontent-length: 1000000\r\n\r\n",
        "0".repeat(64)
    );
    let held: Vec<_> = (0..120).filter_map(|_| request(&site, &tls, &head)).collect();
    alice_works(&site, began);
    // Some were told at once that they are too many, the others end without a body.
    let told = held.into_iter().filter_map(|mut tls| {
        let mut answer = String::new();
        tls.get_ref().set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        // A connection that is cut after its answer is one that was answered.
        let _ = tls.read_to_string(&mut answer);
        Some(answer)
    });
    let told: Vec<String> = told.collect();
    let refused: Vec<_> = told.iter().filter(|text| text.starts_with("HTTP/1.1 429")).collect();
    assert!(!refused.is_empty(), "{told:?}");
    assert!(refused.iter().all(|text| text.to_lowercase().contains("retry-after: ")), "{refused:?}");
    assert!(!told.iter().any(|text| text.starts_with("HTTP/1.1 2")), "{told:?}");
}

#[test]
#[needs("grid-proxy-init")]
fn a_flood_of_delegation_keys() {
    let site = Site::new("30s");
    let tls = mallory(&site);
    let began = Instant::now();
    let head = "POST /v1/delegations HTTP/1.1\r\nhost: queue\r\ncontent-length: 0\r\n\r\n";
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    let Some(mut tls) = request(&site, &tls, head) else { continue };
                    let mut buffer = [0; 4096];
                    let _ = tls.read(&mut buffer);
                }
            });
        }
        alice_works(&site, began);
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
#[needs("grid-proxy-init")]
fn inputs_take_one_users_share_of_the_disk() {
    let mut site = Site::closed("30s");
    site.queue_args = ["--max-user-storage", "10000"].map(str::to_owned).to_vec();
    site.start_queue();
    let file = |name: &str, byte: u8| {
        let path = site.path(name);
        std::fs::write(&path, vec![byte; 6000]).expect("the site's directory is there");
        path
    };
    let (first, second) = (file("first", 1), file("second", 2));
    site.submit(&["--input", &first, "--", "/bin/true"]);
    site.submit(&["--input", &first, "--", "/bin/true"]);
    let out = site.alice(&["submit", "--input", &second, "--", "/bin/true"]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && errors.contains("6000 of the 10000 bytes"), "{errors}");
}
