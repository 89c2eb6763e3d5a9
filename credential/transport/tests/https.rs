//! HTTPS over loopback: who gets in, who is told why not, and what a client believes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use axum::Extension;
use axum::body::Bytes;
use axum::routing::{get, post};
use credential::Trust;
use harness::pki::{Craft, Pki};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use transport::{Limits, Peer, ServerTls, client, client_from_pem, serve};

const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    _dir: tempfile::TempDir,
    pki: Pki,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

async fn whoami(Extension(peer): Extension<Peer>) -> String {
    peer.identity.subject.to_string()
}

impl Site {
    async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path()).unwrap();
        let trust = Trust::in_dir(&pki.ca_dir);
        let tls = ServerTls::new(&pki.host_cert, &pki.host_key, trust).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = get(|| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        });
        let swallow = post(|body: Bytes| async move { body.len().to_string() });
        let endless = get(|| async { vec![0; 64 << 20] });
        let app = axum::Router::new().route("/whoami", get(whoami)).route("/slow", slow);
        let app = app.route("/swallow", swallow).route("/endless", endless);
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, tls, app, limits, async {
            let _ = stopped.await;
        }));
        Self { _dir: dir, pki, address, stop: Some(stop), server }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.pki.dir().join(name)
    }

    async fn ask(&self, credential: &Path, key: Option<&Path>) -> (u16, String) {
        let http = client(credential, key, &self.pki.ca_dir, PATIENCE).unwrap();
        let answer = http.get(self.url("/whoami")).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn refusal(&self, credential: &Path) -> String {
        let (status, body) = self.ask(credential, None).await;
        assert_eq!(status, 403, "{body}");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["code"], "credential_refused");
        assert_eq!(problem["retryable"], false);
        problem["title"].as_str().unwrap().to_owned()
    }

    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.server).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_and_plain_certificates_get_in_under_their_holders_name() {
    let site = Site::start().await;
    let alice = site.pki.user("alice", "Alice Adams").unwrap();
    let proxy = Craft::default().below_user(&alice, &site.path("proxy.pem")).unwrap();
    let second = Craft { cn: "2".to_owned(), ..Craft::default() };
    let second = second.below_proxy(&proxy, &site.path("second.pem")).unwrap();
    for credential in [&proxy, &second] {
        assert_eq!(site.ask(credential, None).await, (200, alice.dn.clone()), "{}", credential.display());
    }
    assert_eq!(site.ask(&alice.cert, Some(&alice.key)).await, (200, alice.dn.clone()));
    let legacy = Craft { pci: None, cn: "proxy".to_owned(), ..Craft::default() };
    let legacy = legacy.below_user(&alice, &site.path("legacy.pem")).unwrap();
    let (status, said) = site.ask(&legacy, None).await;
    assert!(status == 403 && said.contains("legacy (GT2) proxy, which this site does not take"), "{said}");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_clients_read_why() {
    let site = Site::start().await;
    let alice = site.pki.user("alice", "Alice Adams").unwrap();
    let expired = Craft { from: -7200, to: -3600, ..Craft::default() };
    let expired = expired.below_user(&alice, &site.path("expired.pem")).unwrap();
    assert!(site.refusal(&expired).await.contains("expired 60 min ago"));
    let stranger = site.pki.stranger("mallory", "Mallory").unwrap();
    let unknown = Craft::default().below_user(&stranger, &site.path("unknown.pem")).unwrap();
    assert!(site.refusal(&unknown).await.contains("is not trusted here"));
    let bob = site.pki.user("bob", "Bob").unwrap();
    site.pki.revoke(&bob).unwrap();
    let revoked = Craft::default().below_user(&bob, &site.path("revoked.pem")).unwrap();
    assert!(site.refusal(&revoked).await.contains("revoked by its CA"));
    let user_as_ca = site.pki.issued_by_user(&alice, "fake", "Bob").unwrap();
    assert!(site.refusal(&user_as_ca).await.contains("is no CA"));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_certificate_is_told_so() {
    let site = Site::start().await;
    let root = site
        .pki
        .ca_dir
        .read_dir()
        .unwrap()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().ends_with(".0"));
    let root = reqwest::Certificate::from_pem(&std::fs::read(root.unwrap().path()).unwrap()).unwrap();
    let http = reqwest::Client::builder().add_root_certificate(root).build().unwrap();
    let answer = http.get(site.url("/whoami")).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(answer.text().await.unwrap().contains("no client certificate"));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_check_the_servers_ca_and_name() {
    let site = Site::start().await;
    let alice = site.pki.user("alice", "Alice Adams").unwrap();
    let proxy = Craft::default().below_user(&alice, &site.path("proxy.pem")).unwrap();
    let pem = std::fs::read(&proxy).unwrap();
    let other = tempfile::tempdir().unwrap();
    let other_pki = Pki::new(other.path()).unwrap();
    let wary = client_from_pem(&pem, None, &other_pki.ca_dir, PATIENCE).unwrap();
    assert!(wary.get(site.url("/whoami")).send().await.is_err(), "the server's CA is unknown to this client");
    let http = client_from_pem(&pem, None, &site.pki.ca_dir, PATIENCE).unwrap();
    let by_other_name = format!("https://127.0.0.2:{}/whoami", site.address.port());
    let forwarded = TcpListener::bind(("127.0.0.2", site.address.port())).await.unwrap();
    let target = site.address;
    tokio::spawn(async move {
        let (mut from, _) = forwarded.accept().await.unwrap();
        let mut to = TcpStream::connect(target).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
    });
    let error = http.get(by_other_name).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let nobody = client_from_pem(&std::fs::read(&alice.cert).unwrap(), None, &site.pki.ca_dir, PATIENCE);
    assert!(nobody.unwrap_err().to_string().contains("no private key"));
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_and_silence_do_not_disturb_others() {
    let site = Site::start().await;
    let mut noise = TcpStream::connect(site.address).await.unwrap();
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, noise.read_to_end(&mut said)).await.expect("the server hangs up");
    let silence = TcpStream::connect(site.address).await.unwrap();
    let alice = site.pki.user("alice", "Alice Adams").unwrap();
    let proxy = Craft::default().below_user(&alice, &site.path("proxy.pem")).unwrap();
    assert_eq!(site.ask(&proxy, None).await.0, 200);
    drop(silence);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_request_survives_the_shutdown() {
    let mut site = Site::start().await;
    let alice = site.pki.user("alice", "Alice Adams").unwrap();
    let proxy = Craft::default().below_user(&alice, &site.path("proxy.pem")).unwrap();
    let http = client(&proxy, None, &site.pki.ca_dir, PATIENCE).unwrap();
    let url = site.url("/slow");
    let request = tokio::spawn(async move { http.get(url).send().await.unwrap().text().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    site.stop.take().unwrap().send(()).unwrap();
    assert_eq!(request.await.unwrap(), "done");
    tokio::time::timeout(PATIENCE, site.server).await.unwrap().unwrap().unwrap();
}

/// Serial number of the certificate that the server shows.
fn serial_of(address: SocketAddr) -> String {
    let mut builder = openssl::ssl::SslConnector::builder(openssl::ssl::SslMethod::tls_client()).unwrap();
    builder.set_verify(openssl::ssl::SslVerifyMode::NONE);
    let tcp = std::net::TcpStream::connect(address).unwrap();
    let tls = builder.build().connect("localhost", tcp).unwrap();
    let serial = tls.ssl().peer_certificate().unwrap().serial_number().to_bn().unwrap();
    serial.to_hex_str().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_host_certificate_is_shown_to_the_next_client() {
    let site = Site::start().await;
    let address = site.address;
    let serial = || async move { tokio::task::spawn_blocking(move || serial_of(address)).await.unwrap() };
    let before = serial().await;
    let renewed = site.pki.user("renewed", "renewed.example.org").unwrap();
    // the certificate first: until the key follows, the pair does not fit, and the old one stays
    std::fs::copy(&renewed.cert, &site.pki.host_cert).unwrap();
    assert_eq!(serial().await, before);
    std::fs::copy(&renewed.key, &site.pki.host_key).unwrap();
    assert_ne!(serial().await, before);
    std::fs::write(&site.pki.host_key, "no key").unwrap();
    assert_ne!(serial().await, before, "a broken file does not bring the first one back");
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_only_connect_turn_nobody_away() {
    let site = Site::start().await;
    let alice = site.pki.user("alice", "Alice Adams").unwrap();
    let mut idle = Vec::new();
    for _ in 0..1100 {
        idle.push(TcpStream::connect(site.address).await.unwrap());
        if idle.len() % 100 == 0 {
            assert_eq!(site.ask(&alice.cert, Some(&alice.key)).await.0, 200, "behind {}", idle.len());
        }
    }
    // The oldest have been dropped, not the newest.
    let mut byte = [0];
    let read = tokio::time::timeout(PATIENCE, idle[0].read(&mut byte)).await.unwrap();
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    drop(idle);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_takes_one_users_share_of_requests() {
    let limits = Limits { requests_per_subject: 3, connections_per_subject: 8, ..Limits::default() };
    let site = Site::with(limits).await;
    let (alice, bob) = (site.pki.user("alice", "Alice").unwrap(), site.pki.user("bob", "Bob").unwrap());
    let http = client(&alice.cert, Some(&alice.key), &site.pki.ca_dir, PATIENCE).unwrap();
    let slow = (0..20).map(|_| tokio::spawn(http.get(site.url("/slow")).send()));
    let mut told = Vec::new();
    for answer in slow.collect::<Vec<_>>() {
        let answer = answer.await.unwrap().unwrap();
        assert!(answer.status() != 429 || answer.headers().contains_key("retry-after"));
        told.push(answer.status().as_u16());
    }
    assert!(told.contains(&200) && told.contains(&429), "{told:?}");
    assert_eq!(site.ask(&bob.cert, Some(&bob.key)).await.0, 200);
    // Everything is given back.
    drop(http);
    assert_eq!(site.ask(&alice.cert, Some(&alice.key)).await.0, 200);
    site.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_move_end() {
    let site = Site::with(Limits { stall: Duration::from_millis(200), ..Limits::default() }).await;
    let alice = site.pki.user("alice", "Alice").unwrap();
    let http = client(&alice.cert, Some(&alice.key), &site.pki.ca_dir, PATIENCE).unwrap();
    // A body that is announced and never comes.
    let never =
        tokio::spawn(http.post(site.url("/swallow")).header("content-length", "100").body(stuck()).send());
    let ended =
        tokio::time::timeout(PATIENCE, never).await.expect("the server does not wait for ever").unwrap();
    assert!(ended.is_err() || ended.is_ok_and(|answer| answer.status() == 400));
    // An answer that is never read: the connection is reset once its buffers are full.
    let mut answer = http.get(site.url("/endless")).send().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut read = 0;
    let cut = loop {
        match answer.chunk().await {
            Ok(Some(bytes)) => read += bytes.len(),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut, "all {read} bytes came although nobody read them in time");
    site.end().await;
}

/// A body of which nothing comes.
fn stuck() -> reqwest::Body {
    reqwest::Body::wrap_stream(futures_util::stream::pending::<std::io::Result<Vec<u8>>>())
}
