//! The queue as seen by users and pilots: one method per call of [`pilot_api`].
//!
//! A method makes one request. Whoever may repeat it wraps it in [`Client::patiently`], which waits between attempts
//! with full jitter and gives up at once on errors that will not go away.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder, Retryable};
use bytes::Bytes;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::x509::X509;
use pilot_api::*;
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long a call may take, on top of the time that the queue was asked to hold it.
pub const CALL: Duration = Duration::from_secs(30);
/// How long a transfer of input, output or logs may take.
const TRANSFER: Duration = Duration::from_secs(3600);
/// Payloads in one answer, where all are wanted.
const PAGE: u32 = 200;
/// First and longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// Why a call failed. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The queue answered with an error.
    #[error("the queue refused: {0}")]
    Problem(#[from] Problem),
    /// No answer.
    #[error("cannot reach the queue {queue}: {reason}; {}", remedy(.reason))]
    Unreachable {
        /// Its URL.
        queue: String,
        /// One line with everything that the libraries say.
        reason: String,
    },
    /// An answer that is not the queue's.
    #[error("{queue} does not answer like a queue: {reason}; check --queue or PILOT_QUEUE")]
    Strange {
        /// Its URL.
        queue: String,
        /// One line.
        reason: String,
    },
    /// The own credential or the CA directory cannot be used.
    #[error("{0}")]
    Credential(String),
}

impl ClientError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.retryable,
            Self::Unreachable { .. } => true,
            Self::Strange { .. } | Self::Credential(_) => false,
        }
    }

    /// Whether no repetition of the call will ever succeed: the queue itself says that it is over, too large, or nonsense.
    /// Anything else, such as an answer of a broken balancer, may be gone the next time.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Problem(problem) if !problem.retryable
            && matches!(problem.code.as_str(), "lease_superseded" | "too_large" | "invalid"))
    }

    /// Whether the queue says in so many words that the caller may not act as a pilot.
    pub fn is_no_pilot(&self) -> bool {
        matches!(self.code(), Some("not_a_pilot" | "limited_proxy"))
    }

    /// Whether the queue does not know the pilot that calls: it has forgotten it, and all its leases.
    pub fn is_forgotten(&self) -> bool {
        self.code() == Some("unknown_pilot")
    }

    /// The queue's stable word for the error.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// HTTP status of the queue's answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// Exit code for commands: 1 refused, 2 credential, 3 cannot reach.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(_) => 1,
            Self::Credential(_) => 2,
            Self::Unreachable { .. } | Self::Strange { .. } => 3,
        }
    }
}

/// Where the queue is and who calls.
#[derive(Debug, Clone)]
pub struct Settings {
    /// URL of the queue, `https://HOST:PORT`.
    pub queue: String,
    /// File with the caller's proxy: certificate, key and chain in PEM.
    pub proxy: PathBuf,
    /// Directory of trusted CA certificates.
    pub ca_dir: PathBuf,
}

/// How commands find the queue and the caller's credential.
#[derive(Debug, Clone, clap::Args)]
pub struct Connection {
    /// URL of the queue, https://HOST:PORT
    #[arg(long, env = "PILOT_QUEUE", value_name = "URL")]
    pub queue: Option<String>,
    /// Proxy to authenticate with [default: /tmp/x509up_uUID]
    #[arg(long, env = "X509_USER_PROXY", value_name = "F")]
    pub proxy: Option<PathBuf>,
    /// Directory of trusted CA certificates
    #[arg(long, env = "X509_CERT_DIR", value_name = "D", default_value = "/etc/grid-security/certificates")]
    pub ca_dir: PathBuf,
}

impl Connection {
    /// Fills the gaps.
    pub fn settings(&self) -> Result<Settings, ClientError> {
        let missing = || ClientError::Credential("which queue? give --queue or set PILOT_QUEUE".to_owned());
        let queue = self.queue.clone().filter(|q| !q.is_empty()).ok_or_else(missing)?;
        let default = || PathBuf::from(format!("/tmp/x509up_u{}", nix::unistd::geteuid()));
        Ok(Settings { queue, proxy: self.proxy.clone().unwrap_or_else(default), ca_dir: self.ca_dir.clone() })
    }
}

