use super::*;
use crate::openings;
use crate::ports::Ports;
use crate::store::Sqlite;
use batch::jobs::Phase;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the parts of a keeper see and say, from outside.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    jobs: Option<Vec<SiteJob>>,
    holds: BTreeSet<Element>,
    version: Version,
    down: bool,
    half_way: bool,
    cut: BTreeSet<IpAddr>,
}

impl World {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }
}

impl Jobs for World {
    fn now(&self) -> Result<Vec<SiteJob>, String> {
        self.with(|w| w.jobs.clone().ok_or_else(|| "squeue: away".into()))
    }
}

impl Names for World {
    fn lookup(&self, name: &HostName) -> Result<BTreeSet<IpAddr>, String> {
        let known = |text: &str| [text.parse().unwrap()].into();
        Ok(match name.as_str() {
            "a" => known("192.0.2.1"),
            "a-ipv6" => known("2001:db8::a"),
            "b" => known("2001:db8::b"),
            "home.example.org" => known("2001:db8:9::1"),
            _ => BTreeSet::new(),
        })
    }
}

impl Firewall for World {
    fn name(&self) -> &str {
        "border"
    }
    fn change(&self, change: &Change, from: &Version, to: &Version) -> Result<(), String> {
        self.with(|w| {
            if w.down || w.version != *from {
                return Err("no".into());
            }
            w.holds.retain(|one| !change.remove.contains(one));
            if w.half_way {
                return Err("ended in the middle".into());
            }
            w.holds.extend(change.add.iter().copied());
            w.version = to.clone();
            Ok(())
        })
    }
    fn replace(&self, all: &BTreeSet<Element>, to: &Version) -> Result<(), String> {
        self.with(|w| {
            if w.down {
                return Err("down".into());
            }
            (w.holds, w.version) = (all.clone(), to.clone());
            Ok(())
        })
    }
    fn holds(&self, version: &Version) -> Result<bool, String> {
        self.with(|w| if w.down { Err("down".into()) } else { Ok(w.version == *version) })
    }
    fn cut(&self, hosts: &BTreeSet<IpAddr>) -> Result<(), String> {
        self.with(|w| w.cut.extend(hosts));
        Ok(())
    }
}

fn job(id: &str, owner: &str, node: &str) -> SiteJob {
    let nodes = [node.to_owned()].into();
    SiteJob { id: id.into(), owner: owner.into(), phase: Phase::Running, nodes, whole: true }
}

struct Site {
    dir: tempfile::TempDir,
    world: World,
}

impl Site {
    fn new() -> Self {
        let world = World::default();
        world.with(|w| w.jobs = Some(vec![job("7", "alice", "a"), job("8", "bob", "b")]));
        Self { dir: tempfile::tempdir().unwrap(), world }
    }

    fn keeper(&self) -> Keeper {
        let protocols = vec![openings::Proto::TcpUdp, openings::Proto::All];
        let rules = Rules {
            ports: Ports::merged(vec![(1, 65535)]),
            protocols,
            sources: Vec::new(),
            most: 3,
            ipv4: true,
        };
        let keeper = Keeper::new(Parts {
            store: Box::new(Sqlite::open(&self.dir.path().join("db")).unwrap()),
            firewalls: vec![Box::new(self.world.clone())],
            jobs: Box::new(self.world.clone()),
            names: Box::new(self.world.clone()),
            rules,
            always_cut: false,
        });
        let keeper = keeper.unwrap();
        keeper.look();
        keeper
    }

    fn held(&self) -> usize {
        self.world.with(|w| w.holds.len())
    }
}

fn ask(text: &str) -> Vec<Asked> {
    openings::parse(text.as_bytes()).unwrap()
}

const A: &str = r#"{"addr": "a", "port": 22}"#;

