use super::*;
use identity::{Dn, Fqan};

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn assignment(id: &str, value: &str) -> Value {
    object("AttributeAssignment", vec![("attributeId", text(id)), ("value", text(value))])
}

fn obligation(id: &str, assignments: Vec<Value>) -> Value {
    object(
        "Obligation",
        vec![
            ("id", text(id)),
            ("fulfillOn", Value::Integer(1)),
            ("attributeAssignments", Value::List(assignments)),
        ],
    )
}

fn result(decision: i32, message: &str, obligations: Vec<Value>) -> Value {
    let status = object("Status", vec![("message", text(message)), ("statusCode", Value::Null)]);
    object(
        "Result",
        vec![
            ("decision", Value::Integer(decision)),
            ("resourceId", text("wn")),
            ("status", status),
            ("obligations", Value::List(obligations)),
        ],
    )
}

fn answered(results: Vec<Value>) -> Result<Outcome, String> {
    let response = object("Response", vec![("request", Value::Null), ("results", Value::List(results))]);
    let wrapped: Vec<String> = STANDARD
        .encode(response.encode())
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let question = Question { id: String::new(), url: String::new(), headers: Vec::new(), body: None };
    Argus.meaning(&question, &Reply { status: 200, body: wrapped.join("\r\n").into_bytes() })
}

fn permit(obligations: Vec<Value>) -> Outcome {
    answered(vec![result(PERMIT, "", obligations)]).unwrap()
}

#[test]
fn a_posix_obligation_names_account_and_groups() {
    for n in 0..2 {
        let outcome = permit(vec![
            obligation(names::ABSTRACT_MAPS[n], Vec::new()),
            obligation(
                names::POSIX_MAPS[n],
                vec![
                    assignment(names::USER_ID[n], "dteam003"),
                    assignment(names::GROUP_ID_PRIMARY[n], "dteam"),
                    assignment(names::GROUP_ID[n], "dteam"),
                    assignment(names::GROUP_ID[n], "users"),
                ],
            ),
        ]);
        let expected = Mapping {
            account: Some("dteam003".into()),
            group: Some("dteam".into()),
            group_names: vec!["users".into()],
            ..Mapping::default()
        };
        assert_eq!(outcome, Outcome::Mapped(expected));
    }
}

#[test]
fn old_peers_send_their_values_in_a_list() {
    let values = Value::List(vec![text("dteam003")]);
    let old =
        object("AttributeAssignment", vec![("attributeId", text(names::USER_ID[0])), ("values", values)]);
    let outcome = permit(vec![obligation(names::POSIX_MAPS[0], vec![old])]);
    assert!(matches!(outcome, Outcome::Mapped(m) if m.account.as_deref() == Some("dteam003")));
}

#[test]
fn a_permit_without_a_usable_mapping_maps_nobody() {
    let user = |name: &str| assignment(names::USER_ID[0], name);
    let posix = |assignments| vec![obligation(names::POSIX_MAPS[0], assignments)];
    assert!(matches!(permit(Vec::new()), Outcome::Unusable(_)));
    assert!(matches!(permit(vec![obligation(names::ABSTRACT_MAPS[0], Vec::new())]), Outcome::Unusable(_)));
    assert!(matches!(permit(posix(Vec::new())), Outcome::Unusable(_)));
    assert!(matches!(permit(posix(vec![user("")])), Outcome::Unusable(_)));
    assert!(matches!(permit(posix(vec![user("a b")])), Outcome::Unusable(_)));
    assert!(matches!(permit(posix(vec![user("alice"), user("bob")])), Outcome::Unusable(_)));
    assert!(matches!(permit(posix(vec![user("root")])), Outcome::Denied(_)));
    assert!(matches!(permit(posix(vec![user("alice"), assignment("urn:quota", "5")])), Outcome::Denied(_)));
    assert!(matches!(permit(vec![obligation("urn:wash-hands", vec![user("a")])]), Outcome::Denied(_)));
}

#[test]
fn only_a_permit_maps() {
    let posix = || vec![obligation(names::POSIX_MAPS[0], vec![assignment(names::USER_ID[0], "alice")])];
    let outcome = |decision| answered(vec![result(decision, "because", posix())]).unwrap();
    assert_eq!(outcome(DENY), Outcome::Denied("because".into()));
    assert_eq!(outcome(NOT_APPLICABLE), Outcome::Denied("because".into()));
    assert_eq!(outcome(INDETERMINATE), Outcome::Undecided("the service could not decide: because".into()));
    assert!(answered(vec![result(9, "", posix())]).is_err());
    let two = answered(vec![result(PERMIT, "", posix()), result(DENY, "", posix())]);
    assert!(matches!(two, Ok(Outcome::Unusable(_))));
    assert!(matches!(answered(Vec::new()), Ok(Outcome::Unusable(_))));
}

#[test]
fn what_is_no_answer_of_argus_is_not_understood() {
    let question = Question { id: String::new(), url: String::new(), headers: Vec::new(), body: None };
    let request = STANDARD.encode(object("Request", Vec::new()).encode());
    for (status, body) in [(200, "<html>"), (200, ""), (200, "TnVsbA=="), (200, &*request), (500, &*request)]
    {
        let reply = Reply { status, body: body.into() };
        assert!(Argus.meaning(&question, &reply).is_err(), "{status} {body}");
    }
}

#[test]
fn the_question_carries_chain_name_and_fqans_but_needs_the_chain() {
    let host = Host { name: "wn1.example.org".into(), issuer: "CN=wn1".into(), certificate: None };
    let mut person = Person {
        subject: Dn::parse("/DC=test/OU=a/b/CN=host/x").unwrap(),
        issuer: None,
        serial: None,
        fqans: ["/dteam/Role=pilot", "/dteam"].map(|f| Fqan::parse(f).unwrap()).to_vec(),
        signer: None,
        signer_issuer: None,
        chain_pem: String::new(),
    };
    assert!(Argus.question("https://argus", &person, &host).is_err());
    person.chain_pem = "-----BEGIN CERTIFICATE-----\nnot really\n".into();
    let question = Argus.question("https://argus", &person, &host).unwrap();
    let document = decode(question.body.unwrap().as_bytes()).unwrap();
    let root = document.root();
    let subjects = root.field("subjects").unwrap().items().unwrap();
    let attributes = subjects[0].field("attributes").unwrap().items().unwrap();
    let values = |id: &str| -> Vec<&str> {
        let found = attributes.iter().find(|a| a.field("id").unwrap().text() == Some(id)).unwrap();
        found.field("values").unwrap().items().unwrap().iter().map(|v| v.text().unwrap()).collect()
    };
    assert_eq!(values(names::SUBJECT_ID), ["CN=host/x,OU=a/b,DC=test"]);
    assert_eq!(values(names::FQAN_PRIMARY), ["/dteam/Role=pilot"]);
    assert_eq!(values(names::FQAN), ["/dteam/Role=pilot", "/dteam"]);
    assert!(values(names::SUBJECT_KEY_INFO)[0].starts_with("-----BEGIN CERTIFICATE"));
}
