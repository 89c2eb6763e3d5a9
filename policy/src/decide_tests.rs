use super::*;
use crate::file::MapSource;
use crate::mapfile::MapfileError;
use identity::{Dn, Fqan, VomsAttributes};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A machine of values.
#[derive(Default)]
struct Paper {
    files: BTreeMap<PathBuf, Vec<u8>>,
    users: Vec<User>,
    answer: Option<Mapping>,
    /// Accounts of the pools that are free, and leases that were made.
    free: Vec<String>,
    leases: RefCell<Vec<(String, String)>>,
    steps: RefCell<Vec<Step>>,
    /// Instead of the usual one.
    fqans: RefCell<Vec<Fqan>>,
}

impl Host for Paper {
    fn trusted_file(&self, path: &Path) -> Result<Vec<u8>, Stop> {
        self.files.get(path).cloned().ok_or_else(|| Stop::Site(format!("{}: missing", path.display())))
    }

    fn exists(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    fn user_by_name(&self, name: &AccountName) -> Result<Option<User>, Stop> {
        Ok(self.users.iter().find(|u| u.name.eq_ignore_ascii_case(name.as_str())).cloned())
    }

    fn user_by_uid(&self, uid: u32) -> Result<Option<User>, Stop> {
        Ok(self.users.iter().find(|u| u.uid == uid).cloned())
    }

    fn group_id(&self, name: &str) -> Result<Option<u32>, Stop> {
        Ok(["grid", "prod", "sys"]
            .iter()
            .zip([20_007, 20_008, 3])
            .find(|(n, _)| **n == name)
            .map(|(_, gid)| gid))
    }

    fn groups_of(&self, user: &User) -> Result<Vec<u32>, Stop> {
        Ok(vec![user.gid, 20_005])
    }

    fn verify(&self, call: &Call<'_>) -> Result<VerifiedIdentity, Stop> {
        let dn = |s| Dn::parse(s).unwrap();
        Ok(VerifiedIdentity {
            subject: dn("/C=XX/CN=Alice"),
            issuer: dn("/C=XX/CN=CA"),
            serial: "1".into(),
            not_after: 2000,
            limited: false,
            digest: *call.digest,
            voms: Some(VomsAttributes {
                vo: "cms".into(),
                fqans: match self.fqans.borrow().clone() {
                    usual if usual.is_empty() => vec![Fqan::parse("/cms/Role=pilot").unwrap()],
                    others => others,
                },
                signer: dn("/CN=v"),
                signer_issuer: dn("/CN=c"),
                not_after: 2000,
            }),
            chain_pem: vec![],
        })
    }

    fn ask(&self, _: &Call<'_>, _: Service, _: &VerifiedIdentity) -> Result<Answer, Stop> {
        Ok(self.answer.clone().map_or_else(|| Answer::Unavailable("down".into()), Answer::Mapped))
    }

    fn lease(
        &self,
        wanted: &Wanted<'_>,
        fit: &mut dyn FnMut(&AccountName) -> Result<(), Stop>,
    ) -> Result<AccountName, Stop> {
        let full = || Stop::from(Denial::NoLease("full".into()));
        let mut stop = None;
        for account in self.free.iter().filter(|account| wanted.pool.has(account)) {
            let account = AccountName::parse(account).unwrap();
            match fit(&account) {
                Ok(()) => {
                    self.leases.borrow_mut().push((wanted.lease.to_string(), account.to_string()));
                    return Ok(account);
                }
                Err(why) => stop = stop.or(Some(why)),
            }
        }
        Err(stop.unwrap_or_else(full))
    }

    fn passed(&self, step: Step, _: &dyn fmt::Display) {
        self.steps.borrow_mut().push(step);
    }
}

const POLICY: &str = "[callers]\nallow = [\"pilot\"]\n[accounts]\nallow = [\"20000-29999\"]\ngids = [\"20000-29999\"]\n\
    [mapping]\norder = [\"voms-mapfile\", \"grid-mapfile\", \"gums\"]\ngrid_mapfile = \"/g\"\nvoms_mapfile = \"/v\"\n\
    [bans]\ndn_file = \"/b\"\n[mapping.gums]\nendpoints = [\"https://g/\"]\n";

fn machine(bans: &str, voms: &str, grid: &str) -> Paper {
    let user = |name: &str, uid| User { name: name.into(), uid, gid: 20_000, home: "/home/x".into() };
    let files = [("/b", bans), ("/v", voms), ("/g", grid)];
    Paper {
        files: files.into_iter().map(|(path, text)| (path.into(), text.as_bytes().to_vec())).collect(),
        users: vec![user("alice", 20_001), user("DOM\\Bob", 20_002), user("low", 400)],
        ..Paper::default()
    }
}

fn decided(host: &Paper) -> Result<Granted, Box<Refused>> {
    decided_with(host, "")
}

fn decided_with(host: &Paper, conf: &str) -> Result<Granted, Box<Refused>> {
    decided_by(host, POLICY, conf)
}

fn decided_by(host: &Paper, policy: &str, conf: &str) -> Result<Granted, Box<Refused>> {
    let policy = SitePolicy::parse(Path::new("p"), policy).unwrap();
    let caller = Caller { name: AccountName::parse("pilot").ok(), uid: 1001, gid: 1001, groups: vec![] };
    let conf = GlexecConf::parse(conf).unwrap();
    decide(
        host,
        &Call {
            policy: &policy,
            conf: &conf,
            caller: &caller,
            credential: b"x",
            digest: &[3; 32],
            now: 1000,
        },
    )
}

fn account(host: &Paper) -> String {
    decided(host).unwrap().permit.account().name.to_string()
}

fn stop(host: &Paper) -> (Step, Stop) {
    let refused = decided(host).unwrap_err();
    assert!(refused.identity.is_some());
    (refused.step, refused.stop)
}

#[test]
fn the_first_source_that_knows_the_user_decides() {
    let host = machine("", "\"/cms*\" alice\n", "\"/C=XX/CN=Alice\" low\n");
    assert_eq!(account(&host), "alice");
    assert_eq!(*host.steps.borrow(), [Step::Bans, Step::Mapping, Step::Account]);
    assert_eq!(account(&machine("", "", "\"/C=XX/CN=Alice\" alice\n")), "alice");
    let mut host = machine("", "", "");
    host.answer = Some(Mapping { uid: Some(20_001), group: Some("grid".into()), ..Mapping::default() });
    let granted = decided(&host).unwrap();
    assert_eq!(
        (granted.permit.account().gid, granted.permit.source()),
        (20_007, MapSource::Service(Service::Gums))
    );
    host.answer = None;
    assert!(matches!(stop(&host), (Step::Mapping, Stop::Denied(Denial::MappingUnavailable(_)))));
}

#[test]
fn bans_come_before_every_source() {
    let host = machine("/C=XX/CN=Alice\n", "broken \"", "");
    assert!(matches!(stop(&host), (Step::Bans, Stop::Denied(Denial::Banned(_)))));
    assert!(host.steps.borrow().is_empty());
}

/// What one changed byte of `policy.toml` can do about a ban. A `#` put before the key lifts it, since that is a comment as
/// people write them, and then the default file of bans counts; so does a path that names another file that is there. Nothing
/// else does.
#[test]
fn only_a_comment_put_before_the_key_takes_a_file_of_bans_out_of_use() {
    let policy = "[callers]\nallow = [\"pilot\"]\n[accounts]\nallow = [\"20000-29999\"]\ngids = [\"20000-29999\"]\n\
                  [mapping]\ngrid_mapfile = \"/g\"\n[bans]\n  dn_file = \"/d\"\n fqan_file = \"/f\"\n[trust]\n";
    let grid = "\"/C=XX/CN=Alice\" alice\n";
    let banned = |path: &str, text: &str| {
        let mut host = machine("", "", grid);
        for file in ["/d", "/f"] {
            host.files.insert(file.into(), vec![]);
        }
        host.files.insert(path.into(), text.as_bytes().to_vec());
        host
    };
    let caller = Caller { name: AccountName::parse("pilot").ok(), uid: 1001, gid: 1001, groups: vec![] };
    let conf = GlexecConf::default();
    let granted = |host: &Paper, text: &[u8]| {
        let Ok(policy) = SitePolicy::parse(Path::new("p"), text) else { return false };
        let (policy, conf, caller) = (&policy, &conf, &caller);
        decide(host, &Call { policy, conf, caller, credential: b"", digest: &[0; 32], now: 1 }).is_ok()
    };
    let every_byte = |host: &Paper| -> Vec<(usize, u8)> {
        let changes = (0..policy.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte)));
        let lifted = changes.filter(|(at, byte)| {
            let mut text = policy.as_bytes().to_vec();
            text[*at] = *byte;
            granted(host, &text)
        });
        lifted.collect()
    };
    let nobody_banned = banned("/d", "");
    assert!(granted(&nobody_banned, policy.as_bytes()));
    for (host, key) in
        [(banned("/d", "/C=XX/CN=Alice\n"), "  dn_file"), (banned("/f", "/cms/Role=pilot\n"), " fqan_file")]
    {
        let at = policy.find(key).unwrap();
        let blanks = key.len() - key.trim_start().len();
        // From the end of the line before to the key's first letter: what is left of the line is a comment.
        let comments: Vec<_> = (at - 1..=at + blanks).map(|at| (at, b'#')).collect();
        let path = at + key.len() + " = \"/".len();
        let (others, lifted): (Vec<_>, Vec<_>) =
            every_byte(&host).into_iter().partition(|(at, _)| *at == path);
        assert_eq!(lifted, comments, "{key}");
        let there = |byte: &u8| host.files.contains_key(Path::new(&format!("/{}", char::from(*byte))));
        assert!(others.iter().all(|(_, byte)| there(byte)), "{key}: {others:?}");
    }
    let mut usual = banned("/d", "/C=XX/CN=Alice\n");
    usual.files.insert("/etc/grid-security/ban-mapfile".into(), b"/C=XX/CN=Alice\n".to_vec());
    let lifted = every_byte(&usual);
    let path = policy.find("dn_file").unwrap() + "dn_file = \"/".len();
    assert!(lifted.iter().all(|(at, _)| *at == path), "bans at the default place hold: {lifted:?}");
}

