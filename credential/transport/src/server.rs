//! HTTPS servers that ask for a certificate and judge it by the rules for proxies.

use crate::limits::{Handshakes, Overload, Share, Subjects, Ticket};
use crate::pace::{Incoming, Outgoing, Paced};
use crate::{Error, Limits, read};
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode, header};
use credential::Trust;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use identity::{Refusal, RefusalKind, VerifiedIdentity};
use openssl::ssl::{AlpnError, SslAcceptor, SslFiletype, SslMethod, SslOptions, SslRef, SslSessionCacheMode};
use openssl::ssl::{Ssl, SslVerifyMode};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_openssl::SslStream;
use tower_service::Service;

/// For the handshake, and for each request's headers including the idle time before it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests may go on after the shutdown has begun.
const GRACE: Duration = Duration::from_secs(10);

/// Who is at the other end: a request extension that [`serve`] adds to each request, beside the address
/// (`ConnectInfo<SocketAddr>`).
#[derive(Debug, Clone)]
pub struct Peer {
    /// The judged credential.
    pub identity: Arc<VerifiedIdentity>,
}

/// The server's certificate and what it believes of clients.
///
/// Certificate and key are read again when one of the files has changed, so a renewed host certificate needs no restart.
/// CA directory and VOMS directory are read for each client anyway.
#[derive(Clone)]
pub struct ServerTls {
    own: Arc<Own>,
    trust: Arc<Trust>,
}

/// The server's own certificate: where it stands, and what was read last.
struct Own {
    cert: PathBuf,
    key: PathBuf,
    loaded: RwLock<Loaded>,
}

#[derive(Clone)]
struct Loaded {
    acceptor: SslAcceptor,
    stamps: [Option<Stamp>; 2],
}

/// What changes when somebody writes or replaces a file: device, inode, size, and time in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
}

