//! `mapping-server`: a small mapping service that speaks the protocol of GUMS.
//!
//! | looking for | see |
//! |---|---|
//! | the configuration file | [`config`] |
//! | who gets which account | [`decide`] |
//! | HTTP, logs, reloading | [`service`] |
#![forbid(unsafe_code)]

mod config;
mod decide;
mod service;

use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Answer which local account an identity gets, for hosts that ask as they would ask GUMS.
///
/// Prints one line, `listening on https://ADDR`, when it is ready. SIGHUP reads the configuration again, SIGTERM ends.
/// Exit code: 0 ended by a signal, 2 usage or configuration, 3 cannot listen or certificate unusable.
#[derive(Parser)]
#[command(name = "mapping-server", version, max_term_width = 100)]
struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, default_value = "[::]:8443", value_name = "ADDR")]
    listen: String,
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
}

/// Exit code and reason.
type Failure = (u8, String);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, reason)) => {
            eprintln!("mapping-server: {reason}");
            ExitCode::from(code)
        }
    }
}

async fn serve(args: Args) -> Result<(), Failure> {
    let rules = Arc::new(service::Rules::load(args.config).map_err(|e| (2, e.to_string()))?);
    let mut trust = credential::Trust::in_dir(args.ca_dir);
    trust.voms_dir = args.voms_dir.unwrap_or(trust.voms_dir);
    let tls = transport::ServerTls::new(&args.cert, &args.key, trust).map_err(|e| (3, e.to_string()))?;
    let no_port = |e| (3, format!("cannot listen on {}: {e}", args.listen));
    let listener = TcpListener::bind(&args.listen).await.map_err(no_port)?;
    let address = listener.local_addr().map_err(no_port)?;
    let no_signal = |e| (3, format!("cannot wait for signals: {e}"));
    let hangup = signal(SignalKind::hangup()).map_err(no_signal)?;
    let end = (
        signal(SignalKind::terminate()).map_err(no_signal)?,
        signal(SignalKind::interrupt()).map_err(no_signal)?,
    );
    tokio::spawn(reload_on(hangup, rules.clone()));
    let router = service::router(rules, format!("https://{address}/"));
    // Whoever started the service may have closed its output: that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "listening on https://{address}");
    transport::serve(listener, tls, router, ended(end)).await.map_err(no_port)?;
    tracing::info!("ended");
    Ok(())
}

async fn reload_on(mut hangup: Signal, rules: Arc<service::Rules>) {
    while hangup.recv().await.is_some() {
        rules.reload();
    }
}

async fn ended((mut terminate, mut interrupt): (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
