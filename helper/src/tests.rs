use super::*;
use frame::MAGIC;
use identity::{Dn, Fqan, VomsAttributes};

fn identity() -> VerifiedIdentity {
    let dn = |s| Dn::parse(s).unwrap();
    VerifiedIdentity {
        subject: dn("/C=XX/CN=Alice"),
        issuer: dn("/C=XX/CN=CA"),
        serial: "10ff".into(),
        not_after: 1_900_000_000,
        limited: false,
        digest: [7; 32],
        voms: Some(VomsAttributes {
            vo: "cms".into(),
            fqans: vec![Fqan::parse("/cms/Role=pilot").unwrap(), Fqan::parse("/cms").unwrap()],
            signer: dn("/C=XX/CN=voms"),
            signer_issuer: dn("/C=XX/CN=CA"),
            not_after: 1_900_000_000,
        }),
        chain_pem: b"-----BEGIN".to_vec(),
    }
}

fn map_request() -> MapRequest {
    MapRequest {
        service: Service::Gums,
        endpoints: vec!["https://a/".into(), "https://b/".into()],
        host_credential: vec![1, 2],
        ca_dir: "/etc/grid-security/certificates".into(),
        timeout: Duration::from_secs(10),
        host: "wn1.example.org".into(),
        identity: identity(),
    }
}

#[test]
fn every_frame_survives_the_round_trip() {
    let verify = VerifyRequest {
        credential: vec![0, 255, 10],
        ca_dir: "/ca".into(),
        voms_dir: "/voms".into(),
        require_crl: true,
        max_proxy_lifetime: Duration::from_secs(604_800),
        allow_limited: false,
        rules: identity::ChainRules::default(),
        require_key: true,
        now: 5,
    };
    assert_eq!(VerifyRequest::decode(&verify.encode()).unwrap(), verify);
    assert_eq!(MapRequest::decode(&map_request().encode()).unwrap(), map_request());
    for reply in [Ok(identity()), Err(Refusal { kind: RefusalKind::Expired, reason: "late".into() })] {
        assert_eq!(decode_verify_reply(&encode_verify_reply(&reply)).unwrap(), reply);
    }
    let mapping = Mapping { account: Some("alice".into()), groups: vec![5, 6], ..Mapping::default() };
    for reply in
        [MapReply::Mapped(mapping), MapReply::Denied("no".into()), MapReply::Unavailable("down".into())]
    {
        assert_eq!(MapReply::decode(&reply.encode()).unwrap(), reply);
    }
}

#[test]
fn every_truncation_is_refused() {
    let frame = encode_verify_reply(&Ok(identity()));
    for end in 0..frame.len() {
        assert!(decode_verify_reply(&frame[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn bytes_after_the_frame_are_refused() {
    let mut frame = encode_verify_reply(&Ok(identity()));
    frame.push(0);
    assert!(decode_verify_reply(&frame).is_err());
}

#[test]
fn a_frame_of_another_kind_is_refused() {
    assert_eq!(decode_verify_reply(&map_request().encode()), Err(FrameError::new("wrong kind")));
}

#[test]
fn a_repeated_scalar_and_an_unknown_field_are_refused() {
    let mut w = Writer::default();
    w.identity(&identity());
    w.text(32, "/C=XX/CN=Mallory");
    assert_eq!(decode_verify_reply(&w.finish(KIND_VERIFY_REPLY)), Err(FrameError::new("field stands twice")));
    let mut w = Writer::default();
    w.identity(&identity());
    w.text(99, "x");
    assert_eq!(decode_verify_reply(&w.finish(KIND_VERIFY_REPLY)), Err(FrameError::new("unknown field")));
}

#[test]
fn a_mapping_to_nobody_is_refused() {
    assert!(MapReply::decode(&Writer::default().finish(KIND_MAP_REPLY)).is_err());
}

#[test]
fn an_oversized_length_is_refused_from_the_header_alone() {
    let mut header = MAGIC.to_vec();
    header.push(KIND_VERIFY_REPLY);
    header.extend_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(frame_length(&header, MAX_REPLY), Err(FrameError::new("longer than the limit")));
}
