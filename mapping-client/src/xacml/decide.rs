//! What an answer means: one pure function, [`outcome`].

use super::answer::{Answer, Decision, Message, Obligation};
use super::names::{attribute, obligation};
use crate::protocol::{Outcome, accept, add_group, name, settle};
use identity::Mapping;

/// Judges an answer to the query `id`. Obligations count only on a Permit, and each one on it must be understood.
pub fn outcome(message: &Message, id: &str, supported: &[&str]) -> Outcome {
    match message {
        Message::Fault(fault) => Outcome::Undecided(format!("SOAP fault {}: {}", fault.code, fault.reason)),
        Message::Answer(Answer { in_response_to: Some(other), .. })
        | Message::Refused { in_response_to: Some(other), .. }
            if other != id =>
        {
            Outcome::Unusable("the answer belongs to another question (InResponseTo differs)".into())
        }
        Message::Refused { status, .. } => {
            Outcome::Undecided(format!("SAML status is not Success: {status}"))
        }
        Message::Answer(answer) => decide(answer, supported),
    }
}

fn decide(answer: &Answer, supported: &[&str]) -> Outcome {
    let said = |default: &str| answer.message.clone().unwrap_or_else(|| default.to_owned());
    match answer.decision {
        Decision::Permit => permitted(&answer.obligations, supported),
        Decision::Deny => {
            Outcome::Denied(said("the identity is unknown or banned; the service does not say which"))
        }
        Decision::NotApplicable => {
            Outcome::Denied(said("no rule of the service applies to this identity and host"))
        }
        Decision::Indeterminate => {
            Outcome::Undecided(format!("the service could not decide: {}", said("no reason")))
        }
    }
}

fn permitted(obligations: &[Obligation], supported: &[&str]) -> Outcome {
    let mut mapping = Mapping::default();
    for obligation in obligations.iter().filter(|o| o.fulfill_on == "Permit") {
        if let Err(refusal) = carry_out(obligation, supported, &mut mapping) {
            return refusal;
        }
    }
    accept(mapping)
}

fn carry_out(obligation: &Obligation, supported: &[&str], mapping: &mut Mapping) -> Result<(), Outcome> {
    if !supported.contains(&obligation.id.as_str()) {
        return Err(Outcome::Denied(format!(
            "the Permit demands {:?}, which is not supported",
            obligation.id
        )));
    }
    if obligation.assignments.is_empty() {
        return Err(Outcome::Unusable(format!("the Permit carries an empty obligation {:?}", obligation.id)));
    }
    for (id, value) in &obligation.assignments {
        match (obligation.id.as_str(), id.as_str()) {
            (obligation::UIDGID, attribute::UID) => settle(&mut mapping.uid, number(value)?, "uids")?,
            (obligation::UIDGID, attribute::GID) => settle(&mut mapping.gid, number(value)?, "primary gids")?,
            (obligation::SECONDARY_GIDS, attribute::GID) => add_group(&mut mapping.groups, number(value)?)?,
            (obligation::USERNAME | obligation::ACCOUNT, attribute::USERNAME) => {
                settle(&mut mapping.account, name(value)?, "user names")?;
            }
            (obligation::ACCOUNT, attribute::PRIMARY_GROUP) => {
                settle(&mut mapping.group, name(value)?, "primary groups")?;
            }
            (obligation::ACCOUNT, attribute::SECONDARY_GROUP) => {
                add_group(&mut mapping.group_names, name(value)?)?;
            }
            (of, other) => {
                return Err(Outcome::Denied(format!(
                    "attribute {other:?} of the obligation {of:?} is not supported"
                )));
            }
        }
    }
    Ok(())
}

/// A decimal id. GUMS types its gid as a string, SCAS as an integer; `u32::MAX` is the kernel's "no id".
fn number(text: &str) -> Result<u32, Outcome> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let id = digits.then(|| text.parse::<u32>().ok()).flatten().filter(|n| *n != u32::MAX);
    id.ok_or_else(|| Outcome::Unusable(format!("the answer holds {text:?} where a numeric id belongs")))
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
