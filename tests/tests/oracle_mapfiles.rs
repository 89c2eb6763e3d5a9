//! Map files, bans and `lcmaps.db` beside the real LCMAPS: for the same names and proxies both must come to the same account.
//!
//! The driver `oracle/lcmaps.c` is compiled by the test. Where the two differ on purpose the case says so and why; any other
//! difference fails.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use credential::{Trust, identity_of_file};
use end_to_end::lcmaps::Oracle;
use harness::pki::Pki;
use harness::{need, needs};
use identity::{AccountName, Dn, Fqan, VerifiedIdentity};
use nix::unistd::User;
use policy::SitePolicy;
use policy::file::MapSource;
use policy::judge::{Bans, admit_identity};
use policy::mapfile::bans::BanFile;
use policy::mapfile::{Mapfile, MapfileError};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

const PLUGINS: &str = "/usr/lib/lcmaps";

fn lcmaps() -> bool {
    let modules = ["localaccount", "voms_localaccount", "ban_dn", "ban_fqan", "dummy_good", "verify_proxy"];
    modules.iter().all(|name| need::tool(&format!("{PLUGINS}/lcmaps_{name}.mod")))
}

/// Looks every name up in the map file `map`.
const LOOK_UP: &str = "path = /usr/lib/lcmaps\ngood = \"lcmaps_dummy_good.mod\"\n\
    dn = \"lcmaps_localaccount.mod -gridmapfile @DIR@/map\"\n\
    fqan = \"lcmaps_voms_localaccount.mod -gridmapfile @DIR@/map\"\n\
    by_dn:\ndn -> good\nby_fqan:\nfqan -> good\n";

/// Lets everybody pass who is not in the ban file `map`.
const BANS: &str = "path = /usr/lib/lcmaps\n\
    dn_ban = \"lcmaps_ban_dn.mod -banmapfile @DIR@/map\"\n\
    fqan_ban = \"lcmaps_ban_fqan.mod -banmapfile @DIR@/map\"\n\
    user = \"lcmaps_localaccount.mod -gridmapfile @DIR@/users\"\n\
    by_dn:\ndn_ban -> user\nby_fqan:\nfqan_ban -> user\n";

fn account(name: &str) -> Option<u32> {
    User::from_name(name).unwrap().map(|u| u.uid.as_raw())
}

/// What `glexec` makes of an account that a map file names.
fn resolved(found: Option<Result<AccountName, MapfileError>>) -> Option<u32> {
    account(found?.ok()?.as_str())
}

fn our_dn(text: &str, dn: &str) -> Option<u32> {
    resolved(Mapfile::parse(text).ok()?.account_of_dn(&Dn::parse(dn).unwrap()))
}

fn our_fqans(text: &str, fqans: &[&str]) -> Option<u32> {
    let fqans: Vec<_> = fqans.iter().map(|f| Fqan::parse(f).unwrap()).collect();
    resolved(Mapfile::parse(text).ok()?.account_of_fqans(&fqans))
}

