use super::*;
use crate::protocol::{self, Question};
use identity::{Mapping, Service};

const MAPPED: &[u8] = include_bytes!("../tests/data/gums-mapped.xml");
const FAULT: &[u8] = include_bytes!("../tests/data/gums-fault.xml");

fn step(status: u16, body: &[u8]) -> Step {
    let question = Question { id: "_q1".into(), url: String::new(), headers: Vec::new(), body: None };
    let reply = Reply { status, body: body.to_vec() };
    judge("https://gums", Ok(reply), |reply| protocol::of(Service::Gums).meaning(&question, reply))
}

fn is_final_failure(step: &Step) -> bool {
    matches!(step, Step::Final(MapReply::Unavailable(_)))
}

#[test]
fn a_permit_maps() {
    let expected = Mapping { account: Some("tstplt017".into()), gid: Some(4000), ..Mapping::default() };
    assert_eq!(step(200, MAPPED), Step::Final(MapReply::Mapped(expected)));
}

#[test]
fn a_deny_is_final() {
    assert!(matches!(
        step(200, include_bytes!("../tests/data/gums-unknown.xml")),
        Step::Final(MapReply::Denied(_))
    ));
}

#[test]
fn faults_and_indecision_lead_to_the_next_endpoint() {
    for (status, body) in [
        (200, FAULT),
        (500, FAULT),
        (200, include_bytes!("../tests/data/gums-indeterminate.xml")),
        (500, b"<html>stack trace</html>"),
        (503, b""),
        (500, MAPPED),
    ] {
        assert!(matches!(step(status, body), Step::Next(_)), "{status} {}", String::from_utf8_lossy(body));
    }
}

#[test]
fn nonsense_is_final_so_that_services_cannot_vote() {
    for (status, body) in [
        (200, &b"<html>welcome</html>"[..]),
        (200, b""),
        (200, b"\xff\xfe"),
        (403, b"<html>Forbidden</html>"),
        (404, b""),
        (302, b""),
        (403, MAPPED),
    ] {
        assert!(is_final_failure(&step(status, body)), "{status} {}", String::from_utf8_lossy(body));
    }
    let spoiled = NoReply { reason: "bad chunk".into(), failover: false };
    assert!(is_final_failure(&judge("https://gums", Err(spoiled), |_| panic!("no answer to read"))));
}

#[test]
fn endpoints_are_asked_in_order_and_once() {
    let endpoints: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut asked = Vec::new();
    let reply = in_turn(&endpoints, deadline, |endpoint, _| {
        asked.push(endpoint.to_owned());
        if endpoint == "b" { Step::Final(MapReply::Denied("no".into())) } else { Step::Next("down".into()) }
    });
    assert_eq!((reply, asked), (MapReply::Denied("no".into()), vec!["a".into(), "b".into()]));
    let all_down = in_turn(&endpoints, deadline, |_, _| Step::Next("down".into()));
    assert_eq!(all_down, MapReply::Unavailable("a: down; b: down; c: down".into()));
}

#[test]
fn without_time_or_endpoints_nothing_is_asked() {
    let never = |_: &str, _: Instant| -> Step { panic!("asked") };
    assert!(matches!(in_turn(&["a".into()], Instant::now(), never), MapReply::Unavailable(_)));
    let deadline = Instant::now() + Duration::from_secs(1);
    assert!(matches!(in_turn(&[], deadline, never), MapReply::Unavailable(_)));
}

#[test]
fn the_time_is_shared_fairly() {
    let ten = Duration::from_secs(10);
    assert_eq!([share(ten, 2), share(ten, 1), share(ten, 0)].map(|d| d.as_secs()), [5, 10, 10]);
}
