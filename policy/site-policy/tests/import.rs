//! `site-policy import` with files as sites have them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use identity::Dn;
use policy::SitePolicy;
use policy::mapfile::bans::BanFile;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const GLEXEC_CONF: &str = "[glexec]\nuser_white_list = pilot, .pool\nlinger = no\nuse_lcas = no\n\
    lcmaps_db_file = @DIR@/lcmaps.db\nlcmaps_get_account_policy = @POLICY@\n";

/// What became of a file.
struct Imported {
    dir: TempDir,
    output: Output,
}

impl Imported {
    fn new(text: &str, policy: &str) -> Self {
        Self::with(text, policy, &[])
    }

    fn with(text: &str, policy: &str, more: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let at = dir.path().to_str().unwrap();
        let place = |text: &str| text.replace("@DIR@", at).replace("@POLICY@", policy);
        fs::write(dir.path().join("lcmaps.db"), place(text)).unwrap();
        fs::write(dir.path().join("glexec.conf"), place(GLEXEC_CONF)).unwrap();
        fs::write(dir.path().join("grid-mapfile"), "\"/CN=A B\" nobody\n\"/CN=C\" root\n\"/CN=D\" .cms\n")
            .unwrap();
        fs::write(
            dir.path().join("voms-grid-mapfile"),
            "\"/cms/Role=pilot*\" no_such_account\n\"/cms*\" .cms\n",
        )
        .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_site-policy"));
        command.args(["import", "--glexec-conf", &place("@DIR@/glexec.conf")]);
        let output = command.args(more.iter().map(|word| place(word))).output().unwrap();
        Self { dir, output }
    }

