//! The PEP daemon of Argus: judges the chain that it is sent, and answers with names.

use crate::config::Config;
use crate::decide::{self, Question, Verdict};
use crate::http;
use credential::Trust;
use identity::{AccountName, Dn, VerifiedIdentity};
use mapping_client::argus::hessian::{Node, Value};
use mapping_client::argus::{self, names, object};
use mapping_client::xacml::answer::Decision;
use mapping_client::xacml::names as status;
use std::time::{SystemTime, UNIX_EPOCH};

/// The decision and the body of the answer; the error says why the query is none.
///
/// As the daemon does, a chain that cannot be judged is answered with Indeterminate and the reason.
pub fn answer(
    config: &Config,
    caller: &Dn,
    trust: &Trust,
    body: &[u8],
) -> Result<(Decision, String), String> {
    http::admit(config, caller)?;
    let refused = |reason: String| {
        http::log_refused(caller, &reason);
        reason
    };
    let document = argus::decode(body).map_err(refused)?;
    let request = document.root();
    let host = resource(request);
    let identity = match identity(request, trust) {
        Ok(identity) => identity,
        Err(reason) => {
            let reason = refused(reason);
            let decision = Decision::Indeterminate;
            return Ok((decision, response(host, decision, &reason, Vec::new())));
        }
    };
    let fqans = identity.fqans().iter().map(|f| (f.as_str(), true)).collect();
    let question = Question { subject: identity.subject.clone(), host, fqans };
    let verdict = decide::verdict(config, &question);
    let (decision, text) = match &verdict {
        Verdict::Mapped(account) => {
            (Decision::Permit, response(host, Decision::Permit, "", vec![obligation(config, account)]))
        }
        Verdict::Denied(reason) => (Decision::Deny, response(host, Decision::Deny, reason, Vec::new())),
    };
    http::log_answered(caller, &question, decision, &verdict, "");
    Ok((decision, text))
}

/// The only value of an attribute among those of a subject, resource or the like.
fn value<'a>(part: Node<'a>, id: &str) -> Option<&'a str> {
    let attributes = part.field("attributes")?.items()?;
    let mut values = attributes
        .into_iter()
        .filter(|a| a.field("id").and_then(|i| i.text()) == Some(id))
        .flat_map(|a| a.field("values").and_then(|v| v.items()).unwrap_or_default());
    match (values.next(), values.next()) {
        (Some(one), None) => one.text(),
        _ => None,
    }
}

/// The host, else the kind of resource, for the log and the answer.
fn resource(request: Node<'_>) -> &str {
    let resources = request.field("resources").and_then(|r| r.items()).unwrap_or_default();
    let find = |id| resources.iter().find_map(|r| value(*r, id));
    find(names::DNS_HOST_NAME).or_else(|| find(names::RESOURCE_ID)).unwrap_or_default()
}

fn identity(request: Node<'_>, trust: &Trust) -> Result<VerifiedIdentity, String> {
    let subjects = request.field("subjects").and_then(|s| s.items()).unwrap_or_default();
    let [subject] = subjects.as_slice() else {
        return Err(format!("the request has {} subjects instead of one", subjects.len()));
    };
    let chain = value(*subject, names::SUBJECT_KEY_INFO)
        .ok_or("the subject has no certificate chain (key-info): only verified persons are mapped")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let judged = credential::split_pem(chain.as_bytes())
        .and_then(|blocks| credential::certificates(&blocks))
        .and_then(|chain| credential::verify_chain(&chain, trust, now));
    judged.map_err(|refusal| refusal.reason)
}

fn obligation(config: &Config, account: &AccountName) -> Value {
    let assignment = |id: &str, name: &str| {
        object(
            "AttributeAssignment",
            vec![
                ("attributeId", Value::Text(id.into())),
                ("dataType", Value::Text(names::XS_STRING.into())),
                ("value", Value::Text(name.into())),
            ],
        )
    };
    let mut assignments = Vec::new();
    if let Some(group) = &config.ids(account).group {
        assignments.push(assignment(names::GROUP_ID_PRIMARY[0], group.as_str()));
        assignments.push(assignment(names::GROUP_ID[0], group.as_str()));
    }
    // Last, since one old client takes the last value for the account, whatever it is called.
    assignments.push(assignment(names::USER_ID[0], account.as_str()));
    object(
        "Obligation",
        vec![
            ("id", Value::Text(names::POSIX_MAPS[0].into())),
            ("fulfillOn", Value::Integer(1)),
            ("attributeAssignments", Value::List(assignments)),
        ],
    )
}

fn response(resource: &str, decision: Decision, message: &str, obligations: Vec<Value>) -> String {
    let (code, status) = match decision {
        Decision::Deny => (argus::DENY, status::STATUS_OK),
        Decision::Permit => (argus::PERMIT, status::STATUS_OK),
        Decision::Indeterminate => (argus::INDETERMINATE, status::STATUS_ERROR),
        Decision::NotApplicable => (argus::NOT_APPLICABLE, status::STATUS_OK),
    };
    let status_code =
        object("StatusCode", vec![("code", Value::Text(status.into())), ("subCode", Value::Null)]);
    let status =
        object("Status", vec![("message", Value::Text(message.into())), ("statusCode", status_code)]);
    let result = object(
        "Result",
        vec![
            ("decision", Value::Integer(code)),
            ("resourceId", Value::Text(resource.into())),
            ("status", status),
            ("obligations", Value::List(obligations)),
        ],
    );
    argus::encode(&object("Response", vec![("request", Value::Null), ("results", Value::List(vec![result]))]))
}
