//! Who gets which account: from a configuration and a query to an answer. All of it is pure but for the lease of a pool account,
//! which is the last thing that is done.

use crate::config::{Config, Ids, Target};
use crate::lease;
use identity::{AccountName, Dn, loose_forms, matches_glob, same_name};
use mapping_client::xacml::answer::{Answer, Decision, Fault, Obligation};
use mapping_client::xacml::names::{attribute, obligation, resource, subject};
use mapping_client::xacml::query::{Query, short_fqan};

/// The verdict about a person, with what the log wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Gets an account.
    Mapped(AccountName),
    /// Gets none; the reason is sent to the client.
    Denied(String),
}

/// What a well-formed query asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// Subject of the person's certificate.
    pub subject: Dn,
    /// The host the person wants to run on, as the client names it.
    pub host: &'a str,
    /// FQANs, primary first, with whether the client verified them.
    pub fqans: Vec<(&'a str, bool)>,
}

/// Reads the parts that decide. What is missing is a fault, as it is with GUMS.
pub fn question(query: &Query) -> Result<Question<'_>, Fault> {
    let missing = |what: &str| fault(format!("missing attribute: {what}"));
    let dn = query.subject_value(subject::DN).ok_or_else(|| missing(subject::DN))?;
    let host = query.resource_value(resource::DN).or_else(|| query.resource_value(resource::HOST));
    Ok(Question {
        subject: Dn::parse(dn).map_err(|e| fault(e.to_string()))?,
        host: host.ok_or_else(|| missing(resource::HOST))?,
        fqans: query.fqans(),
    })
}

/// A fault as GUMS words its own.
pub fn fault(reason: String) -> Fault {
    Fault { code: "StatusMessage".into(), reason: identity::one_line(&reason) }
}

/// Whether this caller may ask about others.
pub fn may_ask(config: &Config, caller: &Dn) -> bool {
    config.callers.allow.iter().any(|pattern| pattern.names_host(caller))
}

/// Bans first, then the person, then groups and roles: the FQANs in the person's order, the rules in the file's. An account of
/// a pool is leased last, so that nobody who is refused holds one.
pub fn verdict(config: &Config, question: &Question<'_>) -> Verdict {
    match named(config, question) {
        Ok(Target::Account(account)) => Verdict::Mapped(account.clone()),
        Ok(Target::Pool(pool)) => match lease::take(config.gridmapdir.as_deref(), pool, &question.subject) {
            Ok(account) => Verdict::Mapped(account),
            Err(reason) => Verdict::Denied(reason),
        },
        Err(reason) => Verdict::Denied(reason),
    }
}

/// Whom the rules name; the error says why nobody.
fn named<'a>(config: &'a Config, question: &Question<'_>) -> Result<&'a Target, String> {
    let who = &question.subject;
    if config.bans.users.iter().any(|pattern| bans(pattern, who)) {
        return Err(format!("banned: {who}"));
    }
    // A ban counts for claims that nobody verified, too.
    let banned = |fqan: &str| config.bans.fqans.iter().any(|p| fqan_matches(p.as_str(), fqan));
    if let Some((fqan, _)) = question.fqans.iter().find(|(f, _)| banned(f)) {
        return Err(format!("banned: {fqan}"));
    }
    if let Some(account) = config.account_of(who) {
        return Ok(account);
    }
    let rule = |fqan: &str| config.fqans.iter().find(|r| fqan_matches(r.fqan.as_str(), fqan));
    if let Some(rule) = question.fqans.iter().filter(|(_, verified)| *verified).find_map(|(f, _)| rule(f)) {
        return Ok(&rule.account);
    }
    let unverified = question.fqans.iter().any(|(f, verified)| !verified && rule(f).is_some());
    let hint =
        if unverified { " (its FQANs do not count, because the client did not verify them)" } else { "" };
    Err(format!("unknown: {who}{hint}"))
}

/// A ban meets every spelling of a name: whoever is banned must not come back as `/Email=` instead of `/emailAddress=`.
fn bans(pattern: &Dn, who: &Dn) -> bool {
    let names = loose_forms(who.as_str());
    let matches = |pattern: &Vec<u8>| names.iter().any(|name| matches_glob(pattern, name, |_| true));
    same_name(pattern.as_str(), who.as_str()) || loose_forms(pattern.as_str()).iter().any(matches)
}

/// The answer for a verdict: only obligations that the client supports, because others make it fail.
pub fn answer(config: &Config, query: &Query, verdict: &Verdict) -> Answer {
    let bare = |decision, message| Answer {
        in_response_to: query.id.clone(),
        decision,
        message,
        obligations: vec![],
    };
    match verdict {
        Verdict::Denied(reason) => bare(Decision::Deny, Some(reason.clone())),
        Verdict::Mapped(account) => {
            let obligations = obligations(query, account, &config.ids(account));
            if obligations.is_empty() {
                let reason =
                    "the client supports no obligation that names this account (username, account or uidgid)";
                return bare(Decision::Indeterminate, Some(reason.into()));
            }
            Answer { obligations, ..bare(Decision::Permit, None) }
        }
    }
}

/// Obligations that together name the account; empty when the client's are not enough for that.
fn obligations(query: &Query, account: &AccountName, ids: &Ids) -> Vec<Obligation> {
    let pair = |id: &str, value: String| (id.to_owned(), value);
    let mut all = Vec::new();
    let numbers = ids.uid.zip(ids.gid).filter(|_| query.supports(obligation::UIDGID));
    if let Some((uid, gid)) = numbers {
        let assignments = vec![pair(attribute::UID, uid.to_string()), pair(attribute::GID, gid.to_string())];
        all.push(Obligation::on_permit(obligation::UIDGID, assignments));
    }
    let name = pair(attribute::USERNAME, account.to_string());
    let group = ids.group.as_ref().map(|g| pair(attribute::PRIMARY_GROUP, g.to_string()));
    let by_name = query.supports(obligation::USERNAME);
    if query.supports(obligation::ACCOUNT) && (group.is_some() || !by_name) {
        let assignments = [name].into_iter().chain(group).collect();
        all.push(Obligation::on_permit(obligation::ACCOUNT, assignments));
    } else if by_name {
        all.push(Obligation::on_permit(obligation::USERNAME, vec![name]));
    }
    if !all.is_empty() && !ids.groups.is_empty() && query.supports(obligation::SECONDARY_GIDS) {
        let assignments = ids.groups.iter().map(|g| pair(attribute::GID, g.to_string())).collect();
        all.push(Obligation::on_permit(obligation::SECONDARY_GIDS, assignments));
    }
    all
}

/// Letter case does not count, as with GUMS; a rule that ends in `/*` also covers the group itself.
fn fqan_matches(pattern: &str, fqan: &str) -> bool {
    let (pattern, fqan) = (short_fqan(pattern).to_ascii_lowercase(), short_fqan(fqan).to_ascii_lowercase());
    pattern.strip_suffix("/*").is_some_and(|group| group == fqan)
        || matches_glob(pattern.as_bytes(), fqan.as_bytes(), |_| true)
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