/// Parses a duration option such as `5m`, for clap.
pub fn duration(text: &str) -> Result<Duration, String> {
    identity::duration::parse(text).map_err(|e| e.to_string())
}

/// Which payloads to list: the newest of the caller's own, as far as the rest agrees.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// In these states; all when empty.
    pub states: Vec<PayloadState>,
    /// Elements of this array.
    pub array: Option<Uuid>,
    /// Whose id, or whose array's id, begins with these hexadecimal digits; dashes where an id has them.
    pub begins: Option<String>,
    /// Older than this one.
    pub before: Option<Uuid>,
    /// Most payloads.
    pub limit: u32,
}

impl Which {
    fn query(&self) -> String {
        let states: Vec<&str> = self.states.iter().map(|state| state.as_str()).collect();
        let named = [
            ("state", Some(states.join(",")).filter(|words| !words.is_empty())),
            ("array", self.array.map(|id| id.to_string())),
            ("begins", self.begins.clone()),
            ("before", self.before.map(|id| id.to_string())),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", value?)));
        format!("limit={}{}", self.limit, named.collect::<String>())
    }
}

/// A part of a log.
#[derive(Debug)]
pub struct LogPart {
    /// The bytes from the offset that was asked for.
    pub bytes: Bytes,
    /// Nothing will follow.
    pub end: bool,
    /// Number of the attempt that wrote it.
    pub attempt: Option<u32>,
}

/// A connection to the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Arc<RwLock<Credentialed>>,
    settings: Arc<Settings>,
    queue: String,
    /// Shown with every call of a pilot.
    secret: Option<Arc<str>>,
}

/// A connection and the file that its proxy came from.
#[derive(Debug)]
struct Credentialed {
    http: reqwest::Client,
    from: FileVersion,
}

/// What changes when a file is written or replaced: modification time, number and length.
type FileVersion = Option<(SystemTime, u64, u64)>;

impl Client {
    /// Reads the credential and prepares the connection; sends nothing yet.
    pub fn new(settings: &Settings) -> Result<Self, ClientError> {
        if !settings.queue.starts_with("https://") {
            let text = format!(
                "the queue's URL {:?} does not begin with https://; check --queue or PILOT_QUEUE",
                settings.queue
            );
            return Err(ClientError::Credential(text));
        }
        let from = version(&settings.proxy);
        let http = connection(&settings.proxy, &settings.ca_dir)?;
        let queue = settings.queue.trim_end_matches('/').to_owned();
        let connection = Arc::new(RwLock::new(Credentialed { http, from }));
        Ok(Self { connection, settings: Arc::new(settings.clone()), queue, secret: None })
    }

