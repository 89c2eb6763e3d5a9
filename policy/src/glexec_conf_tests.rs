use super::*;
use crate::identity::AccountName;

#[test]
fn a_site_s_file_is_read() {
    let text = "# worker node\n[glexec]\nlinger=no\nuser_white_list = root, .ops, pilot,\nlog_level = 5\n\
                preserve_env_variables = HOME, CONDOR_CONFIG\nlcmaps_db_file = /etc/lcmaps/lcmaps-glexec.db\n\
                use_lcas = no\nepilogue = /usr/libexec/clean\nepilogue_timeout = 5\n";
    let conf = GlexecConf::parse(text).unwrap();
    assert!(!conf.linger && conf.log_level == 5);
    assert_eq!(conf.user_white_list.len(), 3);
    assert!(conf.user_white_list[1].matches(&AccountName::parse("ops7").unwrap()));
    assert_eq!(conf.preserve_env_variables, ["HOME", "CONDOR_CONFIG"]);
    assert_eq!(conf.replaced.len(), 2);
    assert_eq!(conf.epilogue.unwrap().timeout.as_secs(), 5);
    assert!(conf.warnings.is_empty());
}

#[test]
fn empty_values_and_odd_ones_are_taken() {
    let conf =
        GlexecConf::parse("[glexec]\npreserve_env_variables =\nuser_white_list=\nlog_level=\n").unwrap();
    assert!(conf.preserve_env_variables.is_empty() && conf.user_white_list.is_empty() && conf.log_level == 3);
    let conf = GlexecConf::parse("[glexec]\npreserve_env_variables = no\n").unwrap();
    assert_eq!(conf.preserve_env_variables, ["no"]);
}

#[test]
fn other_sections_are_ignored_and_unknown_keys_named() {
    let conf = GlexecConf::parse("[glexec]\nommission_private_key_white_list = x\n[dummy]\nlinger = maybe\n")
        .unwrap();
    assert_eq!(
        conf.warnings,
        [(2, "unknown key \"ommission_private_key_white_list\" is ignored".to_owned())]
    );
}

#[test]
fn nobody_may_call_by_default() {
    assert!(GlexecConf::parse("").unwrap().user_white_list.is_empty());
}

#[test]
fn the_old_spelling_of_the_target_lock_gives_way() {
    let both = "[glexec]\ntarget_lock_mechanism = disabled\nlock_mechanism = fcntl\n";
    assert_eq!(GlexecConf::parse(both).unwrap().target_lock, Lock::Disabled);
    assert_eq!(GlexecConf::parse("[glexec]\nlock_mechanism = fcntl\n").unwrap().target_lock, Lock::Fcntl);
}

#[test]
fn errors_name_the_line() {
    for (text, start) in [
        ("[glexec\n", "/etc/glexec.conf:1: section"),
        ("linger = yes\n", "/etc/glexec.conf:1: a setting stands before"),
        ("[glexec]\nlinger\n", "/etc/glexec.conf:2: write key"),
        ("[glexec]\n\nlinger = maybe\n", "/etc/glexec.conf:3: linger is \"maybe\""),
        ("[glexec]\nlog_level = 9\n", "/etc/glexec.conf:2: log_level"),
        ("[glexec]\nlog_destination = file\n", "/etc/glexec.conf:0: log_destination"),
    ] {
        let error = GlexecConf::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}