    fn code(&self) -> i32 {
        self.output.status.code().unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    fn policy(&self) -> SitePolicy {
        assert_eq!(self.code(), 0, "{}", self.stderr());
        SitePolicy::parse(Path::new("policy.toml"), self.text()).unwrap()
    }

    fn order(&self) -> Vec<String> {
        self.policy().mapping.order.iter().map(ToString::to_string).collect()
    }

    /// Asserts a remark about the line of lcmaps.db, on standard error and as a comment.
    fn remark(&self, line: usize, effect: &str, words: &str) {
        let head = format!("{}/lcmaps.db:{line}: {effect}: ", self.dir.path().display());
        let stderr = self.stderr();
        let found = stderr.lines().find(|l| l.starts_with(&head) && l.contains(words));
        let found = found.unwrap_or_else(|| panic!("{head}...{words}\n{stderr}"));
        assert!(self.text().lines().any(|l| l.strip_prefix("# - ") == Some(found)), "{found} is no comment");
    }
}

#[test]
fn a_plain_grid_mapfile() {
    let imported = Imported::new(include_str!("lcmaps/plain.db"), "mapping");
    let policy = imported.policy();
    assert_eq!(imported.order(), ["grid-mapfile"]);
    assert_eq!(policy.trust.ca_dir, imported.dir.path().join("certificates"));
    assert_eq!(policy.trust.max_proxy_lifetime.as_secs(), 14 * 86_400);
    assert!(policy.trust.allow_limited && policy.payload.kill_leftovers);
    assert_eq!(policy.mapping.grid_mapfile, imported.dir.path().join("grid-mapfile"));
    imported.remark(7, "glexec accepts more", "one limit for proxies of every level");
    imported.remark(11, "differs", "leaves behind");
    // Of the accounts in the map file only nobody can be given to a payload.
    assert!(policy.accounts.uids.contains(65_534) && policy.accounts.gids.contains(65_534));
    assert!(!policy.accounts.uids.contains(0) && !policy.accounts.gids.contains(0));
    let said = imported.stderr();
    assert!(said.contains("names root with uid 0") && said.contains("the pool .cms"), "{said}");
    assert!(said.contains("glexec.conf:2: note: user_white_list stays in force"), "{said}");
}

#[test]
fn pools_with_a_local_fallback() {
    let imported = Imported::new(include_str!("lcmaps/egi-pool.db"), "glexec_get_account");
    let (policy, dir) = (imported.policy(), imported.dir.path());
    assert_eq!(imported.order(), ["voms-mapfile", "grid-mapfile"]);
    assert_eq!(policy.mapping.voms_mapfile, dir.join("voms-grid-mapfile"));
    assert_eq!(policy.mapping.grid_mapfile, dir.join("grid-mapfile"));
    let (groups, pools) = ("/etc/grid-security/groupmapfile", "/etc/grid-security/gridmapdir");
    assert_eq!(policy.mapping.group_mapfile.as_deref(), Some(Path::new(groups)));
    assert_eq!(policy.mapping.gridmapdir.as_deref(), Some(Path::new(pools)));
    imported.remark(13, "not carried over", "-override_inconsistency");
    imported.remark(9, "glexec accepts more", "users for whom voms_group fails");
    imported.remark(20, "not carried over", "keep_gids");
    imported.remark(22, "not carried over", "policy standard");
    imported.remark(34, "not carried over", "policy glexec_verify_account");
    let said = imported.stderr();
    assert!(said.contains("no_such_account"), "{said}");
}

#[test]
fn scas_with_two_endpoints() {
    let imported = Imported::new(include_str!("lcmaps/scas.db"), "glexec_get_account");
    let policy = imported.policy();
    assert_eq!(imported.order(), ["scas", "grid-mapfile"]);
    let scas = &policy.mapping.services["scas"];
    assert_eq!(scas.endpoints, ["https://scas1.example.org:8443", "https://scas2.example.org:8443"]);
    assert!(!policy.trust.allow_limited);
    // Without a map file of its own, LCMAPS takes the default one of root.
    assert_eq!(policy.mapping.grid_mapfile, Path::new("/etc/grid-security/grid-mapfile"));
    imported.remark(4, "note", "backslash");
    imported.remark(8, "not carried over", "--endpoint-strategy round-robin");
    imported.remark(8, "not carried over", "-resourcetype wn");
    imported.remark(4, "glexec refuses more", "goes on to local when scas says no");
    imported.remark(4, "differs", "pilot's proxy");
    imported.remark(9, "note", "names no map file");
}

#[test]
fn argus() {
    let imported = Imported::new(include_str!("lcmaps/argus.db"), "glexec_get_account");
    let policy = imported.policy();
    assert_eq!(imported.order(), ["argus"]);
    assert_eq!(policy.mapping.services["argus"].endpoints, ["https://argus.example.org:8154/authz"]);
    assert_eq!(policy.trust.ca_dir, Path::new("/etc/grid-security/certificates/"));
    imported.remark(7, "not carried over", "-resourceid");
    imported.remark(8, "not carried over", "-actionid http://glite.org/xacml/action/execute");
    imported.remark(9, "not carried over", "/etc/pki/argus-ca: [trust] ca_dir has one value");
    imported.remark(10, "not carried over", "implicit");
    imported.remark(12, "not carried over", "--timeout 30: unknown option");
    imported.remark(14, "differs", "cache_ttl");
}

#[test]
fn gums_with_a_second_opinion_and_tracking() {
    let imported = Imported::new(include_str!("lcmaps/gums.db"), "glexec");
    let policy = imported.policy();
    assert_eq!(imported.order(), ["gums"]);
    let gums = &policy.mapping.services["gums"];
    let endpoint = "https://gums.example.org:8443/gums/services/GUMSXACMLAuthorizationServicePort";
    assert_eq!(gums.endpoints, [endpoint]);
    assert_eq!(gums.cert, Path::new("/etc/grid-security/http/httpcert.pem"));
    assert_eq!(gums.key, Path::new("/etc/grid-security/http/httpkey.pem"));
    assert!(!policy.payload.kill_leftovers, "-dont-kill-leftovers");
    imported.remark(18, "not carried over", "this word belongs to no option");
    imported.remark(7, "not carried over", "-log-level 4");
    imported.remark(20, "not carried over", "module sazclient (lcmaps_saz_client.mod)");
    imported.remark(20, "glexec accepts more", "users whom sazclient refuses");
    imported.remark(24, "not carried over", "module good");
}

#[test]
fn voms_map_files_and_bans() {
    let imported = Imported::new(include_str!("lcmaps/voms-mapfiles.db"), "");
    let policy = imported.policy();
    assert_eq!(imported.order(), ["grid-mapfile", "voms-mapfile"]);
    assert_eq!(policy.mapping.voms_mapfile, Path::new("/etc/grid-security/voms-mapfile"));
    assert!(policy.bans.dn_file.explicit && policy.bans.fqan_file.explicit);
    assert_eq!(policy.bans.fqan_file.path, Path::new("/etc/grid-security/ban-voms-mapfile"));
    imported.remark(6, "glexec refuses more", "-no_wildcard");
    imported.remark(
        10,
        "not carried over",
        "/usr/share/osg/voms-mapfile-default: [mapping] voms_mapfile has one value",
    );
    imported.remark(13, "glexec refuses more", "omission_private_key_white_list");
}

#[test]
fn bans_of_lcas_stay() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("lcmaps.db"), include_str!("lcmaps/plain.db")).unwrap();
    let lcas = "# LCAS\npluginname=\"lcas_userban.mod\",pluginargs=\"ban_users.db\"\n\
                pluginname=\"lcas_timeslots.mod\",pluginargs=\"timeslots.db\"\n";
    fs::write(path("lcas.db"), lcas).unwrap();
    fs::write(path("ban_users.db"), "\"/CN=[Mm]allory\"\n").unwrap();
    let conf = format!("[glexec]\nuse_lcas = yes\nlcas_db_file = {}\n", path("lcas.db"));
    fs::write(path("glexec.conf"), conf).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_site-policy"));
    command.args(["import", "--lcmaps", &path("lcmaps.db"), "--glexec-conf", &path("glexec.conf")]);
    let output = command.output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let policy = SitePolicy::parse(Path::new("policy.toml"), &text).unwrap();
    assert!(policy.bans.dn_file.explicit && policy.bans.dn_file.path == Path::new(&path("ban_users.db")));
    assert!(said.contains("lcas.db:3: glexec accepts more: lcas_timeslots"), "{said}");
    let bans = BanFile::parse(fs::read(path("ban_users.db")).unwrap()).unwrap();
    let lists = |dn| bans.lists_dn(&Dn::parse(dn).unwrap());
    assert!(lists("/CN=Mallory") && lists("/CN=mallory") && !lists("/CN=Tallory"));
}

