//! HTTPS with this host's certificate, trusting the CAs of one directory and nothing else.

use crate::host::HostCredential;
use crate::protocol::Question;
use openssl::x509::X509;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Error};

use crate::xacml::tree::MAX_MESSAGE;

/// Largest file of the CA directory that is read, in bytes.
const MAX_CA_FILE: u64 = 1024 * 1024;

/// Why the client cannot be set up: one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The directory cannot be listed.
    #[error("{path}: cannot read the CA directory: {source}; check [trust] ca_dir")]
    CaDirectory {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds nothing that can be trusted.
    #[error("{0}: no CA certificate named <hash>.0; check [trust] ca_dir")]
    NoCa(String),
    /// The key of the credential is of no use to TLS.
    #[error("host credential: its key cannot be used: {0}")]
    Key(String),
}

/// An answer of a server, whatever its status.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body, 1 MiB at most.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct NoReply {
    /// One line.
    pub reason: String,
    /// Whether another endpoint should be tried: nothing was decided here.
    pub failover: bool,
}

/// A client for one credential and one CA directory.
pub struct Client(Agent);

impl Client {
    /// Reads the CA directory. A missing credential is fine for services that do not ask for one.
    pub fn new(credential: Option<&HostCredential>, ca_dir: &Path) -> Result<Self, SetupError> {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::new_with_certs(&trusted(ca_dir)?))
            .client_cert(credential.map(client_cert).transpose()?)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_idle_connections(0)
            .user_agent(concat!("pilotage-map/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self(config.new_agent()))
    }

    /// Asks a question and reads what comes back until the deadline.
    pub fn send(&self, question: &Question, deadline: Instant) -> Result<Reply, NoReply> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(1) {
            return Err(NoReply { reason: "no time left".into(), failover: true });
        }
        let mut request = ureq::http::Request::builder()
            .method(if question.body.is_some() { "POST" } else { "GET" })
            .uri(&question.url)
            .header("Connection", "close");
        for (name, value) in &question.headers {
            request = request.header(*name, value);
        }
        let unsendable = |e: ureq::http::Error| NoReply { reason: e.to_string(), failover: true };
        let mut response = match &question.body {
            Some(body) => {
                let request = request.body(body.as_bytes()).map_err(unsendable)?;
                let request = self.0.configure_request(request).timeout_global(Some(left)).build();
                self.0.run(request)
            }
            None => {
                let request = request.body(()).map_err(unsendable)?;
                let request = self.0.configure_request(request).timeout_global(Some(left)).build();
                self.0.run(request)
            }
        }
        .map_err(no_reply)?;
        let status = response.status().as_u16();
        let limit = MAX_MESSAGE as u64;
        let body = response.body_mut().with_config().limit(limit).read_to_vec().map_err(no_reply)?;
        Ok(Reply { status, body })
    }
}

/// The TCP port of an endpoint; `None` for what is no https URL.
pub fn port(endpoint: &str) -> Option<u16> {
    let uri: Uri = endpoint.parse().ok()?;
    (uri.scheme() == Some(&Scheme::HTTPS)).then(|| uri.port_u16().unwrap_or(443))
}

/// Sorts failures: what prevented a conversation leads to the next endpoint, what spoiled one does not.
fn no_reply(error: Error) -> NoReply {
    let failover = matches!(
        error,
        Error::Io(_)
            | Error::Timeout(_)
            | Error::HostNotFound
            | Error::ConnectionFailed
            | Error::Tls(_)
            | Error::NativeTls(_)
            | Error::BadUri(_)
            | Error::Http(_)
            | Error::RequireHttpsOnly(_)
    );
    let reason = match &error {
        Error::NativeTls(e) => format!(
            "TLS: {e} (is the server's CA in the CA directory, and is its name the one in the endpoint?)"
        ),
        Error::Timeout(what) => format!("no answer in time ({what})"),
        Error::HostNotFound => "host name cannot be resolved".to_owned(),
        Error::RequireHttpsOnly(_) | Error::BadUri(_) => "endpoint is not an https URL".to_owned(),
        other => other.to_string(),
    };
    NoReply { reason, failover }
}

fn client_cert(credential: &HostCredential) -> Result<ClientCert, SetupError> {
    let chain: Vec<_> = credential.chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let key = PrivateKey::from_pem(&credential.key).map_err(|e| SetupError::Key(e.to_string()))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// Every certificate in the files `<8 hex digits>.<number>`, once each: two hash schemes link to the same files.
/// A file that cannot be read or parsed is left out, as OpenSSL would.
fn trusted(ca_dir: &Path) -> Result<Vec<Certificate<'static>>, SetupError> {
    let path = ca_dir.display().to_string();
    let entries =
        std::fs::read_dir(ca_dir).map_err(|source| SetupError::CaDirectory { path: path.clone(), source })?;
    let mut seen = HashSet::new();
    let mut certificates = Vec::new();
    for entry in entries.flatten().filter(|e| e.file_name().to_str().is_some_and(is_ca_name)) {
        let parsed = read_bounded(&entry.path()).ok().and_then(|pem| X509::stack_from_pem(&pem).ok());
        for der in parsed.into_iter().flatten().filter_map(|c| c.to_der().ok()) {
            if seen.insert(der.clone()) {
                certificates.push(Certificate::from_der(&der).to_owned());
            }
        }
    }
    if certificates.is_empty() {
        return Err(SetupError::NoCa(path));
    }
    Ok(certificates)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_CA_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_ca_name(name: &str) -> bool {
    let (hash, number) = name.split_once('.').unwrap_or_default();
    hash.len() == 8
        && hash.bytes().all(|c| c.is_ascii_hexdigit())
        && !number.is_empty()
        && number.bytes().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashed_names_are_cas() {
        for good in ["0a1b2c3d.0", "0a1b2c3d.12", "DEADBEEF.1"] {
            assert!(is_ca_name(good), "{good}");
        }
        for bad in
            ["0a1b2c3d.r0", "0a1b2c3d.signing_policy", "ca.pem", "0a1b2c3.0", "0a1b2c3d.", "0a1b2c3d", ""]
        {
            assert!(!is_ca_name(bad), "{bad}");
        }
    }

    #[test]
    fn endpoints_have_ports() {
        let ports = [
            ("https://gums.example.org/x", Some(443)),
            ("https://gums.example.org:8443/x", Some(8443)),
            ("HTTPS://[2001:db8::1]:8444", Some(8444)),
            ("http://gums.example.org/x", None),
            ("gums.example.org:8443", None),
            ("", None),
        ];
        for (endpoint, expected) in ports {
            assert_eq!(port(endpoint), expected, "{endpoint}");
        }
    }

    #[test]
    fn an_empty_or_missing_ca_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(trusted(dir.path()), Err(SetupError::NoCa(_))));
        std::fs::write(dir.path().join("0a1b2c3d.0"), "nonsense").unwrap();
        assert!(matches!(trusted(dir.path()), Err(SetupError::NoCa(_))));
        assert!(matches!(trusted(&dir.path().join("none")), Err(SetupError::CaDirectory { .. })));
    }
}
