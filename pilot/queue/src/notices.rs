//! Tells users' URLs about the ends of payloads. Notices are sent side by side, so that an
//! address that does not answer delays no other; each owner has a few at a time, so that nobody keeps the others from being sent.

use crate::state::{Failure, Queue};
use pilot_core::Event;
use pilot_store::{Notice, Store};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uuid::Uuid;

/// How often a URL is tried before it is given up.
const TRIES: u32 = 5;
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries of one notice, and of reading the list.
const PAUSE: Duration = Duration::from_secs(30);

/// Sends for ever.
pub async fn send_forever(queue: Arc<Queue>) {
    let mut under_way: JoinSet<Uuid> = JoinSet::new();
    let mut busy: HashSet<Uuid> = HashSet::new();
    // Those that were tried and are left, until when.
    let mut resting: HashMap<Uuid, Instant> = HashMap::new();
    loop {
        let now = Instant::now();
        resting.retain(|_, until| *until > now);
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
                if let Ok(payload) = done {
                    busy.remove(&payload);
                    resting.insert(payload, Instant::now() + PAUSE);
                }
            }
            () = queue.effects.notices.notified() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn deliver(queue: Arc<Queue>, notice: Notice) -> Uuid {
    let payload = notice.payload;
    if let Err(problem) = attempt(&queue, &notice).await {
        tracing::warn!(%payload, %problem, "notice not settled yet");
    }
    payload
}

async fn attempt(queue: &Queue, notice: &Notice) -> Result<(), Failure> {
    let sent = send(queue, notice).await;
    let settled = sent.is_ok() || notice.tries + 1 >= TRIES;
    let error = sent.err().map(|e| identity::one_line(&e));
    let payload = notice.payload;
    tracing::info!(%payload, url = notice.url, settled, error, "notice");
    queue.decide(Event::NoticeTried(payload, settled)).await.map(|_| ())
}

/// Posts the payload as JSON. The address is looked up once and checked: a user must not make the queue talk to the
/// network behind it.
async fn send(queue: &Queue, notice: &Notice) -> Result<(), String> {
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
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .resolve_to_addrs(&host, &to)
        .build()
        .map_err(|e| e.to_string())?;
    let answer = client.post(url).json(&payload).send().await.map_err(|e| e.to_string())?;
    answer.error_for_status().map(|_| ()).map_err(|e| e.to_string())
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