#[test]
fn a_ban_of_lcas_that_was_not_carried_over_stops_every_call() {
    let conf = "[glexec]\nuse_lcas = yes\nlcas_db_file = /lcas/db\n";
    let site = |ours: &str, database: &str| {
        let mut host = machine(ours, "\"/cms*\" alice\n", "");
        host.files.insert("/lcas/db".into(), database.as_bytes().to_vec());
        host.files.insert("/lcas/bans".into(), b"\"/C=XX/CN=Mallory/Email=m@x\"\n".to_vec());
        host
    };
    let database = "# x\npluginname=lcas_userban.mod,pluginargs=bans\npluginname=lcas_voms.mod\n";
    let refused = decided_with(&site("", database), conf).unwrap_err();
    assert!(
        matches!(&refused.stop, Stop::Site(why) if why.contains("/lcas/db: line 2") && why.contains("Mallory"))
    );
    assert!(decided_with(&site("/C=XX/CN=Mallory/emailAddress=m@x\n", database), conf).is_ok());
    assert!(decided_with(&site("", database), "[glexec]\nuse_lcas = no\nlcas_db_file = /lcas/db\n").is_ok());
    assert!(decided_with(&site("", "pluginname=lcas_userallow.mod,pluginargs=u\n"), conf).is_err());
    assert!(decided_with(&machine("", "\"/cms*\" alice\n", ""), conf).is_ok(), "no database, no ban");
}

