//! Whether an opening may be made, and whether it may stay. Pure: jobs, addresses and rules in, a verdict out.

use crate::openings::{Opening, Proto};
use crate::ports::Ports;
use batch::jobs::{Phase, SiteJob};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Why not. Each kind has its own status code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such job, or it is over.
    #[error("{0}")]
    NoJob(String),
    /// Somebody else's job or node, or the site's rules.
    #[error("{0}")]
    Forbidden(String),
    /// Not yet.
    #[error("{0}")]
    TooEarly(String),
}

/// What the site lets people open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Ports that may be opened.
    pub ports: Ports,
    /// Protocols that may be asked for.
    pub protocols: Vec<Proto>,
    /// Networks that sources may be in; anything when there is none.
    pub sources: Vec<IpNet>,
    /// Most openings of one job.
    pub most: usize,
    /// Whether IPv4 destinations may be opened.
    pub ipv4: bool,
}

/// The addresses of the nodes of a job, as the site's own name service has them.
pub type Places = BTreeMap<String, BTreeSet<IpAddr>>;

/// Openings that passed: only [`decide`] makes them.
#[derive(Debug)]
pub struct Permit {
    openings: Vec<Opening>,
}

impl Permit {
    /// What may be opened.
    pub fn into_openings(self) -> Vec<Opening> {
        self.openings
    }
}

/// The job, when it is this person's.
///
/// # Errors
/// When there is no such job among those that are not over, or it is somebody else's.
pub fn own<'a>(who: &str, id: &str, jobs: &'a [SiteJob]) -> Result<&'a SiteJob, Refusal> {
    let found = jobs.iter().find(|job| job.id == id);
    let job = found.ok_or_else(|| {
        Refusal::NoJob(format!("job {id} is not there, or it is over; its openings go with it"))
    })?;
    match job.owner == who {
        true => Ok(job),
        false => Err(Refusal::Forbidden(format!("job {id} is not yours: you are {who}; ask its owner"))),
    }
}

/// The three checks, then the rules of the site. `already` counts the job's openings so far.
///
/// # Errors
/// The first reason that is found.
pub fn decide(
    who: &str,
    id: &str,
    openings: Vec<Opening>,
    already: usize,
    jobs: &[SiteJob],
    places: &Places,
    rules: &Rules,
) -> Result<Permit, Refusal> {
    let job = own(who, id, jobs)?;
    if job.phase == Phase::Waiting {
        return Err(Refusal::TooEarly(format!("job {id} has not started; ask again when it runs")));
    }
    shared(job, jobs)?;
    let own: BTreeSet<&IpAddr> = job.nodes.iter().filter_map(|node| places.get(node)).flatten().collect();
    let foreign = openings.iter().flat_map(Opening::addr).find(|to| !own.contains(to));
    if let Some(foreign) = foreign {
        let nodes: Vec<&str> = job.nodes.iter().map(String::as_str).collect();
        let reason = format!(
            "addr: {foreign} is no address of a node of job {id}; its nodes are {}",
            nodes.join(", ")
        );
        return Err(Refusal::Forbidden(reason));
    }
    openings.iter().try_for_each(|opening| allowed(opening, rules)).map_err(Refusal::Forbidden)?;
    if already + openings.len() > rules.most {
        let reason = format!(
            "job {id} has {already} openings, {} more are too many: at most {} per job; put ports and nodes together",
            openings.len(),
            rules.most
        );
        return Err(Refusal::Forbidden(reason));
    }
    Ok(Permit { openings })
}

/// Whole nodes only: whoever shares a node would be opened, too.
fn shared(job: &SiteJob, jobs: &[SiteJob]) -> Result<(), Refusal> {
    let id = &job.id;
    if !job.whole {
        let reason = format!(
            "job {id} does not have its nodes for itself; reserve whole nodes (--exclusive, or nodes=N)"
        );
        return Err(Refusal::Forbidden(reason));
    }
    let others = jobs.iter().filter(|other| other.id != *id && other.phase == Phase::Running);
    let node = others.flat_map(|other| &other.nodes).find(|node| job.nodes.contains(*node));
    match node {
        Some(node) => Err(Refusal::Forbidden(format!(
            "addr: {node} belongs to another job as well; reserve whole nodes"
        ))),
        None => Ok(()),
    }
}

fn allowed(opening: &Opening, rules: &Rules) -> Result<(), String> {
    if !rules.protocols.contains(&opening.proto()) {
        let names: Vec<_> = rules.protocols.iter().map(|proto| proto.as_str()).collect();
        return Err(format!(
            "proto: this site does not open {}; it opens {}",
            opening.proto().as_str(),
            names.join(", ")
        ));
    }
    let beyond = opening.ports().without(&rules.ports);
    if !beyond.is_empty() {
        return Err(format!("port: this site does not open {beyond}; it opens {}", rules.ports));
    }
    if !rules.ipv4 && opening.addr().iter().any(IpAddr::is_ipv4) {
        return Err("addr4: this site opens IPv6 only; leave IPv4 out".into());
    }
    let nets = || rules.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !rules.sources.is_empty() && opening.sources().is_empty() {
        return Err(format!(
            "src_addr: this site opens for named networks only; name some inside {}",
            nets()
        ));
    }
    let inside =
        |net: &&IpNet| rules.sources.is_empty() || rules.sources.iter().any(|wide| wide.contains(*net));
    match opening.sources().iter().find(|net| !inside(net)) {
        Some(odd) => Err(format!("src_addr: this site does not open for {odd}; it opens for {}", nets())),
        None => Ok(()),
    }
}

