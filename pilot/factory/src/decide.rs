//! How many pilots to submit where, and why not more: pure. Times are seconds since the epoch.
//!
//! The ledger and the batch systems' own listings both count: a job that only one of them knows still fills a cap. Nothing
//! here ever removes a pilot.

use crate::entry::{Entry, Outcome, State};
use std::collections::{BTreeMap, BTreeSet};

/// What a site offers to a pilot, and its caps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Name.
    pub name: String,
    /// Cores of one pilot.
    pub cores: u32,
    /// Memory of one pilot in bytes; unknown means that memory does not matter.
    pub memory: Option<u64>,
    /// Walltime of one pilot, seconds.
    pub walltime: u64,
    /// Payloads that one pilot runs at the same time.
    pub slots: u32,
    /// Most pilots, queued and running.
    pub max_pilots: u32,
    /// Most queued ones.
    pub max_pending: u32,
}

/// A virtual organisation with a cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vo {
    /// Name.
    pub name: String,
    /// Most pilots for its members' payloads.
    pub max_pilots: u32,
    /// Subjects; one that ends with `*` stands for all that begin so.
    pub members: Vec<String>,
}

/// Caps over all sites, and the first pause after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most pilots of all sites.
    pub total: u32,
    /// Most pilots that one user's payloads may bring about.
    pub per_user: u32,
    /// Caps of virtual organisations; the first one that a user belongs to counts.
    pub vos: Vec<Vo>,
    /// Seconds; doubled with each further failure.
    pub backoff: u64,
}

impl Limits {
    /// The organisation that a user belongs to.
    pub fn vo_of(&self, owner: &str) -> Option<&Vo> {
        let is_member = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => owner.starts_with(start),
            None => pattern == owner,
        };
        self.vos.iter().find(|vo| vo.members.iter().any(is_member))
    }
}

/// Waiting payloads of one user that ask for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Subject of the user.
    pub owner: String,
    /// Cores of one payload.
    pub cores: u32,
    /// Memory of one payload, bytes.
    pub memory: Option<u64>,
    /// Walltime of one payload, seconds.
    pub walltime: Option<u64>,
    /// How many wait.
    pub waiting: u64,
}

/// What is known about a site in this round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Queued and running jobs that look like pilots and are not in the ledger; an error when the site cannot be asked.
    pub strangers: Result<u32, String>,
    /// Whether the batch system could ever run such a job; `None` when it was not asked yet.
    pub satisfiable: Option<Result<(), String>>,
}

/// Everything that a decision depends on.
#[derive(Debug, Clone)]
pub struct World<'a> {
    /// The sites, in order of preference.
    pub sites: &'a [Site],
    /// Caps.
    pub limits: &'a Limits,
    /// What waits.
    pub demand: &'a [Demand],
    /// All live pilots, and those that ended in the last day.
    pub ledger: &'a [Entry],
    /// By site; a site without one is not asked.
    pub views: &'a BTreeMap<String, View>,
    /// Now.
    pub now: u64,
}

/// One pilot to submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    /// Where.
    pub site: String,
    /// Whose payloads bring it about.
    pub owner: String,
    /// Nodes that it shall not get.
    pub avoid: Vec<String>,
}

/// What to do, and for each site why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sites whose batch system is to be asked first whether it could run a pilot at all.
    pub check: Vec<String>,
    /// Pilots to submit, in order.
    pub submit: Vec<Submit>,
    /// Site and sentence, one for each site, then those about demand that no site can meet (with an empty site).
    pub reasons: Vec<(String, String)>,
}

/// Longest pause after failures.
const LONGEST: u64 = 3600;
/// How long a pilot that found work speaks for its site.
const MEMORY: u64 = 3600;