#[test]
fn a_broken_file_is_the_sites_and_names_the_line() {
    for (host, at) in [
        (machine("/CN=a\n/CN=Alice Adams\n", "", ""), "/b: line 2"),
        (machine("", "\n\"/cms\n", ""), "/v: line 2"),
        (machine("", "", "\"/C=XX/CN=Alice\" a:b\n"), "/g: line 1"),
    ] {
        let (_, stop) = stop(&host);
        assert!(matches!(&stop, Stop::Site(why) if why.starts_with(at)), "{stop:?}");
    }
}

#[test]
fn a_name_service_may_write_a_name_in_its_own_way() {
    assert_eq!(account(&machine("", "", "\"/C=XX/CN=Alice\" dom\\bob\n")), "DOM\\Bob");
    assert_eq!(account(&machine("", "", "\"/C=XX/CN=Alice\" ALICE\n")), "alice");
}

#[test]
fn the_last_word_is_the_judges() {
    let refused = stop(&machine("", "", "\"/C=XX/CN=Alice\" low\n"));
    assert_eq!(refused, (Step::Account, Stop::Denied(Denial::UidBelowFloor(400))));
    let nobody = stop(&machine("", "", "\"/C=XX/CN=Alice\" nobody_here\n"));
    assert!(matches!(nobody, (Step::Account, Stop::Denied(Denial::NoSuchAccount(_)))));
    let mut host = machine("", "", "");
    let mapping = Mapping { account: Some("alice".into()), uid: Some(20_002), ..Mapping::default() };
    host.answer = Some(mapping);
    assert!(matches!(stop(&host), (Step::Account, Stop::Denied(Denial::AccountMismatch(_)))));
}

