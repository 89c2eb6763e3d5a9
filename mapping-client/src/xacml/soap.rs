//! GUMS and SCAS: the same messages, but SCAS wants the certificate chain and answers with numbers.

use super::query::Query;
use super::{answer, decide, issue_instant, names, random_id};
use crate::https::Reply;
use crate::protocol::{Host, Outcome, Person, Protocol, Question};

/// The value from the service's WSDL; Axis only insists that the header exists.
const SOAP_ACTION: &str =
    "\"http://www.globus.org/security/XACMLAuthorization/XACMLAuthorizationPortType/AuthorizeRequest\"";

/// A service that answers XACML decision queries over SOAP 1.1.
#[derive(Debug)]
pub struct Soap {
    /// Whether the subject's whole chain goes along: the service judges it again by itself.
    sends_chain: bool,
    /// What the client says it can carry out; anything else on a Permit is a refusal.
    obligations: &'static [&'static str],
}

/// GUMS: answers with a name, perhaps with a group.
pub const GUMS: Soap = Soap {
    sends_chain: false,
    obligations: &[
        names::obligation::UIDGID,
        names::obligation::SECONDARY_GIDS,
        names::obligation::USERNAME,
        names::obligation::ACCOUNT,
    ],
};

/// SCAS: answers with uid, gid and secondary gids of its own `passwd(5)`. It runs LCAS and LCMAPS on the chain.
pub const SCAS: Soap = Soap {
    sends_chain: true,
    obligations: &[names::obligation::UIDGID, names::obligation::SECONDARY_GIDS, names::obligation::USERNAME],
};

impl Soap {
    /// URIs of the obligations that the client carries out.
    pub fn obligations(&self) -> &'static [&'static str] {
        self.obligations
    }
}

impl Protocol for Soap {
    fn question(&self, endpoint: &str, person: &Person, host: &Host) -> Result<Question, String> {
        if self.sends_chain && person.chain_pem.is_empty() {
            return Err("this service judges the certificate chain itself, and none is given; \
                        with mapping-query, name a proxy with --proxy"
                .into());
        }
        let id = random_id().map_err(|e| e.to_string())?;
        let mut query = Query::mapping(id.clone(), person, host, self.obligations);
        if self.sends_chain {
            query.add_chain(&person.chain_pem);
        }
        Ok(Question {
            id,
            url: endpoint.to_owned(),
            headers: vec![
                ("Content-Type", "text/xml; charset=utf-8".into()),
                ("SOAPAction", SOAP_ACTION.into()),
            ],
            body: Some(query.encode(&issue_instant())),
        })
    }

    fn meaning(&self, question: &Question, reply: &Reply) -> Result<Outcome, String> {
        let message = answer::parse(&reply.body).map_err(|e| e.to_string())?;
        // A decision with an error status is no decision; faults come with 200 and 500.
        if reply.status != 200 && !matches!(message, answer::Message::Fault(_)) {
            return Err(format!("HTTP {} with a decision in it", reply.status));
        }
        Ok(decide::outcome(&message, &question.id, self.obligations))
    }
}
