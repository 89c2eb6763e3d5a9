//! The frames between `glexec` and its children: what root reads.

use crate::source::Source;
use helper::{
    MAX_REPLY, MapReply, MapRequest, VerifyReply, VerifyRequest, decode_verify_reply, encode_verify_reply,
    frame_length,
};
use identity::{
    ChainRules, Dn, Fqan, Mapping, Refusal, RefusalKind, Service, VerifiedIdentity, VomsAttributes,
};
use std::path::PathBuf;
use std::time::Duration;

/// Any bytes as each kind of frame. What is understood must come back the same when it is written and read again.
pub fn decode(data: &[u8]) {
    let length = frame_length(data, MAX_REPLY);
    let whole = length == Ok(Some(data.len()));
    if let Ok(request) = VerifyRequest::decode(data) {
        assert!(whole);
        assert_eq!(VerifyRequest::decode(&request.encode()), Ok(request));
    }
    if let Ok(reply) = decode_verify_reply(data) {
        assert!(whole);
        assert_eq!(decode_verify_reply(&encode_verify_reply(&reply)), Ok(reply));
    }
    if let Ok(request) = MapRequest::decode(data) {
        assert!(whole);
        assert_eq!(MapRequest::decode(&request.encode()), Ok(request));
    }
    if let Ok(reply) = MapReply::decode(data) {
        assert!(whole);
        assert_eq!(MapReply::decode(&reply.encode()), Ok(reply));
    }
}

/// Values of every kind, written and read.
pub fn round_trip(data: &[u8]) {
    let mut source = Source::new(data);
    match source.byte() % 4 {
        0 => {
            let request = verify_request(&mut source);
            let frame = request.encode();
            assert_eq!(VerifyRequest::decode(&frame), Ok(request));
            cut(&frame, |f| VerifyRequest::decode(f).is_err());
        }
        1 => {
            let reply = verify_reply(&mut source);
            let frame = encode_verify_reply(&reply);
            assert_eq!(decode_verify_reply(&frame), Ok(reply));
            cut(&frame, |f| decode_verify_reply(f).is_err());
        }
        2 => {
            let request = map_request(&mut source);
            let frame = request.encode();
            assert_eq!(MapRequest::decode(&frame), Ok(request));
            cut(&frame, |f| MapRequest::decode(f).is_err());
        }
        _ => {
            let reply = map_reply(&mut source);
            let frame = reply.encode();
            assert_eq!(MapReply::decode(&frame), Ok(reply));
            cut(&frame, |f| MapReply::decode(f).is_err());
        }
    }
}

/// A frame that lacks its last byte, or has one too many, is none.
fn cut(frame: &[u8], refused: impl Fn(&[u8]) -> bool) {
    assert!(refused(&frame[..frame.len() - 1]) && refused(&[frame, &[0]].concat()));
}

fn path(source: &mut Source<'_>) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(source.bytes()).into()
}

fn verify_request(source: &mut Source<'_>) -> VerifyRequest {
    VerifyRequest {
        credential: source.bytes().to_vec(),
        ca_dir: path(source),
        voms_dir: path(source),
        require_crl: source.flag(),
        max_proxy_lifetime: Duration::from_secs(source.number()),
        allow_limited: source.flag(),
        rules: ChainRules {
            allow_legacy: source.flag(),
            allow_sha1: source.flag(),
            min_rsa_bits: u32::from(source.byte()),
            min_proxy_rsa_bits: u32::from(source.byte()),
        },
        require_key: source.flag(),
        now: source.number(),
    }
}

/// A reason as it arrives: what the line's length leaves of it.
fn reason(source: &mut Source<'_>) -> String {
    identity::one_line(&source.text())
}

fn verify_reply(source: &mut Source<'_>) -> VerifyReply {
    use RefusalKind::{Chain, Expired, Key, Malformed, Policy, Site, Trust, Voms};
    if source.flag() {
        return Ok(identity(source));
    }
    let kinds = [Malformed, Expired, Key, Chain, Trust, Policy, Voms, Site];
    Err(Refusal { kind: kinds[usize::from(source.byte() % 8)], reason: reason(source) })
}

fn map_request(source: &mut Source<'_>) -> MapRequest {
    MapRequest {
        service: Service::ALL[usize::from(source.byte() % 4)],
        endpoints: source.several(3, Source::text),
        host_credential: source.bytes().to_vec(),
        ca_dir: path(source),
        timeout: Duration::from_millis(source.number()),
        host: source.text(),
        identity: identity(source),
    }
}

fn map_reply(source: &mut Source<'_>) -> MapReply {
    match source.byte() % 3 {
        0 => MapReply::Denied(reason(source)),
        1 => MapReply::Unavailable(reason(source)),
        _ => MapReply::Mapped(Mapping {
            account: Some(source.text()),
            uid: source.maybe(Source::small),
            gid: source.maybe(Source::small),
            groups: source.several(200, Source::small),
            group: source.maybe(Source::text),
            group_names: source.several(200, Source::text),
        }),
    }
}

fn dn(source: &mut Source<'_>) -> Dn {
    let text = identity::one_line(&source.text());
    Dn::parse(&format!("/CN={text}")).expect("printable and short")
}

fn identity(source: &mut Source<'_>) -> VerifiedIdentity {
    let mut digest = [0; 32];
    digest.fill_with(|| source.byte());
    VerifiedIdentity {
        subject: dn(source),
        issuer: dn(source),
        serial: format!("{:x}", source.number()),
        not_after: source.number(),
        limited: source.flag(),
        digest,
        voms: source.maybe(voms),
        chain_pem: source.bytes().to_vec(),
    }
}

fn voms(source: &mut Source<'_>) -> VomsAttributes {
    let role = |source: &mut Source<'_>| {
        Fqan::parse(&format!("/cms/Role={}", source.number())).expect("printable and short")
    };
    let mut fqans = vec![role(source)];
    fqans.extend(source.several(5, role));
    VomsAttributes {
        vo: "cms".into(),
        fqans,
        signer: dn(source),
        signer_issuer: dn(source),
        not_after: source.number(),
    }
}
