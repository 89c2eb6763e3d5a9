use super::*;
use identity::{AccountName, Dn, Fqan, VomsAttributes};
use std::path::Path;

const POLICY: &str = "[callers]\nallow = [\"pilot\"]\n[accounts]\nallow = [\"20000-29999\", \"special\"]\n\
                      gids = [\"20000-29999\"]\nkeep_gids = [\"65400-65500\"]\n";

fn policy() -> SitePolicy {
    SitePolicy::parse(Path::new("p"), POLICY).unwrap()
}

fn caller() -> Caller {
    Caller { name: AccountName::parse("pilot").ok(), uid: 1001, gid: 1001, groups: vec![7, 65_432] }
}

fn account(name: &str, uid: u32) -> Account {
    Account {
        name: AccountName::parse(name).unwrap(),
        uid,
        gid: 20_000,
        groups: vec![],
        home: "/home/x".into(),
    }
}

fn verdict(policy: &SitePolicy, conf: &GlexecConf, account: &Account) -> Verdict {
    judge(Case { policy, conf, caller: &caller(), account, source: MapSource::GridMapfile })
}

fn denial(account: &Account) -> Denial {
    match verdict(&policy(), &GlexecConf::default(), account) {
        Verdict::Deny(denial) => denial,
        Verdict::Permit(permit) => panic!("permitted {permit:?}"),
    }
}

fn identity() -> VerifiedIdentity {
    let dn = |s| Dn::parse(s).unwrap();
    VerifiedIdentity {
        subject: dn("/C=XX/CN=Alice"),
        issuer: dn("/C=XX/CN=CA"),
        serial: "1".into(),
        not_after: 1000,
        limited: true,
        digest: [1; 32],
        voms: Some(VomsAttributes {
            vo: "cms".into(),
            fqans: vec![Fqan::parse("/cms/Role=pilot").unwrap()],
            signer: dn("/CN=v"),
            signer_issuer: dn("/CN=c"),
            not_after: 900,
        }),
        chain_pem: vec![],
    }
}

#[test]
fn a_listed_account_is_permitted_and_keeps_tracking_groups() {
    let Verdict::Permit(permit) = verdict(&policy(), &GlexecConf::default(), &account("alice", 20_001))
    else {
        panic!("denied")
    };
    assert_eq!(permit.account().groups, [65_432], "group 7 of the caller must not survive");
}

#[test]
fn root_and_system_accounts_are_never_mapped_to() {
    assert_eq!(denial(&account("root", 0)), Denial::UidBelowFloor(0));
    assert_eq!(denial(&account("special", 499)), Denial::UidBelowFloor(499), "not even when listed by name");
}

#[test]
fn an_account_outside_the_ranges_needs_its_name_listed() {
    assert_eq!(denial(&account("alice", 30_000)), Denial::UidNotListed(30_000));
    let Verdict::Permit(_) = verdict(&policy(), &GlexecConf::default(), &account("special", 30_000)) else {
        panic!("denied")
    };
}

#[test]
fn every_group_must_be_listed() {
    let mut alice = account("alice", 20_001);
    alice.groups = vec![20_005, 998];
    assert_eq!(denial(&alice), Denial::GidNotListed(998));
    alice = account("alice", 20_001);
    alice.gid = 0;
    assert_eq!(denial(&alice), Denial::GidNotListed(0));
}

#[test]
fn nobody_becomes_a_caller() {
    let mut open = policy();
    open.accounts.uids = ["1000-1999"].iter().map(|s| crate::ids::IdRange::parse(s).unwrap()).collect();
    let found = verdict(&open, &GlexecConf::default(), &account("pilot", 1002));
    assert_eq!(found, Verdict::Deny(Denial::AccountIsCaller("pilot".into())));
    let found = verdict(&open, &GlexecConf::default(), &account("alias", 1001));
    assert_eq!(found, Verdict::Deny(Denial::AccountIsCaller("alias".into())), "the caller's own uid");
    let conf = GlexecConf { user_white_list: vec![CallerPattern::Anybody], ..GlexecConf::default() };
    assert!(matches!(verdict(&policy(), &conf, &account("alice", 20_001)), Verdict::Permit(_)));
}

