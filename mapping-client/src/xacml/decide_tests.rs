use super::*;
use crate::xacml::answer;

fn judge(xml: &str) -> Outcome {
    outcome(&answer::parse(xml.as_bytes()).unwrap(), "_q1", crate::xacml::soap::GUMS.obligations())
}

fn permit(obligations: &[(&str, &[(&str, &str)])]) -> Outcome {
    let own = |(id, value): &(&str, &str)| ((*id).to_owned(), (*value).to_owned());
    let obligations = obligations
        .iter()
        .map(|(id, assignments)| Obligation::on_permit(id, assignments.iter().map(own).collect()))
        .collect();
    let answer = Answer { in_response_to: None, decision: Decision::Permit, message: None, obligations };
    outcome(&Message::Answer(answer), "_q1", crate::xacml::soap::GUMS.obligations())
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../tests/data/", $name))
    };
}

const NAME: (&str, &[(&str, &str)]) = (obligation::USERNAME, &[(attribute::USERNAME, "alice")]);

#[test]
fn gums_maps_to_a_name_and_a_gid_typed_as_string() {
    let expected = Mapping { account: Some("tstplt017".into()), gid: Some(4000), ..Mapping::default() };
    assert_eq!(judge(fixture!("gums-mapped.xml")), Outcome::Mapped(expected));
}

#[test]
fn scas_maps_to_numbers() {
    let expected =
        Mapping { uid: Some(40017), gid: Some(4000), groups: vec![4001, 4002], ..Mapping::default() };
    assert_eq!(judge(fixture!("scas-mapped.xml")), Outcome::Mapped(expected));
}

#[test]
fn the_account_obligation_names_user_and_group() {
    let expected =
        Mapping { account: Some("tstplt017".into()), group: Some("testvo".into()), ..Mapping::default() };
    assert_eq!(judge(fixture!("gums-account.xml")), Outcome::Mapped(expected));
}

#[test]
fn obligations_count_only_on_a_permit() {
    assert!(matches!(judge(fixture!("gums-unknown.xml")), Outcome::Denied(_)));
    assert!(matches!(judge(fixture!("gums-indeterminate.xml")), Outcome::Undecided(_)));
    let not_applicable = fixture!("gums-mapped.xml").replace("Permit</", "NotApplicable</");
    assert!(matches!(judge(&not_applicable), Outcome::Denied(_)));
}

#[test]
fn obligations_for_a_deny_do_not_bind_a_permit() {
    let xml = fixture!("gums-mapped.xml").replace("FulfillOn=\"Permit\"", "FulfillOn=\"Deny\"");
    assert!(matches!(judge(&xml), Outcome::Unusable(_)));
}

#[test]
fn a_fault_decides_nothing() {
    assert!(matches!(judge(fixture!("gums-fault.xml")), Outcome::Undecided(why) if why.contains("wn999")));
}

#[test]
fn a_saml_failure_never_maps() {
    let xml = fixture!("scas-mapped.xml").replace("status:Success", "status:Requester");
    assert!(matches!(judge(&xml), Outcome::Undecided(why) if why.contains("Requester")));
}

#[test]
fn the_answer_to_another_question_is_refused() {
    let xml = fixture!("gums-mapped.xml").replace("_q1", "_q2");
    assert!(matches!(judge(&xml), Outcome::Unusable(why) if why.contains("InResponseTo")));
}

#[test]
fn a_condition_that_cannot_be_met_is_a_refusal() {
    let unknown = ("http://authz-interop.org/xacml/obligation/afs-token", &[("x", "y")][..]);
    assert!(matches!(permit(&[NAME, unknown]), Outcome::Denied(why) if why.contains("afs-token")));
    let odd = (obligation::USERNAME, &[(attribute::USERNAME, "alice"), ("urn:chroot", "/x")][..]);
    assert!(matches!(permit(&[odd]), Outcome::Denied(why) if why.contains("urn:chroot")));
}

#[test]
fn contradictions_are_refused_and_repetitions_are_not() {
    let other = (obligation::ACCOUNT, &[(attribute::USERNAME, "bob")][..]);
    assert!(matches!(permit(&[NAME, other]), Outcome::Unusable(why) if why.contains("user names")));
    let within = (obligation::USERNAME, &[(attribute::USERNAME, "alice"), (attribute::USERNAME, "bob")][..]);
    assert!(matches!(permit(&[within]), Outcome::Unusable(_)));
    let uids = (obligation::UIDGID, &[(attribute::UID, "20001"), (attribute::UID, "20002")][..]);
    assert!(matches!(permit(&[uids]), Outcome::Unusable(_)));
    assert!(matches!(permit(&[NAME, NAME]), Outcome::Mapped(_)));
}

#[test]
fn a_permit_that_names_nobody_is_no_mapping() {
    let gid_only = (obligation::UIDGID, &[(attribute::GID, "4000")][..]);
    for useless in [
        &[][..],
        &[gid_only],
        &[(obligation::USERNAME, &[])],
        &[(obligation::USERNAME, &[(attribute::USERNAME, "")])],
    ] {
        assert!(matches!(permit(useless), Outcome::Unusable(_)), "{useless:?}");
    }
}

#[test]
fn root_is_never_an_answer() {
    for (id, assignment) in [
        (obligation::USERNAME, (attribute::USERNAME, "root")),
        (obligation::UIDGID, (attribute::UID, "0")),
        (obligation::SECONDARY_GIDS, (attribute::GID, "0")),
    ] {
        let outcome = permit(&[(obligation::UIDGID, &[(attribute::GID, "100")]), (id, &[assignment])]);
        assert!(!matches!(outcome, Outcome::Mapped(_)), "{id}");
    }
    let gid = (obligation::UIDGID, &[(attribute::GID, "0")][..]);
    assert!(matches!(permit(&[NAME, gid]), Outcome::Denied(_)));
}

#[test]
fn numbers_and_names_that_are_none_are_refused() {
    for bad in ["", "-1", "+5", "4294967295", "4294967296", "1e3", "0x10", "12 ", "\u{0661}"] {
        let uid = (obligation::UIDGID, &[(attribute::UID, bad)][..]);
        assert!(matches!(permit(&[uid]), Outcome::Unusable(_)), "{bad:?}");
    }
    for bad in ["a b", "../x", "alice:0:0", "-x", "\u{fc}", "4000"] {
        let name = (obligation::USERNAME, &[(attribute::USERNAME, bad)][..]);
        assert!(matches!(permit(&[name]), Outcome::Unusable(_)), "{bad:?}");
    }
}
