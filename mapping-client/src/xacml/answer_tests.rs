use super::*;
use crate::xacml::names::{attribute, obligation};

const MAPPED: &str = include_str!("../../tests/data/gums-mapped.xml");

fn answer(xml: &str) -> Answer {
    match parse(xml.as_bytes()) {
        Ok(Message::Answer(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

fn mapped() -> Answer {
    let pair = |id: &str, value: &str| (id.to_owned(), value.to_owned());
    Answer {
        in_response_to: Some("_q1".into()),
        decision: Decision::Permit,
        message: None,
        obligations: vec![
            Obligation::on_permit(
                obligation::UIDGID,
                vec![pair(attribute::UID, "40017"), pair(attribute::GID, "4000")],
            ),
            Obligation::on_permit(obligation::USERNAME, vec![pair(attribute::USERNAME, "tstplt017")]),
        ],
    }
}

#[test]
fn an_answer_comes_back_as_it_went_out() {
    let denied = Answer {
        decision: Decision::Deny,
        message: Some("unknown: /CN=<Eve> & \"co\"".into()),
        obligations: vec![],
        ..mapped()
    };
    for sent in [mapped(), denied, Answer { in_response_to: None, ..mapped() }] {
        let xml = sent.encode("_r1", "2025-03-04T10:11:12Z", "https://map.example.org/");
        assert_eq!(answer(&xml), sent);
    }
}

#[test]
fn our_answers_hold_what_the_strictest_client_needs() {
    let xml = mapped().encode("_r1", "2025-03-04T10:11:12Z", "https://map.example.org/");
    for needed in [
        names::SAML_SUCCESS,
        names::STATUS_OK,
        r#"xsi:type="xs:XACMLAuthzDecisionStatementType""#,
        r#"DataType="http://www.w3.org/2001/XMLSchema#integer">40017<"#,
        r#"InResponseTo="_q1""#,
    ] {
        assert!(xml.contains(needed), "{needed} is missing in {xml}");
    }
    let denied = Answer { decision: Decision::Deny, obligations: vec![], ..mapped() };
    assert!(!denied.encode("_r", "2025-03-04T10:11:12Z", "x").contains("Obligation"));
}

#[test]
fn gums_is_understood_without_status_ids_and_issuer() {
    let answer = answer(MAPPED);
    assert_eq!((answer.decision, answer.in_response_to.as_deref()), (Decision::Permit, Some("_q1")));
    assert_eq!(answer.obligations.len(), 2);
    assert_eq!(answer.obligations[0].assignments, [(attribute::GID.to_owned(), "4000".to_owned())]);
}

#[test]
fn gums_denies_with_an_empty_obligation() {
    let answer = answer(include_str!("../../tests/data/gums-unknown.xml"));
    assert_eq!(answer.decision, Decision::Deny);
    assert!(answer.obligations[0].assignments.is_empty());
}

#[test]
fn scas_is_understood_with_default_namespaces() {
    let answer = answer(include_str!("../../tests/data/scas-mapped.xml"));
    assert_eq!(answer.obligations[1].assignments.len(), 2);
    assert_eq!(answer.in_response_to, None);
}

#[test]
fn a_fault_is_a_fault_whoever_wrote_it() {
    let gums = parse(include_bytes!("../../tests/data/gums-fault.xml")).unwrap();
    let Message::Fault(fault) = gums else { panic!("{gums:?}") };
    assert_eq!(fault.code, "StatusMessage");
    assert!(fault.reason.contains("wn999.example.org"));
    let ours = Fault { code: "StatusMessage".into(), reason: "missing attribute: <x>".into() };
    assert_eq!(parse(ours.encode().as_bytes()).unwrap(), Message::Fault(ours));
}

#[test]
fn a_saml_status_other_than_success_hides_the_decision() {
    let xml = mapped()
        .encode("_r1", "2025-03-04T10:11:12Z", "x")
        .replace(names::SAML_SUCCESS, "urn:oasis:names:tc:SAML:2.0:status:Requester");
    let parsed = parse(xml.as_bytes()).unwrap();
    assert!(
        matches!(&parsed, Message::Refused { status, .. } if status.ends_with(":Requester")),
        "{parsed:?}"
    );
}

#[test]
fn several_of_anything_decisive_is_an_error() {
    let repeat = |from: &str, to: &str| {
        let (start, end) = (MAPPED.find(from).unwrap(), MAPPED.find(to).unwrap() + to.len());
        format!("{}{}{}", &MAPPED[..end], &MAPPED[start..end], &MAPPED[end..])
    };
    for (from, to) in [
        ("<xacml-context:Result>", "</xacml-context:Result>"),
        ("<xacml-context:Decision>", "</xacml-context:Decision>"),
        ("<xacml-context:Status>", "</xacml-context:Status>"),
        ("<saml:Statement", "</saml:Statement>"),
        ("<saml:Assertion", "</saml:Assertion>"),
        ("<samlp:Response", "</samlp:Response>"),
        ("<xacml:Obligations", "</xacml:Obligations>"),
    ] {
        let xml = repeat(from, to);
        assert!(parse(xml.as_bytes()).is_err(), "two of {from} were accepted");
    }
}

#[test]
fn look_alikes_are_refused() {
    for (from, to) in [
        ("Permit</", "permit</"),
        ("Permit</", "</"),
        ("Permit</", "PermitDeny</"),
        (names::CONTEXT, "urn:other"),
        (names::SAMLP, "urn:other"),
        (names::XACML_SAML, "urn:oasis:xacml:2.0:saml:assertion:schema:os"),
        ("xacml-saml:XACMLAuthzDecisionStatementType", "xacml-saml:XACMLPolicyStatementType"),
        ("AttributeId=", "Id="),
        ("ObligationId=", "Id="),
        ("soapenv:Body", "soapenv:Header"),
    ] {
        let xml = MAPPED.replace(from, to);
        assert_ne!(xml, MAPPED);
        assert!(parse(xml.as_bytes()).is_err(), "{from} -> {to}");
    }
}

#[test]
fn pages_of_other_programs_are_refused() {
    for page in [
        "<html><body><h1>403 Forbidden</h1></body></html>",
        "<!DOCTYPE html><html></html>",
        "{\"result\":\"OK\",\"username\":\"alice\"}",
        "",
    ] {
        assert!(parse(page.as_bytes()).is_err(), "{page}");
    }
}
