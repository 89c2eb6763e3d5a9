//! The life of a server, from its address to its end.

use crate::signals::{Signals, Wanted};
use crate::{Address, Error, logs};
use sd_notify::NotifyState;
use std::io::{ErrorKind, Write};
use std::net::{Ipv6Addr, SocketAddr};
use tokio::net::TcpListener;
use transport::{Limits, ServerTls};

/// A server that has its port and serves nothing yet: clients wait in the listener's queue.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    signals: Signals,
    limits: Limits,
}

/// What a server does itself when a signal comes.
pub struct Hooks<R, E> {
    /// Called at each SIGHUP, after the certificate was read again and the log opened again.
    pub reload: R,
    /// Called once when the end begins, before running requests are waited for.
    pub end: E,
}

impl<R, E> std::fmt::Debug for Hooks<R, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the port. A name that has several addresses gets the first one that can be had.
    ///
    /// # Errors
    /// When the name is unknown or the port is taken, with what to do.
    pub async fn bind(address: &Address, signals: Signals) -> Result<Self, Error> {
        let failed = |source: std::io::Error| Error::Listen {
            address: address.to_string(),
            remedy: remedy(address, &source),
            source,
        };
        let listener = match TcpListener::bind((address.host(), address.port())).await {
            // `[::]` stands for every address; a host without IPv6 has the others.
            Err(e) if e.raw_os_error() == Some(NO_IPV6) && is_any_v6(address) => {
                TcpListener::bind(("0.0.0.0", address.port())).await
            }
            bound => bound,
        };
        let listener = listener.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, signals, limits: Limits::default() })
    }

    /// Gives away so much at once; [`Limits::default`] otherwise. Connections never take more than half of the files that the
    /// process may open.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// `https://ADDR`, with the real address and port.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Serves until SIGTERM or SIGINT, then lets running requests finish.
    ///
    /// Says that it is ready: the line `listening on https://ADDR` on standard output, and READY=1 to a service manager that
    /// asks for it (`NOTIFY_SOCKET`, see sd_notify(3)). SIGHUP reads certificate and key again, opens the log file again, and
    /// calls the server's own hook; it never ends the server.
    ///
    /// # Errors
    /// Only if the listener's address cannot be asked for.
    pub async fn run<R, E>(self, tls: ServerTls, app: axum::Router, hooks: Hooks<R, E>) -> std::io::Result<()>
    where
        R: Fn() + Send + 'static,
        E: FnOnce() + Send + 'static,
    {
        let certificate = tls.clone();
        let read_again = move || match certificate.reload() {
            Ok(()) => tracing::info!("SIGHUP: host certificate read again"),
            Err(reason) => {
                tracing::error!(%reason, "SIGHUP: the host certificate cannot be used; the old one stays")
            }
        };
        let url = self.url();
        let end = announced(&url, self.signals, read_again, hooks);
        let files = usize::try_from(files()).unwrap_or(usize::MAX);
        let (limits, half) = (self.limits, (files / 2).max(64));
        let limits = Limits {
            connections: limits.connections.min(half),
            handshakes: limits.handshakes.min(half / 4),
            ..limits
        };
        transport::serve(self.listener, tls, app, limits, end).await
    }

    /// The same without TLS, for a front end on this host: only a loopback address is served. Handlers find the other
    /// end's address as `ConnectInfo<SocketAddr>`, and no [`transport::Peer`].
    ///
    /// # Errors
    /// When the address is not the loopback's.
    pub async fn run_plain<R, E>(self, app: axum::Router, hooks: Hooks<R, E>) -> std::io::Result<()>
    where
        R: Fn() + Send + 'static,
        E: FnOnce() + Send + 'static,
    {
        if !self.address.ip().is_loopback() {
            return Err(std::io::Error::new(
                ErrorKind::InvalidInput,
                "without TLS only the loopback is served",
            ));
        }
        let url = format!("http://{}", self.address);
        let end = announced(&url, self.signals, || (), hooks);
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(self.listener, app).with_graceful_shutdown(end).await
    }
}

/// Says that the server is ready; the end that this gives comes with the signal for it.
fn announced<R, E, C>(
    url: &str,
    mut signals: Signals,
    read_again: C,
    hooks: Hooks<R, E>,
) -> impl Future<Output = ()> + Send + 'static + use<R, E, C>
where
    C: Fn() + Send + 'static,
    R: Fn() + Send + 'static,
    E: FnOnce() + Send + 'static,
{
    // Whoever started the server may have closed its output: that is no reason to stop.
    let mut output = std::io::stdout();
    let _ = writeln!(output, "listening on {url}").and_then(|()| output.flush());
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("listening on {url}"))]);
    async move {
        while signals.next().await == Wanted::Reload {
            logs::reopen();
            read_again();
            (hooks.reload)();
        }
        tell(&[NotifyState::Stopping]);
        tracing::info!("ending");
        (hooks.end)();
    }
}

/// How many files this process may open, after it has asked for as many as it can have.
fn files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// `EAFNOSUPPORT`.
const NO_IPV6: i32 = 97;

fn is_any_v6(address: &Address) -> bool {
    address.host().parse() == Ok(Ipv6Addr::UNSPECIFIED)
}

fn remedy(address: &Address, error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            format!("another program has the port; `ss -ltnp sport = :{}` names it", address.port())
        }
        ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE; take a higher one".into(),
        ErrorKind::AddrNotAvailable => {
            "this host has no such address; `ip address` lists those it has".into()
        }
        _ => "check the host name and the port".into(),
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told; check NOTIFY_SOCKET");
    }
}