    /// The same for a pilot: with a secret of its own, which nobody else can show.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn as_pilot(mut self) -> Result<Self, ClientError> {
        let mut bytes = [0; 32];
        let failed = |e: openssl::error::ErrorStack| ClientError::Credential(format!("no randomness: {e}"));
        openssl::rand::rand_bytes(&mut bytes).map_err(failed)?;
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.secret = Some(secret.into());
        Ok(self)
    }

    /// Takes a proxy that was renewed meanwhile. One that cannot be used is left alone until the file changes again: it may
    /// be half written.
    fn renew(&self) {
        let from = version(&self.settings.proxy);
        if self.connection.read().unwrap_or_else(PoisonError::into_inner).from == from {
            return;
        }
        let fresh = connection(&self.settings.proxy, &self.settings.ca_dir);
        let mut connection = self.connection.write().unwrap_or_else(PoisonError::into_inner);
        connection.from = from;
        match fresh {
            Ok(http) => {
                tracing::info!(proxy = %self.settings.proxy.display(), "proxy renewed");
                connection.http = http;
            }
            Err(e) => {
                tracing::warn!(error = %e, "the proxy has changed and cannot be used; going on with the one from before")
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        // A look at the file costs less than the request, and no long-lived caller can forget it.
        self.renew();
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner);
        let request = connection.http.request(method, format!("{}{path}", self.queue));
        let request = request.header(VERSION_HEADER, VERSION);
        match &self.secret {
            Some(secret) => request.header(SECRET_HEADER, &**secret),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { queue: self.queue.clone(), reason: reasons(error) }
    }

    fn strange(&self, reason: String) -> ClientError {
        ClientError::Strange { queue: self.queue.clone(), reason }
    }

    async fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Response, ClientError> {
        let answer = request.timeout(limit).send().await.map_err(|e| self.unreachable(&e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
        Err(match serde_json::from_slice::<Problem>(&text) {
            Ok(problem) => problem.into(),
            // A balancer in front of the queue says this in its own words.
            Err(_) if status.is_server_error() => {
                let reason = format!("HTTP status {status}");
                ClientError::Unreachable { queue: self.queue.clone(), reason }
            }
            Err(_) => self.strange(format!("HTTP status {status}")),
        })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let body = self.send(request, limit).await?.bytes().await.map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&body).map_err(|e| self.strange(e.to_string()))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, wait: u64) -> Result<T, ClientError> {
        self.json(self.request(Method::GET, path), CALL + Duration::from_secs(wait)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        wait: u64,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, path).json(body), CALL + Duration::from_secs(wait)).await
    }

    async fn tell(&self, method: Method, path: &str, body: &impl Serialize) -> Result<(), ClientError> {
        self.send(self.request(method, path).json(body), CALL).await.map(|_| ())
    }

    async fn transfer(&self, path: &str, body: Body) -> Result<(), ClientError> {
        self.send(self.request(Method::PUT, path).body(body), TRANSFER).await.map(|_| ())
    }

    /// Repeats an idempotent call until it works, fails for good, or `patience` is over.
    pub async fn patiently<T, F>(&self, patience: Duration, call: impl FnMut() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let give_up = Instant::now() + patience;
        let pauses = Pauses::default().take_while(move |pause| Instant::now() + *pause <= give_up);
        call.retry(pauses).sleep(sleep).when(ClientError::is_transient).await
    }
}

/// The calls of users.
impl Client {
    /// `POST /v1/delegations`; repeated under one id, so that a lost answer leaves no second key in the queue.
    pub async fn new_delegation(&self, patience: Duration) -> Result<Delegation, ClientError> {
        let asked = NewDelegation { id: Some(Uuid::now_v7()) };
        self.patiently(patience, || self.post("/v1/delegations", &asked, 0)).await
    }

    /// `PUT /v1/delegations/{id}`.
    pub async fn sign_delegation(&self, id: Uuid, chain: &SignedChain) -> Result<(), ClientError> {
        self.tell(Method::PUT, &format!("/v1/delegations/{id}"), chain).await
    }

    /// `PUT /v1/blobs/{sha256}`.
    pub async fn put_blob(&self, sha256: &str, body: Body) -> Result<(), ClientError> {
        self.transfer(&format!("/v1/blobs/{sha256}"), body).await
    }

    /// `POST /v1/payloads`; repeated under the submission's id, by which the queue knows it again.
    pub async fn submit(
        &self,
        patience: Duration,
        submission: &Submission,
    ) -> Result<Submitted, ClientError> {
        self.patiently(patience, || self.post("/v1/payloads", submission, 0)).await
    }

    /// `GET /v1/payloads`: those that are asked for, page by page. Oldest first, as [`Payload::listed`].
    pub async fn listed(&self, which: &Which) -> Result<Vec<Payload>, ClientError> {
        let mut which = which.clone();
        let mut pages: Vec<Vec<Payload>> = Vec::new();
        loop {
            let asked = Which { limit: which.limit.min(pilot_api::PAGE), ..which.clone() };
            let page: Vec<Payload> = self.get(&format!("/v1/payloads?{}", asked.query()), 0).await?;
            let got = u32::try_from(page.len()).unwrap_or(u32::MAX);
            which.limit = which.limit.saturating_sub(got);
            which.before = page.first().map(|oldest| oldest.id);
            pages.push(page);
            if got < asked.limit || which.limit == 0 {
                return Ok(pages.into_iter().rev().flatten().collect());
            }
        }
    }

    /// The same in pieces, which each is taken down before the next is asked for: what one answer holds is bounded, whatever
    /// is stored. Oldest first.
    pub async fn listed_all<T>(
        &self,
        patience: Duration,
        which: &Which,
        take: impl Fn(&Payload) -> T,
    ) -> Result<Vec<T>, ClientError> {
        let mut which = Which { limit: PAGE, ..which.clone() };
        let mut all = Vec::new();
        loop {
            let page = self.patiently(patience, || self.listed(&which)).await?;
            all.extend(page.iter().rev().map(&take));
            let Some(oldest) = page.first().filter(|_| page.len() >= PAGE as usize) else { break };
            which.before = Some(oldest.id);
        }
        all.reverse();
        Ok(all)
    }

    /// `GET /v1/status`.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status", 0).await
    }

    /// `GET /v1/payloads/{id}`; with `wait` (seconds) held until it is final.
    pub async fn payload(&self, id: Uuid, wait: u64) -> Result<Payload, ClientError> {
        let query = if wait > 0 { format!("?wait={wait}&final=1") } else { String::new() };
        self.get(&format!("/v1/payloads/{id}{query}"), wait).await
    }

    /// `GET /v1/payloads/{id}/events`.
    pub async fn events(&self, id: Uuid) -> Result<Vec<HistoryEntry>, ClientError> {
        self.get(&format!("/v1/payloads/{id}/events"), 0).await
    }

    /// `POST /v1/payloads/{id}/{cancel,hold}`.
    pub async fn wish(&self, id: Uuid, word: &str) -> Result<Payload, ClientError> {
        self.post(&format!("/v1/payloads/{id}/{word}"), &(), 0).await
    }

    /// `POST /v1/payloads/{id}/release`.
    pub async fn release(&self, id: Uuid, release: &Release) -> Result<Payload, ClientError> {
        self.post(&format!("/v1/payloads/{id}/release"), release, 0).await
    }

    /// `GET /v1/payloads/{id}/logs/{stream}`.
    pub async fn log(
        &self,
        id: Uuid,
        stream: &str,
        offset: u64,
        wait: u64,
        attempt: Option<u32>,
    ) -> Result<LogPart, ClientError> {
        let attempt = attempt.map(|n| format!("&attempt={n}")).unwrap_or_default();
        let path = format!("/v1/payloads/{id}/logs/{stream}?offset={offset}&wait={wait}{attempt}");
        let answer = self.send(self.request(Method::GET, &path), CALL + Duration::from_secs(wait)).await?;
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok());
        let (end, attempt) =
            (header("x-log-end") == Some("1"), header("x-log-attempt").and_then(|n| n.parse().ok()));
        let bytes = answer.bytes().await.map_err(|e| self.unreachable(&e))?;
        Ok(LogPart { bytes, end, attempt })
    }

    /// `GET /v1/payloads/{id}/output`: a tar stream.
    pub async fn output(&self, id: Uuid) -> Result<Response, ClientError> {
        self.send(self.request(Method::GET, &format!("/v1/payloads/{id}/output")), TRANSFER).await
    }

    /// `GET /v1/pilots`.
    pub async fn pilots(&self) -> Result<Vec<Pilot>, ClientError> {
        self.get("/v1/pilots", 0).await
    }

    /// `GET /v1/demand`.
    pub async fn demand(&self) -> Result<Vec<Demand>, ClientError> {
        self.get("/v1/demand", 0).await
    }

    /// `POST /v1/pilots/{p}/drain`.
    pub async fn drain(&self, pilot: Uuid) -> Result<(), ClientError> {
        self.tell(Method::POST, &format!("/v1/pilots/{pilot}/drain"), &()).await
    }
}

