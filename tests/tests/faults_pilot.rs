//! The pilot under each fault of `docs/faults.md`. Each test is a cell of its table.

use end_to_end::site::{LIMIT, Site};
use harness::fault::{Answer, Clock, SignalStorm, replace_file, upgrade};
use harness::needs;
use std::fs;
use std::time::Duration;

/// Runs one payload through a pilot whose calls are spoilt while it runs: it must end well, at its first attempt. What it says
/// last goes with the result, unless it has more to do (`then`).
fn survives(method: &str, path: &str, answers: &[Answer], then: &str) {
    let mut site = Site::new("60s");
    let between = site.between();
    let mut agent = site.agent_of(between.url(), "agent", &[]);
    let go = site.path("go");
    let id = site.shell(&format!("while [ ! -e {go} ]; do sleep 0.1; done; echo said; {then}"));
    site.await_state(&id, "running");
    for answer in answers {
        between.spoil_next(1, method, path, answer.clone());
    }
    fs::write(&go, "").expect("the site's directory is there");
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    assert_eq!(site.ok(&["logs", &id]), "said\n");
    assert_eq!(site.show(&id)["attempts"].as_array().map(Vec::len), Some(1), "{}", site.show(&id));
    let spoilt = between.seen().iter().filter(|call| !call.ends_with("passed on")).count();
    assert!(spoilt > 0, "no call was spoilt: {:?}", between.seen());
    assert!(agent.is_running(), "{}", site.log("agent"));
    site.kill_queue();
}

#[test]
#[needs("grid-proxy-init")]
fn result_answered_with_errors() {
    survives(
        "POST",
        "/result",
        &[Answer::Status(500), Answer::Status(404), Answer::Status(429), Answer::Status(502)],
        "true",
    );
}

#[test]
#[needs("grid-proxy-init")]
fn result_answered_by_half_or_nothing() {
    survives("POST", "/result", &[Answer::Half, Answer::Nothing, Answer::Lost], "true");
}

#[test]
#[needs("grid-proxy-init")]
fn log_answered_with_errors() {
    let answers = [Answer::Status(500), Answer::Status(429), Answer::Nothing, Answer::Lost];
    survives("PUT", "/logs/", &answers, "sleep 2");
}

