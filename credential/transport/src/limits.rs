//! Counts connections and requests of each peer and says who has to give way. It touches no socket.
//!
//! A connection costs little until its peer is known, so strangers are never waited for: the newest handshakes win, the oldest
//! are dropped. Once the peer is known, it has a share of its own, and whoever takes more is told so at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// What a server gives away at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections whose peer is not known yet; the oldest gives way to a newer one.
    pub handshakes: usize,
    /// The same for one address (an IPv6 network of 64 bits counts as one).
    pub handshakes_per_address: usize,
    /// Connections whose peer is known.
    pub connections: usize,
    /// The same for one subject.
    pub connections_per_subject: usize,
    /// Requests of one subject, the held ones included.
    pub requests_per_subject: usize,
    /// How long a body may not move, in either direction.
    pub stall: Duration,
    /// Bytes per second that a body has to make on average, after the first `stall`.
    pub least_rate: u64,
    /// Subjects that are bound by `connections` only, such as the many pilots of one robot.
    pub trusted: BTreeSet<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 512,
            handshakes_per_address: 128,
            connections: 8192,
            connections_per_subject: 512,
            requests_per_subject: 256,
            stall: Duration::from_secs(10),
            least_rate: 1024,
            trusted: BTreeSet::new(),
        }
    }
}

/// Who has too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overload {
    /// Everybody together.
    All,
    /// This subject.
    Subject,
}

/// Those who have connected and not yet shown who they are.
#[derive(Debug)]
pub(crate) struct Handshakes {
    most: usize,
    most_per_address: usize,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    all: BTreeMap<u64, (IpAddr, oneshot::Sender<()>)>,
    of: HashMap<IpAddr, BTreeSet<u64>>,
}

/// A place among the handshakes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    id: u64,
    home: Arc<Handshakes>,
    /// Ready when somebody newer needs the place.
    pub(crate) over: oneshot::Receiver<()>,
}

impl Handshakes {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        let (most, most_per_address) = (limits.handshakes.max(1), limits.handshakes_per_address.max(1));
        Arc::new(Self { most, most_per_address, pending: Mutex::default() })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        // The maps are sound after every statement.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; the oldest of this address, or else of all, loses its own where there is none left.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Ticket {
        let network = network(address);
        let (sender, over) = oneshot::channel();
        let mut pending = self.pending();
        let own = pending.of.get(&network).filter(|ids| ids.len() >= self.most_per_address);
        let oldest = own.and_then(|ids| ids.first().copied());
        let full = pending.all.len() >= self.most;
        let oldest = oldest.or_else(|| pending.all.keys().next().copied().filter(|_| full));
        if let Some(oldest) = oldest {
            pending.remove(oldest);
        }
        let id = pending.next;
        pending.next += 1;
        pending.all.insert(id, (network, sender));
        pending.of.entry(network).or_default().insert(id);
        Ticket { id, home: self.clone(), over }
    }
}

impl Pending {
    fn remove(&mut self, id: u64) {
        let Some((network, _)) = self.all.remove(&id) else { return };
        if let Some(ids) = self.of.get_mut(&network) {
            ids.remove(&id);
            if ids.is_empty() {
                self.of.remove(&network);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.home.pending().remove(self.id);
    }
}

/// What one customer of an internet provider has at least.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes()),
        v4 => v4,
    }
}

/// Those who are known.
#[derive(Debug)]
pub(crate) struct Subjects {
    limits: Limits,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    of: HashMap<String, (usize, usize)>,
}

/// A connection or a request of a subject, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    home: Arc<Subjects>,
    subject: String,
    request: bool,
}

impl Subjects {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, counts: Mutex::default() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connect(self: &Arc<Self>, subject: &str) -> Result<Share, Overload> {
        self.take(subject, false)
    }

    pub(crate) fn request(self: &Arc<Self>, subject: &str) -> Result<Share, Overload> {
        self.take(subject, true)
    }

    fn take(self: &Arc<Self>, subject: &str, request: bool) -> Result<Share, Overload> {
        let trusted = self.limits.trusted.contains(subject);
        let mut counts = self.counts();
        if !request && counts.connections >= self.limits.connections {
            return Err(Overload::All);
        }
        let (connections, requests) = counts.of.get(subject).copied().unwrap_or_default();
        let (has, most) = match request {
            true => (requests, self.limits.requests_per_subject),
            false => (connections, self.limits.connections_per_subject),
        };
        if !trusted && has >= most {
            return Err(Overload::Subject);
        }
        let own = counts.of.entry(subject.to_owned()).or_default();
        match request {
            true => own.1 += 1,
            false => own.0 += 1,
        }
        counts.connections += usize::from(!request);
        drop(counts);
        Ok(Share { home: self.clone(), subject: subject.to_owned(), request })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.home.counts();
        counts.connections -= usize::from(!self.request);
        let left = counts.of.get_mut(&self.subject).map(|own| {
            match self.request {
                true => own.1 -= 1,
                false => own.0 -= 1,
            }
            *own
        });
        if left == Some((0, 0)) {
            counts.of.remove(&self.subject);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(ticket: &mut Ticket) -> bool {
        ticket.over.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_oldest_stranger_gives_way() {
        let limits = Limits { handshakes: 3, handshakes_per_address: 2, ..Limits::default() };
        let handshakes = Handshakes::new(&limits);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut other = handshakes.enter(address("192.0.2.9"));
        let mut first = handshakes.enter(address("2001:db8::1"));
        let mut second = handshakes.enter(address("2001:db8::2"));
        let mut third = handshakes.enter(address("2001:db8::3"));
        assert!(is_over(&mut first), "the oldest of its own network, not of all");
        assert!(!is_over(&mut other) && !is_over(&mut second) && !is_over(&mut third));
        let mut last = handshakes.enter(address("192.0.2.10"));
        assert!(is_over(&mut other) && !is_over(&mut last));
        drop((other, first, second, third, last));
        assert!(handshakes.pending().all.is_empty() && handshakes.pending().of.is_empty());
    }

    #[test]
    fn one_subject_takes_nothing_of_another() {
        let trusted = ["/CN=robot".to_owned()].into();
        let limits = Limits {
            connections: 4,
            connections_per_subject: 1,
            requests_per_subject: 2,
            trusted,
            ..Limits::default()
        };
        let subjects = Subjects::new(limits);
        let one = subjects.connect("/CN=a").unwrap();
        assert_eq!(subjects.connect("/CN=a").unwrap_err(), Overload::Subject);
        let requests = [subjects.request("/CN=a").unwrap(), subjects.request("/CN=a").unwrap()];
        assert_eq!(subjects.request("/CN=a").unwrap_err(), Overload::Subject);
        subjects.request("/CN=b").unwrap();
        let robots: Vec<_> = (0..3).map(|_| subjects.connect("/CN=robot").unwrap()).collect();
        assert_eq!(subjects.connect("/CN=b").unwrap_err(), Overload::All);
        drop((one, requests, robots));
        assert!(subjects.counts().of.is_empty() && subjects.counts().connections == 0);
    }
}
