//! Keeps openings: what is stored, what firewalls hold, and when it goes.
//!
//! The store is written first. Whatever happens after that, the next look at the firewalls brings them to what is stored.
//! Calls block; they are made off the event loop.

use crate::backend::{Firewall, Version};
use crate::decide::{self, Places, Refusal, Rules};
use crate::elements::{Change, Element, elements};
use crate::openings::{Asked, Host, HostName, Opening, Source};
use crate::store::{Entry, Held, Store, StoreError};
use crate::system::{Jobs, Names};
use batch::jobs::SiteJob;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It cannot be understood as it is.
    #[error("{0}")]
    Bad(String),
    /// It may not be done.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The batch system or the name service does not answer.
    #[error("{0}; nothing was changed, ask again later")]
    Away(String),
    /// The store failed.
    #[error("{0}; nothing was changed")]
    Store(#[from] StoreError),
    /// Closed, but connections may go on.
    #[error("the openings are closed, but connections may go on: {0}")]
    NotCut(String),
}

/// What a request came to.
#[derive(Debug)]
pub struct Done {
    /// The openings that it is about.
    pub openings: Vec<Opening>,
    /// Firewalls that are behind, with the reason; they are tried again.
    pub behind: Vec<String>,
}

/// What the keeper works with.
pub struct Parts {
    /// What is kept.
    pub store: Box<dyn Store>,
    /// Who holds it.
    pub firewalls: Vec<Box<dyn Firewall>>,
    /// Whose nodes are whose.
    pub jobs: Box<dyn Jobs>,
    /// What names mean.
    pub names: Box<dyn Names>,
    /// What the site allows.
    pub rules: Rules,
    /// Whether connections are cut at every removal.
    pub always_cut: bool,
}

/// What may change while the service runs.
#[derive(Clone)]
struct Terms {
    rules: Rules,
    always_cut: bool,
}

/// The service's one memory.
pub struct Keeper {
    parts: Parts,
    terms: Mutex<Terms>,
    state: Mutex<State>,
}

struct State {
    held: BTreeMap<String, Held>,
    /// Jobs by the destinations of their openings, so that a change looks at those around it only.
    reached: HashMap<IpAddr, BTreeSet<String>>,
    /// Made at the start: an agent that knows another run knows nothing.
    run: String,
    count: u64,
    /// Firewalls that may hold something else, by their place in the list.
    behind: BTreeMap<usize, String>,
}

impl State {
    fn version(&self) -> Version {
        Version(format!("{}-{}", self.run, self.count))
    }

    fn all(&self) -> BTreeSet<Element> {
        elements(self.held.values().flat_map(|held| &held.openings))
    }

    /// The elements of all destinations that these openings have, whoever opened them.
    fn around(&self, openings: &[Opening]) -> BTreeSet<Element> {
        let hosts: BTreeSet<&IpAddr> = openings.iter().flat_map(Opening::addr).collect();
        let jobs: BTreeSet<&String> = hosts.iter().filter_map(|to| self.reached.get(to)).flatten().collect();
        let touches = |opening: &&Opening| opening.addr().iter().any(|to| hosts.contains(to));
        let around = jobs.into_iter().filter_map(|job| self.held.get(job)).flat_map(|held| &held.openings);
        let mut all = elements(around.filter(touches));
        // An opening may have further destinations, of which not everything was looked at.
        all.retain(|element| hosts.contains(&element.to));
        all
    }

    fn add(&mut self, held: Held) {
        for to in held.openings.iter().flat_map(Opening::addr) {
            self.reached.entry(*to).or_default().insert(held.job.clone());
        }
        match self.held.get_mut(&held.job) {
            Some(known) => known.openings.extend(held.openings),
            None => drop(self.held.insert(held.job.clone(), held)),
        }
    }

