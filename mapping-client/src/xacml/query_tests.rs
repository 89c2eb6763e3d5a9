use super::*;
use crate::xacml::names::obligation;
use crate::xacml::soap::GUMS;
use identity::Fqan;

fn dn(text: &str) -> Dn {
    Dn::parse(text).unwrap()
}

fn alice() -> Person {
    Person {
        subject: dn("/DC=org/DC=example/OU=People/CN=Alice <&> \"Example\""),
        issuer: Some(dn("/DC=org/DC=example/CN=Example CA")),
        serial: Some("12345".into()),
        fqans: ["/testvo/Role=pilot/Capability=NULL", "/testvo/Role=NULL/Capability=NULL"]
            .map(|f| Fqan::parse(f).unwrap())
            .to_vec(),
        signer: Some(dn("/DC=org/DC=example/CN=voms.example.org")),
        signer_issuer: Some(dn("/DC=org/DC=example/CN=Example CA")),
        chain_pem: String::new(),
    }
}

fn node() -> Host {
    Host {
        name: "wn042.example.org".into(),
        issuer: "CN=wn042.example.org,DC=example,DC=org".into(),
        certificate: Some((
            dn("/DC=org/DC=example/CN=wn042.example.org"),
            dn("/DC=org/DC=example/CN=Example CA"),
        )),
    }
}

#[test]
fn a_query_comes_back_as_it_went_out() {
    let query = Query::mapping("_abc".into(), &alice(), &node(), GUMS.obligations());
    let xml = query.encode("2025-03-04T10:11:12Z");
    assert_eq!(Query::parse(xml.as_bytes()).unwrap(), query);
}

#[test]
fn everything_that_some_server_insists_on_is_there() {
    let xml =
        Query::mapping("_abc".into(), &alice(), &node(), GUMS.obligations()).encode("2025-03-04T10:11:12Z");
    let root = tree::parse(xml.as_bytes()).unwrap();
    let query = crate::xacml::body(&root).unwrap();
    assert_eq!(query.attribute("Version"), Some("2.0"));
    assert_eq!(query.attribute("ID"), Some("_abc"));
    assert_eq!(query.attribute("IssueInstant"), Some("2025-03-04T10:11:12Z"));
    assert!(!query.need(names::SAML, "Issuer").unwrap().text.is_empty());
    let request = query.need(names::CONTEXT, "Request").unwrap();
    let order: Vec<_> = request.children.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(order, ["Subject", "Resource", "Action", "Environment"]);
    let envelope_tag = &xml[xml.find("<soapenv:Envelope").unwrap()..xml.find("<soapenv:Body").unwrap()];
    assert_eq!(envelope_tag.matches("xmlns:").count(), 1, "prefixes belong on the message: {envelope_tag}");
}

#[test]
fn the_primary_fqan_is_vouched_for_only_after_verification() {
    let of = |p: &Person| {
        let query = Query::mapping("_a".into(), p, &node(), GUMS.obligations());
        query.subject.into_iter().find(|a| a.id == subject::PRIMARY_FQAN).unwrap()
    };
    let verified = of(&alice());
    assert_eq!(verified.values, ["/testvo/Role=pilot"]);
    assert_eq!(verified.issuer.as_deref(), Some("/DC=org/DC=example/CN=voms.example.org"));
    assert_eq!(of(&Person { signer: None, ..alice() }).issuer, None);
}

#[test]
fn fqans_keep_their_order_and_count_once() {
    let query = Query::mapping("_a".into(), &alice(), &node(), GUMS.obligations());
    assert_eq!(query.fqans(), [("/testvo/Role=pilot", true), ("/testvo/Role=NULL/Capability=NULL", true)]);
    let unverified =
        Query::mapping("_a".into(), &Person { signer: None, ..alice() }, &node(), GUMS.obligations());
    assert!(unverified.fqans().iter().all(|(_, verified)| !verified));
    let mut none = query.clone();
    none.subject.iter_mut().for_each(|a| a.issuer = Some(subject::ISSUER_NONE.into()));
    assert!(none.fqans().iter().all(|(_, verified)| !verified));
}

#[test]
fn serials_longer_than_a_machine_word_become_decimal() {
    assert_eq!(decimal("12345").unwrap(), "74565");
    assert_eq!(decimal("ffffffffffffffffffff").unwrap(), "1208925819614629174706175");
}

#[test]
fn short_fqans_lose_what_is_absent() {
    assert_eq!(short_fqan("/a/b/Role=NULL/Capability=NULL"), "/a/b");
    assert_eq!(short_fqan("/a/Role=x/Capability=null"), "/a/Role=x");
    assert_eq!(short_fqan("/a"), "/a");
    assert!(same_fqan("/A/Role=X", "/a/role=x/Capability=NULL"));
    assert!(!same_fqan("/a/Role=x", "/a"));
}

#[test]
fn a_proxy_of_a_pilot_does_not_pose_as_the_host() {
    let host = Host { certificate: None, ..node() };
    let query = Query::mapping("_a".into(), &alice(), &host, GUMS.obligations());
    assert_eq!(query.resource_value(resource::DN), None);
    assert_eq!(query.resource_value(resource::HOST), Some("wn042.example.org"));
}

#[test]
fn the_query_of_a_careless_client_is_understood() {
    let query = Query::parse(include_bytes!("../../tests/data/request-careless.xml")).unwrap();
    assert_eq!(query.id, None);
    assert_eq!(query.subject_value(subject::DN), Some("/DC=org/DC=example/CN=Alice"));
    assert!(query.supports(obligation::USERNAME) && !query.supports(obligation::ACCOUNT));
    assert_eq!(query.fqans(), [("/testvo", true)]);
}

#[test]
fn queries_that_ask_nothing_are_refused() {
    let good =
        Query::mapping("_a".into(), &alice(), &node(), GUMS.obligations()).encode("2025-03-04T10:11:12Z");
    for (from, to) in [
        ("XACMLAuthzDecisionQuery", "Other"),
        (names::XACML_SAMLP, "urn:oasis:xacml:2.0:saml:protocol:schema:os"),
        ("ctx:Subject ", "ctx:Object "),
        ("<ctx:Resource>", "<ctx:Resource/><ctx:Resource>"),
        (names::ACCESS_SUBJECT, "urn:other"),
        (r#"<ctx:Attribute AttributeId="#, r#"<ctx:Attribute Id="#),
        (names::SOAP, "http://www.w3.org/2003/05/soap-envelope"),
    ] {
        let bad = good.replace(from, to);
        assert!(Query::parse(bad.as_bytes()).is_err(), "{from} -> {to}");
    }
    let twice = good.replace("<soapenv:Body>", "<soapenv:Body><x/>");
    assert!(Query::parse(twice.as_bytes()).is_err());
}

#[test]
fn every_flipped_byte_of_a_query_ends_in_a_result() {
    let xml = include_bytes!("../../tests/data/request-careless.xml");
    for at in 0..xml.len() {
        for value in [0u8, b'<', b'&', b'"', b' ', 0xff] {
            let mut copy = xml.to_vec();
            copy[at] = value;
            if let Ok(query) = Query::parse(&copy) {
                let _ =
                    (query.fqans(), query.subject_value(subject::DN), query.supports(obligation::USERNAME));
            }
        }
    }
}
