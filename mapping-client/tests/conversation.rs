//! The client against services that behave, misbehave and stay silent, over mutual TLS on the loopback.
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare itself fails")]

mod support;

use helper::{MapReply, MapRequest};
use identity::{Dn, Fqan, Mapping, Service, VerifiedIdentity, VomsAttributes};
use mapping_client::map;
use std::time::{Duration, Instant};
use support::{FakeService, Pair, Play, between};

const MAPPED: &str = include_str!("data/gums-mapped.xml");
const UNKNOWN: &str = include_str!("data/gums-unknown.xml");
const FAULT: &str = include_str!("data/gums-fault.xml");
const INDETERMINATE: &str = include_str!("data/gums-indeterminate.xml");

struct Site {
    ca: Pair,
    server: Pair,
    client: Pair,
    ca_dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let ca = support::ca("CA");
        let ca_dir = tempfile::tempdir().unwrap();
        support::write_ca_dir(ca_dir.path(), &ca);
        let server = support::host(&ca, "CA", "localhost");
        let client = support::host(&ca, "CA", "wn1.example.org");
        Self { ca, server, client, ca_dir }
    }

    fn serve(&self, play: Play) -> FakeService {
        FakeService::start(&self.server, &self.ca, play)
    }

    fn answering(&self, status: u16, fixture: &str) -> FakeService {
        self.serve(Play::Answer(status, fixture.replace("_q1", "@ID@")))
    }

    fn request(&self, endpoints: &[String]) -> MapRequest {
        let dn = |text: &str| Dn::parse(text).unwrap();
        MapRequest {
            service: Service::Gums,
            endpoints: endpoints.to_vec(),
            host_credential: self.client.pem(),
            ca_dir: self.ca_dir.path().to_owned(),
            timeout: Duration::from_secs(20),
            host: "wn1.example.org".into(),
            identity: VerifiedIdentity {
                subject: dn("/DC=test/CN=Alice"),
                issuer: dn("/DC=test/CN=CA"),
                serial: "0a".into(),
                not_after: 0,
                limited: false,
                digest: [0; 32],
                voms: Some(VomsAttributes {
                    vo: "testvo".into(),
                    fqans: vec![Fqan::parse("/testvo/Role=pilot/Capability=NULL").unwrap()],
                    signer: dn("/DC=test/CN=voms"),
                    signer_issuer: dn("/DC=test/CN=CA"),
                    not_after: 0,
                }),
                chain_pem: Vec::new(),
            },
        }
    }

    fn ask(&self, services: &[&FakeService]) -> MapReply {
        map(&self.request(&services.iter().map(|s| s.endpoint()).collect::<Vec<_>>()))
    }
}

fn mapped() -> MapReply {
    MapReply::Mapped(Mapping { account: Some("tstplt017".into()), gid: Some(4000), ..Mapping::default() })
}

