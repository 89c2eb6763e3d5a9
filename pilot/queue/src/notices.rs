//! Tells users' URLs what happens to payloads: every change of state, in order for each payload, again until it is taken or
//! given up. Payloads are told of side by side, so that an address that does not answer delays no other; each owner has a
//! few at a time, so that nobody keeps the others from being sent.

use crate::state::{Failure, Queue};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use pilot_api::{Callback, HistoryEntry, SIGNATURE_HEADER};
use pilot_core::Event;
use pilot_core::event::Tried;
use pilot_store::{Notice, Store};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

/// How often a URL is tried before it is given up.
const TRIES: u32 = 6;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two times of reading the list.
const PAUSE: Duration = Duration::from_secs(30);

/// After so many tries: soon at first, then more and more seldom, five minutes and a half in all.
fn rest(tries: u32) -> Duration {
    Duration::from_secs(4_u64.saturating_pow(tries.min(TRIES)))
}

/// Sends for ever.
pub async fn send_forever(queue: Arc<Queue>) {
    let mut under_way: JoinSet<(Uuid, Option<Duration>)> = JoinSet::new();
    let mut busy: HashSet<Uuid> = HashSet::new();
    // Those that were tried and are left, until when.
    let mut resting: HashMap<Uuid, Instant> = HashMap::new();
    loop {
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
        let next = resting.values().copied().min().unwrap_or(now + PAUSE).min(now + PAUSE);
        match queue.store.notices().await {
            Ok(due) => {
                let ready = due.into_iter().filter(|n| !resting.contains_key(&n.payload));
                for notice in ready.collect::<Vec<_>>() {
                    if busy.insert(notice.payload) {
                        under_way.spawn(deliver(queue.clone(), notice));
                    }
                }
            }
            Err(problem) => tracing::warn!(%problem, "notices not sent yet"),
        }
        tokio::select! {
            Some(done) = under_way.join_next() => {
                if let Ok((payload, rest)) = done {
                    busy.remove(&payload);
                    if let Some(rest) = rest {
                        resting.insert(payload, Instant::now() + rest);
                    }
                }
            }
            () = queue.effects.notices.notified() => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

/// Tells everything that is untold, in order. What was not taken has to rest.
async fn deliver(queue: Arc<Queue>, notice: Notice) -> (Uuid, Option<Duration>) {
    let payload = notice.payload;
    let rest = attempt(&queue, &notice).await.unwrap_or_else(|problem| {
        tracing::warn!(%payload, %problem, "notice not settled yet");
        Some(PAUSE)
    });
    (payload, rest)
}

async fn attempt(queue: &Queue, notice: &Notice) -> Result<Option<Duration>, Failure> {
    let payload = notice.payload;
    let mut untold = queue.store.history(payload).await?;
    untold.retain(|entry| entry.seq > notice.told);
    let tried =
        |until: &HistoryEntry| if until.state.is_final() { Tried::Over } else { Tried::Told(until.seq) };
    for (number, entry) in untold.iter().enumerate() {
        let sent = send(queue, notice, entry).await.map_err(|e| identity::one_line(&e));
        // A try that was taken begins the count anew.
        let tries = if number == 0 { notice.tries + 1 } else { 1 };
        let newest = untold.last().unwrap_or(entry);
        let (seq, state) = (entry.seq, entry.state);
        match sent {
            Ok(()) => {
                tracing::info!(%payload, url = notice.url, seq, %state, "callback taken");
                queue.decide(Event::NoticeTried(payload, tried(entry))).await?;
            }
            Err(error) if tries >= TRIES => {
                tracing::warn!(%payload, url = notice.url, seq, %state, error, "callbacks given up, up to now");
                queue.decide(Event::NoticeTried(payload, tried(newest))).await?;
                return Ok(Some(PAUSE));
            }
            Err(error) => {
                tracing::info!(%payload, url = notice.url, seq, %state, error, "callback not taken yet");
                queue.decide(Event::NoticeTried(payload, Tried::Failed)).await?;
                return Ok(Some(rest(tries - 1)));
            }
        }
    }
    Ok(None)
}

/// Posts the payload as JSON, in the state that the event led to, signed by the key of the queue's certificate. The address
/// is looked up once and checked: a user must not make the queue talk to the
/// network behind it.
async fn send(queue: &Queue, notice: &Notice, event: &HistoryEntry) -> Result<(), String> {
    let url = reqwest::Url::parse(&notice.url).map_err(|e| e.to_string())?;
    let host = url.host_str().ok_or("no host")?.to_owned();
    let port = url.port_or_known_default().ok_or("no port")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> =
        tokio::net::lookup_host((bare, port)).await.map_err(|e| e.to_string())?.collect();
    let allowed = |a: &&SocketAddr| queue.settings.notify_private || is_public(a.ip());
    let to: Vec<SocketAddr> = found.iter().filter(allowed).copied().collect();
    if to.is_empty() {
        return Err("the address is private; the queue's operator can allow it with --notify-private".into());
    }
    let payload = queue.store.payload(notice.payload).await.map_err(|e| e.to_string())?;
    let payload = payload.ok_or("the payload was forgotten")?;
    let payload = pilot_api::Payload { state: event.state, ..payload };
    let body = serde_json::to_vec(&Callback { event: event.clone(), payload }).map_err(|e| e.to_string())?;
    let signature = sign(&queue.settings.key, &body)?;
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .resolve_to_addrs(&host, &to)
        .build()
        .map_err(|e| e.to_string())?;
    let request = client.post(url).header("content-type", "application/json").body(body);
    let request = request.header(SIGNATURE_HEADER, signature);
    let answer = request.send().await.map_err(|e| e.to_string())?;
    answer.error_for_status().map(|_| ()).map_err(|e| e.to_string())
}

/// The key is read each time, so that a renewed one is taken with its certificate.
fn sign(key: &Path, body: &[u8]) -> Result<String, String> {
    let pem = std::fs::read(key).map_err(|e| format!("cannot read the key to sign with: {e}"))?;
    let signed = || {
        let key = PKey::private_key_from_pem(&pem)?;
        let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
        signer.update(body)?;
        signer.sign_to_vec()
    };
    let signature = signed().map_err(|e: ErrorStack| format!("cannot sign: {e}"))?;
    Ok(openssl::base64::encode_block(&signature))
}

/// Whether an address belongs to the internet at large (IANA special-purpose registries, the ranges that route).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            // Protocol assignments, the old 6to4 relays, and networks for benchmarks.
            let reserved = matches!((a, b, c), (192, 0, 0) | (192, 88, 99)) || (a == 198 && (b & 0xfe) == 18);
            let special = v4.is_loopback() || v4.is_private() || v4.is_link_local() || v4.is_broadcast();
            !(special
                || shared
                || reserved
                || a == 0
                || v4.is_multicast()
                || v4.is_documentation()
                || a >= 240)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_public(v4.into()),
            // Tunnels lead to whatever IPv4 address is written in them; the rest of 2001::/23 is for protocols.
            None => {
                let [first, second, ..] = v6.segments();
                let tunnel = first == 0x2002 || (first == 0x2001 && second < 0x200);
                let examples = (first == 0x2001 && second == 0xdb8) || (first == 0x3fff && second < 0x1000);
                first & 0xe000 == 0x2000 && !tunnel && !examples
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known() {
        let public = |ip: &str| is_public(ip.parse().unwrap());
        for ip in
            ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"]
        {
            assert!(!public(ip), "{ip}");
        }
        for ip in ["::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "ff02::1", "224.0.0.1", "255.255.255.255"]
        {
            assert!(!public(ip), "{ip}");
        }
        for ip in [
            "198.18.0.1",
            "198.19.255.255",
            "192.0.0.9",
            "192.88.99.1",
            "192.0.2.1",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "64:ff9b::7f00:1",
            "100::1",
        ] {
            assert!(!public(ip), "{ip}");
        }
        assert!(public("198.17.0.1") && public("2001:200::1"));
        assert!(public("8.8.8.8") && public("2001:4860:4860::8888") && public("100.128.0.1"));
    }
}
