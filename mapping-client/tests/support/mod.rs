//! Throw-away certificates and a TLS server that plays a mapping service.

use harness::pki::build::{self, Certificate, Extension, Kind, dn, tlv};
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A certificate with its key.
pub struct Pair {
    pub cert: X509,
    pub key: PKey<Private>,
}

impl Pair {
    pub fn pem(&self) -> Vec<u8> {
        [self.cert.to_pem().unwrap(), self.key.private_key_to_pem_pkcs8().unwrap()].concat()
    }
}

fn new_key() -> PKey<Private> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    build::key(Kind::P256, NEXT.fetch_add(1, Ordering::Relaxed)).unwrap()
}

fn name(common: &str) -> Vec<u8> {
    dn(&[("DC", "test"), ("CN", common)])
}

/// Begins a year ago, since some tests step the clock back.
fn made(certificate: Certificate, signer: &PKey<Private>) -> Pair {
    let key = certificate.key.clone();
    let serial = [1, NUMBER.fetch_add(1, Ordering::Relaxed)];
    let der = certificate.valid(-365 * 86_400, 86_400).serial(&serial).der(signer).unwrap();
    Pair { cert: X509::from_der(&der).unwrap(), key }
}

static NUMBER: AtomicU8 = AtomicU8::new(0);

/// A self-signed CA.
pub fn ca(common: &str) -> Pair {
    let key = new_key();
    made(Certificate::ca(&name(common), &name(common), &key), &key)
}

/// A host certificate for a DNS name.
pub fn host(ca: &Pair, ca_name: &str, dns: &str) -> Pair {
    let certificate = Certificate::person(&name(dns), &name(ca_name), &new_key());
    made(certificate.with(Extension::alternative(&[tlv(0x82, dns.as_bytes())])), &ca.key)
}

/// Writes a CA directory with this CA under both of its hashes, as sites have it.
pub fn write_ca_dir(dir: &Path, ca: &Pair) {
    std::fs::write(dir.join("0a1b2c3d.0"), ca.cert.to_pem().unwrap()).unwrap();
    std::os::unix::fs::symlink("0a1b2c3d.0", dir.join("4e5f6a7b.0")).unwrap();
    std::fs::write(dir.join("0a1b2c3d.signing_policy"), "not a certificate").unwrap();
    std::fs::write(dir.join("00000000.0"), "damaged").unwrap();
}

/// What the server does with a request.
#[derive(Clone)]
pub enum Play {
    /// Sends this status and body; `@ID@` in the body becomes the query's id.
    Answer(u16, String),
    /// Sends these bytes instead of HTTP.
    Raw(Vec<u8>),
    /// Sends nothing for this long.
    Silence(Duration),
    /// Sends one byte of the body every 50 ms.
    Drip(String),
}

/// A server on a free port of the loopback that answers every request in the same way until it is dropped with the test.
pub struct FakeService {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeService {
    pub fn start(server: &Pair, ca: &Pair, play: Play) -> Self {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_certificate(&server.cert).unwrap();
        acceptor.set_private_key(&server.key).unwrap();
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(ca.cert.clone()).unwrap();
        acceptor.set_verify_cert_store(store.build()).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(mut tls) = acceptor.accept(stream) {
                    let request = read_request(&mut tls);
                    let id = between(&request, " ID=\"", "\"").to_owned();
                    seen.lock().unwrap().push(request);
                    respond(&mut tls, &play, &id);
                }
            }
        });
        Self { port, requests }
    }

    pub fn endpoint(&self) -> String {
        format!("https://localhost:{}/gums/services/GUMSXACMLAuthorizationServicePort", self.port)
    }

    /// The requests so far, whole.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split(end).next().unwrap_or_default()
}

fn read_request(tls: &mut SslStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = tls.read(&mut buffer).unwrap_or(0);
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let length = between(&text.to_ascii_lowercase(), "content-length: ", "\r\n").parse().unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        if n == 0 || (text.contains("\r\n\r\n") && body >= length) {
            return text;
        }
    }
}

fn respond(tls: &mut SslStream<TcpStream>, play: &Play, id: &str) {
    let head = |status: u16, length: usize| {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    };
    match play {
        Play::Answer(status, body) => {
            let body = body.replace("@ID@", id);
            let _ = tls.write_all((head(*status, body.len()) + &body).as_bytes());
        }
        Play::Raw(bytes) => drop(tls.write_all(bytes)),
        Play::Silence(time) => std::thread::sleep(*time),
        Play::Drip(body) => {
            let _ = tls.write_all(head(200, body.len()).as_bytes());
            for byte in body.bytes() {
                if tls.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    let _ = tls.shutdown();
}
