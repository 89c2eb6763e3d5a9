use super::*;

fn invocation(argv: &[&str], env: &[(&str, &str)]) -> Result<Invocation, String> {
    let argv: Vec<OsString> = std::iter::once("glexec").chain(argv.iter().copied()).map(Into::into).collect();
    let env: Vec<(OsString, OsString)> = env.iter().map(|(n, v)| (n.into(), v.into())).collect();
    parse(&argv, &env)
}

fn request(argv: &[&str], env: &[(&str, &str)]) -> Request {
    match invocation(argv, env) {
        Ok(Invocation::Run(request)) => *request,
        other => panic!("{other:?}"),
    }
}

const CERT: (&str, &str) = ("GLEXEC_CLIENT_CERT", "/tmp/x509up_u1");

#[test]
fn the_usual_call() {
    let r = request(&["/bin/sh", "-c", "--", "id"], &[CERT]);
    let command = r.command.unwrap();
    assert_eq!(command.program, "/bin/sh");
    assert_eq!(command.arguments, ["-c", "--", "id"], "nothing after the command is interpreted");
    assert_eq!(r.identity, CredentialSource::File("/tmp/x509up_u1".into()));
    assert_eq!((r.source, r.target), (r.identity.clone(), Target::Default));
}

#[test]
fn one_leading_dash_dash_is_accepted() {
    assert_eq!(request(&["--", "/bin/id"], &[CERT]).command.unwrap().program, "/bin/id");
}

#[test]
fn no_command_refreshes() {
    assert_eq!(request(&[], &[CERT]).command, None);
}

#[test]
fn a_bare_name_and_an_unknown_option_are_refused() {
    assert!(invocation(&["id"], &[CERT]).unwrap_err().contains("PATH is not searched"));
    assert!(invocation(&["--frobnicate"], &[CERT]).unwrap_err().contains("unknown option"));
}

#[test]
fn nothing_stands_in_for_a_missing_credential() {
    assert!(
        invocation(&["/bin/id"], &[("X509_USER_PROXY", "/tmp/pilot")])
            .unwrap_err()
            .contains("GLEXEC_CLIENT_CERT")
    );
    let legacy = request(&["/bin/id"], &[("SSL_CLIENT_CERT", "PEM")]);
    assert_eq!(legacy.identity, CredentialSource::Text(b"PEM".to_vec()));
}

#[test]
fn empty_values_are_mistakes() {
    for name in ["GLEXEC_CLIENT_CERT", "GLEXEC_SOURCE_PROXY", "GLEXEC_TARGET_PROXY"] {
        let mut env = vec![CERT];
        env.retain(|(n, _)| *n != name);
        env.push((name, ""));
        assert!(invocation(&["/bin/id"], &env).unwrap_err().starts_with(name), "{name}");
    }
}

#[test]
fn targets() {
    let target = |path| request(&["/bin/id"], &[CERT, ("GLEXEC_TARGET_PROXY", path)]).target;
    assert_eq!(target("/dev/null"), Target::Nowhere);
    assert_eq!(target("/tmp/x"), Target::File("/tmp/x".into()));
}

#[test]
fn modes() {
    assert!(invocation(&["/bin/id"], &[CERT, ("GLEXEC_MODE", "lcmaps_get_account")]).is_ok());
    assert!(invocation(&["/bin/id"], &[CERT, ("GLEXEC_MODE", "other")]).is_err());
}

#[test]
fn repeated_names_must_agree() {
    let other = ("GLEXEC_CLIENT_CERT", "/tmp/other");
    assert!(invocation(&["/bin/id"], &[CERT, other]).unwrap_err().contains("twice"));
    assert!(invocation(&["/bin/id"], &[CERT, CERT]).is_ok());
    assert!(invocation(&["/bin/id"], &[CERT, ("A", "1"), ("A", "2")]).is_ok(), "others do not matter");
}

#[test]
fn the_id_cannot_break_a_log_line() {
    assert_eq!(request(&["/bin/id"], &[CERT, ("GLEXEC_ID", "a\nb")]).id.unwrap(), "a\\x0Ab");
}

#[test]
fn information_needs_no_credential() {
    assert_eq!(invocation(&["-h"], &[]), Ok(Invocation::Help));
    assert_eq!(invocation(&["-v"], &[]), Ok(Invocation::Version));
    assert_eq!(invocation(&["-V"], &[]), Ok(Invocation::Defaults));
}

#[test]
fn port_blocks_are_asked_for_by_one_number() {
    assert_eq!(invocation(&["--port-blocks", "40000"], &[]), Ok(Invocation::PortBlocks(40_000)));
    for bad in [
        &["--port-blocks"][..],
        &["--port-blocks", "65536"],
        &["--port-blocks", "+1"],
        &["--port-blocks", "1", "2"],
    ] {
        assert!(invocation(bad, &[]).unwrap_err().contains("--port-blocks PORT"), "{bad:?}");
    }
}

