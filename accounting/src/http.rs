//! Requests to other hosts: HTTPS with this host's certificate, trusting the CAs of one directory; plain HTTP on loopback only.

use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, TlsProvider};

/// Longest answer that is read, bytes.
const MOST: u64 = 64 * 1024 * 1024;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where a client finds its credential and those whom it trusts.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// PEM of this host's certificate, with its chain.
    pub cert: Option<PathBuf>,
    /// PEM of its key.
    pub key: Option<PathBuf>,
    /// Directory of CA certificates.
    pub ca_dir: Option<PathBuf>,
}

/// Why there is no answer, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(String);

/// A client.
pub struct Client(Agent);

/// Status and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

impl Client {
    /// Reads credential and CAs.
    ///
    /// # Errors
    /// Names the file that is of no use.
    pub fn new(tls: &Tls) -> Result<Self, NoAnswer> {
        let mut config = TlsConfig::builder().provider(TlsProvider::NativeTls);
        if let Some(dir) = &tls.ca_dir {
            config = config.root_certs(RootCerts::new_with_certs(&trusted(dir)?));
        }
        if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
            let bad = |path: &Path| NoAnswer(format!("{}: holds no key in PEM", path.display()));
            let key_pem = PrivateKey::from_pem(&read(key)?).map_err(|_| bad(key))?;
            config = config.client_cert(Some(ClientCert::new_with_certs(&certificates(cert)?, key_pem)));
        }
        let agent = Agent::config_builder()
            .tls_config(config.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("pilotage-accounting/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self(agent.new_agent()))
    }

    /// Posts a body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post(&self, url: &str, content_type: &str, body: &str) -> Result<Answer, NoAnswer> {
        allowed(url)?;
        let sent = self.0.post(url).header("Content-Type", content_type).send(body);
        self.read(url, sent)
    }

    /// Gets a resource.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, url: &str) -> Result<Answer, NoAnswer> {
        allowed(url)?;
        let sent = self.0.get(url).call();
        self.read(url, sent)
    }

    fn read(
        &self,
        url: &str,
        sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, NoAnswer> {
        let failed = |e: ureq::Error| NoAnswer(format!("{url}: {e}"));
        let mut response = sent.map_err(failed)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MOST).lossy_utf8(true).read_to_string();
        Ok(Answer { status, body: body.map_err(failed)? })
    }
}

/// Usage records name persons: they leave this host encrypted.
fn allowed(url: &str) -> Result<(), NoAnswer> {
    let host = url.strip_prefix("http://").map(|rest| rest.split(['/', '?']).next().unwrap_or_default());
    let loopback = |host: &str| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    };
    match host {
        None if url.starts_with("https://") => Ok(()),
        Some(host) if loopback(host) => Ok(()),
        _ => Err(NoAnswer(format!("{url}: write https://; http:// is for this host only"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, NoAnswer> {
    std::fs::read(path).map_err(|e| NoAnswer(format!("{}: {e}", path.display())))
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, NoAnswer> {
    let pem = read(path)?;
    let found = ureq::tls::parse_pem(&pem).filter_map(Result::ok).filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(NoAnswer(format!("{}: holds no certificate in PEM", path.display())));
    }
    Ok(found)
}

fn trusted(dir: &Path) -> Result<Vec<Certificate<'static>>, NoAnswer> {
    let entries = std::fs::read_dir(dir).map_err(|e| NoAnswer(format!("{}: {e}", dir.display())))?;
    let names = entries.flatten().map(|entry| entry.path()).filter(|path| {
        path.extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| e == "pem" || e.bytes().all(|b| b.is_ascii_digit()))
    });
    let found: Vec<_> = names.filter_map(|path| certificates(&path).ok()).flatten().collect();
    if found.is_empty() {
        return Err(NoAnswer(format!("{}: holds no CA certificate", dir.display())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_leave_this_host_encrypted_only() {
        for good in [
            "https://auditor.example.org:8000/record",
            "http://127.0.0.1:8000/",
            "http://[::1]:80/",
            "http://localhost/x",
        ] {
            assert_eq!(allowed(good), Ok(()), "{good}");
        }
        for bad in ["http://auditor.example.org/", "http://127.0.0.1.example.org/", "ftp://x", "", "http://"]
        {
            assert!(allowed(bad).is_err(), "{bad}");
        }
    }
}