#[test]
fn names_become_addresses_and_openings_add_up() {
    let site = Site::new();
    let keeper = site.keeper();
    let done = keeper.open("alice", "7", &ask(A)).unwrap();
    assert_eq!(
        done.openings[0].to_json()["addr"],
        serde_json::json!(["2001:db8::a"]),
        "by its name for IPv6"
    );
    assert!(done.behind.is_empty());
    assert_eq!(site.held(), 3, "ICMPv6, TCP and UDP");
    keeper
        .open("alice", "7", &ask(r#"{"addr": "a-ipv6", "port": 23, "src_addr": "home.example.org"}"#))
        .unwrap();
    assert_eq!(keeper.show("alice", "7").unwrap().openings.len(), 2);
    let four = keeper.open("alice", "7", &ask(r#"{"addr4": "a", "port": 24}"#)).unwrap();
    assert_eq!(four.openings[0].to_json()["addr4"], serde_json::json!(["192.0.2.1"]));
    assert!(keeper.open("alice", "7", &ask(A)).unwrap_err().to_string().contains("at most 3"));
    keeper.close("alice", "7", None, false).unwrap();
    assert_eq!((site.held(), keeper.show("alice", "7").unwrap().openings.len()), (0, 0));
}

#[test]
fn a_refused_request_changes_nothing() {
    let site = Site::new();
    let keeper = site.keeper();
    let two = format!("[{A}, {}]", r#"{"addr": "b", "port": 22}"#);
    for (who, id, text) in [("bob", "7", A), ("alice", "7", &*two), ("alice", "9", A)] {
        assert!(matches!(keeper.open(who, id, &ask(text)), Err(Failure::Refused(_))), "{who} {id}");
    }
    let unknown = keeper.open("alice", "7", &ask(r#"{"addr": "nowhere", "port": 22}"#)).unwrap_err();
    assert!(unknown.to_string().starts_with("addr: no IPv6 address is known for nowhere"), "{unknown}");
    assert!(keeper.show("bob", "7").is_err() && keeper.close("bob", "7", None, false).is_err());
    assert_eq!((site.held(), keeper.state().held.len()), (0, 0));
    site.world.with(|w| w.jobs = None);
    assert!(matches!(keeper.open("alice", "7", &ask(A)), Err(Failure::Away(_))));
}

#[test]
fn everything_of_a_job_goes_with_it_also_when_nobody_was_there() {
    let site = Site::new();
    let keeper = site.keeper();
    keeper.open("alice", "7", &ask(A)).unwrap();
    keeper.open("bob", "8", &ask(r#"{"addr": "b", "port": 22}"#)).unwrap();
    site.world.with(|w| w.jobs = None);
    keeper.look();
    assert_eq!(site.held(), 6, "nobody knows that a job is over");
    site.world.with(|w| w.jobs = Some(vec![job("8", "bob", "b")]));
    keeper.look();
    assert_eq!(site.held(), 3);
    drop(keeper);
    site.world.with(|w| w.jobs = Some(Vec::new()));
    let keeper = site.keeper();
    assert_eq!(site.held(), 0);
    let trail = keeper.parts.store.trail(Some("8"), 9).unwrap();
    assert_eq!((&trail[0]["what"], &trail[0]["why"]), (&"end".into(), &"the job is over".into()));
}

#[test]
fn a_firewall_that_is_down_is_behind_and_catches_up() {
    let site = Site::new();
    let keeper = site.keeper();
    site.world.with(|w| w.down = true);
    let done = keeper.open("alice", "7", &ask(A)).unwrap();
    assert_eq!(done.behind, ["border: down"]);
    assert_eq!(keeper.show("alice", "7").unwrap().behind.len(), 1);
    keeper.look();
    assert_eq!(keeper.show("alice", "7").unwrap().behind.len(), 1);
    site.world.with(|w| w.down = false);
    keeper.look();
    assert_eq!((site.held(), keeper.show("alice", "7").unwrap().behind.len()), (3, 0));
}

#[test]
fn a_change_that_fails_half_way_is_mended_at_once() {
    let site = Site::new();
    let keeper = site.keeper();
    site.world.with(|w| w.half_way = true);
    assert!(keeper.open("alice", "7", &ask(A)).unwrap().behind.is_empty());
    assert_eq!(site.held(), 3);
}

#[test]
fn a_firewall_that_lost_everything_gets_it_again() {
    let site = Site::new();
    let keeper = site.keeper();
    keeper.open("alice", "7", &ask(A)).unwrap();
    site.world.with(|w| (w.holds, w.version) = (BTreeSet::new(), Version::default()));
    keeper.look();
    assert_eq!(site.held(), 3);
}

#[test]
fn connections_are_cut_where_it_is_asked_for() {
    let site = Site::new();
    let keeper = site.keeper();
    keeper.open("alice", "7", &ask(A)).unwrap();
    keeper.close("alice", "7", None, false).unwrap();
    assert!(site.world.with(|w| w.cut.is_empty()));
    keeper.open("alice", "7", &ask(A)).unwrap();
    keeper.close("alice", "7", None, true).unwrap();
    assert_eq!(site.world.with(|w| w.cut.clone()), ["2001:db8::a".parse().unwrap()].into());
}

#[test]
fn requests_at_once_leave_what_all_of_them_asked_for() {
    let site = Site::new();
    let keeper = site.keeper();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for port in 1..=6 {
            let (keeper, done) = (&keeper, &done);
            scope.spawn(move || {
                let asked = ask(&format!(r#"{{"addr": "a", "port": {}}}"#, 2 * port));
                done.fetch_add(usize::from(keeper.open("alice", "7", &asked).is_ok()), Ordering::SeqCst);
            });
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), 3, "three openings per job, however many ask");
    assert_eq!(site.held(), 1 + 3 * 2);
}

#[test]
fn one_opening_is_closed_and_the_others_stay() {
    let site = Site::new();
    let keeper = site.keeper();
    let (one, two) =
        (ask(r#"{"addr": "a", "port": "40000..40009"}"#), ask(r#"{"addr": "a", "port": "40010..40019"}"#));
    keeper.open("alice", "7", &one).unwrap();
    keeper.open("alice", "7", &two).unwrap();
    assert_eq!(site.held(), 1 + 2, "neighbours are one range");
    let left = keeper.close("alice", "7", Some(&one), false).unwrap().openings;
    assert_eq!(left.iter().map(|o| o.ports().to_string()).collect::<Vec<_>>(), ["40010..40019"]);
    assert_eq!(keeper.close("alice", "7", Some(&one), false).unwrap().openings, left, "closed already");
    let ports = |w: &mut Inner| w.holds.iter().any(|e| format!("{:?}", e.what).contains("40009"));
    assert!(!site.world.with(ports) && site.held() == 3);
    keeper.close("alice", "7", Some(&two), false).unwrap();
    let state = keeper.state();
    assert!(site.held() == 0 && state.held.is_empty() && state.reached.is_empty());
    assert!(keeper.parts.store.load().unwrap().is_empty());
}

/// What is looked at for a change is what lies around it, and comes to the same as everything would.
#[test]
fn changes_lead_where_all_openings_together_lead() {
    let site = Site::new();
    let mut state = site.keeper().state.into_inner().unwrap();
    let held = |job: u8, openings: &[&str]| {
        let openings =
            openings.iter().map(|text| Opening::from_json(&serde_json::from_str(text).unwrap()).unwrap());
        Held { job: job.to_string(), owner: "alice".into(), openings: openings.collect() }
    };
    let (near, far) = (
        r#"{"addr": ["2001:db8::1", "2001:db8::2"], "port": "1..5"}"#,
        r#"{"addr": "2001:db8::3", "port": 9}"#,
    );
    let over = r#"{"addr": "2001:db8::2", "port": "4..8"}"#;
    let mut holds = BTreeSet::new();
    let mut step = |state: &mut State, gone: bool, held: Held| {
        let before = state.around(&held.openings);
        if gone {
            state.take(&held.job, &held.openings);
        } else {
            state.add(held.clone());
        }
        let change = Change::between(&before, &state.around(&held.openings));
        holds.retain(|one| !change.remove.contains(one));
        holds.extend(change.add.iter().copied());
        assert_eq!(holds, state.all());
    };
    step(&mut state, false, held(1, &[near]));
    step(&mut state, false, held(2, &[over]));
    step(&mut state, false, held(3, &[far]));
    step(&mut state, false, held(1, &[over, far]));
    step(&mut state, true, held(1, &[near]));
    step(&mut state, true, held(2, &[over]));
    step(&mut state, true, held(1, &[over, far]));
    step(&mut state, true, held(3, &[far]));
    assert!(state.reached.is_empty() && state.held.is_empty());
}
