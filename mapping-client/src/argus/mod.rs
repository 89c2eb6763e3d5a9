//! The PEP daemon of Argus: a POST of one base64-coded Hessian object, answered by another.
//!
//! The request follows the profile for worker nodes, `http://glite.org/xacml/profile/grid-wn/1.0`: the daemon maps
//! only subjects whose certificate chain it gets.
//!
//! | looking for | see |
//! |---|---|
//! | Hessian 1.0, the part that is needed | [`hessian`] |
//! | URIs | [`names`] |
//! | the question and the meaning of an answer | [`Argus`] |

pub mod hessian;
pub mod names;

use crate::https::Reply;
use crate::protocol::{Host, Outcome, Person, Protocol, Question, accept, add_group, name, settle};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hessian::{Document, Node, Value};
use identity::Mapping;

/// The protocol of the PEP daemon.
#[derive(Debug)]
pub struct Argus;

/// The daemon's code for "no".
pub const DENY: i32 = 0;
/// The daemon's code for "yes".
pub const PERMIT: i32 = 1;
/// The daemon's code for "cannot decide".
pub const INDETERMINATE: i32 = 2;
/// The daemon's code for "no rule applies".
pub const NOT_APPLICABLE: i32 = 3;

impl Protocol for Argus {
    fn question(&self, endpoint: &str, person: &Person, host: &Host) -> Result<Question, String> {
        if person.chain_pem.is_empty() {
            return Err("Argus maps only whom it gets the certificate chain of, and none is given; \
                        with mapping-query, name a proxy with --proxy"
                .into());
        }
        Ok(Question {
            // The protocol has no field for it: TLS alone ties the answer to the question.
            id: String::new(),
            url: endpoint.to_owned(),
            headers: vec![("Content-Type", "application/x-www-form-urlencoded".into())],
            body: Some(encode(&request(person, host))),
        })
    }

    fn meaning(&self, _: &Question, reply: &Reply) -> Result<Outcome, String> {
        if reply.status != 200 {
            return Err(format!("HTTP {}", reply.status));
        }
        response(decode(&reply.body)?.root())
    }
}

fn request(person: &Person, host: &Host) -> Value {
    let mut subject = vec![
        attribute(names::SUBJECT_KEY_INFO, names::XS_STRING, &[person.chain_pem.trim()]),
        attribute(names::SUBJECT_ID, names::X500_NAME, &[&rfc2253(person)]),
    ];
    if let Some(primary) = person.fqans.first() {
        let all: Vec<&str> = person.fqans.iter().map(|f| f.as_str()).collect();
        subject.push(attribute(names::FQAN_PRIMARY, names::FQAN_TYPE, &[primary.as_str()]));
        subject.push(attribute(names::FQAN, names::FQAN_TYPE, &all));
    }
    let resource = [
        attribute(names::RESOURCE_ID, names::XS_STRING, &[names::WORKER_NODE]),
        attribute(names::DNS_HOST_NAME, names::XS_STRING, &[&host.name]),
    ];
    let action = [attribute(names::ACTION_ID, names::XS_STRING, &[names::EXECUTE])];
    let environment = [attribute(names::PROFILE_ID, names::XS_ANY_URI, &[names::PROFILE_WORKER_NODE])];
    object(
        "Request",
        vec![
            ("subjects", Value::List(vec![with_attributes("Subject", subject)])),
            ("resources", Value::List(vec![with_attributes("Resource", resource.into())])),
            ("action", with_attributes("Action", action.into())),
            ("environment", with_attributes("Environment", environment.into())),
        ],
    )
}

/// An object of one of Argus's classes, named without its package.
pub fn object(class: &str, fields: Vec<(&str, Value)>) -> Value {
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Value::Object(format!("{}{class}", names::CLASS_PREFIX), fields)
}

fn with_attributes(class: &str, attributes: Vec<Value>) -> Value {
    object(class, vec![("attributes", Value::List(attributes))])
}

fn attribute(id: &str, data_type: &str, values: &[&str]) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    let values = Value::List(values.iter().map(|v| text(v)).collect());
    object("Attribute", vec![("id", text(id)), ("dataType", text(data_type)), ("values", values)])
}

/// The subject in the order of RFC 2253, as Argus compares names.
fn rfc2253(person: &Person) -> String {
    crate::host::end_entity_rfc2253(person.chain_pem.as_bytes())
        .unwrap_or_else(|| crate::host::reverse_slash_form(person.subject.as_str()))
}