#[test]
#[needs("grid-proxy-init")]
fn heartbeat_answered_with_errors() {
    let site = Site::new("20s");
    let between = site.between();
    let _agent = site.agent_of(between.url(), "agent", &[]);
    let go = site.path("go");
    let id = site.shell(&format!("while [ ! -e {go} ]; do sleep 0.1; done"));
    site.await_state(&id, "running");
    for answer in [Answer::Status(500), Answer::Half] {
        between.spoil_next(1, "POST", "/sync", answer);
    }
    // The call that is held now is passed on; those that follow meet the faults.
    let spoilt = || between.seen().iter().filter(|call| !call.ends_with("passed on")).count();
    let give_up = std::time::Instant::now() + LIMIT;
    while spoilt() < 2 {
        assert!(std::time::Instant::now() < give_up, "{:?}", between.seen());
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::write(&go, "").expect("the site's directory is there");
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    assert_eq!(site.show(&id)["attempts"].as_array().map(Vec::len), Some(1), "{}", site.show(&id));
}

/// One claim after the other goes wrong while a payload runs in the other slot.
#[test]
#[needs("grid-proxy-init")]
fn claim_answered_with_errors() {
    let site = Site::new("60s");
    let between = site.between();
    let _agent = site.agent_of(between.url(), "agent", &["--slots", "2"]);
    let go = site.path("go");
    let id = site.shell(&format!("while [ ! -e {go} ]; do sleep 0.1; done"));
    site.await_state(&id, "running");
    let answers = [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Status(429),
        Answer::Status(502),
        Answer::Half,
        Answer::Nothing,
    ];
    for answer in answers {
        between.spoil_next(1, "POST", "/claim", answer);
    }
    // The claim that is held now is answered by this one; those that follow meet the faults.
    for script in ["true", "true"] {
        let other = site.shell(script);
        assert_eq!(site.wait(&other), Some(0), "{}\n{}", site.show(&other), site.log("agent"));
    }
    assert_eq!(site.show(&id)["state"], "running", "{}\n{}", site.show(&id), site.log("agent"));
    fs::write(&go, "").expect("the site's directory is there");
    assert_eq!(site.wait(&id), Some(0));
    assert!(between.seen().iter().any(|call| call.contains("Status(404)")), "{:?}", between.seen());
}

/// The leases are far too long to run out here: a lease that the pilot never hears of would keep its payload for ever.
#[test]
#[needs("grid-proxy-init")]
fn answers_lost_to_registration_and_claim() {
    let site = Site::new("1h");
    let between = site.between();
    let ids = [site.shell("true"), site.shell("true")];
    between.spoil_next(1, "POST", "/pilots", Answer::Lost);
    between.spoil_next(2, "POST", "/claim", Answer::Lost);
    let _agent = site.agent_of(between.url(), "agent", &["--slots", "2"]);
    for id in &ids {
        assert_eq!(site.wait(id), Some(0), "{}\n{}", site.show(id), site.log("agent"));
        assert_eq!(site.show(id)["attempts"].as_array().map(Vec::len), Some(1), "{}", site.show(id));
    }
    let pilots: serde_json::Value = serde_json::from_str(&site.ok(&["pilots", "--json"])).expect("JSON");
    assert_eq!(pilots.as_array().map(Vec::len), Some(1), "one registration is one pilot: {pilots}");
    let lost = between.seen().iter().filter(|call| call.contains("Lost")).count();
    assert_eq!(lost, 3, "{:?}", between.seen());
    // The proxies came with the leases.
    assert!(!between.seen().iter().any(|call| call.contains("/delegation")), "{:?}", between.seen());
}

/// Batch systems end pilots when their time is over: that is nobody's failure, however often it happens.
#[test]
#[needs("grid-proxy-init")]
fn three_orderly_ends() {
    let site = Site::new("1h");
    let go = site.path("go");
    let id = site.shell(&format!("[ -e {go} ] || exec sleep 1000"));
    for number in 1..=3 {
        let mut agent = site.agent("agent", &[]);
        site.await_state(&id, "running");
        agent.signal(libc::SIGTERM);
        assert_eq!(agent.code_within(LIMIT), Some(0), "{}", site.log("agent"));
        assert_eq!(site.show(&id)["state"], "waiting", "after {number} ends: {}", site.show(&id));
    }
    fs::write(&go, "").expect("the site's directory is there");
    let _agent = site.agent("agent", &[]);
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    assert_eq!(site.show(&id)["attempts"].as_array().map(Vec::len), Some(4), "{}", site.show(&id));
}

#[test]
#[needs("grid-proxy-init")]
fn proxy_renewed() {
    let mut site = Site::closed("30s");
    let robot = site.pki.robot("pilot", "Pilot").expect("a robot");
    site.pki.short_proxy(&robot, &site.pilot, 25).expect("a proxy");
    site.start_queue();
    let _agent = site.agent("agent", &[]);
    let first = site.shell("true");
    assert_eq!(site.wait(&first), Some(0), "{}\n{}", site.show(&first), site.log("agent"));
    let next = site.pki.grid_proxy(&robot, &site.dir.path().join("next.pem"), &["-rfc"]).expect("a proxy");
    replace_file(&site.pilot, &next);
    std::thread::sleep(Duration::from_secs(27));
    let second = site.shell("true");
    assert_eq!(site.wait(&second), Some(0), "{}\n{}", site.show(&second), site.log("agent"));
}

#[test]
#[needs("grid-proxy-init")]
fn proxy_expired() {
    let mut site = Site::new("30s");
    let robot = site.pki.robot("pilot", "Pilot").expect("a robot");
    site.pilot = site.pki.short_proxy(&robot, &site.dir.path().join("old.pem"), -60).expect("a proxy");
    let mut agent = site.agent("agent", &["--give-up", "5s"]);
    let code = agent.code_within(LIMIT);
    assert!(matches!(code, Some(2 | 3)), "{code:?}\n{}", site.log("agent"));
    assert!(site.log("agent").contains("expired"), "{}", site.log("agent"));
}

#[test]
#[needs(faketime, "grid-proxy-init")]
fn stepped_clock() {
    let mut site = Site::new("30s");
    let clock = Clock::new(site.dir.path());
    site.agent_env = clock.env().map(|(name, value)| (name.into(), value.into())).to_vec();
    let _agent = site.agent("agent", &[]);
    let go = site.path("go");
    let id = site.shell(&format!("while [ ! -e {go} ]; do sleep 0.1; done"));
    site.await_state(&id, "running");
    for step in ["+2h", "-3h", "+0"] {
        clock.step(step);
        std::thread::sleep(Duration::from_secs(1));
    }
    fs::write(&go, "").expect("the site's directory is there");
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    assert_eq!(site.show(&id)["attempts"].as_array().map(Vec::len), Some(1), "{}", site.show(&id));
    let next = site.shell("true");
    assert_eq!(site.wait(&next), Some(0), "{}\n{}", site.show(&next), site.log("agent"));
}

#[test]
#[needs("grid-proxy-init")]
fn program_replaced() {
    let mut site = Site::new("30s");
    let programs = site.dir.path().join("programs");
    fs::create_dir(&programs).expect("a directory");
    for name in ["pilot", "pilot-runner"] {
        let from = site.program.with_file_name(name);
        if from.exists() {
            fs::copy(&from, programs.join(name)).expect("a copy of the program");
        }
    }
    let original = std::mem::replace(&mut site.program, programs.join("pilot"));
    let _agent = site.agent("agent", &[]);
    site.program = original;
    let first = site.shell("true");
    assert_eq!(site.wait(&first), Some(0), "{}\n{}", site.show(&first), site.log("agent"));
    for entry in fs::read_dir(&programs).expect("the copies").flatten() {
        upgrade(&entry.path());
    }
    let second = site.shell("true");
    assert_eq!(site.wait(&second), Some(0), "{}\n{}", site.show(&second), site.log("agent"));
    assert_eq!(site.show(&second)["attempts"].as_array().map(Vec::len), Some(1), "{}", site.show(&second));
}

#[test]
#[needs("grid-proxy-init")]
fn signal_storm() {
    let site = Site::new("30s");
    let mut agent = site.agent("agent", &[]);
    let first = site.shell("true");
    assert_eq!(site.wait(&first), Some(0), "{}\n{}", site.show(&first), site.log("agent"));
    let signals = [libc::SIGPIPE, libc::SIGWINCH, libc::SIGCHLD, libc::SIGCONT, libc::SIGURG];
    let storm = SignalStorm::on(agent.pid(), &signals, Duration::from_millis(2));
    let id = site.shell("sleep 1; exit 7");
    assert_eq!(site.wait(&id), Some(7), "{}\n{}", site.show(&id), site.log("agent"));
    storm.wait_for(100);
    drop(storm);
    assert!(agent.is_running(), "{}", site.log("agent"));
}