/// A changed byte of a map file or policy may refuse somebody, never admit somebody whom nothing names.
#[test]
fn a_changed_byte_of_the_policy_admits_no_stranger() {
    let policy = "[callers]\nallow = [\"pilot\"]\n[accounts]\nallow = [\"20000-29999\"]\ngids = [\"20000-29999\"]\n\
                  [mapping]\ngrid_mapfile = \"/g\"\n";
    let mut banned = machine("", "", "\"/C=XX/CN=Alice\" alice\n");
    banned.files.insert("/etc/grid-security/ban-mapfile".into(), b"/C=XX/CN=Alice\n".to_vec());
    let unmapped = machine("", "", "\"/C=XX/CN=Carol\" alice\n");
    let caller = Caller { name: AccountName::parse("pilot").ok(), uid: 1001, gid: 1001, groups: vec![] };
    let conf = GlexecConf::default();
    for at in 0..policy.len() {
        for byte in b"\n #=\"[]0159aZ/-.*\xff" {
            let mut text = policy.as_bytes().to_vec();
            text[at] = *byte;
            let Ok(text) = String::from_utf8(text) else { continue };
            let Ok(policy) = SitePolicy::parse(Path::new("p"), &text) else { continue };
            let call = |policy| Call {
                policy,
                conf: &conf,
                caller: &caller,
                credential: b"",
                digest: &[0; 32],
                now: 1,
            };
            for host in [&banned, &unmapped] {
                assert!(decide(host, &call(&policy)).is_err(), "{at} {byte:#x}: {text}");
            }
        }
    }
}

#[test]
fn errors_of_files_name_line_and_reason() {
    let error = MapfileError { line: 4, reason: "x".into() };
    assert_eq!(unusable(Path::new("/f"), error), Stop::Site("/f: line 4: x".into()));
}

/// The policy with pools, and a map of groups where one is named.
fn with_pools(groups: &str) -> String {
    let keys = format!("[mapping]\ngridmapdir = \"/pools\"\n{groups}");
    POLICY.replace("[mapping]\n", &keys)
}

const GROUP_MAP: &str = "group_mapfile = \"/groups\"\n";

fn pools(bans: &str, voms: &str, grid: &str, groups: &str) -> Paper {
    let mut host = machine(bans, voms, grid);
    host.files.insert("/groups".into(), groups.as_bytes().to_vec());
    host.free = ["low1", "cms1", "cms2"].map(str::to_owned).to_vec();
    let user = |name: &str, uid| User { name: name.into(), uid, gid: 20_000, home: "/home/x".into() };
    host.users.extend([user("low1", 401), user("cms1", 401), user("cms2", 20_012)]);
    host
}