/// The calls of pilots.
impl Client {
    /// `POST /v1/pilots`.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, ClientError> {
        self.post("/v1/pilots", registration, 0).await
    }

    /// `POST /v1/pilots/{p}/claim`.
    pub async fn claim(&self, pilot: Uuid, claim: &Claim, wait: u64) -> Result<Claimed, ClientError> {
        self.post(&format!("/v1/pilots/{pilot}/claim?wait={wait}"), claim, wait).await
    }

    /// `GET /v1/blobs/{sha256}`.
    pub async fn blob(&self, sha256: &str) -> Result<Response, ClientError> {
        self.send(self.request(Method::GET, &format!("/v1/blobs/{sha256}")), TRANSFER).await
    }

    /// `POST /v1/attempts/{a}/delegation`.
    pub async fn attempt_delegation(
        &self,
        attempt: Uuid,
        request: &CertificateRequest,
    ) -> Result<SignedChain, ClientError> {
        self.post(&format!("/v1/attempts/{attempt}/delegation"), request, 0).await
    }

    /// `POST /v1/pilots/{p}/sync`.
    pub async fn sync(
        &self,
        pilot: Uuid,
        sync: &Heartbeat,
        wait: u64,
    ) -> Result<HeartbeatReply, ClientError> {
        self.post(&format!("/v1/pilots/{pilot}/sync?wait={wait}"), sync, wait).await
    }

    /// `PUT /v1/attempts/{a}/logs/{stream}`.
    pub async fn put_log(
        &self,
        attempt: Uuid,
        stream: &str,
        lease: Uuid,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), ClientError> {
        let path = format!("/v1/attempts/{attempt}/logs/{stream}?lease={lease}&offset={offset}");
        self.send(self.request(Method::PUT, &path).body(bytes), CALL).await.map(|_| ())
    }

    /// `PUT /v1/attempts/{a}/output`.
    pub async fn put_output(&self, attempt: Uuid, lease: Uuid, body: Body) -> Result<(), ClientError> {
        self.transfer(&format!("/v1/attempts/{attempt}/output?lease={lease}"), body).await
    }

    /// `POST /v1/attempts/{a}/result`.
    pub async fn result(&self, attempt: Uuid, result: &AttemptResult) -> Result<(), ClientError> {
        self.tell(Method::POST, &format!("/v1/attempts/{attempt}/result"), result).await
    }

    /// `POST /v1/results`: many results, each with its own answer.
    pub async fn results(&self, results: &[NamedResult]) -> Result<Vec<ResultAnswer>, ClientError> {
        self.post("/v1/results", &results, 0).await
    }

    /// `POST /v1/pilots/{p}/bye`.
    pub async fn bye(&self, pilot: Uuid, bye: &Bye) -> Result<(), ClientError> {
        self.tell(Method::POST, &format!("/v1/pilots/{pilot}/bye"), bye).await
    }
}

