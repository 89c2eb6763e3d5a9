use super::*;
use identity::{Fqan, Mapping};
use mapping_client::protocol::{Host, Outcome, Person};
use mapping_client::xacml::answer::Message;
use mapping_client::xacml::decide::outcome;
use mapping_client::xacml::soap::GUMS;

const CONFIG: &str = r#"
[callers]
allow = ["/DC=org/DC=example/CN=*.example.org", "/DC=org/DC=example/CN=ce"]
[users]
"/DC=org/CN=Alice" = "alice"
"/DC=org/CN=Mallory" = "mallory"
[[fqans]]
fqan = "/testvo/Role=pilot"
account = "tvpilot"
[[fqans]]
fqan = "/testvo/*"
account = "tvuser"
[bans]
users = ["/DC=org/CN=Mallory", "/DC=bad/*"]
fqans = ["/testvo/Role=revoked"]
[accounts.tvpilot]
uid = 20017
gid = 20000
groups = [20001, 20002]
[accounts.alice]
group = "people"
"#;

fn config() -> Config {
    Config::parse(CONFIG).unwrap()
}

fn dn(text: &str) -> Dn {
    Dn::parse(text).unwrap()
}

fn query(subject: &str, fqans: &[&str], verified: bool) -> Query {
    let person = Person {
        subject: dn(subject),
        issuer: None,
        serial: None,
        fqans: fqans.iter().map(|f| Fqan::parse(f).unwrap()).collect(),
        signer: verified.then(|| dn("/CN=voms")),
        signer_issuer: None,
        chain_pem: String::new(),
    };
    let host = Host { name: "wn1.example.org".into(), issuer: "CN=wn1".into(), certificate: None };
    Query::mapping("_q".into(), &person, &host, GUMS.obligations())
}

fn map(subject: &str, fqans: &[&str]) -> Verdict {
    verdict(&config(), &question(&query(subject, fqans, true)).unwrap())
}

fn mapped(name: &str) -> Verdict {
    Verdict::Mapped(AccountName::parse(name).unwrap())
}

fn denied(verdict: &Verdict, why: &str) -> bool {
    matches!(verdict, Verdict::Denied(reason) if reason.starts_with(why))
}

#[test]
fn persons_come_before_groups_and_bans_before_both() {
    assert_eq!(map("/DC=org/CN=Alice", &["/testvo/Role=pilot"]), mapped("alice"));
    assert!(denied(&map("/DC=org/CN=Mallory", &[]), "banned"));
    assert!(denied(&map("/DC=bad/CN=x", &["/testvo"]), "banned"));
    assert!(denied(
        &map("/DC=org/CN=Alice", &["/testvo", "/testvo/Role=revoked"]),
        "banned: /testvo/Role=revoked"
    ));
    assert!(denied(&map("/DC=org/CN=Eve", &[]), "unknown: /DC=org/CN=Eve"));
    assert!(denied(&map("/DC=org/CN=alice", &[]), "unknown"), "letter case counts in names");
}

#[test]
fn the_order_of_fqans_comes_before_the_order_of_rules() {
    assert_eq!(map("/CN=x", &["/testvo/Role=pilot/Capability=NULL"]), mapped("tvpilot"));
    assert_eq!(map("/CN=x", &["/TESTVO/role=Pilot"]), mapped("tvpilot"));
    assert_eq!(map("/CN=x", &["/testvo", "/testvo/Role=pilot"]), mapped("tvuser"));
    assert_eq!(map("/CN=x", &["/testvo/deep/group/Role=NULL"]), mapped("tvuser"));
    assert!(denied(&map("/CN=x", &["/testvo2"]), "unknown"));
}

#[test]
fn fqans_that_nobody_verified_do_not_map_but_ban() {
    let of = |fqan| verdict(&config(), &question(&query("/CN=x", &[fqan], false)).unwrap());
    assert!(denied(&of("/testvo"), "unknown: /CN=x (its FQANs do not count"));
    assert!(denied(&of("/testvo/Role=revoked"), "banned"));
}

#[test]
fn callers_match_by_pattern_within_one_label() {
    for (caller, allowed) in [
        ("/DC=org/DC=example/CN=wn1.example.org", true),
        ("/DC=org/DC=example/CN=ce", true),
        ("/DC=org/DC=example/CN=a.b.example.org", false),
        ("/DC=org/DC=example/CN=x/CN=wn1.example.org", false),
        ("/DC=org/DC=example/CN=wn1.example.org/CN=1", false),
        ("/DC=org/DC=example/CN=ce2", false),
    ] {
        assert_eq!(may_ask(&config(), &dn(caller)), allowed, "{caller}");
    }
    assert!(!may_ask(&Config::default(), &dn("/CN=x")));
}

#[test]
fn our_client_understands_every_answer() {
    let ask = |subject: &str, fqans: &[&str]| {
        let query = query(subject, fqans, true);
        let verdict = verdict(&config(), &question(&query).unwrap());
        outcome(&Message::Answer(answer(&config(), &query, &verdict)), "_q", GUMS.obligations())
    };
    assert_eq!(
        ask("/DC=org/CN=Alice", &[]),
        Outcome::Mapped(Mapping {
            account: Some("alice".into()),
            group: Some("people".into()),
            ..Mapping::default()
        })
    );
    assert_eq!(
        ask("/CN=x", &["/testvo/Role=pilot"]),
        Outcome::Mapped(Mapping {
            account: Some("tvpilot".into()),
            uid: Some(20017),
            gid: Some(20000),
            groups: vec![20001, 20002],
            ..Mapping::default()
        })
    );
    assert_eq!(ask("/CN=Eve", &[]), Outcome::Denied("unknown: /CN=Eve".into()));
}

