//! Decisions of the factory, one by one, and caps under any history.

use super::*;
use uuid::Uuid;

fn site(name: &str) -> Site {
    Site {
        name: name.into(),
        cores: 4,
        memory: Some(8 << 30),
        walltime: 3600,
        slots: 4,
        max_pilots: 10,
        max_pending: 10,
    }
}

fn limits() -> Limits {
    let vo =
        Vo { name: "phys".into(), max_pilots: 6, members: vec!["/DC=phys/*".into(), "/CN=Guest".into()] };
    Limits { total: 20, per_user: 8, vos: vec![vo], backoff: 60 }
}

fn wants(owner: &str, cores: u32, waiting: u64) -> Demand {
    Demand { owner: owner.into(), cores, memory: None, walltime: None, waiting }
}

fn pilot(site: &str, state: State, worked: bool) -> Entry {
    Entry {
        name: Uuid::now_v7().to_string(),
        pilot: Uuid::now_v7(),
        site: site.into(),
        owner: "/CN=A".into(),
        state,
        job: None,
        host: None,
        worked,
        created: 0,
        changed: 1000,
        why: String::new(),
    }
}

fn ended(host: &str, outcome: Outcome, at: u64) -> Entry {
    Entry {
        host: Some(host.into()),
        changed: at,
        ..pilot("a", State::Ended(outcome), outcome == Outcome::Worked)
    }
}

fn open() -> View {
    View { strangers: Ok(0), satisfiable: Some(Ok(())) }
}

/// What is decided for site `a` at second 2000.
fn decided(demand: &[Demand], ledger: &[Entry], view: View) -> Plan {
    let (sites, views) = ([site("a")], BTreeMap::from([("a".to_owned(), view)]));
    let limits = limits();
    decide(&World { sites: &sites, limits: &limits, demand, ledger, views: &views, now: 2000 })
}

fn number(demand: &[Demand], ledger: &[Entry]) -> usize {
    decided(demand, ledger, open()).submit.len()
}

fn why(plan: &Plan) -> &str {
    &plan.reasons[0].1
}

#[test]
fn one_pilot_first_then_twice_as_many_as_have_found_work() {
    let many = [wants("/CN=A", 4, 100)];
    assert_eq!(number(&many, &[]), 1);
    assert_eq!(number(&many, &[pilot("a", State::Running, false)]), 0);
    assert_eq!(number(&many, &[pilot("a", State::Running, true)]), 1);
    let three: Vec<_> = (0..3).map(|_| pilot("a", State::Running, true)).collect();
    assert_eq!(number(&many, &three), 3);
    // Those that worked and ended within the hour speak for the site as well.
    let before: Vec<_> = (0..3).map(|n| ended(&format!("n{n}"), Outcome::Worked, 1900)).collect();
    assert_eq!(number(&many, &before), 6);
}

#[test]
fn no_more_than_waiting_payloads_need() {
    let worked: Vec<_> = (0..4).map(|n| ended(&format!("n{n}"), Outcome::Worked, 1900)).collect();
    assert_eq!(number(&[], &worked), 0);
    assert_eq!(number(&[wants("/CN=A", 1, 4)], &worked), 1, "four of them fit into one pilot");
    assert_eq!(number(&[wants("/CN=A", 2, 5)], &worked), 3);
    let mut coming = worked.clone();
    coming.push(pilot("a", State::Pending, false));
    assert_eq!(number(&[wants("/CN=A", 2, 5)], &coming), 2, "the one on its way takes two");
    coming.push(pilot("a", State::Intended, false));
    assert_eq!(number(&[wants("/CN=A", 2, 4)], &coming), 0);
    assert!(why(&decided(&[], &worked, open())).contains("no payload waits"));
}

#[test]
fn caps_of_site_user_vo_and_all_hold_and_are_named() {
    let worked: Vec<_> = (0..30).map(|n| ended(&format!("n{n}"), Outcome::Worked, 1900)).collect();
    let plan = decided(&[wants("/CN=A", 4, 100), wants("/CN=B", 4, 100)], &worked, open());
    assert_eq!(plan.submit.len(), 10);
    assert!(why(&plan).contains("cap of 10 pilots"), "{plan:?}");
    assert_eq!(plan.submit.iter().filter(|s| s.owner == "/CN=A").count(), 5, "the users take turns");
    let plan = decided(&[wants("/CN=A", 4, 100)], &worked, open());
    assert_eq!(plan.submit.len(), 8);
    assert!(why(&plan).contains("8 pilots for /CN=A"), "{plan:?}");
    let plan = decided(&[wants("/DC=phys/CN=C", 4, 5), wants("/CN=Guest", 4, 5)], &worked, open());
    assert_eq!(plan.submit.len(), 6);
    assert!(why(&plan).contains("VO phys"), "{plan:?}");
    let strangers = View { strangers: Ok(9), ..open() };
    assert_eq!(decided(&[wants("/CN=A", 4, 100)], &worked, strangers).submit.len(), 1);
}