/// How a case must end.
#[derive(Clone, Copy, PartialEq)]
enum Expect {
    /// Both give this account.
    Both(&'static str),
    /// Neither gives one.
    Neither,
    /// LCMAPS gives one, we do not, for this reason.
    Stricter(&'static str),
    /// We give one, LCMAPS does not, for this reason.
    Looser(&'static str),
}
use Expect::{Both, Looser, Neither, Stricter};

fn judge(case: &str, ours: Option<u32>, theirs: Option<u32>, expect: Expect) -> Option<String> {
    let good = match expect {
        Both(name) => ours == account(name) && ours == theirs && ours.is_some(),
        Neither => ours.is_none() && theirs.is_none(),
        Stricter(_) => ours.is_none() && theirs.is_some(),
        Looser(_) => ours.is_some() && theirs.is_none(),
    };
    let why = match expect {
        Stricter(why) | Looser(why) => why,
        _ => "",
    };
    (!good).then(|| format!("{case:?}: ours {ours:?}, LCMAPS {theirs:?} {why}"))
}

const WHOLE_FILE: &str = "nobody knows which lines an open quote swallowed, so the file is not used";
const NO_ESCAPES: &str = "account names have no escapes";
const SAME_NAME: &str = "it is one name, in two spellings";

/// Map files, the DN to look up, and what must come of it.
const DN_CASES: &[(&str, &str, Expect)] = &[
    ("\"/CN=A B\" games\n", "/CN=A B", Both("games")),
    ("/CN=A games\n", "/CN=A", Both("games")),
    ("/CN=A\tgames", "/CN=A", Both("games")),
    (" \t \"/CN=A\" \t games", "/CN=A", Both("games")),
    ("\"/CN=A\"games\n", "/CN=A", Both("games")),
    ("/CN=A B games\n", "/CN=A B", Neither),
    // comments
    ("# \"/CN=A\" games\n", "/CN=A", Neither),
    ("   # x\n\n\"/CN=A\" games # mail\n", "/CN=A", Both("games")),
    ("\"/CN=A\" games#x\n", "/CN=A", Both("games")),
    ("\"/CN=A\" # games\n", "/CN=A", Neither),
    ("\"/CN=A # B\" games\n", "/CN=A # B", Both("games")),
    ("/CN=A#games\n", "/CN=A", Neither),
    ("/CN=A#B games\n", "/CN=A#B", Both("games")),
    ("\"/CN=B\" mail # \"\n\"/CN=A\" games\n", "/CN=A", Both("games")),
    // wildcards do not count for names of people
    ("\"/CN=*\" games\n", "/CN=A", Neither),
    ("\"*\" games\n\"/CN=A\" mail\n", "/CN=A", Both("mail")),
    ("\"/CN=*\" games\n", "/CN=*", Both("games")),
    // case and blanks
    ("\"/cn=a\" games\n", "/CN=A", Neither),
    ("\"/CN=A \" games\n", "/CN=A", Neither),
    ("\"/CN=A/emailAddress=a@x.org\" games\n", "/CN=A/Email=a@x.org", Looser(SAME_NAME)),
    // escapes
    ("\"/CN=J\\xC3\\xBCrgen\" games\n", "/CN=J\\xC3\\xBCrgen", Both("games")),
    ("/CN=J\\xC3\\xBCrgen games\n", "/CN=J\\xC3\\xBCrgen", Both("games")),
    ("\"/CN=J\\xc3\\xbcrgen\" games\n", "/CN=J\\xC3\\xBCrgen", Looser(SAME_NAME)),
    ("\"/CN=J\u{fc}rgen\" games\n", "/CN=J\\xC3\\xBCrgen", Looser(SAME_NAME)),
    ("\"/CN=A \\\"B\\\"\" games\n", "/CN=A \"B\"", Looser(SAME_NAME)),
    ("\"/CN=A \\\"B\\\"\" games\n", "/CN=A \\\"B\\\"", Both("games")),
    ("\"/CN=A\" ga\\mes\n", "/CN=A", Stricter(NO_ESCAPES)),
    // several accounts
    ("\"/CN=A\" games,mail\n", "/CN=A", Both("games")),
    ("\"/CN=A\" games mail\n", "/CN=A", Both("games")),
    ("\"/CN=A\" ,games,\n", "/CN=A", Both("games")),
    ("\"/CN=A\" .cms,games\n", "/CN=A", Both("games")),
    ("\"/CN=A\" .cms\n\"/CN=A\" games\n", "/CN=A", Both("games")),
    ("\"/CN=A\"\n\"/CN=A\" games\n", "/CN=A", Both("games")),
    ("\"/CN=A\" mail\n\"/CN=A\" games\n", "/CN=A", Both("mail")),
    ("\"/CN=A\" .cms .atlas\n", "/CN=A", Neither),
    ("\"/CN=A\" no_such_account\n\"/CN=A\" games\n", "/CN=A", Neither),
    // broken lines
    ("\"/CN=A games\n", "/CN=A", Neither),
    ("\"/CN=open games\n\"/CN=A\" games\n", "/CN=A", Neither),
    ("\"/CN=A\" games\n\"/CN=open games\n", "/CN=A", Stricter(WHOLE_FILE)),
    ("\"/CN=A\\\" games\n", "/CN=A", Neither),
    ("'/CN=A' games\n", "/CN=A", Neither),
    ("\"/CN=A\" \"games\"\n", "/CN=A", Neither),
    ("\"/CN=A\" games;mail\n", "/CN=A", Neither),
    ("\"/CN=A\" -games\n", "/CN=A", Neither),
    ("\"/CN=A\" 5\n", "/CN=A", Neither),
    ("\"\"/CN=A\" games\n", "/CN=A", Neither),
    ("\u{feff}\"/CN=A\" games\n", "/CN=A", Neither),
    ("\"/CN=A\" games\r\n", "/CN=A", Looser("a carriage return at the end of a line belongs to its end")),
    ("", "/CN=A", Neither),
];

const PILOT_FIRST: &[&str] = &["/cms/Role=pilot/Capability=NULL", "/cms/Role=NULL/Capability=NULL"];
const PILOT_LAST: &[&str] = &["/cms/Role=NULL/Capability=NULL", "/cms/Role=pilot/Capability=NULL"];

/// The same for FQANs.
const FQAN_CASES: &[(&str, &[&str], Expect)] = &[
    ("\"/cms/Role=pilot*\" games\n\"/cms*\" mail\n", PILOT_FIRST, Both("games")),
    ("\"/cms/Role=pilot*\" games\n\"/cms*\" mail\n", PILOT_LAST, Both("mail")),
    ("\"/cms*\" mail\n\"/cms/Role=pilot*\" games\n", PILOT_FIRST, Both("mail")),
    ("\"/cms/Role=pilot*\" games\n", PILOT_LAST, Both("games")),
    ("\"/cms/Role=pilot\" games\n", PILOT_FIRST, Neither),
    ("\"/cms/Role=pilot/Capability=NULL\" games\n", PILOT_FIRST, Both("games")),
    ("/cms/Role=pilot/Capability=NULL games\n", PILOT_FIRST, Both("games")),
    ("\"/cms*\" games\n", &["/cms-other/Role=NULL/Capability=NULL"], Both("games")),
    ("\"/cms/*\" games\n", &["/cms-other/Role=NULL/Capability=NULL"], Neither),
    ("\"/cms/*\" games\n", &["/cms/a/b/Role=NULL/Capability=NULL"], Both("games")),
    ("\"*\" games\n", PILOT_FIRST, Both("games")),
    ("\"/*/Role=pilot/*\" games\n", PILOT_LAST, Both("games")),
    ("\"/c?s/Role=pilot*\" games\n", PILOT_FIRST, Both("games")),
    ("\"/CMS*\" games\n", PILOT_FIRST, Neither),
    ("\"/cms*\" .cms\n\"/cms*\" games\n", PILOT_FIRST, Both("games")),
    ("\"/cms/Role=pilot*\" .plt\n\"/cms/Role=NULL*\" games\n", PILOT_FIRST, Both("games")),
    ("\"/cms*\" .cms,games,mail\n", PILOT_FIRST, Both("games")),
    ("# \"/cms*\" games\n\"/cms*\" mail # games\n", PILOT_FIRST, Both("mail")),
    ("\"/atlas*\" games\n", PILOT_FIRST, Neither),
    ("\"/cms* games\n", PILOT_FIRST, Neither),
    ("\"/cms*\" games\n\"/open\n", PILOT_FIRST, Stricter(WHOLE_FILE)),
];

#[test]
#[needs(self::lcmaps, "cc")]
fn map_files_mean_what_they_mean_to_lcmaps() {
    let oracle = Oracle::new();
    oracle.write("lcmaps.db", LOOK_UP);
    let mut wrong = Vec::new();
    for (text, dn, expect) in DN_CASES {
        oracle.write("map", text);
        wrong.extend(judge(text, our_dn(text, dn), oracle.names("by_dn", dn, &[]), *expect));
    }
    for (text, fqans, expect) in FQAN_CASES {
        oracle.write("map", text);
        let theirs = oracle.names("by_fqan", "/CN=A", fqans);
        wrong.extend(judge(text, our_fqans(text, fqans), theirs, *expect));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Ban files, a name, and whether it is banned.
const BAN_CASES: &[(&str, &str, bool)] = &[
    ("\"/CN=A\"\n", "/CN=A", true),
    ("/CN=A\n", "/CN=A", true),
    ("\"/CN=A\" games\n", "/CN=A", true),
    ("\"/CN=A\"\n", "/CN=B", false),
    ("\"/C=XX/*\"\n", "/C=XX/O=x/CN=A", true),
    ("\"*/CN=A\"\n", "/C=XX/O=x/CN=A", true),
    ("\"/CN=?\"\n", "/CN=A", true),
    ("\"/CN=?\"\n", "/CN=AB", false),
    ("# \"/CN=A\"\n", "/CN=A", false),
    ("\"/CN=B\" # \"/CN=A\"\n", "/CN=A", false),
    ("\"/cn=a\"\n", "/CN=A", false),
    ("\"/CN=J\\xC3\\xBC\"\n", "/CN=J\\xC3\\xBC", true),
    ("", "/CN=A", false),
    // An unreadable ban file bans everybody.
    ("\"/CN=open\n", "/CN=A", true),
];

#[test]
#[needs(self::lcmaps, "cc")]
fn bans_hit_whom_lcmaps_bans() {
    let oracle = Oracle::new();
    oracle.write("lcmaps.db", BANS);
    let mut wrong = Vec::new();
    for (text, name, banned) in BAN_CASES {
        oracle.write("map", text);
        oracle.write("users", &format!("\"{name}\" games\n\"/CN=U\" games\n"));
        let ours = BanFile::parse(text).map_or(true, |file| file.lists_dn(&Dn::parse(name).unwrap()));
        let dn = oracle.names("by_dn", name, &[]).is_none();
        // The same file and name as if it were an FQAN.
        let fqan = oracle.names("by_fqan", "/CN=U", &["/other", name]).is_none();
        if [ours, dn, fqan] != [*banned; 3] {
            wrong.push(format!("{text:?} {name}: ours {ours}, ban_dn {dn}, ban_fqan {fqan}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Numbers that look random and are the same each time (Knuth, The Art of Computer Programming 3.3.4).
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[test]
#[needs(self::lcmaps, "cc")]
fn lines_thrown_together_mean_the_same() {
    let oracle = Oracle::new();
    oracle.write("lcmaps.db", LOOK_UP);
    let keys =
        ["\"/CN=A\"", "/CN=A", "\"/CN=A B\"", "\"/CN=*\"", "\"/CN=A\\\"\"", "#", "", " \"/CN=A\"", "\"/CN=A"];
    let gaps = [" ", " ", "\t", " \t", ""];
    let accounts = [
        "games",
        "games,mail",
        ".cms",
        ".cms,news",
        ",mail",
        "no_such_account",
        "\"games\"",
        "# news",
        "",
        "a/b",
    ];
    let ends = ["\n", "\n", "\n", " # x\n", "#\n", ",\n", " \"\n"];
    let (mut numbers, mut mapped, mut refused, mut wrong) = (Sequence(2026), 0, 0, Vec::new());
    for _ in 0..250 {
        let mut text = String::new();
        for _ in 0..1 + numbers.below(3) {
            for pieces in [&keys[..], &gaps, &accounts, &ends] {
                text.push_str(pieces[numbers.below(pieces.len())]);
            }
        }
        oracle.write("map", &text);
        for dn in ["/CN=A", "/CN=A B"] {
            let (ours, theirs) = (our_dn(&text, dn), oracle.names("by_dn", dn, &[]));
            mapped += usize::from(ours.is_some());
            refused += usize::from(ours.is_none());
            // LCMAPS stops reading at the line that it takes, and does not see what is broken below it.
            let whole_file = Mapfile::parse(&text).is_err();
            if ours != theirs && !whole_file {
                wrong.push(format!("{text:?} {dn}: ours {ours:?}, LCMAPS {theirs:?}"));
            }
        }
    }
    assert!(mapped > 50 && refused > 50, "{mapped} mapped, {refused} refused: the pieces are badly chosen");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn built(program: &str) -> PathBuf {
    let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
    let path = std::env::var_os("PILOTAGE_BIN_DIR").map_or(beside, PathBuf::from).join(program);
    assert!(path.exists(), "{} is missing; run `cargo build -p {program}`", path.display());
    path
}

fn import(oracle: &Oracle, policy: &str) -> Output {
    let policy =
        if policy.is_empty() { String::new() } else { format!("lcmaps_get_account_policy = {policy}\n") };
    oracle.write("glexec.conf", &format!("[glexec]\n{policy}"));
    let mut command = Command::new(built("site-policy"));
    command.arg("import").arg("--lcmaps").arg(oracle.path("lcmaps.db"));
    command.arg("--glexec-conf").arg(oracle.path("glexec.conf")).output().unwrap()
}

/// Databases with which LCMAPS starts.
const DATABASES: &[&str] = &[
    "p:\ngood -> bad\n",
    "p: # first\n good->bad|verify # x\n",
    "p:\ngood ->\n bad\n | verify\n",
    "p:\n~bad -> good\n",
    "x = \"lcmaps_localaccount.mod\"\"-gridmapfile\" # a\n # b \"\n \"/dev/null\"\np:\nx -> good\n",
    "other = good\np:\nother -> bad\n",
    "unused = \"lcmaps_not_there.mod\"\np:\ngood -> bad\n",
    "path = /twice\np:\ngood -> bad\n",
    "1a = \"lcmaps_localaccount.mod\"\n1p:\n1a -> bad\n",
    "q:\np:\ngood -> bad\n",
    "p:\ngood -> bad\nq:\nbad -> good\n",
];

/// Databases with which it does not.
const BROKEN: &[&str] = &[
    "x = \"lcmaps_localaccount.mod\np:\ngood -> bad\n",
    "foo bar\np:\ngood -> bad\n",
    "good = \"lcmaps_dummy_bad.mod\"\np:\ngood -> bad\n",
    "good -> bad\n",
    "p:\ngood\n",
    "p:\n\"good\" -> bad\n",
    "p : good -> bad\n",
    "p:\ngood -> bad\ngood -> verify\n",
    "p:\ngood -> bad\np:\nbad -> good\n",
    "p:\ngood -> nothere\n",
    "p:\nnothere -> good\n",
    "p:\ngood -> bad\nbad -> good\n",
    "p:\ngood -> good\n",
    "a-b = \"lcmaps_localaccount.mod\"\np:\ngood -> bad\n",
    "p:\ngood -> bad\nlate = \"lcmaps_localaccount.mod\"\n",
    "p:\n~good -> bad | verify\n",
    "// no comment\np:\ngood -> bad\n",
    "p:\ngood -> bad |\n",
    "x = \"lcmaps_localaccount.mod\t-gridmapfile\"\np:\nx -> bad\n",
    "x =\np:\ngood -> bad\n",
    "x = y\np:\nx -> bad\n",
    "q:\ngood -> bad\np:\nbad -> q\n",
    "",
];

/// What LCMAPS refuses though its meaning is clear; the import says so, or it makes no difference.
const TOLERATED: &[&str] = &[
    "x = \"lcmaps_localaccount.mod\" \\\n \"-gridmapfile /dev/null\"\np:\nx -> bad\n",
    "good2 = \"lcmaps_dummy_good.mod\"\np:\ngood -> bad | good2\n",
];

#[test]
#[needs(self::lcmaps, "cc")]
fn databases_that_lcmaps_refuses_are_not_imported() {
    let oracle = Oracle::new();
    let head = "path = /usr/lib/lcmaps\ngood = \"lcmaps_dummy_good.mod\"\nbad = \"lcmaps_dummy_bad.mod\"\n\
                verify = \"lcmaps_verify_proxy.mod\"\n";
    let mut wrong = Vec::new();
    for (texts, starts, code) in [(DATABASES, true, 0), (BROKEN, false, 1), (TOLERATED, false, 0)] {
        for text in texts {
            oracle.write("lcmaps.db", &format!("{head}{text}"));
            let theirs = oracle.driver().arg("init").output().unwrap().status.success();
            let ours = import(&oracle, "").status.code();
            if theirs != starts || ours != Some(code) {
                wrong.push(format!("{text:?}: LCMAPS starts: {theirs}, import ends with {ours:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A worker node with local files only, as such sites have it.
const SITE: &str = "path = /usr/lib/lcmaps\n\
    verify = \"lcmaps_verify_proxy.mod -certdir @DIR@/pki/ca --allow-limited-proxy\"\n\
    ban = \"lcmaps_ban_dn.mod -banmapfile @DIR@/ban\"\n\
    fqan_ban = \"lcmaps_ban_fqan.mod -banmapfile @DIR@/fqan-ban\"\n\
    voms = \"lcmaps_voms_localaccount.mod -gridmapfile @DIR@/voms-mapfile\"\n\
    dn = \"lcmaps_localaccount.mod -gridmapfile @DIR@/grid-mapfile\"\n\
    good = \"lcmaps_dummy_good.mod\"\nbad = \"lcmaps_dummy_bad.mod\"\n\
    first_voms:\nverify -> ban\nban -> fqan_ban | bad\nfqan_ban -> voms | bad\nvoms -> good | dn\ndn -> good | bad\n\
    first_dn:\nverify -> ban\nban -> fqan_ban\nfqan_ban -> dn\ndn -> good | voms\nvoms -> good\n";

/// The account that `glexec` would resolve with this policy.
fn our_account(policy: &SitePolicy, proxy: &Path) -> Option<u32> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let trust = Trust {
        ca_dir: policy.trust.ca_dir.clone(),
        voms_dir: policy.trust.voms_dir.clone(),
        require_crl: policy.trust.require_crl,
        max_proxy_lifetime: policy.trust.max_proxy_lifetime,
        allow_limited: policy.trust.allow_limited,
        rules: identity::ChainRules::default(),
    };
    let identity: VerifiedIdentity = identity_of_file(proxy, &trust, now).ok()?;
    let read = |path: &Path| Mapfile::parse(fs::read(path).unwrap()).unwrap();
    let bans = |path: &Path| BanFile::parse(fs::read(path).unwrap()).unwrap();
    let bans = Bans { dns: bans(&policy.bans.dn_file.path), fqans: bans(&policy.bans.fqan_file.path) };
    admit_identity(policy, &identity, &identity.digest, &bans, now).ok()?;
    policy.mapping.order.iter().find_map(|source| match source {
        MapSource::GridMapfile => {
            resolved(read(&policy.mapping.grid_mapfile).account_of_dn(&identity.subject))
        }
        MapSource::VomsMapfile => {
            resolved(read(&policy.mapping.voms_mapfile).account_of_fqans(identity.fqans()))
        }
        MapSource::Service(_) => panic!("{source} is no local file"),
    })
}

/// A name that needs care in a map file.
const ODD: &str = "J\u{fc}rgen O'Neill # x=y, \\z";

/// The same name as certificates and map files are compared.
const ODD_IN_FILES: &str = "J\\xC3\\xBCrgen O'Neill # x=y, \\z";

/// OpenSSL 3 writes the slash of a name as `\/` in its one-line form, and so do the LCMAPS of today and we.
const SLASH: &str = "host/wn1.example.org";

/// Proxies of all kinds of people, by a name for the messages.
fn proxies(pki: &Pki) -> Vec<(&'static str, PathBuf)> {
    let out = |name: &str| pki.dir().join(format!("{name}.pem"));
    let user = |name: &str, cn: &str| pki.user(name, cn).unwrap();
    let alice = user("alice", "Alice Adams");
    let odd = user("odd", ODD);
    let slash = user("slash", SLASH);
    let quoted = user("quoted", "Quentin \"Q\" Quick");
    let mut made = vec![
        ("plain", pki.grid_proxy(&alice, &out("plain"), &["-rfc"]).unwrap()),
        ("limited", pki.grid_proxy(&alice, &out("limited"), &["-rfc", "-limited"]).unwrap()),
        ("odd", pki.grid_proxy(&odd, &out("odd"), &["-rfc"]).unwrap()),
        (SLASH, pki.grid_proxy(&slash, &out("slash"), &["-rfc"]).unwrap()),
        ("quoted", pki.grid_proxy(&quoted, &out("quoted"), &["-rfc"]).unwrap()),
        ("unmapped", pki.grid_proxy(&user("bob", "Bob"), &out("bob"), &["-rfc"]).unwrap()),
        ("banned", pki.grid_proxy(&user("mallory", "Mallory"), &out("mallory"), &["-rfc"]).unwrap()),
        (
            "stranger",
            pki.grid_proxy(&pki.stranger("eve", "Alice Adams").unwrap(), &out("eve"), &["-rfc"]).unwrap(),
        ),
    ];
    let all: [(&str, &[&str]); 5] = [
        ("pilot first", &["/cms/Role=pilot", "/cms"]),
        ("pilot last", &["/cms", "/cms/Role=pilot"]),
        ("group", &["/cms/higgs", "/cms"]),
        ("banned role", &["/cms", "/cms/Role=evil"]),
        ("no line", &["/cms/Role=other"]),
    ];
    let carol = user("carol", "Carol");
    for (name, fqans) in all {
        made.push((name, pki.voms_proxy(&carol, &out(name), "cms", fqans).unwrap()));
    }
    made
}

#[test]
#[needs(self::lcmaps, "cc", "grid-proxy-init", "voms-proxy-fake")]
fn an_imported_site_maps_proxies_as_before() {
    let oracle = Oracle::new();
    let pki = Pki::new(&oracle.path("pki")).unwrap();
    let people = "/C=XX/O=Test Grid/OU=people";
    oracle.write("lcmaps.db", &SITE.replace("@DIR@/pki/ca", pki.ca_dir.to_str().unwrap()));
    oracle.write("ban", &format!("# bad people\n\"{people}/CN=Mal*\"\n"));
    oracle.write("fqan-ban", "\"/cms/Role=evil*\"\n");
    let by_fqan = "\"/cms/Role=pilot*\" games\n\"/cms/higgs*\" .higgs,news\n\"/cms/Role=NULL*\" mail\n";
    oracle.write("voms-mapfile", by_fqan);
    let by_dn = [
        ("Mallory", "games"),
        ("Alice Adams", "backup,games"),
        ("Carol", "uucp"),
        ("Quentin \\\"Q\\\" Quick", "sys"),
        ("host\\/wn1.example.org", "irc"),
        (ODD_IN_FILES, "list"),
    ];
    let lines: String =
        by_dn.iter().map(|(cn, account)| format!("\"{people}/CN={cn}\" {account} # x\n")).collect();
    oracle.write("grid-mapfile", &lines);
    let proxies = proxies(&pki);
    let mut seen = Vec::new();
    for name in ["first_voms", "first_dn"] {
        let imported = import(&oracle, name);
        assert_eq!(imported.status.code(), Some(0), "{}", String::from_utf8_lossy(&imported.stderr));
        let mut policy = SitePolicy::parse(Path::new("policy.toml"), imported.stdout).unwrap();
        // LCMAPS takes this directory from its environment.
        policy.trust.voms_dir.clone_from(&pki.voms_dir);
        for (what, proxy) in &proxies {
            let mut command = oracle.driver();
            command
                .env("X509_CERT_DIR", &pki.ca_dir)
                .env("X509_VOMS_DIR", &pki.voms_dir)
                .env("LCMAPS_DEBUG_LEVEL", "4");
            let theirs = oracle.uid(command.args(["pem", name]).arg(proxy));
            let ours = our_account(&policy, proxy);
            let log = fs::read_to_string(oracle.path("log")).unwrap_or_default();
            if *what == "quoted" {
                // A quote in a quoted key has a backslash, which LCMAPS takes for a part of the name.
                assert_eq!((ours, theirs), (account("sys"), None), "{name}, {what}; LCMAPS says:\n{log}");
            } else {
                assert_eq!(ours, theirs, "{name}, {what}; LCMAPS says:\n{log}");
            }
            fs::write(oracle.path("log"), "").unwrap();
            seen.push(ours);
        }
    }
    let accounts: std::collections::BTreeSet<_> = seen.iter().flatten().collect();
    assert!(accounts.len() >= 5 && seen.contains(&None), "the cases tell nothing apart: {seen:?}");
}