fn response(root: Node<'_>) -> Result<Outcome, String> {
    if root.class() != Some(&format!("{}Response", names::CLASS_PREFIX)) {
        return Err("the object is no Response of Argus".into());
    }
    let results = root.field("results").and_then(|r| r.items()).ok_or("the Response has no results")?;
    let [result] = results.as_slice() else {
        return Ok(Outcome::Unusable(format!(
            "the Response holds {} results instead of one, which may contradict each other",
            results.len()
        )));
    };
    let decision = result.field("decision").and_then(|d| d.integer()).ok_or("the Result has no decision")?;
    let said = || status_message(*result);
    Ok(match decision {
        PERMIT => permitted(*result),
        DENY => Outcome::Denied(said().unwrap_or("the site's Argus policy denies this identity".into())),
        NOT_APPLICABLE => {
            Outcome::Denied(said().unwrap_or("no rule of the site's Argus policy applies".into()))
        }
        INDETERMINATE => Outcome::Undecided(format!(
            "the service could not decide: {}",
            said().unwrap_or("no reason".into())
        )),
        other => return Err(format!("the decision {other} is unknown")),
    })
}

fn status_message(result: Node<'_>) -> Option<String> {
    let message = result.field("status")?.field("message")?.text()?.trim().to_owned();
    (!message.is_empty()).then_some(message)
}

fn permitted(result: Node<'_>) -> Outcome {
    let obligations = result.field("obligations").and_then(|o| o.items()).unwrap_or_default();
    let mut mapping = Mapping::default();
    let mut groups = Vec::new();
    for obligation in obligations {
        if let Err(outcome) = carry_out(obligation, &mut mapping, &mut groups) {
            return outcome;
        }
    }
    // The primary group stands among the groups, too; without a primary one, the account's own counts.
    groups.retain(|group| Some(group) != mapping.group.as_ref());
    mapping.group_names = groups;
    accept(mapping)
}

/// An obligation that only asks for a mapping names no account: the daemon adds the one that does.
fn carry_out(obligation: Node<'_>, mapping: &mut Mapping, groups: &mut Vec<String>) -> Result<(), Outcome> {
    const ON_DENY: i32 = 0;
    let id = obligation.field("id").and_then(|i| i.text()).unwrap_or_default();
    if obligation.field("fulfillOn").and_then(|f| f.integer()) == Some(ON_DENY) {
        return Ok(());
    }
    if names::ABSTRACT_MAPS.contains(&id) {
        return Ok(());
    }
    if !names::POSIX_MAPS.contains(&id) {
        return Err(Outcome::Denied(format!("the Permit demands {id:?}, which is not supported")));
    }
    let assignments = obligation.field("attributeAssignments").and_then(|a| a.items()).unwrap_or_default();
    if assignments.is_empty() {
        return Err(Outcome::Unusable(format!("the Permit carries an empty obligation {id:?}")));
    }
    for assignment in assignments {
        let what = assignment.field("attributeId").and_then(|a| a.text()).unwrap_or_default();
        for value in values(assignment)? {
            match what {
                w if names::USER_ID.contains(&w) => settle(&mut mapping.account, name(value)?, "user names")?,
                w if names::GROUP_ID_PRIMARY.contains(&w) => {
                    settle(&mut mapping.group, name(value)?, "primary groups")?;
                }
                w if names::GROUP_ID.contains(&w) => add_group(groups, name(value)?)?,
                other => {
                    return Err(Outcome::Denied(format!(
                        "attribute {other:?} of the obligation {id:?} is not supported"
                    )));
                }
            }
        }
    }
    Ok(())
}

/// The value of an assignment; old peers send a list.
fn values(assignment: Node<'_>) -> Result<Vec<&str>, Outcome> {
    let listed = assignment.field("values").and_then(|v| v.items()).unwrap_or_default();
    let all = assignment.field("value").into_iter().chain(listed);
    let texts: Vec<_> = all.filter_map(|v| v.text()).map(str::trim).filter(|v| !v.is_empty()).collect();
    if texts.is_empty() {
        return Err(Outcome::Unusable("an assignment of the answer has no value".into()));
    }
    Ok(texts)
}

/// Writes a message.
pub fn encode(message: &Value) -> String {
    STANDARD.encode(message.encode())
}

/// Reads a message. Peers wrap the base64 into lines.
pub fn decode(body: &[u8]) -> Result<Document, String> {
    let text: Vec<u8> = body.iter().copied().filter(|c| !c.is_ascii_whitespace()).collect();
    hessian::decode(&STANDARD.decode(text).map_err(|_| "the body is not base64".to_owned())?)
}

#[cfg(test)]
mod tests;
