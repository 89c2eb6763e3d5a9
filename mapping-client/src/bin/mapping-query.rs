//! `mapping-query`: asks a mapping service as `glexec` would, for the operator.

use clap::{Parser, ValueEnum};
use helper::{MapReply, MapRequest};
use identity::{Dn, Fqan, VerifiedIdentity};
use identity::{Mapping, Service, one_line};
use mapping_client::host::HostCredential;
use mapping_client::protocol::Person;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Ask a mapping service which local account an identity gets.
///
/// Prints the account, or the reason why there is none.
/// Exit code: 0 mapped, 1 denied, 2 usage, 3 no usable answer.
#[derive(Parser)]
#[command(name = "mapping-query", version, max_term_width = 100)]
struct Args {
    /// Protocol of the service
    #[arg(long, value_enum, default_value_t = Protocol::Gums)]
    service: Protocol,
    /// URL of the service; give it again for each further endpoint to try
    #[arg(long, required = true, value_name = "URL")]
    endpoint: Vec<String>,
    /// Subject of the person's certificate, /C=../CN=..
    #[arg(long, value_parser = Dn::parse)]
    dn: Dn,
    /// FQAN of the person, primary first; may be repeated
    #[arg(long, value_parser = Fqan::parse)]
    fqan: Vec<Fqan>,
    /// Send the FQANs without the claim that they were verified: the service then looks up the membership
    #[arg(long)]
    unverified: bool,
    /// Proxy of the person: scas and argus judge the chain themselves. Only its certificates are sent
    #[arg(long, value_name = "F")]
    proxy: Option<PathBuf>,
    /// Certificate to authenticate with (PEM, with its chain); a proxy holds its key too
    #[arg(long, env = "X509_USER_PROXY", default_value = "/etc/grid-security/hostcert.pem")]
    cert: PathBuf,
    /// Key of the certificate; default: in the file of the certificate, or hostkey.pem for hostcert.pem
    #[arg(long)]
    key: Option<PathBuf>,
    /// Directory of trusted CAs
    #[arg(long, env = "X509_CERT_DIR", default_value = "/etc/grid-security/certificates")]
    ca_dir: PathBuf,
    /// Host to ask for; default: this host
    #[arg(long)]
    host: Option<String>,
    /// Time for the whole conversation
    #[arg(long, default_value = "10s", value_parser = identity::duration::parse)]
    timeout: Duration,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Protocol {
    Gums,
    Scas,
    Argus,
    Json,
}

impl From<Protocol> for Service {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Gums => Service::Gums,
            Protocol::Scas => Service::Scas,
            Protocol::Argus => Service::Argus,
            Protocol::Json => Service::Json,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let pem = match credential(&args.cert, args.key.as_deref()) {
        Ok(pem) => pem,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "mapping-query: {reason}");
            return ExitCode::from(2);
        }
    };
    let reply = ask(&args, pem);
    let line = if args.json { in_json(&reply) } else { in_text(&reply) };
    // A reader that went away does not change the answer.
    let _ = writeln!(std::io::stdout(), "{line}");
    match reply {
        MapReply::Mapped(_) => ExitCode::SUCCESS,
        MapReply::Denied(_) => ExitCode::from(1),
        MapReply::Unavailable(_) => ExitCode::from(3),
    }
}

/// Certificate and key as one PEM.
fn credential(cert: &Path, key: Option<&Path>) -> Result<Vec<u8>, String> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|e| {
            format!("{}: {e}; name a certificate with --cert and its key with --key", path.display())
        })
    };
    let mut pem = read(cert)?;
    let host_key = cert.with_file_name("hostkey.pem");
    let key = key.or_else(|| cert.ends_with("hostcert.pem").then_some(host_key.as_path()));
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(read(key)?);
    }
    HostCredential::parse(&pem).map_err(|e| format!("{}: {e}", cert.display()))?;
    Ok(pem)
}

fn ask(args: &Args, pem: Vec<u8>) -> MapReply {
    let asker = match HostCredential::parse(&pem) {
        Ok(credential) => credential.subject,
        Err(e) => return MapReply::Unavailable(e.to_string()),
    };
    let chain_pem = match args.proxy.as_deref().map(certificates).transpose() {
        Ok(chain) => chain.unwrap_or_default(),
        Err(reason) => return MapReply::Unavailable(reason),
    };
    let vouched = !args.unverified && !args.fqan.is_empty();
    let person = Person {
        subject: args.dn.clone(),
        issuer: None,
        serial: None,
        fqans: args.fqan.clone(),
        // Nobody but the asker vouches for what stands on a command line.
        signer: vouched.then_some(asker),
        signer_issuer: None,
        chain_pem,
    };
    let request = MapRequest {
        service: args.service.into(),
        endpoints: args.endpoint.clone(),
        host_credential: pem,
        ca_dir: args.ca_dir.clone(),
        timeout: args.timeout,
        host: args.host.clone().unwrap_or_else(this_host),
        identity: placeholder(&args.dn),
    };
    mapping_client::ask(&request, &person)
}

/// The certificates of a proxy file, without its key.
fn certificates(proxy: &Path) -> Result<String, String> {
    let wrong = |reason: String| format!("{}: {reason}; name a proxy with --proxy", proxy.display());
    let bytes = std::fs::read(proxy).map_err(|e| wrong(e.to_string()))?;
    let chain = openssl::x509::X509::stack_from_pem(&bytes).map_err(|e| wrong(e.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("it holds no certificate".into()));
    }
    let pem: Result<Vec<_>, _> = chain.iter().map(|c| c.to_pem()).collect();
    Ok(String::from_utf8_lossy(&pem.map_err(|e| wrong(e.to_string()))?.concat()).into_owned())
}

fn this_host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |h| h.trim().to_owned())
}

fn placeholder(dn: &Dn) -> VerifiedIdentity {
    VerifiedIdentity {
        subject: dn.clone(),
        issuer: dn.clone(),
        serial: "0".into(),
        not_after: 0,
        limited: false,
        digest: [0; 32],
        voms: None,
        chain_pem: Vec::new(),
    }
}

fn in_text(reply: &MapReply) -> String {
    match reply {
        MapReply::Mapped(m) => in_words(m),
        MapReply::Denied(reason) => format!("denied: {}", one_line(reason)),
        MapReply::Unavailable(reason) => format!("no usable answer: {}", one_line(reason)),
    }
}

/// The account's name alone when that is all there is, so that scripts can use it.
fn in_words(m: &Mapping) -> String {
    let mut words: Vec<String> = m.account.iter().cloned().collect();
    words.extend(m.uid.map(|n| format!("uid={n}")));
    words.extend(m.gid.map(|n| format!("gid={n}")));
    words.extend(m.group.iter().map(|g| format!("group={g}")));
    words.extend((!m.group_names.is_empty()).then(|| format!("groups={}", m.group_names.join(","))));
    if !m.groups.is_empty() {
        let groups: Vec<_> = m.groups.iter().map(u32::to_string).collect();
        words.push(format!("groups={}", groups.join(",")));
    }
    words.join(" ")
}

fn in_json(reply: &MapReply) -> String {
    let value = match reply {
        MapReply::Mapped(m) => serde_json::json!({
            "result": "mapped", "account": m.account, "uid": m.uid, "gid": m.gid, "groups": m.groups, "group": m.group,
            "group_names": m.group_names,
        }),
        MapReply::Denied(reason) => serde_json::json!({ "result": "denied", "reason": reason }),
        MapReply::Unavailable(reason) => serde_json::json!({ "result": "unavailable", "reason": reason }),
    };
    value.to_string()
}
