//! `mapping-server`: a small mapping service that speaks the protocols of GUMS, SCAS and Argus, and JSON.
//!
//! | looking for | see |
//! |---|---|
//! | the configuration file | [`config`] |
//! | who gets which account | [`decide`] |
//! | figures for Prometheus | [`metrics`] |
//! | accounts of pools | [`lease`] |
//! | HTTP, reloading, XACML | [`http`] |
//! | the interface of Argus | [`argus`] |
//! | the interface in JSON | [`json`] |
#![forbid(unsafe_code)]

mod argus;
mod config;
mod decide;
mod http;
mod json;
mod lease;
mod metrics;

use clap::Parser;
use service::check::{self, Finding};
use service::{Address, Failure, Hooks, Server};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Answer which local account an identity gets, for hosts that ask as they would ask GUMS, SCAS or Argus.
///
/// Prints one line, `listening on https://ADDR`, when it is ready. SIGHUP reads the configuration and the certificate
/// again, SIGTERM ends. Exit code: 0 ended by a signal, 1 --check found an error, 2 usage or configuration, 3 cannot listen
/// or certificate unusable.
#[derive(Parser)]
#[command(name = "mapping-server", version, max_term_width = 100)]
struct Args {
    /// Address or host name, and port, to listen on; port 0 picks a free one
    #[arg(long, default_value = "[::]:8443", value_name = "ADDR")]
    listen: Address,
    /// Who may ask, and who gets which account
    #[arg(long, default_value = "/etc/pilotage/mapping-server.toml")]
    config: PathBuf,
    /// Certificate of this service, PEM
    #[arg(long, default_value = "/etc/grid-security/hostcert.pem")]
    cert: PathBuf,
    /// Key of the certificate, PEM
    #[arg(long, default_value = "/etc/grid-security/hostkey.pem")]
    key: PathBuf,
    /// Directory of trusted CAs
    #[arg(long, env = "X509_CERT_DIR", default_value = "/etc/grid-security/certificates")]
    ca_dir: PathBuf,
    /// Directory of VOMS servers, for callers with attribute certificates; default: vomsdir beside the CA directory
    #[arg(long, env = "X509_VOMS_DIR")]
    voms_dir: Option<PathBuf>,
    /// Write the log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Look at configuration, certificate and address, say what is wrong, and end
    #[arg(long)]
    check: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.check {
        true => Ok(look(args)),
        false => serve(args).await.map(|()| 0),
    };
    ExitCode::from(service::ended("mapping-server", done))
}

/// `--check`.
fn look(args: Args) -> u8 {
    let mut findings = vec![match config::Config::load(&args.config) {
        Err(e) => Finding::Bad(e.to_string()),
        Ok(config) if config.callers.allow.is_empty() => {
            let file = args.config.display();
            Finding::Doubtful(format!("{file}: nobody may ask; name the hosts in [callers] allow"))
        }
        Ok(config) if config.gridmapdir.as_deref().is_some_and(|dir| lease::usable(dir).is_err()) => {
            let why = config.gridmapdir.as_deref().map(lease::usable);
            Finding::Bad(format!("gridmapdir: {}", why.and_then(Result::err).unwrap_or_default()))
        }
        Ok(config) => {
            let (users, fqans) = (config.users.len(), config.fqans.len());
            Finding::Good(format!("{}: {users} users, {fqans} groups and roles", args.config.display()))
        }
    }];
    let mut trust = credential::Trust::in_dir(args.ca_dir);
    trust.voms_dir = args.voms_dir.unwrap_or(trust.voms_dir);
    findings.extend(check::certificate(&args.cert, &args.key, &trust));
    findings.push(check::listen(&args.listen));
    check::report(&findings)
}

async fn serve(args: Args) -> Result<(), Failure> {
    let signals = service::begin(args.log_file.as_deref())?;
    let rules = Arc::new(http::Rules::load(args.config).map_err(Failure::usage)?);
    let mut trust = credential::Trust::in_dir(args.ca_dir);
    trust.voms_dir = args.voms_dir.unwrap_or(trust.voms_dir);
    let judge = Arc::new(trust.clone());
    let tls = transport::ServerTls::new(&args.cert, &args.key, trust).map_err(Failure::missing)?;
    let server = Server::bind(&args.listen, signals).await?;
    let issuer = format!("{}/", server.url()).into();
    let router = http::router(http::Service { rules: rules.clone(), issuer, trust: judge });
    let hooks = Hooks { reload: move || rules.reload(), end: || () };
    server.run(tls, router, hooks).await.map_err(Failure::missing)?;
    tracing::info!("ended");
    Ok(())
}