/// A body that streams a file; its length goes into the request.
pub fn file_body(file: tokio::fs::File) -> Body {
    Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, 128 << 10))
}

/// The pauses between attempts, without end: each a random part of a span that doubles (full jitter), so that many pilots
/// do not come back at the same moment.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Default for Pauses {
    fn default() -> Self {
        let spans =
            ExponentialBuilder::new().with_min_delay(PAUSES.0).with_max_delay(PAUSES.1).with_factor(2.0);
        Self(spans.without_max_times().build())
    }
}

impl Pauses {
    /// The next pause.
    pub fn after_failure(&mut self) -> Duration {
        self.0.next().unwrap_or(PAUSES.1).mul_f64(fastrand::f64().clamp(0.05, 1.0))
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after_failure())
    }
}

fn connection(proxy: &Path, ca_dir: &Path) -> Result<reqwest::Client, ClientError> {
    let remedy = "run grid-proxy-init or voms-proxy-init, or set X509_USER_PROXY";
    let refuse =
        |what: String| ClientError::Credential(format!("proxy {}: {what}; {remedy}", proxy.display()));
    let pem = std::fs::read(proxy).map_err(|e| refuse(e.to_string()))?;
    let chain = X509::stack_from_pem(&pem).map_err(|_| refuse("holds no certificate".to_owned()))?;
    if let Some(end) = chain.iter().map(|cert| cert.not_after()).find(|end| is_past(end)) {
        return Err(refuse(format!("expired on {end}")));
    }
    transport::client(proxy, None, ca_dir, TRANSFER).map_err(|e| match e {
        transport::Error::CaDirectory(_) => {
            ClientError::Credential(format!("{e}; check --ca-dir or X509_CERT_DIR"))
        }
        e => refuse(e.to_string()),
    })
}

fn version(file: &Path) -> FileVersion {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.modified().ok()?, meta.ino(), meta.len()))
}

fn is_past(time: &Asn1TimeRef) -> bool {
    Asn1Time::days_from_now(0).is_ok_and(|now| *time < now)
}

