//! The queue as seen by users and pilots: one method per call of [`pilot_api`].
//!
//! A method makes one request. Whoever may repeat it wraps it in [`Client::patiently`], which waits between attempts
//! with full jitter and gives up at once on errors that will not go away.
//!
//! | looking for | see |
//! |---|---|
//! | the calls of users, the calls of pilots | `users`, `pilots` |
//! | how long is waited between attempts | [`Pauses`] |
//! | what is said about a connection that failed | `reason` |
//!
//! Must never: repeat a call that is not safe to repeat. Called by: agent, factory and user commands.

mod pauses;
mod pilots;
mod reason;
mod users;

pub use pauses::Pauses;

use backon::Retryable;
use bytes::Bytes;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::x509::X509;
use pilot_api::*;
use reason::{reasons, remedy};
use reqwest::{Body, Method, RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
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
        matches!(self.code(), Some("not_a_pilot" | "limited_proxy" | "must_switch"))
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

    /// The caller's credential, as it is now, for a server that is no queue.
    pub fn elsewhere(&self) -> reqwest::Client {
        self.renew();
        self.connection.read().unwrap_or_else(PoisonError::into_inner).http.clone()
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

/// A body that streams a file; its length goes into the request.
pub fn file_body(file: tokio::fs::File) -> Body {
    Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, 128 << 10))
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

#[cfg(test)]
mod tests {
    use super::*;

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
