//! Pool accounts: `glexec` and the real LCMAPS lease from one directory, and come to the same accounts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use end_to_end::contract::eventually;
use end_to_end::lcmaps::Oracle;
use harness::{Machine, Ran, need, needs};
use identity::{AccountName, Dn, Fqan};
use mapdir::Directory;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use policy::mapfile::{Mapfile, Named};
use policy::pool::lease::Taker;
use policy::pool::{LeaseName, Wanted};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How long anything may take; a loaded machine is slow.
const LIMIT: Duration = Duration::from_secs(60);

const DIR: &str = "/etc/grid-security/gridmapdir";
const ACCOUNTS: [&str; 6] = ["cms001", "cms002", "cms003", "cms004", "cms005", "cms006"];

fn lcmaps() -> bool {
    let modules = ["poolaccount", "voms_poolaccount", "voms_localgroup", "dummy_good"];
    modules.iter().all(|name| need::tool(&format!("/usr/lib/lcmaps/lcmaps_{name}.mod")))
}

/// A site whose users share the first `accounts` pool accounts.
fn site(accounts: usize, more: &str) -> Machine {
    let mut builder =
        Machine::builder().pilot("pilot").account("alice").mapping(&["voms-mapfile", "grid-mapfile"]);
    for account in ACCOUNTS {
        builder = builder.account(account);
    }
    let m = builder.build();
    m.pki().add_vo("cms").unwrap();
    fs::create_dir_all(DIR).unwrap();
    for account in &ACCOUNTS[..accounts] {
        m.write(&format!("{DIR}/{account}"), "root", 0o644, "");
    }
    m.edit_policy(|p| p.replace("[mapping]", &format!("[mapping]\ngridmapdir = \"{DIR}\"\n{more}")));
    m.write("/etc/grid-security/voms-mapfile", "root", 0o644, "");
    m
}

fn whoami(m: &Machine, proxy: &str) -> Ran {
    m.glexec()
        .env("GLEXEC_CLIENT_CERT", proxy)
        .env("GLEXEC_TARGET_PROXY", "/dev/null")
        .args(["/usr/bin/id", "-un"])
        .output()
}

/// Leases and their accounts.
fn leases() -> BTreeMap<String, Vec<String>> {
    let files: Vec<_> = fs::read_dir(DIR).unwrap().flatten().collect();
    let name = |file: &fs::DirEntry| file.file_name().to_string_lossy().into_owned();
    let inode = |file: &fs::DirEntry| file.metadata().unwrap().ino();
    let mut found = BTreeMap::new();
    for lease in files.iter().filter(|file| name(file).starts_with('%')) {
        let same = files.iter().filter(|file| inode(file) == inode(lease) && name(file) != name(lease));
        found.insert(name(lease), same.map(name).collect());
    }
    found
}

/// The policies of LCMAPS that do what the site's files say. Where no map of groups gives any, `with` says whose count.
fn oracle(with: &str) -> Oracle {
    let oracle = Oracle::new();
    let text = "path = /usr/lib/lcmaps\ngood = \"lcmaps_dummy_good.mod\"\n\
        pool = \"lcmaps_poolaccount.mod -gridmapfile /etc/grid-security/grid-mapfile \
        -gridmapdir /etc/grid-security/gridmapdir\"\n\
        group = \"lcmaps_voms_localgroup.mod -groupmapfile /etc/grid-security/groupmapfile -mapmin 1\"\n\
        vpool = \"lcmaps_voms_poolaccount.mod -gridmapfile /etc/grid-security/voms-mapfile \
        -gridmapdir /etc/grid-security/gridmapdir @WITH@\"\n\
        by_dn:\npool -> good\nby_fqan:\nvpool -> good\nwith_groups:\ngroup -> vpool\nvpool -> good\n";
    oracle.write("lcmaps.db", &text.replace("@WITH@", with));
    oracle
}

const USE_ACCOUNTS_GROUPS: &str = "--use-account-gid";