#[test]
fn callers_come_from_either_list() {
    let (policy, mut conf) = (policy(), GlexecConf::default());
    assert_eq!(admit(&policy, &conf, &caller(), &[]), Ok(()));
    let other = Caller { name: AccountName::parse("ops7").ok(), uid: 1500, gid: 1, groups: vec![] };
    assert_eq!(admit(&policy, &conf, &other, &[]), Err(Denial::CallerNotAllowed("ops7".into())));
    conf.user_white_list = vec![CallerPattern::parse(".ops").unwrap()];
    assert_eq!(admit(&policy, &conf, &other, &[]), Ok(()));
    let stranger = Caller { name: None, ..other };
    conf.user_white_list = vec![CallerPattern::Anybody];
    assert!(admit(&policy, &conf, &stranger, &[]).is_err(), "an unknown uid is nobody");
}

#[test]
fn each_sign_of_nesting_is_enough() {
    use NestedSign::*;
    for sign in [NoNewPrivs, SessionAccount, SessionCgroup, SupervisorAncestor] {
        let found = admit(&policy(), &GlexecConf::default(), &caller(), &[sign]).unwrap_err();
        assert_eq!((found.nested_signs(), found.code()), (&[sign][..], Code::Denied));
    }
    let payload = Caller { uid: 20_001, ..caller() };
    let conf = GlexecConf { user_white_list: vec![CallerPattern::Anybody], ..GlexecConf::default() };
    let found = admit(&policy(), &conf, &payload, &[]).unwrap_err();
    assert_eq!(found.nested_signs(), [PayloadAccount], "even with everybody admitted");
    let named = Caller { name: AccountName::parse("special").ok(), uid: 5000, ..caller() };
    let found = admit(&policy(), &conf, &named, &[]).unwrap_err();
    assert_eq!(found.nested_signs(), [PayloadAccount], "payload accounts that are listed by name");
}

#[test]
fn the_verifier_is_not_taken_at_its_word() {
    let (policy, bans) = (policy(), Bans::default());
    let check = |identity: &VerifiedIdentity, now| admit_identity(&policy, identity, &[1; 32], &bans, now);
    assert_eq!(check(&identity(), 500), Ok(()));
    assert_eq!(check(&identity(), 1000), Err(Denial::Expired));
    assert_eq!(check(&identity(), 950), Err(Denial::Expired), "attributes end before the proxy");
    let other = VerifiedIdentity { digest: [2; 32], ..identity() };
    assert_eq!(check(&other, 500), Err(Denial::DigestMismatch));
    let mut strict = policy.clone();
    strict.trust.allow_limited = false;
    assert_eq!(admit_identity(&strict, &identity(), &[1; 32], &bans, 500), Err(Denial::Limited));
}

#[test]
fn bans_hit_names_and_attributes() {
    let file = |s| BanFile::parse(s).unwrap();
    for bans in [
        Bans { dns: file("\"/C=XX/CN=Alice\"\n"), fqans: BanFile::default() },
        Bans { dns: BanFile::default(), fqans: file("\"/cms*\"\n") },
    ] {
        let found = admit_identity(&policy(), &identity(), &[1; 32], &bans, 500);
        assert!(matches!(found, Err(Denial::Banned(_))), "{found:?}");
    }
}

#[test]
fn codes_tell_the_caller_what_to_do() {
    let credential = |kind| Denial::Credential(Refusal { kind, reason: "r".into() }).code();
    assert_eq!(credential(RefusalKind::Expired), Code::Caller);
    assert_eq!(credential(RefusalKind::Key), Code::Caller);
    assert_eq!(credential(RefusalKind::Trust), Code::Denied);
    assert_eq!(credential(RefusalKind::Site), Code::Site);
    assert_eq!(Denial::MappingUnavailable("x".into()).code(), Code::Denied);
}

/// What was wrong, where, and what to do.
#[test]
fn denials_come_with_a_remedy() {
    for (denial, place, remedy) in [
        (Denial::CallerNotAllowed("x".into()), "account x", "list it in [callers] allow"),
        (Denial::Expired, "the credential", "make a new proxy"),
        (Denial::Limited, "[trust] allow_limited", "make a full one"),
        (Denial::Banned("/CN=x".into()), "[bans]", "only the site can"),
        (Denial::MappingUnavailable("down".into()), "down", "try again later"),
        (Denial::NoSuchAccount("x".into()), "mapped to x", "create it"),
        (Denial::UidBelowFloor(5), "mapped to uid 5", "mend the mapping"),
        (Denial::UidNotListed(700), "[accounts] allow", "list it"),
        (Denial::GidNotListed(700), "[accounts] gids", "list it"),
        (Denial::AccountIsCaller("x".into()), "mapped to x", "mend the mapping"),
        (Denial::DigestMismatch, "the verifier", "reinstall"),
    ] {
        let text = denial.to_string();
        assert!(text.contains(place) && text.contains(remedy), "{text}");
    }
}