/// The causes of an error below the first, which only repeats the URL: each once, as one line.
fn reasons(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next: Option<&dyn Error> = error.source();
    while let Some(cause) = next {
        let text = cause.to_string().replace(['\n', '\r'], " ");
        // A cause often repeats what is below it, and says more: the reason why a certificate is refused stands only there.
        if !causes.iter().any(|earlier| earlier.contains(&text)) {
            causes.retain(|earlier| !text.contains(earlier.as_str()));
            causes.push(text);
        }
        next = cause.source();
    }
    let text = if causes.is_empty() { error.to_string() } else { causes.join(": ") };
    if error.is_timeout() { format!("no answer in time ({text})") } else { text }
}

/// What to do about a connection that failed: the words of OpenSSL and of the system, and their usual cause.
fn remedy(reason: &str) -> &'static str {
    const REMEDIES: [(&[&str], &str); 8] = [
        (
            &["hostname mismatch", "ip address mismatch", "hostname verification"],
            "its certificate is for another host: use the name that the certificate has",
        ),
        (
            &["certificate has expired"],
            "its certificate, or that of its CA, has expired: tell the queue's operator, and update the CA directory",
        ),
        (&["certificate is not yet valid"], "its certificate is not valid yet: check this host's clock"),
        (
            &["unable to get", "self-signed", "self signed", "certificate verify failed", "unable to verify"],
            "its certificate is not from a CA in the CA directory: check --ca-dir or X509_CERT_DIR",
        ),
        (
            &["wrong version number", "packet length too long", "http request", "unknown protocol"],
            "no TLS is spoken on this port: check --queue or PILOT_QUEUE",
        ),
        (&["alert"], "the queue, or something before it, ended the TLS handshake: its log says why"),
        (
            &["dns error", "lookup address", "name or service not known", "failed to resolve"],
            "the host name cannot be found: check --queue or PILOT_QUEUE",
        ),
        (&["no answer in time", "timed out"], "a firewall may be in between, or the queue is overloaded"),
    ];
    let reason = reason.to_lowercase();
    let known = REMEDIES.iter().find(|(words, _)| words.iter().any(|word| reason.contains(word)));
    known.map_or("check --queue or PILOT_QUEUE, and that the queue runs", |(_, remedy)| remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_never_zero() {
        let spans = (0..200_u32).map(|failures| (PAUSES.0 * (1 << failures.min(16))).min(PAUSES.1));
        for (pause, span) in Pauses::default().zip(spans) {
            assert!(pause <= span && pause >= span.mul_f64(0.049), "{pause:?} of {span:?}");
        }
    }

    #[test]
    fn an_error_says_whether_to_try_again() {
        let problem = |retryable| {
            ClientError::from(Problem {
                status: 409,
                code: "x".into(),
                title: "t".into(),
                retryable,
                offset: None,
            })
        };
        assert!(problem(true).is_transient() && !problem(false).is_transient());
        let lost = ClientError::Unreachable { queue: "q".into(), reason: "r".into() };
        assert!(lost.is_transient());
        assert_eq!((problem(false).exit_code(), lost.exit_code()), (1, 3));
    }

    #[test]
    fn a_plain_http_queue_is_refused_before_anything_is_sent() {
        let settings = Settings { queue: "http://q".into(), proxy: "/p".into(), ca_dir: "/c".into() };
        let error = Client::new(&settings).expect_err("accepted");
        assert!(error.to_string().contains("https://"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn each_failure_leads_to_its_mend() {
        for (reason, words) in [
            ("certificate verify failed: (Hostname mismatch)", "another host"),
            ("certificate verify failed: (certificate has expired)", "expired"),
            ("certificate verify failed: (unable to get local issuer certificate)", "X509_CERT_DIR"),
            ("error:0A00010B:SSL routines::wrong version number", "no TLS"),
            ("dns error: failed to lookup address information", "host name"),
            ("Connection refused (os error 111)", "that the queue runs"),
        ] {
            let error = ClientError::Unreachable { queue: "q".into(), reason: reason.into() };
            let text = error.to_string();
            assert!(text.contains(reason) && text.contains(words), "{text}");
        }
    }
}
