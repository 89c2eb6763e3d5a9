//! `pilot submit --callback`: the queue calls back at each change of state, and what arrives is printed.
//!
//! A site's border may close the way back. So the queue is asked for the end as well, and whatever has not arrived by then is
//! printed from its history: what is printed is complete either way.

use super::say::{note, print};
use super::wait::await_all;
use super::{Failure, RETRY, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use identity::shown;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Public};
use openssl::sign::Verifier;
use openssl::x509::X509;
use pilot_api::{Callback, HistoryEntry, SIGNATURE_HEADER, StateEvent};
use pilot_client::Client;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// The first call comes at once, when the payload is taken: after this long nothing will come.
const FIRST: Duration = Duration::from_secs(20);
/// How long the calls about the end may take once the queue has told it.
const LAST: Duration = Duration::from_secs(3);
/// The largest call: a payload with its specification and attempts.
const MOST: usize = 8 << 20;

/// A port that the queue is told to call.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    url: String,
    path: String,
}

impl Listener {
    /// Listens on a port of `GLOBUS_TCP_PORT_RANGE`, or on any; the URL has the name `GLOBUS_HOSTNAME`, or this host's, and a
    /// word that nobody guesses.
    pub async fn open(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let range = variable("GLOBUS_TCP_PORT_RANGE").filter(|text| !text.trim().is_empty());
        let range = range.as_deref().map(ports).transpose()?.unwrap_or((0, 0));
        let host = variable("GLOBUS_HOSTNAME").filter(|text| !text.trim().is_empty());
        let own = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let host = host.or_else(own).unwrap_or_else(|| "localhost".to_owned());
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let socket = bind(range).await?;
        let port = socket.local_addr().map_err(|e| Failure::no(format!("cannot listen: {e}")))?.port();
        let mut word = [0; 16];
        openssl::rand::rand_bytes(&mut word).map_err(|e| Failure::no(format!("no randomness: {e}")))?;
        let path = format!("/{}", hex::encode(word));
        Ok(Self { socket, url: format!("http://{}:{port}{path}", host.trim()), path })
    }

    /// What the queue is to call.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Prints every change of state, each once and in order, until all payloads have ended; the exit code as for `pilot wait`.
    pub async fn follow(self, client: &Client, signer: &[u8], ids: &[Uuid], json: bool) -> Result<u8> {
        let key = X509::from_der(signer).and_then(|certificate| certificate.public_key());
        let key = key.map_err(|e| {
            Failure::no(format!("the queue's certificate has no key that is understood: {e}"))
        })?;
        let (sender, mut arrivals) = mpsc::channel(100);
        let door = Arc::new(Door { key, ids: ids.to_vec(), sender });
        let router =
            Router::new().route(&self.path, post(take)).layer(DefaultBodyLimit::max(MOST)).with_state(door);
        let serving = tokio::spawn(axum::serve(self.socket, router).into_future());
        let mut told = Told { last: HashMap::new(), ended: 0, json };
        let code = until_the_end(client, ids, &mut arrivals, &mut told, &self.url).await;
        serving.abort();
        let code = code?;
        for id in ids {
            for entry in client.patiently(RETRY, || client.events(*id)).await? {
                told.tell(&StateEvent { payload: *id, entry })?;
            }
        }
        Ok(code)
    }
}

async fn until_the_end(
    client: &Client,
    ids: &[Uuid],
    arrivals: &mut mpsc::Receiver<StateEvent>,
    told: &mut Told,
    url: &str,
) -> Result<u8> {
    let end = await_all(client, ids, false);
    let silence = sleep(FIRST);
    tokio::pin!(end, silence);
    let (mut heard, mut asked) = (false, false);
    let code = loop {
        tokio::select! {
            Some(event) = arrivals.recv() => {
                heard = true;
                told.tell(&event)?;
            }
            () = &mut silence, if !heard && !asked => {
                asked = true;
                let place = url.rsplit_once('/').map_or(url, |(place, _)| place);
                note(&format!(
                    "no callback has arrived at {place} within {} s, so the queue is asked instead; let the queue reach that port \
                     (GLOBUS_TCP_PORT_RANGE, GLOBUS_HOSTNAME), or leave --callback out",
                    FIRST.as_secs()
                ));
            }
            code = &mut end => break code?,
        }
    };
    let late = async {
        while told.ended < ids.len() {
            let Some(event) = arrivals.recv().await else { break };
            told.tell(&event)?;
        }
        Ok::<_, Failure>(())
    };
    if heard && let Ok(failed) = timeout(LAST, late).await {
        failed?;
    }
    Ok(code)
}

/// What was printed.
struct Told {
    last: HashMap<Uuid, i64>,
    ended: usize,
    json: bool,
}

