//! What a factory asks: what waits, and which pilots found work.

use super::support::World;
use pilot_api::{Demand, Pilot, Submitted};
use serde_json::json;

#[tokio::test]
async fn only_a_factory_sees_what_waits_for_all_users() {
    let w = World::with(|s| s.factories = ["/O=Test/CN=Bob".to_owned()].into()).await;
    w.get(&w.alice, "/v1/demand").await.refused(403, "not_a_factory");
    w.get(&w.pilot, "/v1/demand").await.refused(403, "not_a_factory");
    assert_eq!(w.get(&w.bob, "/v1/demand").await.json::<Vec<Demand>>(), []);
    for (who, cores, times) in [(&w.alice, 1, 2), (&w.alice, 8, 1), (&w.bob, 1, 3)] {
        let delegation = w.delegate(who).await;
        for _ in 0..times {
            let spec = json!({"command": ["true"], "cores": cores, "memory": 1000, "walltime": 60});
            w.submit(who, delegation, spec).await.json::<Submitted>();
        }
    }
    let of = |owner: &str, cores, waiting| Demand {
        owner: owner.into(),
        cores,
        memory: Some(1000),
        walltime: Some(60),
        waiting,
    };
    let want = [of(w.bob.dn(), 1, 3), of(w.alice.dn(), 1, 2), of(w.alice.dn(), 8, 1)];
    assert_eq!(w.get(&w.bob, "/v1/demand").await.json::<Vec<Demand>>(), want);
}

#[tokio::test]
async fn what_a_pilot_has_taken_no_longer_waits_and_is_counted_for_it() {
    let w = World::with(|s| s.factories = ["/O=Test/CN=Bob".to_owned()].into()).await;
    let attempts = || async { w.get(&w.bob, "/v1/pilots").await.json::<Vec<Pilot>>()[0].attempts };
    let (_, _, lease) = w.leased().await;
    assert_eq!(w.get(&w.bob, "/v1/demand").await.json::<Vec<Demand>>(), []);
    assert_eq!(attempts().await, 1);
    w.result(&lease, pilot_api::Outcome::Ok).await.ok();
    assert_eq!(attempts().await, 1, "what is over was work, too");
}
