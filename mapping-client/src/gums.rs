//! GUMS, and every service that answers like it.
//!
//! Endpoints are asked in turn, each once, under one deadline. Another endpoint is tried when a connection, its TLS
//! or its time failed, when a server broke down (5xx without a fault), and when a service could not decide (fault,
//! Indeterminate, SAML failure). A Permit and a Deny are final, and so is an answer that makes no sense: services do
//! not get to vote until one of them permits.

use crate::host::HostCredential;
use crate::https::{Client, NoReply, Reply};
use crate::xacml::answer;
use crate::xacml::decide::{Outcome, outcome};
use crate::xacml::query::{Host, Person, Query};
use crate::xacml::{issue_instant, random_id};
use helper::{MapReply, MapRequest};
use std::time::{Duration, Instant};

/// The value from the service's WSDL; Axis only insists that the header exists.
const SOAP_ACTION: &str =
    "\"http://www.globus.org/security/XACMLAuthorization/XACMLAuthorizationPortType/AuthorizeRequest\"";

/// What one endpoint has to say.
#[derive(Debug, PartialEq)]
enum Step {
    Final(MapReply),
    Next(String),
}

/// Asks the endpoints of the request.
pub fn map(request: &MapRequest) -> MapReply {
    ask(request, &Person::from(&request.identity))
}

/// Asks about a person who need not come from a verified credential; for probes.
pub fn ask(request: &MapRequest, person: &Person) -> MapReply {
    let deadline = Instant::now() + request.timeout.min(crate::LONGEST);
    let credential = match HostCredential::parse(&request.host_credential) {
        Ok(credential) => credential,
        Err(e) => return MapReply::Unavailable(e.to_string()),
    };
    let client = match Client::new(Some(&credential), &request.ca_dir) {
        Ok(client) => client,
        Err(e) => return MapReply::Unavailable(e.to_string()),
    };
    let host = host(&credential, &request.host);
    in_turn(&request.endpoints, deadline, |endpoint, until| ask_one(&client, endpoint, person, &host, until))
}

fn host(credential: &HostCredential, name: &str) -> Host {
    let own = credential.names_host(name);
    Host {
        name: name.to_owned(),
        issuer: credential.rfc2253.clone(),
        certificate: own.then(|| (credential.subject.clone(), credential.issuer.clone())),
    }
}

/// The failover rule. Each endpoint gets a fair share of the time that is left.
fn in_turn(endpoints: &[String], deadline: Instant, mut ask: impl FnMut(&str, Instant) -> Step) -> MapReply {
    let mut failures = Vec::new();
    for (n, endpoint) in endpoints.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            failures.push(format!("{endpoint}: not asked, no time left"));
            continue;
        }
        match ask(endpoint, Instant::now() + share(left, endpoints.len() - n)) {
            Step::Final(reply) => return reply,
            Step::Next(reason) => failures.push(format!("{endpoint}: {reason}")),
        }
    }
    if failures.is_empty() {
        return MapReply::Unavailable("no endpoint is configured; set endpoints in [mapping.gums]".into());
    }
    MapReply::Unavailable(failures.join("; "))
}

fn share(left: Duration, endpoints: usize) -> Duration {
    left / u32::try_from(endpoints).unwrap_or(1).max(1)
}

fn ask_one(client: &Client, endpoint: &str, person: &Person, host: &Host, until: Instant) -> Step {
    // A fresh id for each endpoint, so that no answer fits another question.
    let id = match random_id() {
        Ok(id) => id,
        Err(e) => return Step::Final(MapReply::Unavailable(e.to_string())),
    };
    let xml = Query::mapping(id.clone(), person, host).encode(&issue_instant());
    judge(client.post(endpoint, SOAP_ACTION, &xml, until), endpoint, &id)
}

fn judge(reply: Result<Reply, NoReply>, endpoint: &str, id: &str) -> Step {
    let unusable = |reason: String| Step::Final(MapReply::Unavailable(format!("{endpoint}: {reason}")));
    let reply = match reply {
        Ok(reply) => reply,
        Err(NoReply { reason, failover: true }) => return Step::Next(reason),
        Err(NoReply { reason, failover: false }) => return unusable(reason),
    };
    let status = reply.status;
    let message = match answer::parse(&reply.body) {
        // A decision with an error status is no decision; faults come with 200 and 500.
        Ok(message) if status == 200 || matches!(message, answer::Message::Fault(_)) => message,
        _ if (500..600).contains(&status) => {
            return Step::Next(format!("the server failed with HTTP {status}"));
        }
        Ok(_) => return unusable(format!("HTTP {status} with a decision in it")),
        Err(_) if status != 200 => return unusable(format!("HTTP {status}{}", hint(status, &reply.body))),
        Err(e) => return unusable(format!("the answer is not understood: {e}")),
    };
    match outcome(&message, id) {
        Outcome::Mapped(mapping) => Step::Final(MapReply::Mapped(mapping)),
        Outcome::Denied(reason) => Step::Final(MapReply::Denied(reason)),
        Outcome::Undecided(reason) => Step::Next(reason),
        Outcome::Unusable(reason) => unusable(reason),
    }
}

/// What to do about an error status; a server that gives its reason as plain text or JSON is quoted.
fn hint(status: u16, body: &[u8]) -> String {
    let advice = match status {
        401 | 403 => ": the service refuses this host's certificate; ask its administrator",
        404 => ": no service there; check the path of the endpoint",
        300..=399 => ": a redirect, which is not followed; check the endpoint",
        _ => "",
    };
    let said = String::from_utf8_lossy(&body[..body.len().min(300)]);
    match said.trim() {
        "" => advice.to_owned(),
        page if page.starts_with('<') => advice.to_owned(),
        reason => format!("{advice}; it says: {reason}"),
    }
}

#[cfg(test)]
#[path = "gums_tests.rs"]
mod tests;
