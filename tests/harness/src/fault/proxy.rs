//! An HTTPS server between a client and the queue that passes calls on, and spoils those that a test names.

use super::http::Message;
use openssl::pkey::PKey;
use openssl::ssl::{
    Ssl, SslAcceptor, SslConnector, SslFiletype, SslMethod, SslSessionCacheMode, SslStream, SslVerifyMode,
};
use openssl::x509::X509;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a client gets instead of the queue's answer.
#[derive(Debug, Clone)]
pub enum Answer {
    /// This status with a page of text, as a middle box or a broken server sends it; the queue never hears of the call.
    Status(u16),
    /// This status with this JSON; the queue never hears of the call.
    Json(u16, String),
    /// The queue's answer, cut off in the middle.
    Half,
    /// The connection is closed without an answer; the queue never hears of the call.
    Nothing,
    /// The queue does what it was asked for, and its answer is lost.
    Lost,
    /// No answer, and the connection stays open; the queue never hears of the call.
    Silence,
    /// The queue hears of the call later.
    Late(Duration),
}

/// Which calls are spoilt, and how.
#[derive(Debug)]
struct Rule {
    method: String,
    path: String,
    answer: Answer,
    /// How many more; without it, all.
    left: Option<u32>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    seen: Vec<String>,
    streams: Vec<TcpStream>,
    ended: bool,
}

/// The server; it ends when dropped. Clients see the host's own certificate. The queue sees one credential, whoever the
/// client is: give each client whose identity counts a server of its own.
#[derive(Debug)]
pub struct FaultyProxy {
    address: SocketAddr,
    url: String,
    state: Arc<Mutex<State>>,
}

/// Everything that a connection needs.
struct Way {
    acceptor: SslAcceptor,
    queue: String,
    credential: PathBuf,
    state: Arc<Mutex<State>>,
}

/// One TLS connection. Its socket is known to the server as well, which ends it when the test is over; so it must be shut
/// down here and not only dropped.
struct Connection {
    tls: BufReader<SslStream<TcpStream>>,
    socket: TcpStream,
}

impl Connection {
    fn send(&mut self, message: &Message) -> io::Result<()> {
        self.tls.get_mut().write_all(&[&message.head[..], &message.body].concat())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultyProxy {
    /// Listens on a free port of the loopback interface, with this certificate and key, and passes calls on to the queue at
    /// `HOST:PORT` with the credential (certificate, key and chain) in a file, which is read for each connection.
    ///
    /// # Panics
    /// When it cannot listen or the certificate cannot be used.
    pub fn start(certificate: &Path, key: &Path, queue: &str, credential: &Path) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
        let address = listener.local_addr().expect("it listens");
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("every host has a name");
        let state = Arc::new(Mutex::new(State::default()));
        let acceptor = acceptor(certificate, key).expect("a certificate and its key");
        let way = Way {
            acceptor,
            queue: queue.to_owned(),
            credential: credential.to_owned(),
            state: state.clone(),
        };
        let way = Arc::new(way);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = lock(&way.state);
                if state.ended {
                    return;
                }
                state.streams.extend(stream.try_clone());
                drop(state);
                let way = way.clone();
                std::thread::spawn(move || {
                    // A client that goes away ends its own connection only; what it was told stands in `seen`.
                    let _ = way.serve(stream);
                });
            }
        });
        Self { address, url: format!("https://{}:{}", host.trim(), address.port()), state }
    }

    /// Where clients find it; the host's name stands in its certificate.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Spoils all calls from now on whose method is this one (empty for all) and whose path contains `path`.
    pub fn spoil(&self, method: &str, path: &str, answer: Answer) {
        self.rule(method, path, answer, None);
    }

    /// Spoils the next `times` of them.
    pub fn spoil_next(&self, times: u32, method: &str, path: &str, answer: Answer) {
        self.rule(method, path, answer, Some(times));
    }

    /// Passes everything on again.
    pub fn heal(&self) {
        lock(&self.state).rules.clear();
    }

    /// The calls so far, one line each: method, path, and what the client got. A test asks whether its fault took place.
    pub fn seen(&self) -> Vec<String> {
        lock(&self.state).seen.clone()
    }

    fn rule(&self, method: &str, path: &str, answer: Answer, left: Option<u32>) {
        let rule = Rule { method: method.to_owned(), path: path.to_owned(), answer, left };
        lock(&self.state).rules.push(rule);
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.ended = true;
        for stream in &state.streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        let _ = TcpStream::connect(self.address);
    }
}

