//! XACML over SOAP: what `glexec-map` reads from a service, and the mapping server from its clients.

use crate::assert_one_line;
use identity::AccountName;
use mapping_client::xacml::answer::{self, Answer, Message};
use mapping_client::xacml::decide::{self, Outcome};
use mapping_client::xacml::query::{Query, same_fqan, short_fqan};

/// The id that the seeds answer to.
const ID: &str = "_0";
const INSTANT: &str = "2026-01-01T00:00:00Z";

/// An answer or a fault, and what a client does with it.
pub fn answer(data: &[u8]) {
    let message = match answer::parse(data) {
        Ok(message) => message,
        Err(why) => return assert_one_line(&why.to_string()),
    };
    if let Outcome::Mapped(mapping) = decide::outcome(&message, ID) {
        assert!(matches!(&message, Message::Answer(a) if a.decision == answer::Decision::Permit));
        assert!(mapping.account.is_some() || mapping.uid.is_some());
        assert!(mapping.account.as_deref().is_none_or(|a| AccountName::parse(a).is_ok() && a != "root"));
        let ids = [mapping.uid, mapping.gid].into_iter().flatten().chain(mapping.groups.iter().copied());
        assert!(ids.into_iter().all(|id| id != 0 && id != u32::MAX));
        assert!(mapping.groups.len() <= 1024);
    }
    if let Message::Answer(answer) = message {
        written_again(&answer, data.len());
    }
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
