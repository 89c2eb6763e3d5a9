use super::*;
use identity::AccountName;

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

/// Configuration systems write every key they know, with or without a value.
#[test]
fn every_key_may_be_empty() {
    let text: String = KEYS.iter().map(|key| format!("{key} =\n")).collect();
    let conf = GlexecConf::parse(format!("[glexec]\n{text}")).unwrap();
    assert!(conf.warnings.is_empty() && conf.epilogue.is_none(), "{conf:?}");
    // What can be on or off is off; all else is as if the key were missing.
    assert!(!conf.linger && !conf.create_target_proxy && !conf.silent_logging);
    let rest = GlexecConf { linger: true, create_target_proxy: true, replaced: Vec::new(), ..conf };
    assert_eq!(rest, GlexecConf::default());
}

#[test]
fn facilities_that_do_not_exist_are_named() {
    for (value, warnings) in
        [("LOG_LOCAL1", 0), ("AUTHPRIV", 0), ("", 0), ("LOG_LOCAL9", 1), ("log_daemon", 1)]
    {
        let conf = GlexecConf::parse(format!("[glexec]\nsyslog_facility = {value}\n")).unwrap();
        assert_eq!(conf.warnings.len(), warnings, "{value}: {:?}", conf.warnings);
        let used = if warnings == 0 && !value.is_empty() { value } else { "LOG_DAEMON" };
        assert_eq!(conf.log, LogDestination::Syslog(used.into()));
    }
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
fn nobody_may_call_by_default_and_payloads_are_waited_for() {
    let conf = GlexecConf::parse("").unwrap();
    assert!(conf.user_white_list.is_empty() && conf.omission_private_key_white_list.is_empty());
    assert!(conf.linger && conf.create_target_proxy, "what is not said is yes");
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
        ("[glexec]\nlog_file = x\nlog_destination = file\n", "/etc/glexec.conf:3: log_file"),
        ("[glexec]\nepilogue_timeout = soon\n", "/etc/glexec.conf:2: epilogue_timeout"),
    ] {
        let error = GlexecConf::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}

#[test]
fn a_log_file_has_a_default() {
    let conf = GlexecConf::parse("[glexec]\nlog_destination = file\n").unwrap();
    assert_eq!(conf.log, LogDestination::File("/var/log/glexec/glexec_log".into()));
}

#[test]
fn a_byte_that_is_not_utf_8_spoils_its_line_only() {
    let good = b"[glexec]\n# f\xfcr Leute\nuser_white_list = pilot\nlcas_log_file = /l\xf6g\nfoo = \xff\n[other]\nx = \xff\n";
    let conf = GlexecConf::parse(good).unwrap();
    assert_eq!(conf.user_white_list.len(), 1);
    let lines: Vec<_> = conf.warnings.iter().map(|(line, _)| *line).collect();
    assert!(lines.contains(&4) && lines.contains(&5) && !lines.contains(&7), "{:?}", conf.warnings);
    let error = GlexecConf::parse(b"[glexec]\nlinger = yes\nuser_white_list = pil\xf6t\n").unwrap_err();
    assert!(error.to_string().starts_with("/etc/glexec.conf:3: user_white_list"), "{error}");
}

#[test]
fn callers_of_directory_services_are_listed() {
    let conf =
        GlexecConf::parse("[glexec]\nuser_white_list = DOM\\pilot, pilot@dom, 4pilot, DOM+p, robot$\n")
            .unwrap();
    assert_eq!(conf.user_white_list.len(), 5);
}