/// How many payloads like this one a pilot of the site runs at once, or what does not fit.
pub fn fits(site: &Site, demand: &Demand) -> Result<u64, String> {
    if demand.cores > site.cores {
        return Err(format!("{} cores are more than {}", demand.cores, site.cores));
    }
    if let (Some(wanted), Some(has)) = (demand.memory, site.memory)
        && wanted > has
    {
        return Err(format!("{wanted} bytes of memory are more than {has}"));
    }
    if demand.walltime.is_some_and(|wanted| wanted > site.walltime) {
        return Err(format!(
            "a walltime of {} s is more than {}",
            demand.walltime.unwrap_or(0),
            site.walltime
        ));
    }
    let by_memory = match (demand.memory, site.memory) {
        (Some(wanted), Some(has)) if wanted > 0 => has / wanted,
        _ => u64::MAX,
    };
    let by_cores = u64::from(site.cores) / u64::from(demand.cores.max(1));
    Ok(by_cores.min(u64::from(site.slots)).min(by_memory).max(1))
}

/// A site in this round.
struct Room<'a> {
    site: &'a Site,
    /// Nodes to stay away from.
    avoid: Vec<String>,
    /// How many more, at most.
    left: u32,
    /// What bounds `left`.
    bound: String,
    submitted: u32,
}

/// Decides.
pub fn decide(world: &World<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<u64> = world.demand.iter().map(|d| d.waiting).collect();
    let live: Vec<&Entry> = world.ledger.iter().filter(|e| e.is_live()).collect();
    // Pilots on their way take what they can before more are submitted for the same payloads.
    for entry in live.iter().filter(|e| !e.worked) {
        if let Some(site) = world.sites.iter().find(|s| s.name == entry.site) {
            absorb(site, world.demand, &mut left);
        }
    }
    let wanted: Vec<bool> =
        world.sites.iter().map(|s| pick(s, world.demand, &left, |_| true).is_some()).collect();
    let mut rooms = Vec::new();
    for (site, wanted) in world.sites.iter().zip(wanted) {
        match room(world, site, wanted) {
            Ok(room) => rooms.push(room),
            Err(Closed::Ask) => {
                plan.check.push(site.name.clone());
                plan.reasons.push((
                    site.name.clone(),
                    "asks the batch system first whether it could run a pilot".into(),
                ));
            }
            Err(Closed::Because(reason)) => plan.reasons.push((site.name.clone(), reason)),
        }
    }
    let mut counts = Counts::of(world, &live);
    // One pilot for each site in turn, until no site takes another one.
    loop {
        let before = plan.submit.len();
        rooms.iter_mut().for_each(|room| one(world, room, &mut counts, &mut left, &mut plan));
        if plan.submit.len() == before {
            break;
        }
    }
    for room in rooms {
        let reason = format!("submits {}: {}", room.submitted, room.bound);
        plan.reasons.push((room.site.name.clone(), reason));
    }
    let order = |name: &String| world.sites.iter().position(|s| s.name == *name);
    plan.reasons.sort_by_key(|(name, _)| order(name));
    plan.reasons.extend(unmet(world));
    plan
}

/// Live pilots by what caps them.
struct Counts {
    total: u64,
    by_owner: BTreeMap<String, u32>,
    by_vo: BTreeMap<String, u32>,
}

impl Counts {
    fn of(world: &World<'_>, live: &[&Entry]) -> Self {
        let strangers = world.views.values().filter_map(|v| v.strangers.as_ref().ok()).map(|n| u64::from(*n));
        let mut counts = Self { total: strangers.sum(), by_owner: BTreeMap::new(), by_vo: BTreeMap::new() };
        live.iter().for_each(|entry| counts.add(world.limits, &entry.owner));
        counts
    }

    fn add(&mut self, limits: &Limits, owner: &str) {
        self.total += 1;
        *self.by_owner.entry(owner.to_owned()).or_default() += 1;
        if let Some(vo) = limits.vo_of(owner) {
            *self.by_vo.entry(vo.name.clone()).or_default() += 1;
        }
    }

    fn of_owner(&self, owner: &str) -> u32 {
        self.by_owner.get(owner).copied().unwrap_or(0)
    }

    /// What keeps another pilot from being submitted for this user.
    fn full(&self, limits: &Limits, owner: &str) -> Option<String> {
        if self.of_owner(owner) >= limits.per_user {
            return Some(format!("the cap of {} pilots for {owner} is reached", limits.per_user));
        }
        let vo = limits.vo_of(owner)?;
        let live = self.by_vo.get(&vo.name).copied().unwrap_or(0);
        (live >= vo.max_pilots)
            .then(|| format!("the cap of {} pilots for VO {} is reached", vo.max_pilots, vo.name))
    }
}