#[test]
fn only_what_the_client_supports_is_sent() {
    let supporting = |obligations: &[&str], subject: &str, fqans: &[&str]| {
        let mut query = query(subject, fqans, true);
        query.environment.retain(|a| a.values.iter().any(|v| obligations.contains(&v.as_str())));
        let verdict = verdict(&config(), &question(&query).unwrap());
        answer(&config(), &query, &verdict)
    };
    let ids = |a: &Answer| a.obligations.iter().map(|o| o.id.clone()).collect::<Vec<_>>();
    let pilot = |o: &[&str]| supporting(o, "/CN=x", &["/testvo/Role=pilot"]);
    assert_eq!(ids(&pilot(&[obligation::USERNAME])), [obligation::USERNAME]);
    assert_eq!(ids(&pilot(&[obligation::UIDGID])), [obligation::UIDGID]);
    assert_eq!(ids(&pilot(&[obligation::ACCOUNT])), [obligation::ACCOUNT]);
    assert_eq!(ids(&supporting(&[obligation::USERNAME], "/DC=org/CN=Alice", &[])), [obligation::USERNAME]);
    for useless in [&[][..], &[obligation::SECONDARY_GIDS]] {
        let answer = pilot(useless);
        assert_eq!((answer.decision, answer.obligations.len()), (Decision::Indeterminate, 0));
    }
    let nameless = supporting(&[obligation::UIDGID], "/DC=org/CN=Alice", &[]);
    assert_eq!(nameless.decision, Decision::Indeterminate);
}

#[test]
fn what_a_query_lacks_is_a_fault_with_its_name() {
    let good = query("/CN=x", &[], true);
    let without = |id: &str| {
        let mut query = good.clone();
        query.subject.retain(|a| a.id != id);
        query.resource.retain(|a| a.id != id);
        question(&query).unwrap_err().reason
    };
    assert_eq!(without(subject::DN), format!("missing attribute: {}", subject::DN));
    assert_eq!(without(resource::HOST), format!("missing attribute: {}", resource::HOST));
    let mut twice = good.clone();
    twice.subject.push(twice.subject[0].clone());
    assert!(question(&twice).is_err());
    let mut odd = good;
    odd.subject[0].values = vec!["CN=x".into()];
    assert!(question(&odd).unwrap_err().reason.contains("malformed"));
}

#[test]
fn one_person_has_one_account_and_one_ban_in_every_spelling() {
    let config = Config::parse(
        "[users]\n'/DC=org/CN=Bob/emailAddress=b@x' = 'bob'\n[bans]\nusers = ['/DC=org/CN=host\\/x', '/DC=org/UID=eve*']\n",
    )
    .unwrap();
    let map = |subject: &str| verdict(&config, &question(&query(subject, &[], true)).unwrap());
    for bob in ["/DC=org/CN=Bob/emailAddress=b@x", "/DC=org/CN=Bob/Email=b@x", "/dc=org/cn=Bob/E=b@x"] {
        assert_eq!(map(bob), mapped("bob"), "{bob}");
    }
    for banned in ["/DC=org/CN=host/x", "/DC=org/CN=host\\/x", "/DC=org/USERID=evelyn"] {
        assert!(matches!(map(banned), Verdict::Denied(why) if why.starts_with("banned")), "{banned}");
    }
    let two = "[users]\n'/CN=A/Email=a@x' = 'a'\n'/CN=A/emailAddress=a@x' = 'b'\n";
    assert!(Config::parse(two).unwrap_err().to_string().contains("one name"));
}

#[test]
fn each_person_has_one_account_of_a_pool_and_who_is_refused_has_none() {
    let dir = std::env::temp_dir().join(format!("mapping-pools-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.join("tv3")).unwrap();
    for account in ["tv1", "tv2", "tvx"] {
        std::fs::write(dir.join(account), "").unwrap();
    }
    let text = format!(
        "gridmapdir = {dir:?}\n[[fqans]]\nfqan = '/testvo/*'\naccount = '.tv'\n[bans]\nusers = ['/CN=Mallory']\n\
         [accounts.tv1]\nuid = 20017\ngid = 20000\n"
    );
    let config = Config::parse(&text).unwrap();
    let ask = |subject: &str, verified| {
        verdict(&config, &question(&query(subject, &["/testvo"], verified)).unwrap())
    };
    let refused = [ask("/CN=Mallory", true), ask("/CN=Eve", false)];
    let untouched = std::fs::read_dir(&dir).unwrap().count();
    let given = [ask("/CN=A", true), ask("/CN=B", true), ask("/CN=A", true)];
    let full = ask("/CN=C", true);
    let query = query("/CN=A", &["/testvo"], true);
    let numbers = answer(&config, &query, &given[0]).obligations.len();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let open_to_all = ask("/CN=A", true);
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(refused.iter().all(|v| matches!(v, Verdict::Denied(_))) && untouched == 4, "{refused:?}");
    assert_eq!(given, [mapped("tv1"), mapped("tv2"), mapped("tv1")]);
    assert!(
        matches!(&full, Verdict::Denied(why) if why.contains("all 2 accounts of pool .tv are leased")),
        "{full:?}"
    );
    assert_eq!(numbers, 2, "the name, and the numbers of the account");
    assert!(
        matches!(&open_to_all, Verdict::Denied(why) if why.contains("lets others write")),
        "{open_to_all:?}"
    );
}