#[test]
fn calls_on_a_session_need_no_credential() {
    let id = "01890000-0000-7000-8000-000000000000";
    let call = |args: &[&str]| match invocation(&[&["--session", id], args].concat(), &[]) {
        Ok(Invocation::Session(call)) => Ok(call.action),
        Ok(other) => panic!("{other:?}"),
        Err(why) => Err(why),
    };
    assert_eq!(call(&["--status"]), Ok(Action::Status));
    assert_eq!(call(&["--end"]), Ok(Action::End));
    for name in ["TERM", "SIGTERM", "15"] {
        assert_eq!(call(&["--signal", name]), Ok(Action::Signal(libc::SIGTERM)));
    }
    assert!(call(&["--signal", "KILL"]).unwrap_err().contains("--kill"));
    assert!(call(&["--frobnicate"]).is_err() && call(&[]).is_err());
    assert!(invocation(&["--session", "../../etc", "--kill"], &[]).is_err(), "an id is no path");
}

#[test]
fn a_working_directory_is_a_plain_absolute_path() {
    let dir = |path| invocation(&["/bin/id"], &[CERT, ("GLEXEC_WORK_DIR", path)]);
    assert!(matches!(dir("/tmp/job-1"), Ok(Invocation::Run(request)) if request.work_dir.is_some()));
    for bad in ["", "/", "job", "/tmp/../etc", "/tmp/a\nuid=0", "/tmp/a b"] {
        assert!(dir(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn what_the_caller_says_about_the_work_is_kept_and_decides_nothing() {
    let env = [CERT, ("GLEXEC_PAYLOAD_COMMAND", "./run.sh\u{1f}a b"), ("GLEXEC_PILOT_DN", "/CN=pilot")];
    let said = request(&["/usr/bin/pilot", "runner"], &env);
    assert_eq!(said.claimed.as_ref().map(|claimed| claimed.argv.join("|")).as_deref(), Some("./run.sh|a b"));
    assert_eq!(said.pilot_dn.as_deref(), Some("/CN=pilot"));
    let silent = request(&["/usr/bin/pilot", "runner"], &[CERT]);
    assert_eq!((silent.claimed, silent.command), (None, said.command));
}

#[test]
fn limits_are_whole_numbers_without_units() {
    let with = |name: &str, value: &str| invocation(&["/bin/id"], &[CERT, (name, value)]);
    let found = request(
        &["/bin/id"],
        &[
            CERT,
            ("GLEXEC_LIMIT_WALLTIME", "60"),
            ("GLEXEC_LIMIT_CPU", "7"),
            ("GLEXEC_LIMIT_MEMORY", "1000"),
            ("GLEXEC_LIMIT_PIDS", "9"),
        ],
    );
    let seconds = |n| Some(std::time::Duration::from_secs(n));
    assert_eq!((found.limits.walltime, found.limits.cpu), (seconds(60), seconds(7)));
    assert_eq!((found.limits.memory, found.limits.pids), (Some(1000), Some(9)));
    for value in ["", "0", "-1", "1.5", "1h", "99999999999999999999999", "+1", " 1"] {
        assert!(
            with("GLEXEC_LIMIT_WALLTIME", value).unwrap_err().contains("GLEXEC_LIMIT_WALLTIME"),
            "{value:?}"
        );
    }
    assert!(request(&["/bin/id"], &[CERT, ("GLEXEC_END_WITH_CALLER", "1")]).end_with_caller);
    assert!(with("GLEXEC_END_WITH_CALLER", "yes").is_err());
    assert_eq!(request(&["/bin/id"], &[CERT, ("GLEXEC_SESSION_FD", "7")]).session_fd, Some(7));
    for value in ["2", "x", "-3"] {
        assert!(with("GLEXEC_SESSION_FD", value).is_err(), "{value}");
    }
}

#[test]
fn real_time_signals_are_named_by_number() {
    let call = |name: &str| {
        invocation(&["--session", "01890000-0000-7000-8000-000000000000", "--signal", name], &[])
    };
    for (name, number) in [("34", 34), ("64", 64), ("TERM", 15)] {
        let expected = Action::Signal(number);
        assert!(matches!(call(name), Ok(Invocation::Session(call)) if call.action == expected), "{name}");
    }
    for name in ["32", "33", "65", "9", "KILL"] {
        assert!(call(name).is_err(), "{name}");
    }
}

#[test]
fn leased_ports_are_two_numbers_and_nothing_else() {
    assert_eq!(request(&["/bin/id"], &[CERT]).ports, None);
    let asked = request(&["/bin/id"], &[CERT, ("GLEXEC_PORTS", "40000-40009")]);
    assert_eq!(asked.ports, PortRange::new(40_000, 40_009));
    for bad in ["", "40000", "40009-40000", "0-0", "80-90", "40000-70000", "-", "a-b"] {
        let error = invocation(&["/bin/id"], &[CERT, ("GLEXEC_PORTS", bad)]).unwrap_err();
        assert!(error.starts_with("GLEXEC_PORTS"), "{bad:?}: {error}");
    }
    let twice = [CERT, ("GLEXEC_PORTS", "40000-40009"), ("GLEXEC_PORTS", "40000-40019")];
    assert!(invocation(&["/bin/id"], &twice).unwrap_err().contains("twice"));
}
