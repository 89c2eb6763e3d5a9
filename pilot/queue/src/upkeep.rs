//! What the queue does by itself: lost leases and pilots, keys that nobody needs, notices to users' URLs.

use crate::engine::now;
use crate::state::{Failure, Queue};
use pilot_core::Event;
use pilot_store::{Notice, Store, StoreError};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a URL is tried before it is given up.
const NOTICE_TRIES: u32 = 5;
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes back what has run out, once. What cannot be stored now stays due for the next round.
pub async fn sweep(queue: &Queue) {
    let now = Instant::now();
    for lease in queue.effects.leases.due(now) {
        if let Err(problem) = queue.expire(lease).await {
            tracing::warn!(%lease, %problem, "lease not taken back yet");
        }
    }
    for pilot in queue.effects.pilots.due(now) {
        if let Err(problem) = queue.lose(pilot).await {
            tracing::warn!(%pilot, %problem, "silent pilot not noted yet");
        }
    }
}

/// Sweeps for ever: often enough that a short lease ends in time, rarely enough to cost nothing.
pub async fn sweep_forever(queue: Arc<Queue>) {
    let pause = (queue.settings.lease / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        sweep(&queue).await;
        tokio::time::sleep(pause).await;
    }
}

/// Deletes keys that nobody can need any more, every ten minutes.
pub async fn purge_forever(queue: Arc<Queue>) {
    loop {
        match purge(&queue).await {
            Ok(0) => {}
            Ok(deleted) => tracing::info!(deleted, "delegations deleted"),
            Err(problem) => tracing::warn!(%problem, "delegations not deleted yet"),
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
}

async fn purge(queue: &Queue) -> Result<u64, StoreError> {
    queue.store.purge_keys(now()).await
}

/// Forgets what is older than its retention; on a nearly full disk what ended more than an hour ago, oldest first. `now` is in
/// seconds. Returns how many payloads were forgotten.
pub async fn forget_old(queue: &Arc<Queue>, now: u64) -> Result<u64, Failure> {
    let retention = queue.settings.retention.as_secs();
    let mut forgotten = 0;
    loop {
        let room = queue.files.room();
        let full = room.is_ok_and(|room| room.is_above(queue.settings.high_water));
        let keep = if full { retention.min(3600) } else { retention };
        let purged = queue.store.forget(now.saturating_sub(keep), 500).await?;
        let unused = queue.store.forget_unused(now.saturating_sub(keep.max(3600)), 500).await?;
        forgotten += purged.payloads;
        let (q, attempts, blobs) = (queue.clone(), purged.attempts, unused.blobs);
        let last = purged.payloads == 0 && blobs.is_empty();
        let removed = tokio::task::spawn_blocking(move || q.files.remove(&attempts, &blobs)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "files of forgotten payloads stay");
        }
        if last {
            return Ok(forgotten);
        }
    }
}

/// Forgets old payloads, every ten minutes.
pub async fn forget_forever(queue: Arc<Queue>) {
    loop {
        match forget_old(&queue, now() / 1000).await {
            Ok(0) => {}
            Ok(payloads) => tracing::info!(payloads, "forgotten after their retention"),
            Err(problem) => tracing::warn!(%problem, "old payloads not forgotten yet"),
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
}

/// Tells users' URLs about the ends of payloads, in the order in which they are known.
pub async fn notify_forever(queue: Arc<Queue>) {
    loop {
        let left = match notify(&queue).await {
            Ok(left) => left,
            Err(problem) => {
                tracing::warn!(%problem, "notices not sent yet");
                true
            }
        };
        let pause = Duration::from_secs(if left { 30 } else { 3600 });
        // A timeout is the plan, not an error.
        let _ = tokio::time::timeout(pause, queue.effects.notices.notified()).await;
    }
}

/// One round; returns whether something is left to be tried again.
async fn notify(queue: &Queue) -> Result<bool, Failure> {
    let due = queue.store.notices().await?;
    let mut left = false;
    for notice in due {
        let sent = send(queue, &notice).await;
        let settled = sent.is_ok() || notice.tries + 1 >= NOTICE_TRIES;
        left |= !settled;
        let error = sent.err().map(|e| identity::one_line(&e));
        let payload = notice.payload;
        tracing::info!(%payload, url = notice.url, settled, error, "notice");
        queue.decide(Event::NoticeTried(payload, settled)).await?;
    }
    Ok(left)
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
        .timeout(NOTICE_TIMEOUT)
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

/// Starts all of it; the tasks end with the returned guard.
pub fn start(queue: &Arc<Queue>) -> Tasks {
    Tasks(vec![
        tokio::spawn(sweep_forever(queue.clone())),
        tokio::spawn(purge_forever(queue.clone())),
        tokio::spawn(forget_forever(queue.clone())),
        tokio::spawn(notify_forever(queue.clone())),
    ])
}

/// Background tasks; aborted on drop. Changes under way roll back.
#[derive(Debug)]
pub struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
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
