//! What an answer means: one pure function, [`outcome`].

use super::answer::{Answer, Decision, Message, Obligation};
use super::names::{attribute, obligation};
use identity::{AccountName, Mapping};

/// Most secondary gids that are taken; the kernel's limit is 65536, real answers have a handful.
const MAX_GROUPS: usize = 1024;

/// What to do with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Run as this account.
    Mapped(Mapping),
    /// The service says no, or says yes with a condition that cannot be met. Final.
    Denied(String),
    /// The service could not decide: another one may.
    Undecided(String),
    /// The service decided, but its answer makes no sense. Asking elsewhere would let services vote. Final.
    Unusable(String),
}

/// Judges an answer to the query `id`. Obligations count only on a Permit, and each one on it must be understood.
pub fn outcome(message: &Message, id: &str) -> Outcome {
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
        Message::Answer(answer) => decide(answer),
    }
}

fn decide(answer: &Answer) -> Outcome {
    let said = |default: &str| answer.message.clone().unwrap_or_else(|| default.to_owned());
    match answer.decision {
        Decision::Permit => permitted(&answer.obligations),
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

fn permitted(obligations: &[Obligation]) -> Outcome {
    let mut mapping = Mapping::default();
    for obligation in obligations.iter().filter(|o| o.fulfill_on == "Permit") {
        if let Err(refusal) = carry_out(obligation, &mut mapping) {
            return refusal;
        }
    }
    if mapping.account.is_none() && mapping.uid.is_none() {
        return Outcome::Unusable("the service permits but names neither an account nor a uid".into());
    }
    let root = mapping.uid == Some(0) || mapping.gid == Some(0) || mapping.groups.contains(&0);
    if root || mapping.account.as_deref() == Some("root") {
        return Outcome::Denied("the service names root or its group, which no payload gets".into());
    }
    Outcome::Mapped(mapping)
}

fn carry_out(obligation: &Obligation, mapping: &mut Mapping) -> Result<(), Outcome> {
    if ![obligation::UIDGID, obligation::SECONDARY_GIDS, obligation::USERNAME, obligation::ACCOUNT]
        .contains(&obligation.id.as_str())
    {
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
            (obligation::SECONDARY_GIDS, attribute::GID) => add_group(mapping, number(value)?)?,
            (obligation::USERNAME | obligation::ACCOUNT, attribute::USERNAME) => {
                settle(&mut mapping.account, name(value)?, "user names")?;
            }
            (obligation::ACCOUNT, attribute::PRIMARY_GROUP) => {
                settle(&mut mapping.group, name(value)?, "primary groups")?;
            }
            // Further groups of a named account come from group(5) of this host.
            (obligation::ACCOUNT, attribute::SECONDARY_GROUP) => drop(name(value)?),
            (of, other) => {
                return Err(Outcome::Denied(format!(
                    "attribute {other:?} of the obligation {of:?} is not supported"
                )));
            }
        }
    }
    Ok(())
}

/// Two obligations may say the same thing twice, but not two things.
fn settle<T: PartialEq>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), Outcome> {
    if slot.as_ref().is_some_and(|known| *known != value) {
        return Err(Outcome::Unusable(format!("the answer contradicts itself: two different {what}")));
    }
    *slot = Some(value);
    Ok(())
}

fn add_group(mapping: &mut Mapping, gid: u32) -> Result<(), Outcome> {
    if mapping.groups.len() >= MAX_GROUPS {
        return Err(Outcome::Unusable(format!("the answer has more than {MAX_GROUPS} secondary gids")));
    }
    if !mapping.groups.contains(&gid) {
        mapping.groups.push(gid);
    }
    Ok(())
}

/// A decimal id. GUMS types its gid as a string, SCAS as an integer; `u32::MAX` is the kernel's "no id".
fn number(text: &str) -> Result<u32, Outcome> {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let id = digits.then(|| text.parse::<u32>().ok()).flatten().filter(|n| *n != u32::MAX);
    id.ok_or_else(|| Outcome::Unusable(format!("the answer holds {text:?} where a numeric id belongs")))
}

/// Group names follow the rule of account names.
fn name(text: &str) -> Result<String, Outcome> {
    let name = AccountName::parse(text)
        .map_err(|e| Outcome::Unusable(format!("the answer names an impossible account: {e}")))?;
    Ok(name.into())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
