//! Somebody who talks to a queue in its own words, over one connection: for load that the programs of users and pilots cannot
//! make, because they wait for each other.

use crate::site::Site;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// One connection of somebody, made again after each failure.
#[derive(Debug)]
pub struct Talker {
    tls: SslConnector,
    address: String,
    connection: Option<BufReader<SslStream<TcpStream>>>,
}

impl Talker {
    /// For a queue that runs; nothing is connected yet.
    ///
    /// # Panics
    /// When the credential cannot be used.
    #[must_use]
    pub fn new(site: &Site, credential: &Path) -> Self {
        let pem = std::fs::read(credential).expect("a proxy");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL works");
        // The queue is the test's own.
        builder.set_verify(SslVerifyMode::NONE);
        let mut chain = X509::stack_from_pem(&pem).expect("certificates").into_iter();
        builder.set_certificate(&chain.next().expect("a certificate")).expect("a certificate");
        builder.set_private_key(&*PKey::private_key_from_pem(&pem).expect("a key")).expect("a key");
        chain.for_each(|issuer| builder.add_extra_chain_cert(issuer).expect("an issuer"));
        Self { tls: builder.build(), address: site.address.clone(), connection: None }
    }

    /// Status and body; nothing when no whole answer came.
    pub fn ask(&mut self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let answer = self.try_to_ask(method, path, body);
        if answer.is_none() {
            self.connection = None;
            std::thread::sleep(Duration::from_millis(20));
        }
        answer
    }

    fn try_to_ask(&mut self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        if self.connection.is_none() {
            let stream = TcpStream::connect(&self.address).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
            stream.set_nodelay(true).ok()?;
            self.connection = Some(BufReader::new(self.tls.connect("queue", stream).ok()?));
        }
        let connection = self.connection.as_mut()?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: queue\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).ok().filter(|n| *n > 0)?;
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
            }
            let field = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            length = field.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(length);
        }
        let mut text = vec![0; length];
        connection.read_exact(&mut text).ok()?;
        let value = if text.is_empty() { Value::Null } else { serde_json::from_slice(&text).ok()? };
        Some((status?, value))
    }

    /// The same until there is an answer.
    ///
    /// # Panics
    /// When the queue does not come back.
    pub fn surely(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        (0..1000).find_map(|_| self.ask(method, path, body)).expect("the queue comes back")
    }
}

/// An id as a client makes it.
///
/// # Panics
/// When this is no Linux.
#[must_use]
pub fn new_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux makes them").trim().to_owned()
}

/// Delegates for an hour; the delegation's id.
///
/// # Panics
/// When the queue refuses.
pub fn delegation(talker: &mut Talker, credential: &Path) -> String {
    let (status, asked) = talker.surely("POST", "/v1/delegations", &json!({}));
    assert_eq!(status, 201, "{asked}");
    let pem = std::fs::read_to_string(credential).expect("a proxy");
    let csr = asked["csr"].as_str().expect("a request");
    let chain = delegation::sign(csr, &pem, Duration::from_secs(3600), false).expect("it can be signed");
    let id = asked["id"].as_str().expect("an id").to_owned();
    let (status, said) = talker.surely("PUT", &format!("/v1/delegations/{id}"), &json!({"chain": chain}));
    assert_eq!(status, 204, "{said}");
    id
}