/// Why a job's openings have to go, when they have to: asked again and again while they stand.
pub fn why_over(id: &str, owner: &str, jobs: &[SiteJob]) -> Option<String> {
    let Some(job) = jobs.iter().find(|job| job.id == id) else { return Some("the job is over".into()) };
    if job.owner != owner {
        return Some(format!("the job is {}'s now", job.owner));
    }
    if job.phase == Phase::Waiting {
        return Some("the job waits again".into());
    }
    shared(job, jobs).err().map(|refusal| refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Written;
    use serde_json::{Value, json};

    fn job(id: &str, owner: &str, nodes: &[&str]) -> SiteJob {
        let nodes = nodes.iter().map(|n| (*n).to_owned()).collect();
        SiteJob { id: id.into(), owner: owner.into(), phase: Phase::Running, nodes, whole: true }
    }

    fn rules() -> Rules {
        let protocols = vec![Proto::Tcp, Proto::Udp, Proto::TcpUdp, Proto::All];
        Rules { ports: Ports::merged(vec![(1, 65535)]), protocols, sources: Vec::new(), most: 10, ipv4: true }
    }

    fn places() -> Places {
        let set = |text: &str| [text.parse().unwrap()].into();
        [("a".into(), set("2001:db8::a")), ("b".into(), set("2001:db8::b"))].into()
    }

    fn ask(who: &str, id: &str, opening: Value, jobs: &[SiteJob], rules: &Rules) -> Result<usize, String> {
        let opening = Opening::from_json(&opening).unwrap();
        let verdict = decide(who, id, vec![opening], 2, jobs, &places(), rules);
        verdict.map(|permit| permit.into_openings().len()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_three_checks() {
        let a = json!({"addr": "2001:db8::a", "port": 22});
        let jobs = [job("7", "alice", &["a"]), job("8", "bob", &["b"])];
        assert_eq!(ask("alice", "7", a.clone(), &jobs, &rules()), Ok(1));
        assert!(ask("bob", "7", a.clone(), &jobs, &rules()).unwrap_err().contains("not yours"));
        assert!(ask("alice", "9", a.clone(), &jobs, &rules()).unwrap_err().contains("over"));
        let b = json!({"addr": ["2001:db8::a", "2001:db8::b"], "port": 22});
        assert!(ask("alice", "7", b, &jobs, &rules()).unwrap_err().starts_with("addr: 2001:db8::b"));
        let waiting = [SiteJob { phase: Phase::Waiting, ..job("7", "alice", &["a"]) }];
        assert!(ask("alice", "7", a.clone(), &waiting, &rules()).unwrap_err().contains("not started"));
        let sharing = [job("7", "alice", &["a"]), job("8", "bob", &["a"])];
        assert!(ask("alice", "7", a.clone(), &sharing, &rules()).unwrap_err().contains("another job"));
        let part = [SiteJob { whole: false, ..job("7", "alice", &["a"]) }];
        assert!(ask("alice", "7", a, &part, &rules()).unwrap_err().contains("whole nodes"));
    }

    #[test]
    fn the_rules_of_the_site() {
        let jobs = [job("7", "alice", &["a"])];
        let a = json!({"addr": "2001:db8::a", "port": "22 8000..8010"});
        let refused = |rules: Rules, a: &Value| ask("alice", "7", a.clone(), &jobs, &rules).unwrap_err();
        let ports = Written::parse(&json!("8000..9000")).unwrap().ports;
        assert_eq!(
            refused(Rules { ports, ..rules() }, &a),
            "port: this site does not open 22; it opens 8000..9000"
        );
        assert!(refused(Rules { protocols: vec![Proto::Tcp], ..rules() }, &a).starts_with("proto:"));
        assert!(refused(Rules { most: 2, ..rules() }, &a).contains("at most 2 per job"));
        let narrow = Rules { sources: vec!["2001:db8:9::/48".parse().unwrap()], ..rules() };
        assert!(refused(narrow.clone(), &a).contains("named networks only"));
        let mut from = a.clone();
        from["src_addr"] = "2001:db8:9:1::/64".into();
        assert_eq!(ask("alice", "7", from.clone(), &jobs, &narrow), Ok(1));
        from["src_addr"] = "2001:db8:8::/64".into();
        assert!(refused(narrow, &from).contains("does not open for 2001:db8:8::/64"));
    }

    #[test]
    fn openings_go_when_the_reason_for_them_goes() {
        let jobs = [job("7", "alice", &["a"]), job("8", "bob", &["b"]), job("9", "bob", &["b"])];
        assert_eq!(why_over("7", "alice", &jobs), None);
        assert!(why_over("7", "bob", &jobs).is_some() && why_over("1", "bob", &jobs).is_some());
        assert!(why_over("8", "bob", &jobs).unwrap().contains("another job"));
    }
}