#[test]
fn a_site_that_cannot_be_listed_gets_nothing() {
    let down = View { strangers: Err("squeue: no answer".into()), ..open() };
    let plan = decided(&[wants("/CN=A", 1, 1)], &[], down);
    assert!(plan.submit.is_empty() && why(&plan).contains("squeue: no answer"), "{plan:?}");
}

#[test]
fn the_batch_system_is_asked_before_the_first_pilot() {
    let ask = View { satisfiable: None, ..open() };
    let plan = decided(&[wants("/CN=A", 1, 1)], &[], ask.clone());
    assert_eq!((plan.check, plan.submit.len()), (vec!["a".to_owned()], 0));
    assert!(decided(&[], &[], ask).check.is_empty(), "only when there is a reason to");
    let never = View { satisfiable: Some(Err("no node has 4 cores".into())), ..open() };
    let plan = decided(&[wants("/CN=A", 1, 1)], &[], never);
    assert!(plan.submit.is_empty() && why(&plan).contains("no node has 4 cores"));
}

#[test]
fn failures_make_the_site_wait_twice_as_long_each_time() {
    let many = [wants("/CN=A", 4, 100)];
    let failed = |at| [ended("n1", Outcome::Fruitless, at), ended("n2", Outcome::Worked, 500)];
    assert_eq!(number(&many, &failed(1950)), 0);
    let plan = decided(&many, &failed(1950), open());
    assert!(why(&plan).contains("backs off for 10 s"), "{plan:?}");
    assert_eq!(number(&many, &failed(1940)), 1, "and begins with one again");
    let mut twice = failed(1940).to_vec();
    twice.push(ended("n3", Outcome::Fruitless, 1900));
    assert_eq!(number(&many, &twice), 0, "two nodes: two minutes");
    twice.push(ended("n4", Outcome::Worked, 1950));
    assert!(number(&many, &twice) > 0, "work ends it");
    let idle = [ended("n1", Outcome::Idle, 1990)];
    assert_eq!(number(&many, &idle), 1, "an end without demand is no failure");
}

#[test]
fn a_bad_node_is_avoided_and_does_not_stop_its_site() {
    let many = [wants("/CN=A", 4, 100)];
    let mut ledger = vec![ended("good", Outcome::Worked, 1000)];
    ledger.extend((0..4).map(|n| ended("bad", Outcome::Fruitless, 1700 + 60 * n)));
    // The node alone waits for eight minutes; the site, for which it is one failure, has waited for one.
    let plan = decided(&many, &ledger, open());
    assert_eq!(plan.submit.len(), 1);
    assert_eq!(plan.submit[0].avoid, ["bad"]);
    ledger.remove(0);
    let plan = decided(&many, &ledger, open());
    assert!(plan.submit.is_empty() && why(&plan).contains("backs off for 360 s"), "no other node: {plan:?}");
}

#[test]
fn what_fits_nowhere_is_said_with_the_reason() {
    let large = Demand { memory: Some(9 << 30), ..wants("/CN=A", 1, 2) };
    let plan = decided(&[wants("/CN=A", 64, 3), large, wants("/CN=B", 1, 1)], &[], open());
    assert_eq!(plan.submit.len(), 1);
    let said: Vec<_> =
        plan.reasons.iter().filter(|(site, _)| site.is_empty()).map(|(_, why)| why.as_str()).collect();
    assert_eq!(said.len(), 2);
    assert!(said[0].contains("3 payloads of /CN=A fit no site (a: 64 cores are more than 4)"), "{said:?}");
    let long = Demand { walltime: Some(7200), ..wants("/CN=A", 1, 1) };
    assert!(fits(&site("a"), &long).unwrap_err().contains("7200"));
}