impl Told {
    /// Prints a change that was not printed before.
    fn tell(&mut self, event: &StateEvent) -> Result<u8> {
        let HistoryEntry { seq, state, cause, .. } = &event.entry;
        let last = self.last.entry(event.payload).or_default();
        if *seq <= *last {
            return Ok(0);
        }
        *last = *seq;
        self.ended += usize::from(state.is_final());
        if self.json {
            let line =
                serde_json::to_string(event).map_err(|e| Failure::no(format!("cannot write JSON: {e}")))?;
            return print(&format!("{}\n", shown::json(&line)));
        }
        print(&format!("{} {state}: {}\n", event.payload, shown::terminal(cause)))
    }
}

/// Who may come in: the queue, about these payloads.
struct Door {
    key: PKey<Public>,
    ids: Vec<Uuid>,
    sender: mpsc::Sender<StateEvent>,
}

async fn take(State(door): State<Arc<Door>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if !is_signed(&door.key, headers.get(SIGNATURE_HEADER).map(|v| v.as_bytes()), &body) {
        note("a call was turned away: it is not signed by the queue");
        return StatusCode::FORBIDDEN;
    }
    match serde_json::from_slice::<Callback>(&body) {
        Ok(call) if door.ids.contains(&call.payload.id) => {
            let event = StateEvent { payload: call.payload.id, entry: call.event };
            // Nobody listens any more at the very end, when everything has been told.
            let _ = door.sender.send(event).await;
            StatusCode::NO_CONTENT
        }
        Ok(_) => StatusCode::NOT_FOUND,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

fn is_signed(key: &PKey<Public>, signature: Option<&[u8]>, body: &[u8]) -> bool {
    let text = signature.and_then(|text| std::str::from_utf8(text).ok());
    let signature = text.and_then(|text| openssl::base64::decode_block(text).ok());
    let checked = |signature: &[u8]| {
        let mut verifier = Verifier::new(MessageDigest::sha256(), key)?;
        verifier.update(body)?;
        verifier.verify(signature)
    };
    signature.is_some_and(|signature| checked(&signature).unwrap_or(false))
}

/// `LOW,HIGH`, as Globus reads it. What Globus would ignore is an error here.
fn ports(text: &str) -> Result<(u16, u16)> {
    let numbers =
        text.split_once(',').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    numbers.filter(|(low, high)| 0 < *low && low <= high).ok_or_else(|| {
        Failure::usage(format!("GLOBUS_TCP_PORT_RANGE is {text:?}; write LOW,HIGH, such as 40000,40999"))
    })
}

/// A free port of the range, from wherever, so that neighbours seldom meet.
async fn bind((low, high): (u16, u16)) -> Result<TcpListener> {
    let mut random = [0; 2];
    openssl::rand::rand_bytes(&mut random).map_err(|e| Failure::no(format!("no randomness: {e}")))?;
    let count = u32::from(high - low) + 1;
    let first = u32::from(u16::from_be_bytes(random)) % count;
    let mut reason = String::new();
    for step in 0..count {
        let port = low + u16::try_from((first + step) % count).unwrap_or(0);
        // Both families where there are both.
        for all in ["::", "0.0.0.0"] {
            match TcpListener::bind((all, port)).await {
                Ok(socket) => return Ok(socket),
                Err(e) => reason = e.to_string(),
            }
        }
    }
    Err(Failure::no(format!("no port of {low},{high} (GLOBUS_TCP_PORT_RANGE) can be listened on: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::rsa::Rsa;
    use openssl::sign::Signer;

    #[tokio::test]
    async fn the_listener_stays_in_the_users_range_and_has_the_users_name() {
        let set = |name: &str| match name {
            "GLOBUS_TCP_PORT_RANGE" => Some(" 28100 , 28101 ".to_owned()),
            _ => Some("2001:db8::1".to_owned()),
        };
        let (one, two) = (Listener::open(set).await.unwrap(), Listener::open(set).await.unwrap());
        for listener in [&one, &two] {
            assert!(listener.url.starts_with("http://[2001:db8::1]:2810"), "{}", listener.url);
        }
        assert_ne!(one.path, two.path);
        let full = Listener::open(set).await.unwrap_err().to_string();
        assert!(full.contains("no port of 28100,28101"), "{full}");
        for bad in ["40000", "40001,40000", "40000-40001", "0,1", "40000,70000"] {
            assert!(ports(bad).unwrap_err().to_string().contains("LOW,HIGH"), "{bad}");
        }
    }

    #[test]
    fn only_the_queues_own_signature_counts() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let public = PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        signer.update(b"body").unwrap();
        let signature = openssl::base64::encode_block(&signer.sign_to_vec().unwrap());
        assert!(is_signed(&public, Some(signature.as_bytes()), b"body"));
        assert!(!is_signed(&public, Some(signature.as_bytes()), b"another"));
        for bad in [None, Some(&b""[..]), Some(b"!"), Some(b"AAAA"), Some(b"\xff")] {
            assert!(!is_signed(&public, bad, b"body"));
        }
    }
}