    fn take(&mut self, job: &str, gone: &[Opening]) {
        let Some(held) = self.held.get_mut(job) else { return };
        held.openings.retain(|opening| !gone.contains(opening));
        let still: BTreeSet<&IpAddr> = held.openings.iter().flat_map(Opening::addr).collect();
        for to in gone.iter().flat_map(Opening::addr).filter(|to| !still.contains(to)) {
            if let Some(jobs) = self.reached.get_mut(to) {
                jobs.remove(job);
                if jobs.is_empty() {
                    self.reached.remove(to);
                }
            }
        }
        if held.openings.is_empty() {
            self.held.remove(job);
        }
    }
}

impl Keeper {
    /// Reads what is stored. Firewalls are brought to it by [`Keeper::look`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn new(parts: Parts) -> Result<Self, StoreError> {
        let stored = parts.store.load()?;
        let behind = (0..parts.firewalls.len()).map(|n| (n, "just started".to_owned())).collect();
        let run = jiff::Timestamp::now().as_nanosecond().to_string();
        let (held, reached) = (BTreeMap::new(), HashMap::new());
        let mut state = State { held, reached, run, count: 0, behind };
        stored.into_iter().for_each(|held| state.add(held));
        let terms = Mutex::new(Terms { rules: parts.rules.clone(), always_cut: parts.always_cut });
        Ok(Self { parts, terms, state: Mutex::new(state) })
    }

    fn terms(&self) -> Terms {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on the site allows something else. What is open stays open.
    pub fn change_terms(&self, rules: Rules, always_cut: bool) {
        *self.terms.lock().unwrap_or_else(PoisonError::into_inner) = Terms { rules, always_cut };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens, when all of it may be opened.
    ///
    /// # Errors
    /// When nothing was changed, and why.
    pub fn open(&self, who: &str, id: &str, asked: &[Asked]) -> Result<Done, Failure> {
        let jobs = self.parts.jobs.now().map_err(Failure::Away)?;
        let job = decide::own(who, id, &jobs)?;
        let openings = asked.iter().map(|one| self.resolve(one)).collect::<Result<Vec<_>, _>>()?;
        let places = self.places(job)?;
        let mut state = self.state();
        let already = state.held.get(id).map_or(0, |held| held.openings.len());
        let permit = decide::decide(who, id, openings, already, &jobs, &places, &self.terms().rules)?;
        let openings = permit.into_openings();
        self.parts.store.add(&job.owner, &openings, Entry { job: id, who, what: "open", why: "asked" })?;
        tracing::info!(job = id, who, openings = openings.len(), "opened");
        let before = state.around(&openings);
        state.add(Held { job: id.to_owned(), owner: job.owner.clone(), openings: openings.clone() });
        let change = Change::between(&before, &state.around(&openings));
        self.apply(&mut state, &change);
        Ok(Done { openings, behind: behind(&self.parts, &state) })
    }

    /// The openings of a job.
    ///
    /// # Errors
    /// When it is not this person's job.
    pub fn show(&self, who: &str, id: &str) -> Result<Done, Failure> {
        let openings = self.held_by(who, id)?;
        Ok(Done { openings, behind: behind(&self.parts, &self.state()) })
    }

    /// Closes openings of a job, and cuts connections when that is asked for: those that are the same as `which`, or all.
    /// What is not there needs no closing.
    ///
    /// # Errors
    /// When nothing was changed; or connections may go on.
    pub fn close(&self, who: &str, id: &str, which: Option<&[Asked]>, cut: bool) -> Result<Done, Failure> {
        self.held_by(who, id)?;
        let which = which.map(|all| all.iter().map(|one| self.resolve(one)).collect::<Result<Vec<_>, _>>());
        let which = which.transpose()?;
        let mut state = self.state();
        let why = if cut { "asked, connections too" } else { "asked" };
        self.remove(&mut state, Entry { job: id, who, what: "close", why }, which.as_deref(), cut)?;
        let openings = state.held.get(id).map(|held| held.openings.clone()).unwrap_or_default();
        Ok(Done { openings, behind: behind(&self.parts, &state) })
    }

    /// The job, for clients that look at it before they open anything.
    ///
    /// # Errors
    /// When it is not this person's.
    pub fn job(&self, who: &str, id: &str) -> Result<SiteJob, Failure> {
        let jobs = self.parts.jobs.now().map_err(Failure::Away)?;
        Ok(decide::own(who, id, &jobs)?.clone())
    }

    /// Whoever opened for a job may see and close that, also when the batch system does not answer.
    fn held_by(&self, who: &str, id: &str) -> Result<Vec<Opening>, Failure> {
        match self.state().held.get(id) {
            Some(held) if held.owner == who => return Ok(held.openings.clone()),
            _ => {}
        }
        let jobs = self.parts.jobs.now().map_err(Failure::Away)?;
        decide::own(who, id, &jobs)?;
        Ok(Vec::new())
    }

    /// Closes what has to go, and brings firewalls that are behind to what is stored. To be called at the start and then
    /// again and again.
    pub fn look(&self) {
        match self.parts.jobs.now() {
            Ok(jobs) => self.end(&jobs),
            // Nobody knows whether a job is over: openings stay until somebody does.
            Err(reason) => tracing::warn!(%reason, "the batch system does not answer; openings stay"),
        }
        (0..self.parts.firewalls.len()).for_each(|n| self.catch_up(n));
    }

    /// Asks one firewall what it holds, and sends everything where that is not what it should be. Requests do not wait
    /// for this: they leave out a firewall that is behind.
    fn catch_up(&self, n: usize) {
        let firewall = &self.parts.firewalls[n];
        let (is_behind, version) = {
            let state = self.state();
            (state.behind.contains_key(&n), state.version())
        };
        if !is_behind {
            let holds = firewall.holds(&version);
            let mut state = self.state();
            if holds == Ok(true) || state.version() != version {
                return;
            }
            let reason = holds.err().unwrap_or_else(|| "it has lost what it held".into());
            tracing::warn!(firewall = firewall.name(), reason, "sending everything");
            state.behind.insert(n, reason);
        }
        // What is opened meanwhile is not in what was sent.
        for _ in 0..3 {
            let (all, version) = {
                let state = self.state();
                (state.all(), state.version())
            };
            let done = firewall.replace(&all, &version);
            let mut state = self.state();
            if done.is_err() || state.version() == version {
                return report(&mut state, n, firewall.name(), done);
            }
        }
    }

    fn end(&self, jobs: &[SiteJob]) {
        let mut state = self.state();
        let over =
            |held: &Held| decide::why_over(&held.job, &held.owner, jobs).map(|why| (held.job.clone(), why));
        let over: Vec<_> = state.held.values().filter_map(over).collect();
        for (job, why) in over {
            let entry = Entry { job: &job, who: "gridfw", what: "end", why: &why };
            if let Err(reason) = self.remove(&mut state, entry, None, false) {
                tracing::error!(job, %reason, "openings of a job that is over are still there; tried again");
            }
        }
    }

    fn remove(
        &self,
        state: &mut State,
        entry: Entry<'_>,
        which: Option<&[Opening]>,
        cut: bool,
    ) -> Result<(), Failure> {
        let Some(held) = state.held.get(entry.job) else { return Ok(()) };
        let goes = |opening: &&Opening| which.is_none_or(|which| which.contains(opening));
        let gone: Vec<Opening> = held.openings.iter().filter(goes).cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.parts.store.remove(&gone, entry)?;
        tracing::info!(job = entry.job, who = entry.who, why = entry.why, openings = gone.len(), "closed");
        let before = state.around(&gone);
        state.take(entry.job, &gone);
        let change = Change::between(&before, &state.around(&gone));
        self.apply(state, &change);
        if cut || self.terms().always_cut {
            let hosts = change.losers();
            let cut = self.parts.firewalls.iter().map(|firewall| {
                firewall.cut(&hosts).map_err(|reason| format!("{}: {reason}", firewall.name()))
            });
            cut.collect::<Result<(), _>>().map_err(Failure::NotCut)?;
        }
        Ok(())
    }

    /// Firewalls that are behind are left out: they get everything at the next look, and nobody waits for them.
    fn apply(&self, state: &mut State, change: &Change) {
        if change.is_empty() {
            return;
        }
        let from = state.version();
        state.count += 1;
        let to = state.version();
        for (n, firewall) in self.parts.firewalls.iter().enumerate() {
            if state.behind.contains_key(&n) {
                continue;
            }
            // A table that somebody flushed, an agent that was restarted: the whole state mends both.
            let done = firewall.change(change, &from, &to).or_else(|reason| {
                tracing::warn!(firewall = firewall.name(), %reason, "a change failed; sending everything");
                firewall.replace(&state.all(), &to)
            });
            report(state, n, firewall.name(), done);
        }
    }

    fn resolve(&self, asked: &Asked) -> Result<Opening, Failure> {
        let mut addr = BTreeSet::new();
        for host in &asked.addr {
            match host {
                Host::Address(address) => drop(addr.insert(*address)),
                Host::Name(name) => addr.extend(self.addresses(name, false)?),
            }
        }
        for host in &asked.addr4 {
            match host {
                Host::Address(address) => drop(addr.insert(*address)),
                Host::Name(name) => addr.extend(self.addresses(name, true)?),
            }
        }
        let mut sources = BTreeSet::new();
        for source in &asked.sources {
            match source {
                Source::Net(net) => drop(sources.insert(*net)),
                Source::Name(name) => {
                    let found = self.parts.names.lookup(name).map_err(Failure::Away)?;
                    if found.is_empty() {
                        return Err(Failure::Bad(format!(
                            "src_addr: no address is known for {}",
                            name.as_str()
                        )));
                    }
                    sources.extend(found.into_iter().map(ipnet::IpNet::from));
                }
            }
        }
        Opening::new(asked, addr, sources).map_err(Failure::Bad)
    }

    /// IPv6 addresses of a name or its twin; IPv4 addresses where they are wanted, or where there are no others.
    fn addresses(&self, name: &HostName, v4: bool) -> Result<BTreeSet<IpAddr>, Failure> {
        let of = |name: &HostName| self.parts.names.lookup(name).map_err(Failure::Away);
        let family = |all: BTreeSet<IpAddr>, v4: bool| {
            all.into_iter().filter(|a| a.is_ipv4() == v4).collect::<BTreeSet<_>>()
        };
        let named = of(name)?;
        let mut found = family(named.clone(), v4);
        if found.is_empty() && (name.is_ipv6_name() || !v4) {
            found = family(of(&name.twin())?, v4);
        }
        if found.is_empty() && !v4 && self.terms().rules.ipv4 {
            found = family(named, true);
        }
        if found.is_empty() {
            let (field, family) = if v4 { ("addr4", "IPv4") } else { ("addr", "IPv6") };
            return Err(Failure::Bad(format!(
                "{field}: no {family} address is known for {}; check the name",
                name.as_str()
            )));
        }
        Ok(found)
    }

    /// Each node under its name and its name for IPv6.
    fn places(&self, job: &SiteJob) -> Result<Places, Failure> {
        let mut places = Places::new();
        for node in &job.nodes {
            let Some(name) = HostName::parse(node) else { continue };
            let mut found = self.parts.names.lookup(&name).map_err(Failure::Away)?;
            found.extend(self.parts.names.lookup(&name.twin()).map_err(Failure::Away)?);
            places.insert(node.clone(), found);
        }
        Ok(places)
    }
}

fn report(state: &mut State, n: usize, name: &str, done: Result<(), String>) {
    match done {
        Ok(()) => {
            if state.behind.remove(&n).is_some() {
                tracing::info!(firewall = name, "holds everything");
            }
        }
        Err(reason) => {
            tracing::error!(firewall = name, %reason, "behind; tried again");
            state.behind.insert(n, reason);
        }
    }
}

fn behind(parts: &Parts, state: &State) -> Vec<String> {
    let one = |(n, reason): (&usize, &String)| format!("{}: {reason}", parts.firewalls[*n].name());
    state.behind.iter().map(one).collect()
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