/// A small random world that lives for a while: pilots start, work, fail and vanish, listings fail, caps change.
#[test]
fn any_history_keeps_the_caps() {
    let owners = ["/CN=A", "/CN=B", "/DC=phys/CN=C", "/CN=Guest"];
    for seed in 0..60 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let (mut ledger, mut now): (Vec<Entry>, u64) = (Vec::new(), 1_000_000);
        for _ in 0..120 {
            now += dice.u64(1..200);
            let cap = |dice: &mut fastrand::Rng| dice.u32(0..12);
            let sites: Vec<Site> = ["a", "b", "c"]
                .map(|name| Site { max_pilots: cap(&mut dice), max_pending: cap(&mut dice), ..site(name) })
                .into();
            let limits = Limits { total: dice.u32(0..20), per_user: cap(&mut dice), ..limits() };
            let demand: Vec<Demand> = (0..dice.usize(0..5))
                .map(|_| wants(owners[dice.usize(0..owners.len())], dice.u32(1..6), dice.u64(0..40)))
                .collect();
            let view = |dice: &mut fastrand::Rng| View {
                strangers: if dice.u8(0..10) == 0 { Err("down".into()) } else { Ok(dice.u32(0..3)) },
                satisfiable: Some(Ok(())),
            };
            let views: BTreeMap<String, View> =
                sites.iter().map(|s| (s.name.clone(), view(&mut dice))).collect();
            let world = World {
                sites: &sites,
                limits: &limits,
                demand: &demand,
                ledger: &ledger,
                views: &views,
                now,
            };
            let plan = decide(&world);
            keeps(&world, &plan, seed);
            for submit in plan.submit {
                let owner = submit.owner;
                ledger.push(Entry {
                    owner,
                    created: now,
                    changed: now,
                    ..pilot(&submit.site, State::Intended, false)
                });
            }
            for entry in ledger.iter_mut().filter(|e| e.is_live()) {
                entry.changed = now;
                (entry.state, entry.worked) = match dice.u8(0..8) {
                    0 => (State::Pending, entry.worked),
                    1 | 2 => (State::Running, dice.bool()),
                    3 => (State::Ended(Outcome::Worked), true),
                    4 => (State::Ended([Outcome::Idle, Outcome::Fruitless][dice.usize(0..2)]), false),
                    _ => (entry.state, entry.worked),
                };
                entry.host = dice.bool().then(|| format!("n{}", dice.u8(0..4)));
            }
        }
    }
}

/// Where something is submitted, every cap holds afterwards.
fn keeps(world: &World<'_>, plan: &Plan, seed: u64) {
    let live = |pass: &dyn Fn(&Entry) -> bool| world.ledger.iter().filter(|e| e.is_live() && pass(e)).count();
    let new = |pass: &dyn Fn(&Submit) -> bool| plan.submit.iter().filter(|s| pass(s)).count();
    let strangers = |site: &str| world.views[site].strangers.clone().unwrap_or(0) as usize;
    for site in world.sites {
        let added = new(&|s| s.site == site.name);
        if added == 0 {
            continue;
        }
        assert!(world.views[&site.name].strangers.is_ok(), "seed {seed}");
        let all = live(&|e| e.site == site.name) + strangers(&site.name) + added;
        assert!(all <= site.max_pilots as usize, "seed {seed}: {all} pilots at {}", site.name);
        let queued = |e: &Entry| e.site == site.name && matches!(e.state, State::Intended | State::Pending);
        let queued = live(&queued) + strangers(&site.name) + added;
        assert!(queued <= site.max_pending as usize, "seed {seed}: {queued} queued at {}", site.name);
    }
    if plan.submit.is_empty() {
        return;
    }
    let all: usize = world.sites.iter().map(|s| strangers(&s.name)).sum();
    assert!(all + live(&|_| true) + plan.submit.len() <= world.limits.total as usize, "seed {seed}: total");
    for submit in &plan.submit {
        let of = live(&|e| e.owner == submit.owner) + new(&|s| s.owner == submit.owner);
        assert!(of <= world.limits.per_user as usize, "seed {seed}: {}", submit.owner);
        if let Some(vo) = world.limits.vo_of(&submit.owner) {
            let member = |owner: &str| world.limits.vo_of(owner).is_some_and(|v| v.name == vo.name);
            let of = live(&|e| member(&e.owner)) + new(&|s| member(&s.owner));
            assert!(of <= vo.max_pilots as usize, "seed {seed}: VO");
        }
    }
}