impl Own {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [stamp(&self.cert), stamp(&self.key)]
    }

    fn loaded(&self) -> Loaded {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes what the files hold now. Files that cannot be used change nothing but the stamps: whoever replaces certificate and
    /// key does it one after the other, and between the two the old pair stays in force.
    fn read_again(&self) -> Result<(), Error> {
        let stamps = self.stamps();
        let read = acceptor(&self.cert, &self.key);
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.stamps = stamps;
        loaded.acceptor = read?;
        Ok(())
    }

    fn current(&self) -> SslAcceptor {
        if self.stamps() != self.loaded().stamps {
            match self.read_again() {
                Ok(()) => tracing::info!(cert = ?self.cert, "host certificate read again"),
                Err(reason) => {
                    tracing::warn!(%reason, "the host certificate has changed, but cannot be used; the old one stays")
                }
            }
        }
        self.loaded().acceptor
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<SslAcceptor, Error> {
    read(cert)?;
    read(key)?;
    let named = |path: &Path| {
        let path = path.display().to_string();
        move |e: openssl::error::ErrorStack| Error::Credential(format!("{path}: {e}; check the PEM"))
    };
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_certificate_chain_file(cert).map_err(named(cert))?;
    builder.set_private_key_file(key, SslFiletype::PEM).map_err(named(key))?;
    builder.check_private_key().map_err(named(key))?;
    // OpenSSL must only ask for the certificate: its own verdict knows neither GT2 proxies nor signing policies
    builder.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
    // a resumed session would bring no chain along
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_num_tickets(0)?;
    builder.set_alpn_select_callback(|_, offered| {
        openssl::ssl::select_next_proto(b"\x08http/1.1", offered).ok_or(AlpnError::NOACK)
    });
    Ok(builder.build())
}

impl ServerTls {
    /// Reads the certificate (with its chain) and key, PEM.
    ///
    /// # Errors
    /// When a file cannot be read or the key does not belong to the certificate.
    pub fn new(cert: &Path, key: &Path, trust: Trust) -> Result<Self, Error> {
        let stamps = [stamp(cert), stamp(key)];
        let loaded = RwLock::new(Loaded { acceptor: acceptor(cert, key)?, stamps });
        let own = Own { cert: cert.to_owned(), key: key.to_owned(), loaded };
        Ok(Self { own: Arc::new(own), trust: Arc::new(trust) })
    }

    /// Reads certificate and key again, whether or not they have changed. The old ones stay when the new ones cannot be used.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn reload(&self) -> Result<(), Error> {
        self.own.read_again()
    }

    async fn accept(&self, tcp: TcpStream) -> Result<SslStream<TcpStream>, String> {
        let own = Arc::clone(&self.own);
        // The files may lie on a slow disk.
        let acceptor = tokio::task::spawn_blocking(move || own.current()).await.map_err(|e| e.to_string())?;
        let ssl = Ssl::new(acceptor.context()).map_err(|e| e.to_string())?;
        let mut stream = SslStream::new(ssl, tcp).map_err(|e| e.to_string())?;
        match tokio::time::timeout(PATIENCE, Pin::new(&mut stream).accept()).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("the handshake took too long".to_owned()),
        }
    }

    /// Judges the peer off the event loop, since a large revocation list takes a while to read.
    async fn judge(&self, ssl: &SslRef) -> Result<Peer, Refusal> {
        let chain = peer_chain(ssl).ok_or_else(|| {
            let reason = "no client certificate; use a proxy (grid-proxy-init) and set X509_USER_PROXY";
            Refusal { kind: RefusalKind::Malformed, reason: reason.to_owned() }
        })?;
        let trust = Arc::clone(&self.trust);
        let verdict =
            tokio::task::spawn_blocking(move || credential::verify_chain(&chain, &trust, now())).await;
        let failed =
            |_| Refusal { kind: RefusalKind::Site, reason: "the verifier failed; see its log".to_owned() };
        verdict.map_err(failed)?.map(|identity| Peer { identity: Arc::new(identity) })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Leaf first, as DER.
fn peer_chain(ssl: &SslRef) -> Option<Vec<Vec<u8>>> {
    let leaf = ssl.peer_certificate()?.to_der().ok()?;
    let mut chain = vec![leaf];
    for cert in ssl.peer_cert_chain().into_iter().flatten() {
        let der = cert.to_der().ok()?;
        if der != chain[0] {
            chain.push(der);
        }
    }
    Some(chain)
}

/// Serves `app` over TLS 1.2 and 1.3 until `shutdown` is ready, then lets running requests finish for ten seconds.
///
/// A client whose credential is refused, or has expired since it connected, gets 403 `credential_refused` with the
/// reason for each request. Whoever is over its share of the `limits` gets 429, and 503 when all together are, at once and
/// with Retry-After. No connection's failure ends the server.
///
/// # Errors
/// Only if the listener's address cannot be asked for.
pub async fn serve(
    listener: TcpListener,
    tls: ServerTls,
    app: axum::Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "listening");
    let rooms = Rooms::new(limits);
    let (closing, closed) = watch::channel(());
    let mut running = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, address)) => {
                let ticket = rooms.handshakes.enter(address.ip());
                let (tls, app, rooms) = (tls.clone(), app.clone(), rooms.clone());
                running.spawn(converse(tcp, address, tls, app, rooms, ticket, closed.clone()));
            }
            Err(error) => {
                // out of descriptors: wait for one instead of spinning
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while running.try_join_next().is_some() {}
    }
    drop(listener);
    drop(closed);
    drop(closing);
    while running.join_next().await.is_some() {}
    Ok(())
}

/// What connections share.
#[derive(Clone)]
struct Rooms {
    limits: Arc<Limits>,
    handshakes: Arc<Handshakes>,
    subjects: Arc<Subjects>,
    /// Chains are judged in the order in which they came, no more at once than there are processors for.
    judges: Arc<Semaphore>,
}

impl Rooms {
    fn new(limits: Limits) -> Self {
        let judges = std::thread::available_parallelism().map_or(2, |n| 2 * n.get());
        Self {
            handshakes: Handshakes::new(&limits),
            subjects: Subjects::new(limits.clone()),
            judges: Arc::new(Semaphore::new(judges)),
            limits: Arc::new(limits),
        }
    }
}

/// Handshake and judgement; nothing when the client does not finish, or a newer one needs its place.
async fn meet(
    tcp: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
    rooms: &Rooms,
    ticket: &mut Ticket,
) -> Option<(SslStream<TcpStream>, Result<Peer, Refusal>)> {
    let met = async {
        let stream = tls.accept(tcp).await?;
        // The semaphore is never closed.
        let _turn = rooms.judges.acquire().await;
        let peer = tls.judge(stream.ssl()).await;
        Ok::<_, String>((stream, peer))
    };
    let met = tokio::select! {
        met = met => met,
        _ = &mut ticket.over => Err("a newer connection took the place".to_owned()),
    };
    match &met {
        Ok((_, Ok(peer))) => tracing::debug!(%address, subject = %peer.identity.subject, "connected"),
        Ok((_, Err(refusal))) => {
            tracing::warn!(%address, reason = %one_line(&refusal.reason), "credential refused");
        }
        Err(error) => tracing::debug!(%address, %error, "handshake failed"),
    }
    met.ok()
}

