//! The site's server, from its configuration to its end.

use super::{FOUND, Failure, Reply};
use crate::cli::ServeArgs;
use accounting::serve::config::Config;
use accounting::serve::{http, scope, site};
use credential::Trust;
use service::check::{self, Finding};
use service::config::BadConfig;
use service::{Address, Hooks, Server};
use std::path::Path;
use std::sync::Arc;

pub(super) fn serve(args: &ServeArgs, store: Option<&Path>) -> Result<Reply, Failure> {
    let config = Config::load(&args.config).map(|config| match store {
        Some(store) => Config { store: store.to_owned(), ..config },
        None => config,
    });
    if args.check {
        return Ok(Reply { text: String::new(), code: check::report(&look(args, config)) });
    }
    match config {
        Ok(config) => run(args, config).map(|()| Reply { text: String::new(), code: FOUND }),
        Err(why) => {
            let code = service::ended("accounting", Err(service::Failure::usage(why)));
            Ok(Reply { text: String::new(), code })
        }
    }
}

/// `--check`.
fn look(args: &ServeArgs, config: Result<Config, BadConfig>) -> Vec<Finding> {
    let config = match config {
        Err(why) => return vec![Finding::Bad(why.to_string())],
        Ok(config) => config,
    };
    let file = args.config.display();
    let mut findings = vec![match scope::is_of_use(&config) {
        true => Finding::Good(format!("{file}: {} patterns of hosts", config.writers.allow.len())),
        false => {
            Finding::Doubtful(format!("{file}: no host may bring records; name them in [writers] allow"))
        }
    }];
    for age in config.retention.short() {
        findings.push(Finding::Doubtful(format!(
            "{file}: [retention] {age} is less than the 90 days that sites keep traces"
        )));
    }
    findings.extend(check::certificate(&config.cert, &config.key, &Trust::in_dir(config.ca_dir.clone())));
    findings.push(check::writable("store", &config.store));
    findings.push(match config.listen.parse::<Address>() {
        Ok(address) => check::listen(&address),
        Err(why) => Finding::Bad(format!("listen: {why}")),
    });
    findings
}

fn run(args: &ServeArgs, config: Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::Serve(format!("threads cannot be started: {e}")))?;
    runtime.block_on(listen(args, config))
}

/// Looks each hour for what may not be kept any longer.
async fn reduce(site: Arc<site::Site>) {
    let mut hours = tokio::time::interval(std::time::Duration::from_secs(3600));
    loop {
        hours.tick().await;
        let site = site.clone();
        match tokio::task::spawn_blocking(move || site.reduce()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(days)) => tracing::info!(days, "day files reduced to what is kept"),
            Ok(Err(why)) => {
                tracing::error!(reason = %why, "retention: not everything was reduced, it is tried again")
            }
            Err(why) => tracing::error!(reason = %why, "retention failed"),
        }
    }
}

async fn listen(args: &ServeArgs, config: Config) -> Result<(), Failure> {
    let broken = |e: service::Error| Failure::Serve(e.to_string());
    let signals = service::begin(args.log_file.as_deref()).map_err(broken)?;
    let trust = Trust::in_dir(config.ca_dir.clone());
    let tls = transport::ServerTls::new(&config.cert, &config.key, trust);
    let tls = tls.map_err(|e| Failure::Serve(e.to_string()))?;
    let address: Address = config.listen.parse().map_err(|e| Failure::Serve(format!("listen: {e}")))?;
    let site = Arc::new(site::Site::open(args.config.clone(), config)?);
    let server = Server::bind(&address, signals).await.map_err(broken)?;
    tokio::spawn(reduce(site.clone()));
    let hooks = Hooks {
        reload: {
            let site = site.clone();
            move || site.reload()
        },
        end: || (),
    };
    server.run(tls, http::router(site), hooks).await.map_err(|e| Failure::Serve(e.to_string()))?;
    tracing::info!("ended");
    Ok(())
}