enum Closed {
    Ask,
    Because(String),
}

/// Whether, and how many, pilots may be submitted to a site now.
fn room<'a>(world: &World<'_>, site: &'a Site, wanted: bool) -> Result<Room<'a>, Closed> {
    let because = |reason: String| Err(Closed::Because(reason));
    let Some(view) = world.views.get(&site.name) else { return because("was not asked".into()) };
    let strangers = match &view.strangers {
        Ok(strangers) => *strangers,
        Err(reason) => return because(format!("submits nothing while its jobs cannot be listed: {reason}")),
    };
    if !wanted {
        return because(
            "submits nothing: no payload waits that it could run and that no pilot on its way will take"
                .into(),
        );
    }
    let own: Vec<&Entry> = world.ledger.iter().filter(|e| e.site == site.name).collect();
    let (avoid, pause) = pauses(&own, world.limits.backoff, world.now);
    if let Some((until, failures)) = pause.filter(|(until, _)| *until > world.now) {
        let wait = until - world.now;
        return because(format!(
            "backs off for {wait} s: {failures} of its latest pilots ended without work"
        ));
    }
    match &view.satisfiable {
        None => return Err(Closed::Ask),
        Some(Err(reason)) => return because(format!("its batch system would never run a pilot: {reason}")),
        Some(Ok(())) => {}
    }
    let live = strangers + count(own.iter().filter(|e| e.is_live()));
    let pending =
        strangers + count(own.iter().filter(|e| matches!(e.state, State::Intended | State::Pending)));
    let ramp = ramp(&own, world.now);
    let bounds = [
        (site.max_pilots.saturating_sub(live), format!("its cap of {} pilots", site.max_pilots)),
        (site.max_pending.saturating_sub(pending), format!("its cap of {} queued pilots", site.max_pending)),
        (ramp.saturating_sub(live), format!("ramp-up allows {ramp} until more pilots find work")),
    ];
    let (left, bound) = bounds.into_iter().min_by_key(|(left, _)| *left).unwrap_or_default();
    Ok(Room { site, avoid, left, bound, submitted: 0 })
}

fn count<'e>(entries: impl Iterator<Item = &'e &'e Entry>) -> u32 {
    u32::try_from(entries.count()).unwrap_or(u32::MAX)
}

/// One pilot, then twice as many as have found work.
fn ramp(own: &[&Entry], now: u64) -> u32 {
    let failed = own.iter().filter(|e| e.state == State::Ended(Outcome::Fruitless)).map(|e| e.changed).max();
    let good = own.iter().filter(|e| match e.state {
        State::Ended(Outcome::Worked) => e.changed + MEMORY > now && Some(e.changed) > failed,
        State::Ended(_) => false,
        _ => e.worked,
    });
    u32::try_from(good.count()).unwrap_or(u32::MAX).saturating_mul(2).max(1)
}

fn doubled(base: u64, failures: usize) -> u64 {
    let doubling = u32::try_from(failures.saturating_sub(1)).unwrap_or(63).min(32);
    base.saturating_mul(1 << doubling).min(LONGEST.max(base))
}

/// Nodes to avoid, and until when the whole site rests, with the number of failures behind that.
///
/// A node counts for itself, so that a few bad ones do not stop the site; failures on different nodes, or before a node was
/// known, count for the site. Where every known node is bad, the site rests instead of asking for nodes that do not exist.
fn pauses(own: &[&Entry], base: u64, now: u64) -> (Vec<String>, Option<(u64, usize)>) {
    let mut ended: Vec<&&Entry> = own.iter().filter(|e| matches!(e.state, State::Ended(_))).collect();
    ended.sort_by_key(|e| std::cmp::Reverse(e.changed));
    let known: BTreeSet<&str> = own.iter().filter_map(|e| e.host.as_deref()).collect();
    let bad: BTreeMap<&str, u64> = known
        .iter()
        .filter_map(|host| {
            let here = ended.iter().filter(|e| e.host.as_deref() == Some(host));
            let run: Vec<_> = fruitless(here.copied()).collect();
            let until = run.first()?.changed.saturating_add(doubled(base, run.len()));
            (until > now).then_some((*host, until))
        })
        .collect();
    let run: Vec<_> = fruitless(ended.iter().copied()).collect();
    let places: BTreeSet<_> = run.iter().map(|e| e.host.clone().ok_or(e.changed / base.max(1))).collect();
    let pause = run.first().map(|last| (last.changed.saturating_add(doubled(base, places.len())), run.len()));
    if !known.is_empty() && bad.len() == known.len() {
        let first_good = bad.values().min().copied().unwrap_or(now);
        return (Vec::new(), pause.map(|(until, n)| (until.max(first_good), n)));
    }
    (bad.into_keys().map(str::to_owned).collect(), pause)
}