#[test]
fn what_lcmaps_would_refuse_is_refused_with_its_line() {
    let imported = Imported::new(include_str!("lcmaps/broken.db"), "glexec");
    assert_eq!((imported.code(), imported.text().as_str()), (1, ""));
    let expected = format!("site-policy: {}/lcmaps.db:3: unbalanced quote", imported.dir.path().display());
    assert!(imported.stderr().starts_with(&expected), "{}", imported.stderr());

    let imported = Imported::new(include_str!("lcmaps/plain.db"), "other");
    assert_eq!(imported.code(), 1);
    assert!(imported.stderr().contains("\"other\"") && imported.stderr().contains("there are mapping"));
}

#[test]
fn a_file_is_written_once_and_never_replaced() {
    let more = ["--output", "@DIR@/policy.toml"];
    let imported = Imported::with(include_str!("lcmaps/plain.db"), "mapping", &more);
    assert_eq!((imported.code(), imported.text().as_str()), (0, ""));
    assert!(SitePolicy::load(&imported.dir.path().join("policy.toml")).is_ok());
    let more = ["--output", "@DIR@/grid-mapfile"];
    let imported = Imported::with(include_str!("lcmaps/plain.db"), "mapping", &more);
    assert_eq!(imported.code(), 3);
    assert!(imported.stderr().contains("grid-mapfile: "), "{}", imported.stderr());
    assert!(fs::read_to_string(imported.dir.path().join("grid-mapfile")).unwrap().starts_with("\"/CN=A B\""));
}

#[test]
fn missing_files_are_told() {
    let imported = Imported::with(include_str!("lcmaps/plain.db"), "mapping", &["--lcmaps", "@DIR@/none"]);
    assert_eq!(imported.code(), 3);
    assert!(imported.stderr().contains("none: cannot be read"), "{}", imported.stderr());
}
