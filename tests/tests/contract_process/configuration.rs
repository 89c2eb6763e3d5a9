//! `/etc/glexec.conf` as it lies on worker nodes: what was written for gLExec works unchanged.

use end_to_end::contract::{CONF, call, sh, site};
use harness::needs;
use policy::glexec_conf::KEYS;
use std::fs;

/// A worker node of EGI: linger, LCAS, a log file of its own.
const WORKER_NODE: &str = "\
# Managed by the site's configuration system
[glexec]
silent_logging               = no
log_level                    = 1
user_white_list              = pilot,.pilotpool
linger                       = yes

lcmaps_db_file               = /etc/lcmaps/lcmaps-glexec.db
lcmaps_log_file              = /var/log/glexec/lcas_lcmaps.log
lcmaps_debug_level           = 0
lcmaps_log_level             = 1
lcmaps_get_account_policy    = glexec_get_account
lcmaps_verify_account_policy = glexec_verify_account
lcas_db_file                 = /etc/lcas/lcas-glexec.db
lcas_log_file                = /var/log/glexec/lcas_lcmaps.log
lcas_debug_level             = 0
lcas_log_level               = 1

preserve_env_variables       =
user_identity_switch_by      = glexec
create_target_proxy          = yes
log_destination              = file
log_file                     = /var/log/glexec/glexec_log
";

/// OSG: everybody may call, no linger, no LCAS, syslog, HTCondor's variables.
const OPEN_SCIENCE_GRID: &str = "\
[glexec]
linger=no
user_white_list=*
omission_private_key_white_list=pilot,
preserve_env_variables=HOME, CONDOR_INHERIT, CONDOR_CONFIG, _CONDOR_EXECUTE, SSL_CLIENT_CERT
user_identity_switch_by=lcmaps
use_lcas=no
lcmaps_db_file=/etc/lcmaps.db
lcmaps_get_account_policy=glexec
lcmaps_voms_verification=no
log_destination=syslog
syslog_facility=LOG_LOCAL1
input_lock_mechanism=flock
lock_mechanism=flock
";

/// CREAM, with the words that templates of that time put where names belong, and their misspelt key.
const COMPUTING_ELEMENT: &str = "\
[glexec]
  log_level = 3
  user_white_list = tomcat , pilot
  ommission_private_key_white_list = tomcat
  preserve_env_variables = no
  linger = no
  create_target_proxy = no
  log_destination = file
  log_file = /var/log/glexec/glexec.log

[glite]
  anything = goes
";

#[test]
#[needs(root)]
fn configurations_of_sites_work_as_they_are() {
    for (name, text, home, kept) in [
        ("worker node", WORKER_NODE, "/home/alice", "-"),
        // The site lists this variable, so it is passed on, though it is looked at only without GLEXEC_CLIENT_CERT.
        ("OSG", OPEN_SCIENCE_GRID, "/home/pilot", "not looked at"),
        ("CREAM", COMPUTING_ELEMENT, "/home/alice", "-"),
    ] {
        let m = site();
        m.write(CONF, "root", 0o640, text);
        m.edit_policy(|p| p.replace("[\"pilot\", \"other\"]", "[]"));
        let payload = "id -un; echo $HOME; echo ${SSL_CLIENT_CERT--}; exit 5";
        let ran = sh(&m, payload).env("SSL_CLIENT_CERT", "not looked at").output();
        assert_eq!(ran.exits(5).text(), format!("alice\n{home}\n{kept}"), "{name}: {}", ran.errors());
        assert_eq!(ran.errors(), "", "{name}");
        call(&m, "/home/pilot/none").arg("/bin/true").output().refused(201, &["/home/pilot/none"]);
    }
}

/// A key with a spelling mistake has no effect, and the site learns so from each call.
#[test]
#[needs(root)]
fn unknown_keys_are_warned_about() {
    let m = site();
    let text = fs::read_to_string(CONF).unwrap();
    let line = text.lines().count() + 1;
    let odd = "ommission_private_key_white_list = pilot\nsyslog_facility = LOG_LOCAL9\n";
    m.write(CONF, "root", 0o640, format!("{text}{odd}"));
    let ran = sh(&m, "id -un").output();
    assert_eq!((ran.ok().as_str(), ran.errors().as_str()), ("alice", ""));
    for expected in [
        format!("{CONF}:{line}: unknown key \"ommission_private_key_white_list\""),
        format!("{CONF}:{}: syslog_facility \"LOG_LOCAL9\"", line + 1),
    ] {
        assert!(m.log().contains(&expected), "{expected}\n{}", m.log());
    }
}

#[test]
#[needs(root)]
fn keys_without_a_value_stop_no_call() {
    let m = site();
    let text = fs::read_to_string(CONF).unwrap();
    let set: Vec<&str> = text.lines().filter_map(|l| l.split_once('=')).map(|(key, _)| key.trim()).collect();
    let empty: String = KEYS.iter().filter(|k| !set.contains(k)).map(|k| format!("{k} =\n")).collect();
    assert!(empty.lines().count() > 20, "{empty}");
    m.write(CONF, "root", 0o640, format!("{text}{empty}"));
    assert_eq!(sh(&m, "id -un").output().ok(), "alice");
    assert!(!m.log().contains("glexec.conf:"), "{}", m.log());
}
