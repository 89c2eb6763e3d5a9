//! What every protocol of a mapping service has in common: a question without I/O, and the meaning of an answer.

use crate::argus::Argus;
use crate::host::HostCredential;
use crate::https::Reply;
use crate::json::Json;
use crate::xacml::soap::{GUMS, SCAS};
use identity::{Dn, Fqan, VerifiedIdentity};
use identity::{Mapping, Service};

/// Who is to be mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Subject of the end-entity certificate.
    pub subject: Dn,
    /// Its issuer, when known.
    pub issuer: Option<Dn>,
    /// Its serial number in hex, when known.
    pub serial: Option<String>,
    /// FQANs in the order of the attribute certificate.
    pub fqans: Vec<Fqan>,
    /// Who signed the FQANs. `None` when nobody verified them: then the service looks up the membership itself.
    pub signer: Option<Dn>,
    /// Issuer of the signer.
    pub signer_issuer: Option<Dn>,
    /// The verified chain as PEM, leaf first, without any key; empty when only the names are known.
    pub chain_pem: String,
}

impl From<&VerifiedIdentity> for Person {
    fn from(identity: &VerifiedIdentity) -> Self {
        Self {
            subject: identity.subject.clone(),
            issuer: Some(identity.issuer.clone()),
            serial: Some(identity.serial.clone()),
            fqans: identity.fqans().to_vec(),
            signer: identity.voms.as_ref().map(|v| v.signer.clone()),
            signer_issuer: identity.voms.as_ref().map(|v| v.signer_issuer.clone()),
            chain_pem: String::from_utf8_lossy(&identity.chain_pem).into_owned(),
        }
    }
}

/// The host that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Fully qualified name.
    pub name: String,
    /// Subject of the certificate in the order of RFC 2253. Never empty.
    pub issuer: String,
    /// Subject and issuer of the host's certificate, when the credential is the host's own. A pilot's proxy must not
    /// stand here: GUMS prefers this name to the host name when it looks for the host.
    pub certificate: Option<(Dn, Dn)>,
}

impl Host {
    /// The host `name` that authenticates with `credential`.
    pub fn new(credential: &HostCredential, name: &str) -> Self {
        let own = credential.names_host(name);
        Self {
            name: name.to_owned(),
            issuer: credential.rfc2253.clone(),
            certificate: own.then(|| (credential.subject.clone(), credential.issuer.clone())),
        }
    }
}

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Names the question where the protocol has a field for that; an answer to another name is refused.
    pub id: String,
    /// URL to ask.
    pub url: String,
    /// Headers besides those of HTTP itself.
    pub headers: Vec<(&'static str, String)>,
    /// Body of a POST; `None` is a GET.
    pub body: Option<String>,
}

/// What an answer means.
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

/// A protocol: builds questions and reads answers, and does nothing else.
pub trait Protocol: std::fmt::Debug + Sync {
    /// The question to one endpoint. Each endpoint gets one of its own, so that no answer fits another question.
    /// The error is one line: why nothing can be asked.
    fn question(&self, endpoint: &str, person: &Person, host: &Host) -> Result<Question, String>;

    /// The meaning of an answer. The error says why it is not one of this protocol; what follows from that
    /// depends on the HTTP status, in the same way for all protocols (see [`crate::failover`]).
    fn meaning(&self, question: &Question, reply: &Reply) -> Result<Outcome, String>;
}

/// The protocol that a service speaks.
pub fn of(service: Service) -> &'static dyn Protocol {
    match service {
        Service::Gums => &GUMS,
        Service::Scas => &SCAS,
        Service::Argus => &Argus,
        Service::Json => &Json,
    }
}

/// The last look at a mapping, for every protocol: somebody is named, and it is not root.
pub(crate) fn accept(mapping: Mapping) -> Outcome {
    if mapping.account.is_none() && mapping.uid.is_none() {
        return Outcome::Unusable("the service permits but names neither an account nor a uid".into());
    }
    let numbers = [mapping.uid, mapping.gid].into_iter().flatten().chain(mapping.groups.iter().copied());
    let names = [&mapping.account, &mapping.group].into_iter().flatten().chain(&mapping.group_names);
    if numbers.into_iter().any(|n| n == 0) || names.into_iter().any(|n| n == "root") {
        return Outcome::Denied("the service names root or its group, which no payload gets".into());
    }
    Outcome::Mapped(mapping)
}

/// Two parts of an answer may say the same thing twice, but not two things.
pub(crate) fn settle<T: PartialEq>(slot: &mut Option<T>, value: T, what: &str) -> Result<(), Outcome> {
    if slot.as_ref().is_some_and(|known| *known != value) {
        return Err(Outcome::Unusable(format!("the answer contradicts itself: two different {what}")));
    }
    *slot = Some(value);
    Ok(())
}

/// Most secondary groups that are taken; the kernel's limit is 65536, real answers have a handful.
const MAX_GROUPS: usize = 1024;

/// Adds a secondary group, once.
pub(crate) fn add_group<T: PartialEq>(groups: &mut Vec<T>, group: T) -> Result<(), Outcome> {
    if groups.len() >= MAX_GROUPS {
        return Err(Outcome::Unusable(format!("the answer has more than {MAX_GROUPS} secondary groups")));
    }
    if !groups.contains(&group) {
        groups.push(group);
    }
    Ok(())
}

/// A name of an account or a group; group names follow the rule of account names.
pub(crate) fn name(text: &str) -> Result<String, Outcome> {
    let name = identity::AccountName::parse(text)
        .map_err(|e| Outcome::Unusable(format!("the answer names an impossible account: {e}")))?;
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_and_root_are_no_mappings() {
        assert!(matches!(accept(Mapping::default()), Outcome::Unusable(_)));
        let named = |change: fn(&mut Mapping)| {
            let mut mapping = Mapping { account: Some("alice".into()), ..Mapping::default() };
            change(&mut mapping);
            accept(mapping)
        };
        assert!(matches!(named(|_| {}), Outcome::Mapped(_)));
        for change in [
            (|m| m.account = Some("root".into())) as fn(&mut Mapping),
            |m| m.uid = Some(0),
            |m| m.gid = Some(0),
            |m| m.groups = vec![100, 0],
            |m| m.group = Some("root".into()),
            |m| m.group_names = vec!["users".into(), "root".into()],
        ] {
            assert!(matches!(named(change), Outcome::Denied(_)));
        }
    }

    #[test]
    fn groups_are_bounded_and_taken_once() {
        let mut groups = Vec::new();
        for n in 0..MAX_GROUPS {
            assert!(add_group(&mut groups, n).is_ok());
        }
        assert!(add_group(&mut groups, 1).is_err());
        let mut few = vec![1];
        assert!(add_group(&mut few, 1).is_ok() && few == [1]);
    }
}