/// Takes any client certificate: who may do what is the queue's to decide.
fn acceptor(certificate: &Path, key: &Path) -> Result<SslAcceptor, openssl::error::ErrorStack> {
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_certificate_chain_file(certificate)?;
    builder.set_private_key_file(key, SslFiletype::PEM)?;
    builder.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    Ok(builder.build())
}

impl Way {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let socket = stream.try_clone()?;
        let tls = BufReader::new(self.acceptor.accept(stream).map_err(io::Error::other)?);
        let mut client = Connection { tls, socket };
        let mut queue = None;
        while let Some(request) = Message::read(&mut client.tls, false)? {
            let call = format!("{} {}", request.word(0), request.word(1));
            let answer = self.spoilt(&request);
            let told = answer.as_ref().map_or_else(|| "passed on".to_owned(), |answer| format!("{answer:?}"));
            lock(&self.state).seen.push(format!("{call} {told}"));
            let goes_on = match answer {
                Some(answer) => self.spoil(&answer, &request, &mut client, &mut queue)?,
                None => self.pass(&request, &mut client, &mut queue)?,
            };
            if !goes_on || request.is_last() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The answer of the first rule that means this call.
    fn spoilt(&self, request: &Message) -> Option<Answer> {
        let (method, path) = (request.word(0), request.word(1));
        let mut state = lock(&self.state);
        let means = |r: &&mut Rule| {
            (r.method.is_empty() || r.method == method) && path.contains(&r.path) && r.left != Some(0)
        };
        let rule = state.rules.iter_mut().find(means)?;
        rule.left = rule.left.map(|n| n - 1);
        Some(rule.answer.clone())
    }

    /// Whether the connection goes on.
    fn spoil(
        &self,
        answer: &Answer,
        request: &Message,
        client: &mut Connection,
        queue: &mut Option<Connection>,
    ) -> io::Result<bool> {
        let own = |status: u16, kind: &str, body: &str| {
            format!(
                "HTTP/1.1 {status} Spoilt\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        match answer {
            Answer::Status(status) => {
                let page = own(*status, "text/html", "<html><body>something went wrong</body></html>\n");
                client.tls.get_mut().write_all(page.as_bytes())?;
                Ok(true)
            }
            Answer::Json(status, body) => {
                client.tls.get_mut().write_all(own(*status, "application/json", body).as_bytes())?;
                Ok(true)
            }
            Answer::Half => {
                let answer = self.ask(request, queue)?;
                let all = [answer.head, answer.body].concat();
                client.tls.get_mut().write_all(&all[..all.len() / 2])?;
                Ok(false)
            }
            Answer::Nothing => Ok(false),
            Answer::Lost => self.ask(request, queue).map(|_| false),
            Answer::Silence => {
                // Until the client or this server gives up.
                let _ = Message::read(&mut client.tls, false);
                Ok(false)
            }
            Answer::Late(by) => {
                std::thread::sleep(*by);
                self.pass(request, client, queue)
            }
        }
    }

    fn pass(
        &self,
        request: &Message,
        client: &mut Connection,
        queue: &mut Option<Connection>,
    ) -> io::Result<bool> {
        let answer = self.ask(request, queue)?;
        client.send(&answer)?;
        if answer.is_last() {
            *queue = None;
        }
        Ok(!answer.is_last())
    }

    /// The queue's own answer, on the connection that this client has been given.
    fn ask(&self, request: &Message, queue: &mut Option<Connection>) -> io::Result<Message> {
        let exchange = |connection: &mut Connection| {
            connection.send(request)?;
            let answer = Message::read(&mut connection.tls, request.word(0) == "HEAD")?;
            answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        // The queue may have closed a connection that was idle.
        if let Some(answer) = queue.as_mut().and_then(|old| exchange(old).ok()) {
            return Ok(answer);
        }
        exchange(queue.insert(self.connect()?))
    }

    fn connect(&self) -> io::Result<Connection> {
        let pem = std::fs::read(&self.credential)?;
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        // The queue is the test's own.
        builder.set_verify(SslVerifyMode::NONE);
        let mut chain = X509::stack_from_pem(&pem)?.into_iter();
        let first = chain.next().ok_or_else(|| io::Error::other("no certificate"))?;
        builder.set_certificate(&first)?;
        builder.set_private_key(&*PKey::private_key_from_pem(&pem)?)?;
        chain.try_for_each(|certificate| builder.add_extra_chain_cert(certificate))?;
        let stream = TcpStream::connect(&self.queue)?;
        let socket = stream.try_clone()?;
        lock(&self.state).streams.push(stream.try_clone()?);
        let ssl = Ssl::new(builder.build().context())?;
        let mut tls = SslStream::new(ssl, stream)?;
        tls.connect().map_err(io::Error::other)?;
        Ok(Connection { tls: BufReader::new(tls), socket })
    }
}
