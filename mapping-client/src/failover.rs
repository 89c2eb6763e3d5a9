//! Which failures lead to the next endpoint: one rule for every protocol.
//!
//! Endpoints are asked in turn, each once, under one deadline. Another endpoint is tried when a connection, its TLS
//! or its time failed, when a server broke down (5xx without an answer of the protocol), and when a service could not
//! decide. A Permit and a Deny are final, and so is an answer that makes no sense: services do not get to vote until
//! one of them permits.

use crate::https::{NoReply, Reply};
use crate::protocol::Outcome;
use helper::MapReply;
use std::time::{Duration, Instant};

/// What one endpoint has to say.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Nobody else is asked.
    Final(MapReply),
    /// Nothing was decided, for this reason.
    Next(String),
}

/// Asks the endpoints one after the other. Each gets a fair share of the time that is left.
pub(crate) fn in_turn(
    endpoints: &[String],
    deadline: Instant,
    mut ask: impl FnMut(&str, Instant) -> Step,
) -> MapReply {
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
        return MapReply::Unavailable(
            "no endpoint is configured; set endpoints in the section [mapping.SERVICE] of policy.toml".into(),
        );
    }
    MapReply::Unavailable(failures.join("; "))
}

fn share(left: Duration, endpoints: usize) -> Duration {
    left / u32::try_from(endpoints).unwrap_or(1).max(1)
}

/// What follows from an answer, or from none.
pub(crate) fn judge(
    endpoint: &str,
    reply: Result<Reply, NoReply>,
    meaning: impl FnOnce(&Reply) -> Result<Outcome, String>,
) -> Step {
    let unusable = |reason: String| Step::Final(MapReply::Unavailable(format!("{endpoint}: {reason}")));
    let reply = match reply {
        Ok(reply) => reply,
        Err(NoReply { reason, failover: true }) => return Step::Next(reason),
        Err(NoReply { reason, failover: false }) => return unusable(reason),
    };
    match meaning(&reply) {
        Ok(Outcome::Mapped(mapping)) => Step::Final(MapReply::Mapped(mapping)),
        Ok(Outcome::Denied(reason)) => Step::Final(MapReply::Denied(reason)),
        Ok(Outcome::Undecided(reason)) => Step::Next(reason),
        Ok(Outcome::Unusable(reason)) => unusable(reason),
        Err(_) if (500..600).contains(&reply.status) => {
            Step::Next(format!("the server failed with HTTP {}", reply.status))
        }
        Err(_) if reply.status != 200 => {
            unusable(format!("HTTP {}{}", reply.status, hint(reply.status, &reply.body)))
        }
        Err(reason) => unusable(format!("the answer is not understood: {reason}")),
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
#[path = "failover_tests.rs"]
mod tests;