/// The latest failures, back to the last pilot that found work.
fn fruitless<'e>(newest_first: impl Iterator<Item = &'e &'e Entry>) -> impl Iterator<Item = &'e Entry> {
    let until_work = newest_first.take_while(|e| e.state != State::Ended(Outcome::Worked));
    until_work.filter(|e| e.state == State::Ended(Outcome::Fruitless)).copied()
}

/// The largest demand that the site can meet, of those that pass.
fn pick(site: &Site, demand: &[Demand], left: &[u64], pass: impl Fn(&Demand) -> bool) -> Option<usize> {
    let open = demand.iter().zip(left).enumerate();
    let open = open.filter(|(_, (d, left))| **left > 0 && fits(site, d).is_ok() && pass(d));
    open.max_by_key(|(at, (_, left))| (**left, std::cmp::Reverse(*at))).map(|(at, _)| at)
}

/// Takes what one pilot of the site takes.
fn absorb(site: &Site, demand: &[Demand], left: &mut [u64]) {
    if let Some(at) = pick(site, demand, left, |_| true) {
        left[at] = left[at].saturating_sub(fits(site, &demand[at]).unwrap_or(1));
    }
}

/// Plans one more pilot for a site, or notes what bounds it.
fn one(world: &World<'_>, room: &mut Room<'_>, counts: &mut Counts, left: &mut [u64], plan: &mut Plan) {
    if room.left == 0 {
        return;
    }
    if counts.total >= u64::from(world.limits.total) {
        room.bound = format!("the cap of {} pilots of all sites is reached", world.limits.total);
        return;
    }
    let may = |d: &Demand| counts.full(world.limits, &d.owner).is_none();
    // The user with the fewest pilots first: nobody's thousand payloads keep others from their first pilot.
    let fewest = world.demand.iter().zip(left.iter());
    let fewest = fewest.filter(|(d, left)| **left > 0 && fits(room.site, d).is_ok() && may(d));
    let Some(fewest) = fewest.map(|(d, _)| counts.of_owner(&d.owner)).min() else {
        let blocked = pick(room.site, world.demand, left, |_| true);
        let blocked = blocked.and_then(|at| counts.full(world.limits, &world.demand[at].owner));
        room.bound = blocked.unwrap_or_else(|| "as many as the waiting payloads need".into());
        return;
    };
    let next = pick(room.site, world.demand, left, |d| may(d) && counts.of_owner(&d.owner) == fewest);
    let Some(at) = next else { return };
    let demand = &world.demand[at];
    left[at] = left[at].saturating_sub(fits(room.site, demand).unwrap_or(1));
    counts.add(world.limits, &demand.owner);
    room.left -= 1;
    room.submitted += 1;
    let (site, owner) = (room.site.name.clone(), demand.owner.clone());
    plan.submit.push(Submit { site, owner, avoid: room.avoid.clone() });
}

/// Demand that no site can ever meet, with each site's reason.
fn unmet(world: &World<'_>) -> Vec<(String, String)> {
    let mut unmet = Vec::new();
    for demand in world.demand.iter().filter(|d| d.waiting > 0) {
        let reasons: Vec<_> = world.sites.iter().map(|s| (s, fits(s, demand))).collect();
        if reasons.iter().all(|(_, fit)| fit.is_err()) {
            let each: Vec<String> = reasons
                .into_iter()
                .filter_map(|(s, fit)| Some(format!("{}: {}", s.name, fit.err()?)))
                .collect();
            let text =
                format!("{} payloads of {} fit no site ({})", demand.waiting, demand.owner, each.join("; "));
            unmet.push((String::new(), text));
        }
    }
    unmet
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
