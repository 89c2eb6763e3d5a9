//! The JSON interface of GUMS 1.5: the names in the query of a GET, one object back.

use crate::config::Config;
use crate::decide::{self, Question, Verdict};
use crate::http;
use identity::Dn;
use mapping_client::xacml::answer::Decision;
use serde_json::{Value, json};

/// Answers a query; the error says why it cannot be answered.
pub fn answer(config: &Config, caller: &Dn, pairs: &[(String, String)]) -> Result<(Decision, Value), String> {
    http::admit(config, caller)?;
    let refused = |reason: String| {
        http::log_refused(caller, &reason);
        reason
    };
    let question = question(pairs).map_err(refused)?;
    let verdict = decide::verdict(config, &question);
    let (decision, answer) = match &verdict {
        // The interface has no field for a reason; a member more is ignored by its clients.
        Verdict::Denied(reason) => (Decision::Deny, json!({ "result": "FAILED", "message": reason })),
        Verdict::Mapped(account) => {
            let ids = config.ids(account);
            let mut answer = json!({ "result": "OK", "username": account.as_str() });
            match (ids.gid, ids.group) {
                (Some(gid), _) => answer["gid"] = gid.into(),
                (None, Some(group)) => answer["groupname"] = group.as_str().into(),
                (None, None) => {}
            }
            (Decision::Permit, answer)
        }
    };
    http::log_answered(caller, &question, decision, &verdict, "");
    Ok((decision, answer))
}

fn question(pairs: &[(String, String)]) -> Result<Question<'_>, String> {
    let all = |name: &'static str| {
        pairs
            .iter()
            .filter(move |(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    };
    let one = |name: &'static str| {
        let mut found = all(name);
        let first = found.next();
        match found.next() {
            None => Ok(first),
            Some(_) => Err(format!("{name} stands twice")),
        }
    };
    let missing = |name: &str| format!("missing parameter: {name}");
    let subject = one("subject-x509-id")?.ok_or_else(|| missing("subject-x509-id"))?;
    let host = one("resource-x509-id")?.or(one("dns-host-name")?);
    let verified = one("voms-signing-subject")?.is_some();
    Ok(Question {
        subject: Dn::parse(subject).map_err(|e| e.to_string())?,
        host: host.ok_or_else(|| missing("dns-host-name"))?,
        fqans: all("voms-fqan").map(|fqan| (fqan, verified)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "[callers]\nallow = ['/CN=ce']\n[users]\n'/CN=Alice' = 'alice'\n[[fqans]]\nfqan = '/cms'\naccount = 'cms'\n\
                         [accounts.alice]\nuid = 20001\ngid = 20001\n[accounts.cms]\ngroup = 'people'\n";

    fn ask(caller: &str, pairs: &[(&str, &str)]) -> Result<Value, String> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let answer = answer(&Config::parse(RULES).unwrap(), &Dn::parse(caller).unwrap(), &pairs);
        answer.map(|(_, value)| value)
    }

    #[test]
    fn persons_and_verified_fqans_are_mapped() {
        let host = ("dns-host-name", "wn1");
        let alice = ask("/CN=ce", &[("subject-x509-id", "/CN=Alice"), host]).unwrap();
        assert_eq!(alice, json!({ "result": "OK", "username": "alice", "gid": 20001 }));
        let bob = [("subject-x509-id", "/CN=Bob"), ("voms-fqan", "/cms"), host];
        assert_eq!(ask("/CN=ce", &bob).unwrap()["result"], "FAILED");
        let verified = [&bob[..], &[("voms-signing-subject", "/CN=voms")]].concat();
        let bob = ask("/CN=ce", &verified).unwrap();
        assert_eq!(bob, json!({ "result": "OK", "username": "cms", "groupname": "people" }));
    }

    #[test]
    fn what_cannot_be_answered_says_why() {
        let subject = ("subject-x509-id", "/CN=Alice");
        for (caller, pairs, why) in [
            ("/CN=x", &[][..], "may not ask"),
            ("/CN=ce", &[][..], "missing parameter: subject-x509-id"),
            ("/CN=ce", &[subject][..], "missing parameter: dns-host-name"),
            ("/CN=ce", &[subject, subject, ("dns-host-name", "a")][..], "stands twice"),
            ("/CN=ce", &[("subject-x509-id", "CN=Alice"), ("dns-host-name", "a")][..], "DN"),
        ] {
            let reason = ask(caller, pairs).unwrap_err();
            assert!(reason.contains(why), "{reason}");
        }
    }
}