async fn converse(
    tcp: TcpStream,
    address: SocketAddr,
    tls: ServerTls,
    app: axum::Router,
    rooms: Rooms,
    mut ticket: Ticket,
    mut closing: watch::Receiver<()>,
) {
    let _ = tcp.set_nodelay(true);
    let met = tokio::select! {
        met = meet(tcp, address, &tls, &rooms, &mut ticket) => met,
        _ = closing.changed() => return,
    };
    let Some((stream, peer)) = met else { return };
    let share = peer.as_ref().ok().map(|peer| rooms.subjects.connect(peer.identity.subject.as_str()));
    let (ticket, share, overload) = match share {
        // Somebody refused stays a stranger.
        None => (Some(ticket), None, None),
        Some(Ok(share)) => (None, Some(share), None),
        Some(Err(overload)) => (Some(ticket), None, Some(overload)),
    };
    let stream = Paced::new(stream, &rooms.limits);
    let service = TowerToHyperService::new(Door { peer, address, app, rooms, overload });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut ticket = ticket;
    let given_up = async {
        match &mut ticket {
            Some(ticket) => drop((&mut ticket.over).await),
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = given_up => return tracing::debug!(%address, "a newer connection took the place"),
        // the sender never sends: this is ready once it is dropped
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(result) => result,
                Err(_) => return tracing::warn!(%address, "connection cut at shutdown"),
            }
        }
    };
    drop(share);
    if let Err(error) = result {
        tracing::debug!(%address, %error, "connection ended");
    }
}

fn one_line(text: &str) -> String {
    text.chars().flat_map(char::escape_default).take(500).collect()
}

/// Lets requests of an accepted peer in, with its identity; answers all others itself.
#[derive(Clone)]
struct Door {
    peer: Result<Peer, Refusal>,
    address: SocketAddr,
    app: axum::Router,
    rooms: Rooms,
    /// Why this connection is one too many.
    overload: Option<Overload>,
}

impl Door {
    fn enter(&self, peer: &Peer) -> Result<Share, Overload> {
        match self.overload {
            Some(overload) => Err(overload),
            None => self.rooms.subjects.request(peer.identity.subject.as_str()),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl Service<Request<hyper::body::Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> Answer {
        match &self.peer {
            Err(refusal) => {
                let answer = refused(&refusal.reason);
                Box::pin(async { Ok(answer) })
            }
            Ok(peer) if peer.identity.not_after < now() => {
                let answer =
                    refused("the credential has expired since the connection began; renew it and reconnect");
                Box::pin(async { Ok(answer) })
            }
            Ok(peer) => match self.enter(peer) {
                Err(overload) => Box::pin(async move { Ok(overloaded(overload)) }),
                Ok(share) => {
                    let limits = &self.rooms.limits;
                    let mut request = request.map(|body| Body::new(Incoming::new(Body::new(body), limits)));
                    request.extensions_mut().insert(peer.clone());
                    request.extensions_mut().insert(ConnectInfo(self.address));
                    let mut app = self.app.clone();
                    Box::pin(async move {
                        let answer = app.call(request).await?;
                        Ok(answer.map(|body| Body::new(Outgoing::new(body, share))))
                    })
                }
            },
        }
    }
}

/// 403 `application/problem+json` (RFC 9457); the connection ends with it.
fn refused(reason: &str) -> Response<Body> {
    problem(StatusCode::FORBIDDEN, "credential_refused", reason)
}

/// 429 or 503, to be tried again.
fn overloaded(overload: Overload) -> Response<Body> {
    let mut response = match overload {
        Overload::Subject => {
            let title = "you have too many connections or requests here at once; wait for some of them";
            problem(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", title)
        }
        Overload::All => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "the server is overloaded; try again later",
        ),
    };
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("2"));
    response
}

fn problem(status: StatusCode, code: &str, title: &str) -> Response<Body> {
    let retryable = status != StatusCode::FORBIDDEN;
    let problem =
        serde_json::json!({"status": status.as_u16(), "code": code, "title": title, "retryable": retryable});
    let mut response = Response::new(Body::from(problem.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}
