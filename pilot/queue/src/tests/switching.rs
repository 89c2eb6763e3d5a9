//! Pilots that do not switch: refused where the operator says so, and marked where they may run.

use super::support::*;
use pilot_api::{ClaimedRun, Outcome, Payload, Registered, Status};
use pilot_core::SwitchRule;
use serde_json::{Value, json};
use uuid::Uuid;

fn registration(host: &str, switches: bool) -> Value {
    json!({"host": host, "slots": 4, "cores": 4, "memory": null, "switches_identity": switches, "time_left": null})
}

fn rules(texts: &[&str]) -> std::sync::Arc<[SwitchRule]> {
    texts.iter().map(|text| SwitchRule::parse(text).unwrap()).collect()
}

#[tokio::test]
async fn a_pilot_that_does_not_switch_is_refused_where_that_is_required() {
    let w = World::with(|s| s.require_switch = rules(&["site=*.example.org"])).await;
    let refused = w.post(&w.pilot, "/v1/pilots", registration("wn1.example.org", false)).await;
    refused.refused(403, "must_switch");
    let title = refused.problem().title;
    for said in ["wn1.example.org", "require_switch site=*.example.org", "without --no-switch"] {
        assert!(title.contains(said), "{title}");
    }
    w.post(&w.pilot, "/v1/pilots", registration("wn1.example.org", true)).await.json::<Registered>();
    w.post(&w.pilot, "/v1/pilots", registration("wn1.example.net", false)).await.json::<Registered>();
    // Whoever asks why nothing takes his payload is told.
    let status: Status = w.get(&w.alice, "/v1/status").await.json();
    assert_eq!(status.refused_pilots.len(), 1);
    assert_eq!(
        (status.refused_pilots[0].host.as_str(), &status.refused_pilots[0].reason),
        ("wn1.example.org", &title)
    );
}

#[tokio::test]
async fn a_pilot_of_a_vo_is_refused_by_the_rule_for_it() {
    let mut w = World::with(|s| s.require_switch = rules(&["vo=cms"])).await;
    let mut identity = (*w.pilot.identity).clone();
    let voms = |vo: &str| identity::VomsAttributes {
        vo: vo.into(),
        fqans: vec![identity::Fqan::parse(&format!("/{vo}")).unwrap()],
        signer: identity.subject.clone(),
        signer_issuer: identity.issuer.clone(),
        not_after: u64::MAX,
    };
    let (cms, atlas) = (voms("cms"), voms("atlas"));
    for (vo, taken) in [(Some(cms), false), (Some(atlas), true), (None, false)] {
        identity.voms = vo;
        w.pilot.identity = std::sync::Arc::new(identity.clone());
        let answer = w.post(&w.pilot, "/v1/pilots", registration("wn1", false)).await;
        match taken {
            true => drop(answer.json::<Registered>()),
            false => answer.refused(403, "must_switch"),
        }
    }
}

#[tokio::test]
async fn a_rule_that_comes_later_ends_the_work_of_pilots_that_are_there() {
    let w = World::new().await;
    let registered: Registered = w.post(&w.pilot, "/v1/pilots", registration("wn1", false)).await.json();
    let w = w.restart(|s| s.require_switch = rules(&["*"])).await;
    let claim = json!({"max": 1, "cores": 1, "memory": null, "time_left": null});
    let claimed = w.post(&w.pilot, &format!("/v1/pilots/{}/claim", registered.pilot), claim).await;
    claimed.refused(403, "must_switch");
}

#[tokio::test]
async fn what_ran_without_a_switch_is_marked_and_told() {
    let w = World::with(|s| s.factories = ["/O=Test/CN=Bob".into()].into()).await;
    let delegation = w.delegate(&w.alice).await;
    let own = w.submit_true(&w.alice, delegation).await;
    assert_eq!(w.show(&w.alice, own).await.switched, None, "nothing ran");
    let registered: Registered = w.post(&w.pilot, "/v1/pilots", registration("wn1", false)).await.json();
    let lease = w.claim(registered.pilot, 1).await.remove(0);
    // Back it goes, and a pilot that switches runs it to its end.
    w.result(&lease, Outcome::Infra).await.ok();
    let switching: Registered = w.post(&w.pilot, "/v1/pilots", registration("wn2", true)).await.json();
    let lease = w.claim(switching.pilot, 1).await.remove(0);
    let report = json!({"exit_code": 0, "host": "wn2", "session": "s-1", "wall_ms": 1500, "cpu_ms": 500});
    let body = json!({"lease": lease.lease, "outcome": "ok", "report": report});
    w.post(&w.pilot, &format!("/v1/attempts/{}/result", lease.attempt), body).await.ok();
    let shown = w.show(&w.alice, own).await;
    let marks: Vec<_> = shown.attempts.iter().map(|a| a.switched).collect();
    assert_eq!((shown.switched, marks), (Some(false), vec![Some(false), Some(true)]));
    let listed: Vec<Payload> = w.get(&w.alice, "/v1/payloads?limit=10").await.json();
    assert_eq!((listed[0].switched, listed[0].attempts[0].switched), (Some(false), Some(true)));
    // What accounting compares is for those who may see everybody's.
    w.get(&w.alice, "/v1/runs").await.refused(403, "not_a_factory");
    let runs: Vec<ClaimedRun> = w.get(&w.bob, "/v1/runs").await.json();
    let run = &runs[0];
    assert_eq!((runs.len(), run.payload, run.pilot, run.switched), (1, own, switching.pilot, true));
    assert_eq!(
        (run.session.as_deref(), run.wall_s, run.cpu_s, run.owner.as_str()),
        (Some("s-1"), 1.5, 0.5, "/O=Test/CN=Alice")
    );
    for none in
        [format!("after={}", run.attempt), format!("until={}", run.ended), format!("since={}", run.ended + 1)]
    {
        let runs: Vec<ClaimedRun> = w.get(&w.bob, &format!("/v1/runs?{none}")).await.json();
        assert!(runs.is_empty(), "{none}");
    }
    w.get(&w.bob, "/v1/runs?later=1").await.refused(400, "invalid");
    assert_ne!(run.attempt, Uuid::nil());
}