#[test]
fn a_pool_of_a_map_file_leads_to_a_lease() {
    let host = pools("", "\"/cms*\" .cms\n", "", "");
    let granted = decided_by(&host, &with_pools(""), "").unwrap();
    assert_eq!(granted.permit.account().name.as_str(), "cms2", "cms1 is no account that payloads get");
    assert_eq!(granted.permit.account().groups, [20_005], "those of the account");
    assert_eq!(*host.leases.borrow(), [("%2fc%3dxx%2fcn%3dalice".to_owned(), "cms2".to_owned())]);
    let host = pools("", "", "\"/C=XX/*\" .cms\n", "");
    assert_eq!(decided_by(&host, &with_pools(""), "").unwrap().permit.source(), MapSource::GridMapfile);
    // Without a directory pools are skipped, as before.
    let host = pools("", "\"/cms*\" .cms\n", "\"/C=XX/CN=Alice\" .cms,alice\n", "");
    assert_eq!(account(&host), "alice");
}

#[test]
fn whoever_is_refused_gets_no_lease() {
    let voms = "\"/cms*\" .cms\n";
    for (bans, fqan_bans, voms, step) in [
        ("/C=XX/CN=Alice\n", "", voms, Step::Bans),
        ("", "/cms/Role=pilot\n", voms, Step::Bans),
        ("", "", "\"/cms*\" .low\n", Step::Account),
        ("", "", "\"/cms*\" .none\n", Step::Mapping),
        ("", "", "\"/cms*\" .\n", Step::Mapping),
    ] {
        let mut host = pools(bans, voms, "", "");
        host.files.insert("/f".into(), fqan_bans.as_bytes().to_vec());
        let policy = with_pools("").replace("dn_file", "fqan_file = \"/f\"\ndn_file");
        let refused = decided_by(&host, &policy, "").unwrap_err();
        assert_eq!((refused.step, host.leases.borrow().len()), (step, 0), "{bans}{fqan_bans}{voms}");
    }
}

#[test]
fn a_group_map_gives_exactly_its_groups_and_the_lease_is_named_after_them() {
    let host = pools("", "\"/cms*\" .cms\n", "", "\"/cms/Role=pilot*\" prod\n");
    let granted = decided_by(&host, &with_pools(GROUP_MAP), "").unwrap();
    assert_eq!((granted.permit.account().gid, granted.permit.account().groups.len()), (20_008, 0));
    assert_eq!(host.leases.borrow()[0].0, "%2fc%3dxx%2fcn%3dalice:prod");
    let host = pools("", "\"/cms*\" alice\n", "", "\"/cms*\" .g,grid\n");
    assert_eq!(decided_by(&host, &with_pools(GROUP_MAP), "").unwrap().permit.account().gid, 20_007);
    // Sessions of a person with other groups have another lease; the groups stand in the order of their numbers.
    let host =
        pools("", "\"/cms*\" .cms\n", "", "\"/cms/Role=pilot*\" prod\n\"/cms/x*\" prod\n\"/cms/*\" grid\n");
    let mut fqans = Vec::new();
    for fqan in ["/cms/Role=pilot", "/cms/x", "/cms/y", "/cms/z", "/dteam"] {
        fqans.push(Fqan::parse(fqan).unwrap());
    }
    *host.fqans.borrow_mut() = fqans;
    let granted = decided_by(&host, &with_pools(GROUP_MAP), "").unwrap();
    assert_eq!((granted.permit.account().gid, &granted.permit.account().groups[..]), (20_008, &[20_007][..]));
    assert_eq!(host.leases.borrow()[0].0, "%2fc%3dxx%2fcn%3dalice:prod:grid:prod");
    for (groups, why) in [
        ("\"/atlas*\" grid\n", "names no group for /cms/Role=pilot"),
        ("\"/cms*\" nogroup_here\n", "group nogroup_here"),
        ("\"/cms*\" sys\n", "group 3"),
    ] {
        let mut host = pools("", "\"/cms*\" .cms\n", "", groups);
        host.free = vec!["cms2".into()];
        let refused = decided_by(&host, &with_pools(GROUP_MAP), "").unwrap_err();
        let Stop::Denied(denial) = refused.stop else { panic!("{groups}") };
        assert!(denial.to_string().contains(why) && host.leases.borrow().is_empty(), "{denial}");
    }
    // Whom the grid-mapfile maps has the groups of the account.
    let host = pools("", "", "\"/C=XX/CN=Alice\" alice\n", "");
    assert_eq!(decided_by(&host, &with_pools(GROUP_MAP), "").unwrap().permit.account().gid, 20_000);
}