#[test]
#[needs(root, self::lcmaps, "cc", "grid-proxy-init", "voms-proxy-fake")]
fn glexec_and_lcmaps_share_one_directory() {
    let m = site(4, "");
    let oracle = oracle(USE_ACCOUNTS_GROUPS);
    let people = ["Alice", "Bob", "Carol", "Dave"];
    let lines: String = people.iter().map(|name| format!("\"{}\" .cms\n", m.dn(name))).collect();
    m.write("/etc/grid-security/grid-mapfile", "root", 0o644, lines);
    let ours = |name: &str| m.uid(&whoami(&m, &m.proxy(name, "pilot")).ok());
    let theirs = |name: &str| oracle.names("by_dn", &m.dn(name), &[]).unwrap();
    // Ours first, theirs first, and once more in turn.
    let alice = ours("Alice");
    assert_eq!(theirs("Alice"), alice);
    let bob = theirs("Bob");
    assert_eq!(ours("Bob"), bob);
    assert_eq!((ours("Carol"), theirs("Carol")), (theirs("Carol"), ours("Carol")));
    assert_eq!(theirs("Dave"), ours("Dave"));
    let held = leases();
    let accounts: BTreeSet<_> = held.values().flatten().collect();
    assert!(held.len() == 4 && accounts.len() == 4, "{held:?}");
    // Nobody gets a fifth, from neither.
    let mallory = m.dn("Mallory");
    fs::write("/etc/grid-security/grid-mapfile", format!("\"{mallory}\" .cms\n")).unwrap();
    assert_eq!(oracle.names("by_dn", &mallory, &[]), None);
    whoami(&m, &m.proxy("Mallory", "pilot")).refused(203, &["all 4 accounts of pool .cms are leased"]);
    assert_eq!(leases(), held);
}

#[test]
#[needs(root, self::lcmaps, "cc", "grid-proxy-init", "voms-proxy-fake")]
fn groups_stand_in_the_lease_as_lcmaps_writes_them() {
    let m = site(4, "group_mapfile = \"/etc/grid-security/groupmapfile\"\n");
    let oracle = oracle("--use-voms-gid");
    let (prod, cms) = (m.add_group("gridprod", 60, &[]), m.add_group("gridcms", 61, &["cms001"]));
    m.write("/etc/grid-security/voms-mapfile", "root", 0o644, "\"/cms*\" .cms\n");
    m.write(
        "/etc/grid-security/groupmapfile",
        "root",
        0o644,
        "\"/cms/Role=pilot*\" gridprod\n\"/cms*\" gridcms\n",
    );
    let mut seen = Vec::new();
    for (user, fqans, gids) in [
        ("Alice", &["/cms/Role=pilot", "/cms"][..], format!("{prod} {cms}")),
        ("Alice", &["/cms", "/cms/Role=pilot"][..], format!("{cms} {prod}")),
        ("Alice", &["/cms", "/cms/higgs"][..], cms.to_string()),
        ("Alice", &["/cms/Role=pilot", "/cms", "/cms/higgs", "/cms/Role=pilot"][..], format!("{prod} {cms}")),
    ] {
        let file = m.pki().dir().join(format!("{}.pem", seen.len()));
        m.pki().voms_proxy(&m.user(user), &file, "cms", fqans).unwrap();
        let proxy = m.put_credential(fs::read(&file).unwrap(), "pilot");
        let account = whoami(&m, &proxy).ok();
        let groups = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy).args(["/usr/bin/id", "-G"]).output().ok();
        assert_eq!(groups, gids, "{fqans:?}");
        let whole: Vec<_> = fqans
            .iter()
            .map(|f| {
                if f.contains("Role") {
                    format!("{f}/Capability=NULL")
                } else {
                    format!("{f}/Role=NULL/Capability=NULL")
                }
            })
            .collect();
        let whole: Vec<_> = whole.iter().map(String::as_str).collect();
        assert_eq!(oracle.names("with_groups", &m.dn(user), &whole), Some(m.uid(&account)), "{fqans:?}");
        seen.push(account);
        assert_eq!(leases().len(), seen.len(), "one lease for both: {:?}", leases());
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "other groups, other account");
}

