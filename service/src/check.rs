//! `--check`: what can be known before a server starts, for the one who sets it up.

use crate::Address;
use identity::shown;
use openssl::asn1::Asn1Time;
use openssl::x509::X509;
use std::fmt;
use std::io::Write;
use std::path::Path;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Good(String),
    /// The server would run, but probably not as meant.
    Doubtful(String),
    /// The server would not run, or nobody could use it.
    Bad(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match self {
            Self::Good(text) => ("ok", text),
            Self::Doubtful(text) => ("warning", text),
            Self::Bad(text) => ("error", text),
        };
        write!(f, "{word}: {}", shown::log_line(text))
    }
}

/// Prints all findings, one a line; the exit code of `--check`: 1 when one of them is bad.
pub fn report(findings: &[Finding]) -> u8 {
    let text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    // Whoever closed the output still gets the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    u8::from(findings.iter().any(|finding| matches!(finding, Finding::Bad(_))))
}

/// The server's certificate and key, and the authorities that it trusts.
pub fn certificate(cert: &Path, key: &Path, trust: &credential::Trust) -> Vec<Finding> {
    let mut findings = Vec::new();
    match transport::ServerTls::new(cert, key, trust.clone()) {
        Ok(_) => findings.push(lifetime(cert)),
        Err(reason) => findings.push(Finding::Bad(format!("host certificate: {reason}"))),
    }
    findings.push(authorities(&trust.ca_dir));
    findings
}

fn lifetime(cert: &Path) -> Finding {
    let shown = cert.display();
    let read = || X509::from_pem(&std::fs::read(cert).ok()?).ok();
    let (Some(found), Ok(now)) = (read(), Asn1Time::days_from_now(0)) else {
        return Finding::Bad(format!("host certificate {shown}: cannot be read; check the PEM"));
    };
    if found.not_after() < now {
        return Finding::Bad(format!("host certificate {shown}: expired on {}; renew it", found.not_after()));
    }
    if found.not_before() > now {
        return Finding::Bad(format!(
            "host certificate {shown}: not valid before {}; check the clock",
            found.not_before()
        ));
    }
    let names = found.subject_alt_names().into_iter().flatten();
    let names: Vec<_> = names.filter_map(|n| n.dnsname().map(str::to_owned)).collect();
    let until = found.not_after();
    match names.is_empty() {
        true => Finding::Doubtful(format!(
            "host certificate {shown}: until {until}; it names no host in subjectAltName, so clients may refuse it"
        )),
        false => Finding::Good(format!("host certificate {shown}: for {}, until {until}", names.join(", "))),
    }
}

fn authorities(dir: &Path) -> Finding {
    let shown = dir.display();
    match credential::cadir::CaDir::open(dir).and_then(|ca| ca.all()) {
        Ok(all) if all.is_empty() => {
            Finding::Bad(format!("CA directory {shown}: holds no certificate <hash>.0; install the CAs"))
        }
        Ok(all) => Finding::Good(format!("CA directory {shown}: {} certificates", all.len())),
        Err(refusal) => Finding::Bad(format!("CA directory {shown}: {}", refusal.reason)),
    }
}

/// Whether the address can be listened on now. A port that is taken is only doubtful: the server may be running already.
pub fn listen(address: &Address) -> Finding {
    match std::net::TcpListener::bind((address.host(), address.port())) {
        Ok(_) => Finding::Good(format!("address {address}: free")),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            Finding::Doubtful(format!("address {address}: in use, perhaps by the server itself"))
        }
        Err(e) => Finding::Bad(format!("address {address}: {e}")),
    }
}

/// Whether this account may write in a directory, tried with a file that is removed at once.
pub fn writable(what: &str, dir: &Path) -> Finding {
    let probe = dir.join(format!(".check-{}", std::process::id()));
    let tried = std::fs::File::options().write(true).create_new(true).open(&probe);
    match tried.and_then(|_| std::fs::remove_file(&probe)) {
        Ok(()) => Finding::Good(format!("{what} {}: writable", dir.display())),
        Err(e) => Finding::Bad(format!(
            "{what} {}: {e}; make it, and let the account that runs this command own it",
            dir.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_finding_makes_the_check_fail() {
        let good = Finding::Good("x".into());
        let doubtful = Finding::Doubtful("a\nb".into());
        assert_eq!(doubtful.to_string(), "warning: a\\nb");
        assert_eq!(report(&[good.clone(), doubtful]), 0);
        assert_eq!(report(&[good, Finding::Bad("y".into())]), 1);
    }

    #[test]
    fn places_are_tried() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(writable("store", dir.path()), Finding::Good(_)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the probe is removed");
        assert!(matches!(writable("store", &dir.path().join("none")), Finding::Bad(_)));
        assert!(matches!(authorities(dir.path()), Finding::Bad(_)));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string().parse().unwrap();
        assert!(matches!(listen(&address), Finding::Doubtful(_)));
        assert!(matches!(listen(&"no.such.host.invalid:1".parse().unwrap()), Finding::Bad(_)));
    }
}
