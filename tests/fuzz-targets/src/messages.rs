//! What `glexec-map` reads from a service, and the mapping server from its clients: XACML over SOAP, and the base64 of
//! Argus.

use crate::assert_one_line;
use identity::{AccountName, Mapping, Service};
use mapping_client::https::Reply;
use mapping_client::protocol::{self, Outcome, Question};
use mapping_client::xacml::answer::{self, Answer, Message};
use mapping_client::xacml::decide;
use mapping_client::xacml::query::{Query, same_fqan, short_fqan};
use mapping_client::xacml::soap::GUMS;

/// The id that the seeds answer to.
const ID: &str = "_0";
const INSTANT: &str = "2026-01-01T00:00:00Z";

/// An answer or a fault, and what a client does with it.
pub fn answer(data: &[u8]) {
    let message = match answer::parse(data) {
        Ok(message) => message,
        Err(why) => return assert_one_line(&why.to_string()),
    };
    if let Outcome::Mapped(mapping) = decide::outcome(&message, ID, GUMS.obligations()) {
        assert!(matches!(&message, Message::Answer(a) if a.decision == answer::Decision::Permit));
        assert_usable(&mapping);
    }
    if let Message::Answer(answer) = message {
        written_again(&answer, data.len());
    }
}

/// An answer of the PEP daemon of Argus.
pub fn argus_answer(data: &[u8]) {
    let question = Question { id: String::new(), url: String::new(), headers: Vec::new(), body: None };
    let reply = Reply { status: 200, body: data.to_vec() };
    match protocol::of(Service::Argus).meaning(&question, &reply) {
        Ok(Outcome::Mapped(mapping)) => assert_usable(&mapping),
        Ok(_) => {}
        Err(why) => assert_one_line(&why),
    }
}

/// Names somebody, never root, with ids and names that exist.
fn assert_usable(mapping: &Mapping) {
    assert!(mapping.account.is_some() || mapping.uid.is_some());
    let names = [&mapping.account, &mapping.group].into_iter().flatten().chain(&mapping.group_names);
    assert!(names.into_iter().all(|n| AccountName::parse(n).is_ok() && n != "root"));
    let ids = [mapping.uid, mapping.gid].into_iter().flatten().chain(mapping.groups.iter().copied());
    assert!(ids.into_iter().all(|id| id != 0 && id != u32::MAX));
    assert!(mapping.groups.len() <= 1024 && mapping.group_names.len() <= 1024);
}

/// What our server would write is what a client would read.
fn written_again(answer: &Answer, size: usize) {
    let text = answer.encode("_1", INSTANT, "/CN=service");
    match answer::parse(text.as_bytes()) {
        Ok(Message::Answer(again)) => assert_eq!(&again, answer, "{text}"),
        // Escapes make a message longer, and there is a limit.
        other => assert!(size > 1000, "{other:?} for {text}"),
    }
}

/// A question, as the server reads it.
pub fn query(data: &[u8]) {
    let query = match Query::parse(data) {
        Ok(query) => query,
        Err(why) => return assert_one_line(&why.to_string()),
    };
    for (fqan, _) in query.fqans() {
        assert!(fqan.starts_with(short_fqan(fqan)) && same_fqan(fqan, short_fqan(fqan)));
    }
    query.supports("http://authz-interop.org/xacml/obligation/username");
    let text = query.encode(INSTANT);
    let known = Query {
        id: query.id.clone().or(Some("_0".into())),
        issuer: query.issuer.clone().or(Some("unknown".into())),
        ..query
    };
    match Query::parse(text.as_bytes()) {
        Ok(again) => assert_eq!(again, known, "{text}"),
        Err(why) => assert!(data.len() > 1000, "{why} for {text}"),
    }
}