#[test]
#[needs(root, self::lcmaps, "cc", "grid-proxy-init")]
fn both_at_once_give_no_account_twice() {
    let m = site(6, "");
    let oracle = oracle(USE_ACCOUNTS_GROUPS);
    let ours = ["Alice", "Bob", "Carol"];
    let theirs = ["/CN=Xaver", "/CN=Yvonne", "/CN=Zoe"];
    let dns = ours.iter().map(|name| m.dn(name)).chain(theirs.map(str::to_owned));
    let lines: String = dns.map(|dn| format!("\"{dn}\" .cms\n")).collect();
    m.write("/etc/grid-security/grid-mapfile", "root", 0o644, lines);
    let proxies = ours.map(|name| m.proxy(name, "pilot"));
    let beside: Vec<_> =
        theirs.iter().map(|dn| oracle.driver().args(["names", "by_dn", dn]).spawn().unwrap()).collect();
    let running: Vec<_> = proxies
        .iter()
        .map(|proxy| {
            let call = m.glexec().env("GLEXEC_CLIENT_CERT", proxy).env("GLEXEC_TARGET_PROXY", "/dev/null");
            call.args(["/usr/bin/id", "-un"]).spawn()
        })
        .collect();
    let got: BTreeSet<_> = running.into_iter().map(|call| call.end_within(LIMIT).ok()).collect();
    // LCMAPS gives up when it loses a race; what it has leased is in the directory.
    for mut driver in beside {
        driver.wait().unwrap();
    }
    let held = leases();
    let accounts: Vec<_> = held.values().flatten().collect();
    assert!(held.values().all(|names| names.len() == 1), "{held:?}");
    assert_eq!(accounts.len(), accounts.iter().collect::<BTreeSet<_>>().len(), "{held:?}");
    assert_eq!(got.len(), 3, "{got:?}");
}

#[test]
#[needs(root, "grid-proxy-init", "voms-proxy-fake")]
fn who_is_refused_gets_no_lease() {
    let m = site(2, "");
    let alice = m.proxy("Alice", "pilot");
    let file = m.pki().dir().join("voms.pem");
    m.pki().voms_proxy(&m.user("Alice"), &file, "cms", &["/cms"]).unwrap();
    let voms = m.put_credential(fs::read(&file).unwrap(), "pilot");
    let grid = format!("\"{}\" .cms\n", m.dn("Alice"));
    m.write("/etc/grid-security/grid-mapfile", "root", 0o644, &grid);
    m.write("/etc/grid-security/voms-mapfile", "root", 0o644, "\"/cms*\" .cms\n");
    let banned = format!("\"{}\"\n", m.dn("Alice"));
    m.write("/etc/grid-security/ban-mapfile", "root", 0o644, &banned);
    whoami(&m, &alice).refused(203, &["banned"]);
    whoami(&m, &voms).refused(203, &["banned"]);
    m.write("/etc/grid-security/ban-mapfile", "root", 0o644, "");
    m.write("/etc/grid-security/ban-voms-mapfile", "root", 0o644, "\"/cms*\"\n");
    whoami(&m, &voms).refused(203, &["banned"]);
    m.write("/etc/grid-security/ban-voms-mapfile", "root", 0o644, "");
    // Accounts that payloads may not have, accounts of nobody, no account at all.
    m.edit_policy(|p| p.replace("[accounts]\nallow = [", "[accounts]\nallow = [\"1-2\"]\n# "));
    whoami(&m, &alice).refused(203, &["[accounts] allow does not list"]);
    m.edit_policy(|p| p.replace("allow = [\"1-2\"]\n# ", "allow = ["));
    for account in &ACCOUNTS[..2] {
        fs::rename(format!("{DIR}/{account}"), format!("{DIR}/cms9{account}").replace("cms9cms", "cms9"))
            .unwrap();
    }
    whoami(&m, &alice).refused(203, &["is not an account of this host"]);
    m.write("/etc/grid-security/grid-mapfile", "root", 0o644, grid.replace(".cms", ".atlas"));
    whoami(&m, &alice).refused(203, &["has no account of pool .atlas"]);
    assert_eq!(leases().len(), 0, "{:?}", leases());
}

