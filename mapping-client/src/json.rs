//! The JSON interface of GUMS 1.5: a GET with the names in its query, answered by one object.

use crate::https::Reply;
use crate::protocol::{Host, Outcome, Person, Protocol, Question, accept, name};
use crate::xacml::query::short_fqan;
use identity::Mapping;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

/// The protocol; an endpoint is the whole URL, such as `https://gums.example.org:8443/gums/json/mapGridIdentity`.
#[derive(Debug)]
pub struct Json;

/// What the service answers, whatever the status.
#[derive(Debug, Deserialize)]
#[serde(tag = "result", rename_all = "UPPERCASE")]
enum Answer {
    Ok {
        username: String,
        gid: Option<u32>,
        groupname: Option<String>,
    },
    Failed,
    Error {
        #[serde(default)]
        message: String,
    },
}

impl Protocol for Json {
    fn question(&self, endpoint: &str, person: &Person, host: &Host) -> Result<Question, String> {
        let mut query = vec![("subject-x509-id", person.subject.as_str())];
        if let Some(primary) = person.fqans.first() {
            query.push(("voms-fqan", short_fqan(primary.as_str())));
            // Its presence says that the FQAN was verified.
            query.extend(person.signer.as_ref().map(|s| ("voms-signing-subject", s.as_str())));
        }
        query.push(match &host.certificate {
            Some((subject, _)) => ("resource-x509-id", subject.as_str()),
            None => ("dns-host-name", host.name.as_str()),
        });
        let pairs: Vec<String> = query
            .iter()
            .map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let joint = if endpoint.contains('?') { '&' } else { '?' };
        Ok(Question {
            id: String::new(),
            url: format!("{endpoint}{joint}{}", pairs.join("&")),
            headers: vec![("Accept", "application/json".into())],
            body: None,
        })
    }

    fn meaning(&self, _: &Question, reply: &Reply) -> Result<Outcome, String> {
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
        Ok(match answer {
            Answer::Error { message } => Outcome::Undecided(format!("the service failed: {message}")),
            _ if reply.status != 200 => return Err(format!("HTTP {} with a decision in it", reply.status)),
            Answer::Failed => {
                Outcome::Denied("the identity is unknown or banned; the service does not say which".into())
            }
            Answer::Ok { username, gid, groupname } => {
                match (name(&username), groupname.as_deref().map(name).transpose()) {
                    (Ok(account), Ok(group)) => {
                        accept(Mapping { account: Some(account), gid, group, ..Mapping::default() })
                    }
                    (Err(outcome), _) | (_, Err(outcome)) => outcome,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::{Dn, Fqan};

    fn meaning(status: u16, body: &str) -> Result<Outcome, String> {
        let question = Question { id: String::new(), url: String::new(), headers: Vec::new(), body: None };
        Json.meaning(&question, &Reply { status, body: body.into() })
    }

    #[test]
    fn answers_mean_what_the_interface_says() {
        let mapped = |gid, group: Option<&str>| {
            Outcome::Mapped(Mapping {
                account: Some("cms007".into()),
                gid,
                group: group.map(Into::into),
                ..Mapping::default()
            })
        };
        for (body, expected) in [
            (r#"{"result":"OK","username":"cms007"}"#, mapped(None, None)),
            (r#"{"result":"OK","username":"cms007","gid":4000}"#, mapped(Some(4000), None)),
            (r#"{"result":"OK","username":"cms007","groupname":"cms"}"#, mapped(None, Some("cms"))),
        ] {
            assert_eq!(meaning(200, body), Ok(expected), "{body}");
        }
        assert!(matches!(meaning(200, r#"{"result":"FAILED"}"#), Ok(Outcome::Denied(_))));
        for status in [200, 400, 404, 500] {
            let error = meaning(status, r#"{"result":"ERROR","message":"no such host"}"#);
            assert!(matches!(error, Ok(Outcome::Undecided(why)) if why.contains("no such host")));
        }
    }

    #[test]
    fn what_names_nobody_or_root_maps_nobody() {
        for body in ["", "[]", "{}", r#"{"result":"OK"}"#, r#"{"result":"MAYBE"}"#, "<html>"] {
            assert!(meaning(200, body).is_err(), "{body}");
        }
        for body in [
            r#"{"result":"OK","username":"root"}"#,
            r#"{"result":"OK","username":"cms007","gid":0}"#,
            r#"{"result":"OK","username":"cms007","groupname":"root"}"#,
        ] {
            assert!(matches!(meaning(200, body), Ok(Outcome::Denied(_))), "{body}");
        }
        assert!(matches!(meaning(200, r#"{"result":"OK","username":"a b"}"#), Ok(Outcome::Unusable(_))));
        assert!(meaning(403, r#"{"result":"OK","username":"cms007"}"#).is_err());
    }

    #[test]
    fn the_question_names_person_fqan_and_host() {
        let mut person = Person {
            subject: Dn::parse("/DC=test/CN=A B&c=d").unwrap(),
            issuer: None,
            serial: None,
            fqans: vec![Fqan::parse("/cms/Role=pilot/Capability=NULL").unwrap()],
            signer: Some(Dn::parse("/DC=test/CN=voms").unwrap()),
            signer_issuer: None,
            chain_pem: String::new(),
        };
        let host = Host { name: "wn1.example.org".into(), issuer: "CN=wn1".into(), certificate: None };
        let url = Json.question("https://gums/json/mapGridIdentity", &person, &host).unwrap().url;
        assert_eq!(
            url,
            "https://gums/json/mapGridIdentity?subject-x509-id=%2FDC%3Dtest%2FCN%3DA%20B%26c%3Dd\
             &voms-fqan=%2Fcms%2FRole%3Dpilot&voms-signing-subject=%2FDC%3Dtest%2FCN%3Dvoms\
             &dns-host-name=wn1%2Eexample%2Eorg"
        );
        person.signer = None;
        let url = Json.question("https://gums/x?a=b", &person, &host).unwrap().url;
        assert!(url.starts_with("https://gums/x?a=b&subject") && !url.contains("signing"), "{url}");
    }
}