fn unavailable(reply: MapReply) -> String {
    match reply {
        MapReply::Unavailable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mapping_comes_over_mutual_tls() {
    let site = Site::new();
    let service = site.answering(200, MAPPED);
    assert_eq!(site.ask(&[&service]), mapped());
    let request = &service.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /gums/services/gumsxacmlauthorizationserviceport http/1.1"), "{head}");
    assert!(
        head.contains("soapaction: \"http") && head.contains("content-type: text/xml; charset=utf-8"),
        "{head}"
    );
    assert!(head.contains("content-length: ") && head.contains("connection: close"), "{head}");
    assert!(!head.contains("origin:") && !head.contains("mozilla"), "{head}");
    assert!(
        between(body, "resource-x509-id", "</ctx:Attribute>").contains(">/DC=test/CN=wn1.example.org<"),
        "{body}"
    );
    assert!(between(body, "voms-primary-fqan", ">").contains("Issuer=\"/DC=test/CN=voms\""), "{body}");
}

#[test]
fn a_deny_is_final_even_if_another_service_would_permit() {
    let site = Site::new();
    let (no, yes) = (site.answering(200, UNKNOWN), site.answering(200, MAPPED));
    assert!(matches!(site.ask(&[&no, &yes]), MapReply::Denied(_)));
    assert!(yes.requests().is_empty());
}

#[test]
fn faults_indecision_and_broken_servers_lead_to_the_next_endpoint() {
    let site = Site::new();
    let yes = site.answering(200, MAPPED);
    for (status, body) in [(500, FAULT), (200, FAULT), (200, INDETERMINATE), (503, "<html>busy</html>")] {
        let first = site.answering(status, body);
        assert_eq!(site.ask(&[&first, &yes]), mapped(), "after {status}");
        assert_eq!(first.requests().len(), 1);
        assert!(matches!(site.ask(&[&first]), MapReply::Unavailable(_)), "{status} alone");
    }
}

#[test]
fn a_service_that_is_down_is_named_and_the_next_one_asked() {
    let site = Site::new();
    let yes = site.answering(200, MAPPED);
    let down = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("https://localhost:{}/", listener.local_addr().unwrap().port())
    };
    assert_eq!(map(&site.request(&[down.clone(), yes.endpoint()])), mapped());
    let reason = unavailable(map(&site.request(std::slice::from_ref(&down))));
    assert!(reason.contains(&down) && reason.contains("refused"), "{reason}");
    let unknown = unavailable(map(&site.request(&["https://no-such-host.invalid/".into()])));
    assert!(unknown.contains("no-such-host.invalid"), "{unknown}");
    let plain = unavailable(map(&site.request(&[format!("http://localhost:{}/", yes.port)])));
    assert!(plain.contains("not an https URL"), "{plain}");
}

#[test]
fn a_server_of_another_ca_or_name_is_not_believed() {
    let site = Site::new();
    let other_ca = support::ca("Other CA");
    let foreign = support::host(&other_ca, "Other CA", "localhost");
    let service = FakeService::start(&foreign, &site.ca, Play::Answer(200, MAPPED.into()));
    let reason = unavailable(site.ask(&[&service]));
    assert!(reason.contains("TLS") && service.requests().is_empty(), "{reason}");

    let misnamed = support::host(&site.ca, "CA", "elsewhere.example.org");
    let service = FakeService::start(&misnamed, &site.ca, Play::Answer(200, MAPPED.into()));
    let reason = unavailable(site.ask(&[&service]));
    assert!(reason.contains("TLS") && service.requests().is_empty(), "{reason}");
}

#[test]
fn a_client_that_the_server_does_not_trust_gets_nothing() {
    let mut site = Site::new();
    let other_ca = support::ca("Other CA");
    site.client = support::host(&other_ca, "Other CA", "wn1.example.org");
    let service = site.answering(200, MAPPED);
    unavailable(site.ask(&[&service]));
    assert!(service.requests().is_empty());
}

#[test]
fn nonsense_is_not_a_mapping_and_not_a_reason_to_ask_elsewhere() {
    let site = Site::new();
    let yes = site.answering(200, MAPPED);
    let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>"#;
    let wrong_id = MAPPED.replace("_q1", "_other");
    for (status, body) in [
        (200, "<html><body>It works!</body></html>"),
        (200, ""),
        (200, bomb),
        (403, "<html><h1>Forbidden</h1></html>"),
        (302, ""),
        (200, &wrong_id),
        (200, &MAPPED[..MAPPED.len() / 2]),
        (200, &" ".repeat(2_000_000)),
    ] {
        let first = site.serve(Play::Answer(status, body.to_owned()));
        let reason = unavailable(site.ask(&[&first, &yes]));
        assert!(reason.starts_with(&first.endpoint()), "{status}: {reason}");
    }
    assert!(yes.requests().is_empty());
}

#[test]
fn bytes_that_are_no_http_are_survived() {
    let site = Site::new();
    for bytes in [
        &b""[..],
        b"\0\0\0\0",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort",
        b"SSH-2.0-x\r\n",
    ] {
        unavailable(site.ask(&[&site.serve(Play::Raw(bytes.to_vec()))]));
    }
}

#[test]
fn the_deadline_holds_against_silence_and_dripping() {
    let site = Site::new();
    for play in [Play::Silence(Duration::from_secs(60)), Play::Drip(MAPPED.into())] {
        let service = site.serve(play);
        let request = MapRequest { timeout: Duration::from_secs(1), ..site.request(&[service.endpoint()]) };
        let start = Instant::now();
        let reason = unavailable(map(&request));
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        assert!(reason.contains("no answer in time"), "{reason}");
    }
}

#[test]
fn a_silent_endpoint_leaves_time_for_the_next() {
    let site = Site::new();
    let (silent, yes) = (site.serve(Play::Silence(Duration::from_secs(20))), site.answering(200, MAPPED));
    let endpoints = [silent.endpoint(), yes.endpoint()];
    let request = MapRequest { timeout: Duration::from_secs(6), ..site.request(&endpoints) };
    assert_eq!(map(&request), mapped());
}

#[test]
fn what_is_missing_here_is_said_before_anybody_is_asked() {
    let site = Site::new();
    let service = site.answering(200, MAPPED);
    let good = site.request(&[service.endpoint()]);
    for (request, why) in [
        (MapRequest { host_credential: Vec::new(), ..good.clone() }, "no certificate"),
        (MapRequest { ca_dir: "/nonexistent".into(), ..good.clone() }, "/nonexistent"),
        (MapRequest { endpoints: Vec::new(), ..good.clone() }, "no endpoint"),
        (MapRequest { service: Service::Argus, ..good.clone() }, "certificate chain"),
        (MapRequest { service: Service::Scas, ..good }, "certificate chain"),
    ] {
        let reason = unavailable(map(&request));
        assert!(reason.contains(why), "{reason}");
    }
    assert!(service.requests().is_empty());
}

/// A request whose identity has a chain: what SCAS and Argus judge.
fn with_chain(site: &Site, service: Service, endpoint: String) -> MapRequest {
    let mut request = MapRequest { service, ..site.request(&[endpoint]) };
    request.identity.chain_pem = site.client.cert.to_pem().unwrap();
    request
}

#[test]
fn scas_gets_the_chain_and_answers_with_numbers() {
    let site = Site::new();
    let service = site.answering(200, include_str!("data/scas-mapped.xml"));
    let reply = map(&with_chain(&site, Service::Scas, service.endpoint()));
    assert!(matches!(reply, MapReply::Mapped(Mapping { uid: Some(_), gid: Some(_), .. })), "{reply:?}");
    let request = &service.requests()[0];
    let chain = between(request, "subject/cert-chain", "</ctx:Attribute>");
    assert!(chain.contains("base64Binary") && chain.contains("-----BEGIN CERTIFICATE-----"), "{request}");
    assert!(!request.contains("PRIVATE KEY") && !request.contains("obligation/account"), "{request}");
}

#[test]
fn the_account_obligation_is_refused_from_scas_which_was_not_offered_it() {
    let site = Site::new();
    let service = site.answering(200, include_str!("data/gums-account.xml"));
    let reply = map(&with_chain(&site, Service::Scas, service.endpoint()));
    assert!(matches!(&reply, MapReply::Denied(why) if why.contains("obligation/account")), "{reply:?}");
}

#[test]
fn gums_answers_in_json_to_a_get() {
    let site = Site::new();
    let service =
        site.serve(Play::Answer(200, r#"{"result":"OK","username":"tstplt017","gid":4000}"#.into()));
    assert_eq!(map(&MapRequest { service: Service::Json, ..site.request(&[service.endpoint()]) }), mapped());
    let request = &service.requests()[0];
    assert!(
        request.starts_with("GET /gums/services/GUMSXACMLAuthorizationServicePort?subject-x509-id="),
        "{request}"
    );
    assert!(
        request.contains("&voms-signing-subject=") && request.contains("&resource-x509-id="),
        "{request}"
    );

    let down = site.serve(Play::Answer(503, "busy".into()));
    let failed = site.serve(Play::Answer(200, r#"{"result":"FAILED"}"#.into()));
    let endpoints = [down.endpoint(), failed.endpoint(), service.endpoint()];
    let reply = map(&MapRequest { service: Service::Json, ..site.request(&endpoints) });
    assert!(matches!(reply, MapReply::Denied(_)), "{reply:?}");
    assert_eq!(service.requests().len(), 1, "nobody is asked after a no");
}

/// The answer of a PEP daemon, byte by byte as the protocol has it; not recorded from a real one.
fn pep_answer(decision: u8, user: &str) -> String {
    let text = |s: &str| [&b"S"[..], &u16::try_from(s.len()).unwrap().to_be_bytes(), s.as_bytes()].concat();
    let object = |class: &str| {
        let class = format!("org.glite.authz.common.model.{class}");
        [&b"Mt"[..], &u16::try_from(class.len()).unwrap().to_be_bytes(), class.as_bytes()].concat()
    };
    let number = |n: u8| vec![b'I', 0, 0, 0, n];
    let assignment = |id: &str, value: &str| {
        [
            object("AttributeAssignment"),
            text("attributeId"),
            text(id),
            text("value"),
            text(value),
            b"z".to_vec(),
        ]
        .concat()
    };
    let obligation = [
        object("Obligation"),
        text("id"),
        text("http://glite.org/xacml/obligation/local-environment-map/posix"),
        text("fulfillOn"),
        number(1),
        text("attributeAssignments"),
        // A typed list without a length, as Java serialisers write it.
        b"Vt\0\x13java.util.ArrayList".to_vec(),
        assignment("http://glite.org/xacml/attribute/user-id", user),
        assignment("http://glite.org/xacml/attribute/group-id/primary", "dteam"),
        assignment("http://glite.org/xacml/attribute/group-id", "dteam"),
        assignment("http://glite.org/xacml/attribute/group-id", "users"),
        b"zz".to_vec(),
    ];
    let result = [object("Result"), text("decision"), number(decision), text("obligations"), b"V".to_vec()];
    let bytes = [
        object("Response"),
        text("request"),
        b"N".to_vec(),
        text("results"),
        b"Vl\0\0\0\x01".to_vec(),
        result.concat(),
        obligation.concat(),
        b"zzzz".to_vec(),
    ];
    openssl::base64::encode_block(&bytes.concat())
}

#[test]
fn argus_gets_the_chain_and_answers_with_names() {
    let site = Site::new();
    let service = site.serve(Play::Answer(200, pep_answer(1, "dteam003")));
    let reply = map(&with_chain(&site, Service::Argus, service.endpoint()));
    let expected = Mapping {
        account: Some("dteam003".into()),
        group: Some("dteam".into()),
        group_names: vec!["users".into()],
        ..Mapping::default()
    };
    assert_eq!(reply, MapReply::Mapped(expected));
    let body = service.requests()[0].split_once("\r\n\r\n").unwrap().1.to_owned();
    let request = openssl::base64::decode_block(&body).unwrap();
    assert!(request.starts_with(b"Mt\x00\x24org.glite.authz.common.model.RequestS\x00\x08subjects"));
    assert!(!String::from_utf8_lossy(&request).contains("PRIVATE KEY"));
}

#[test]
fn what_argus_does_not_permit_maps_nobody() {
    let site = Site::new();
    let ask = |plays: &[Play]| {
        let services: Vec<_> = plays.iter().map(|play| site.serve(play.clone())).collect();
        let mut request = with_chain(&site, Service::Argus, String::new());
        request.endpoints = services.iter().map(FakeService::endpoint).collect();
        map(&request)
    };
    let answer = |decision, user| Play::Answer(200, pep_answer(decision, user));
    assert!(matches!(ask(&[answer(0, "alice"), answer(1, "alice")]), MapReply::Denied(_)));
    assert!(matches!(ask(&[answer(2, "alice"), answer(1, "alice")]), MapReply::Mapped(_)));
    assert!(matches!(ask(&[answer(1, "root")]), MapReply::Denied(_)));
    for body in ["", "<html>", "!!!!", "TQ=="] {
        let reply = ask(&[Play::Answer(200, body.into()), answer(1, "alice")]);
        assert!(matches!(reply, MapReply::Unavailable(_)), "{body}: {reply:?}");
    }
}