#[test]
#[needs(root, "grid-proxy-init")]
fn a_directory_that_others_can_change_is_not_used() {
    let m = site(2, "");
    let alice = m.proxy("Alice", "pilot");
    m.grid_mapfile(&[(&m.dn("Alice"), ".cms")]);
    let own = |uid, mode| {
        std::os::unix::fs::chown(DIR, Some(uid), Some(0)).unwrap();
        fs::set_permissions(DIR, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    own(0, 0o775);
    whoami(&m, &alice).refused(202, &[DIR, "0775", "lets others write"]);
    own(m.uid("pilot"), 0o755);
    whoami(&m, &alice).refused(202, &[DIR, "not to root"]);
    own(0, 0o755);
    assert_eq!(leases().len(), 0);
    assert_eq!(whoami(&m, &alice).ok(), "cms001");
    fs::rename(DIR, "/etc/grid-security/elsewhere").unwrap();
    whoami(&m, &alice).refused(202, &[DIR, "No such file"]);
}

#[test]
#[needs(root, "grid-proxy-init")]
fn explain_names_pool_account_file_and_line_and_leases_nothing() {
    let m = site(2, "");
    let proxy = m.proxy("Alice", "pilot");
    m.grid_mapfile(&[("/CN=Nobody", "alice"), (&m.dn("Alice"), ".cms")]);
    let explain = || {
        let args = ["explain", "--json", "--caller", "pilot", "--proxy", &proxy];
        let told = m.command("/usr/bin/site-policy").args(args).output();
        serde_json::from_str::<Value>(&told.text()).unwrap_or_else(|e| panic!("{e}: {}", told.errors()))
    };
    let told = explain();
    assert_eq!(told["granted"]["account"], "cms001", "{told}");
    let text = told.to_string();
    assert!(text.contains("names pool .cms (/etc/grid-security/grid-mapfile:2)"), "{told}");
    assert!(text.contains("cms001 of pool .cms is free and would be leased to %2f"), "{told}");
    assert_eq!(leases().len(), 0);
    assert_eq!(whoami(&m, &proxy).ok(), "cms001");
    assert!(explain().to_string().contains("cms001 of pool .cms is held by %2f"));
}

/// Map files, DN, and whether the two must agree; the reason where they differ on purpose.
const CASES: &[(&str, &str, Result<bool, &str>)] = &[
    ("\"/CN=A\" .cms\n", "/CN=A", Ok(true)),
    ("/CN=A .cms\n", "/CN=A", Ok(true)),
    ("\"/CN=A\" .cms # x\n", "/CN=A", Ok(true)),
    ("\"/CN=A\" .cms,.atlas\n", "/CN=A", Ok(true)),
    ("\"/CN=A\" .none,.cms\n", "/CN=A", Ok(false)),
    ("\"/CN=A\" .none\n\"/CN=A\" .cms\n", "/CN=A", Ok(false)),
    ("\"/CN=B\" .none\n\"/CN=A\" .cms\n", "/CN=A", Ok(true)),
    ("\"/CN=*\" .cms\n", "/CN=A", Ok(true)),
    ("\"*\" .cms\n", "/C=XX/O=x/CN=A", Ok(true)),
    ("\"/C=XX/*\" .cms\n", "/C=YY/CN=A", Ok(false)),
    ("\"/C=[XY]Y/CN=?\" .cms\n", "/C=YY/CN=A", Ok(true)),
    ("\"/cn=a\" .cms\n", "/CN=A", Ok(false)),
    ("# \"/CN=A\" .cms\n", "/CN=A", Ok(false)),
    ("\"/CN=A\"\n", "/CN=A", Ok(false)),
    ("\"/CN=A .cms\n", "/CN=A", Ok(false)),
    ("\"/CN=J\\xC3\\xBC\" .cms\n", "/CN=J\\xC3\\xBC", Ok(true)),
    ("\"/CN=a.b-c_d~e@f\" .cms\n", "/CN=a.b-c_d~e@f", Ok(true)),
    ("\"/CN=host\\/wn1.x.org\" .cms\n", "/CN=host\\/wn1.x.org", Ok(true)),
    ("\"/CN=A\" .cms00\n", "/CN=A", Ok(true)),
    ("\"/CN=A\" .cm\n", "/CN=A", Ok(false)),
    ("\"/CN=A\" .\n", "/CN=A", Ok(false)),
    ("\"/CN=A\" .cms,alice\n", "/CN=A", Ok(true)),
    ("\"/CN=A\" alice,.cms\n", "/CN=A", Err("the first entry of the line decides, as for Globus")),
    ("\"/CN=A\" .cms\n\"/open\n", "/CN=A", Err("an open quote spoils the file")),
    ("\"/CN=A/Email=a@x\" .cms\n", "/CN=A/emailAddress=a@x", Err("one name in two spellings")),
];

/// The same by FQAN; the DN is `/CN=A`.
const FQAN_CASES: &[(&str, &[&str], Result<bool, &str>)] = &[
    ("\"/cms*\" .cms\n", &["/cms/Role=NULL/Capability=NULL"], Ok(true)),
    ("\"/cms/Role=pilot*\" .none\n\"/cms*\" .cms\n", &["/cms/Role=NULL", "/cms/Role=pilot"], Ok(true)),
    (
        "\"/cms*\" alice\n\"/cms*\" .cms\n",
        &["/cms/Role=NULL"],
        Err("the first line decides, account or pool"),
    ),
    ("\"/cms\" .cms\n", &["/cms/Role=NULL/Capability=NULL"], Ok(false)),
    ("\"/CMS*\" .cms\n", &["/cms"], Ok(false)),
    ("\"/atlas*\" .none\n\"/cms*\" .cms\n", &["/cms"], Ok(true)),
    (
        "\"/cms/Role=pilot*\" .none\n\"/cms*\" .cms\n",
        &["/cms/Role=pilot", "/cms"],
        Err("a full pool is a refusal, not the next FQAN's turn"),
    ),
];

/// The account of ours in a directory of its own.
fn ours(text: &str, dn: &str, fqans: &[&str]) -> Option<(String, String)> {
    let map = Mapfile::parse(text).ok()?;
    let who = Dn::parse(dn).unwrap();
    let fqans: Vec<_> = fqans.iter().map(|f| Fqan::parse(f).unwrap()).collect();
    let found = if fqans.is_empty() { map.of_dn(&who, true) } else { map.of_fqans(&fqans, true) };
    let Named::Pool(pool) = found?.ok()?.named else { return None };
    let lease = LeaseName::of_person(&who, &[]).unwrap();
    let directory = Directory::new(File::open(DIR).unwrap());
    let wanted = Wanted { dir: Path::new(DIR), pool: &pool, lease: &lease };
    let account = Taker { dir: &directory, wanted }.take(&mut |_: &AccountName| Ok(())).ok()?;
    Some((account.to_string(), lease.to_string()))
}

#[test]
#[needs(root, self::lcmaps, "cc")]
fn lines_with_pools_mean_what_they_mean_to_lcmaps() {
    let m = site(1, "");
    let oracle = oracle(USE_ACCOUNTS_GROUPS);
    let empty = || {
        leases().keys().for_each(|lease| fs::remove_file(format!("{DIR}/{lease}")).unwrap());
    };
    let by_dn = CASES.iter().map(|(text, dn, agree)| ("by_dn", text, *dn, &[][..], agree));
    let by_fqan = FQAN_CASES.iter().map(|(text, fqans, agree)| ("by_fqan", text, "/CN=A", *fqans, agree));
    let mut wrong = Vec::new();
    for (policy, text, dn, fqans, agree) in by_dn.chain(by_fqan) {
        let file = if policy == "by_dn" { "grid-mapfile" } else { "voms-mapfile" };
        m.write(&format!("/etc/grid-security/{file}"), "root", 0o644, text);
        let ours = ours(text, dn, fqans);
        empty();
        let uid = oracle.names(policy, dn, fqans);
        let theirs = uid
            .and_then(|_| leases().into_iter().next())
            .map(|(lease, accounts)| (accounts[0].clone(), lease));
        empty();
        let good = match agree {
            Ok(mapped) => ours == theirs && ours.is_some() == *mapped,
            Err(_) => ours != theirs,
        };
        if !good {
            wrong.push(format!("{text:?} {dn} {fqans:?}: ours {ours:?}, LCMAPS {theirs:?}, {agree:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[needs(root, "grid-proxy-init")]
fn leases_in_use_stay_and_those_that_nobody_uses_can_be_ended() {
    let m = site(3, "");
    let (alice, bob) = (m.proxy("Alice", "pilot"), m.proxy("Bob", "pilot"));
    m.grid_mapfile(&[(&m.dn("Alice"), ".cms"), (&m.dn("Bob"), ".cms")]);
    assert_eq!(whoami(&m, &bob).ok(), "cms001");
    let payload = m.glexec().env("GLEXEC_CLIENT_CERT", &alice).args(["/bin/sleep", "1000"]).spawn();
    eventually("Alice's payload runs", LIMIT, || (!m.processes_of("cms002").is_empty()).then_some(()));
    let pool =
        |args: &[&str]| m.command("/usr/bin/site-policy").arg("pool").args(args).arg("--json").output();
    let told = |ran: &Ran| {
        serde_json::from_str::<Value>(&ran.text()).unwrap_or_else(|e| panic!("{e}: {}", ran.errors()))
    };
    let listed = told(pool(&["list"]).exits(0));
    let states: Vec<_> =
        (0..3).map(|n| listed["accounts"][n]["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["leased", "used", "free"], "{listed}");
    assert_eq!(listed["accounts"][0]["holder"], m.dn("Bob").to_lowercase(), "{listed}");
    let past = std::time::SystemTime::now() - Duration::from_secs(7200);
    for account in ["cms001", "cms002"] {
        File::options().write(true).open(format!("{DIR}/{account}")).unwrap().set_modified(past).unwrap();
    }
    for (age, dry, ended, kept) in [("3h", false, 0, 0), ("1h", true, 1, 1), ("1h", false, 1, 1)] {
        let dry: &[&str] = if dry { &["--dry-run"] } else { &[] };
        let ran = pool(&[&["expire", "--older-than", age][..], dry].concat());
        let told = told(ran.exits(0));
        let lengths = ["ended", "kept"].map(|key| told[key].as_array().unwrap().len());
        assert_eq!(lengths, [ended, kept], "{told}");
    }
    assert_eq!(leases().into_values().flatten().collect::<Vec<_>>(), ["cms002"], "Alice's, in use, stays");
    let refused = told(pool(&["retire", "cms002", "cms003"]).exits(1));
    assert_eq!(refused["kept"].as_array().unwrap().len(), 2, "{refused}");
    drop(payload);
    for pid in m.processes_of("cms002") {
        // It may have ended by now.
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_default();
    }
    eventually("Alice's session ends", LIMIT, || {
        (told(&pool(&["list", "--pool", ".cms"]))["accounts"][1]["state"] == "leased").then_some(())
    });
    pool(&["retire", &m.dn("Alice")]).exits(0);
    assert_eq!(leases().len(), 0);
    pool(&["retire"]).exits(2);
    pool(&["list", "--pool", "cms"]).exits(2);
    pool(&["list", "--gridmapdir", "/no/such"]).exits(3);
}

/// Where the two differ on purpose stands in the documentation, with the reason.
#[test]
fn every_difference_to_lcmaps_is_documented() {
    let docs = include_str!("../../docs/mapping.md");
    let reasons = CASES.iter().map(|(.., agree)| agree).chain(FQAN_CASES.iter().map(|(.., agree)| agree));
    let reasons: BTreeSet<_> = reasons.filter_map(|agree| agree.err()).collect();
    assert!(reasons.len() >= 5, "{reasons:?}");
    for reason in reasons {
        assert!(docs.contains(reason), "docs/mapping.md does not say: {reason}");
    }
}
