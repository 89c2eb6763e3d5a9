//! Payloads from submission to output through the real `pilot` program: queue, agent and users' commands over TLS on
//! the loopback. The agent runs with `--no-switch`, so no root is needed; the switch has its own tests.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::site::{LIMIT, Site, is_alive};
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_payload_goes_from_submission_to_output() {
    let site = Site::new("30s");
    std::fs::write(site.dir.path().join("in.txt"), "from home\n").unwrap();
    let _agent = site.agent("agent", &[]);
    let script = "cat in.txt; echo to-stderr >&2; echo $COLOUR > out.txt; mkdir r; pwd > r/where; echo no > left; stat -c %a $X509_USER_PROXY > r/mode; env > r/env";
    let input = site.path("in.txt");
    let args = ["--input", &input, "--output", "out.txt", "--output", "r/*", "--env", "COLOUR=blue"];
    let id = site.submit(&[&args[..], &["--", "/bin/sh", "-c", script]].concat());
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
    let logs = site.alice(&["logs", "-f", &id]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "from home\n");
    assert_eq!(String::from_utf8_lossy(&logs.stderr), "to-stderr\n");
    let listed = site.ok(&["output", &id, "--to", "home"]);
    assert_eq!(listed, "home/out.txt\nhome/r/env\nhome/r/mode\nhome/r/where\n");
    let home = site.dir.path().join("home");
    let read = |name: &str| std::fs::read_to_string(home.join(name)).unwrap();
    assert_eq!((read("out.txt").as_str(), read("r/mode").as_str()), ("blue\n", "600\n"));
    let env = read("r/env");
    assert!(env.contains(&format!("PILOT_PAYLOAD_ID={id}\n")), "{env}");
    assert!(!env.contains("GLOBUS_TCP_PORT_RANGE") && !env.contains("PILOT_QUEUE"), "{env}");
    assert!(!Path::new(read("r/where").trim()).exists(), "the working directory is still there");
    let attempt = site.show(&id)["attempts"][0].clone();
    assert_eq!((attempt["outcome"].as_str(), attempt["report"]["exit_code"].as_i64()), (Some("ok"), Some(0)));
    let attempt = attempt["id"].as_str().unwrap();
    assert!(!Path::new(&format!("/tmp/pilotage-proxy-{attempt}.pem")).exists(), "the proxy is still there");
}

#[test]
fn a_small_output_comes_with_the_result_and_a_large_one_by_itself() {
    let site = Site::new("60s");
    let between = site.between();
    let _agent = site.agent_of(between.url(), "agent", &["--slots", "2"]);
    let run = |size: u32| {
        let script = format!("echo said; echo oh >&2; head -c {size} /dev/zero > out");
        let id = site.submit(&["--output", "out", "--", "/bin/sh", "-c", &script]);
        assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
        let to = format!("to-{size}");
        site.ok(&["output", &id, "--to", &to]);
        let length = std::fs::metadata(site.dir.path().join(&to).join("out")).expect("it has come").len();
        assert_eq!(length, u64::from(size));
        assert!(site.ok(&["logs", &id]).contains("said\n"));
        between.seen().iter().filter(|call| call.contains("/output")).count()
    };
    assert_eq!(run(4096), 0, "{:?}", between.seen());
    assert_eq!(run(200_000), 1, "{:?}", between.seen());
}

#[test]
fn a_proxy_that_does_not_reach_the_worker_node_is_refused_before_anything_is_sent() {
    let mut site = Site::new("30s");
    let user = site.pki.user("carol", "Carol").unwrap();
    site.alice = site
        .pki
        .grid_proxy(&user, &site.dir.path().join("short.pem"), &["-rfc", "-path-length", "1"])
        .unwrap();
    std::fs::write(site.dir.path().join("in.txt"), "from home\n").unwrap();
    let out = site.alice(&["submit", "--input", &site.path("in.txt"), "--", "/bin/true"]);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{text}");
    for words in
        ["short.pem", "allows 1 more delegation", "2 are needed", "grid-proxy-init -rfc", "-path-length 2"]
    {
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!site.log("queue.log").contains("Carol"), "{}", site.log("queue.log"));
    let options = ["-rfc", "-path-length", "2"];
    site.alice = site.pki.grid_proxy(&user, &site.dir.path().join("enough.pem"), &options).unwrap();
    let _agent = site.agent("agent", &[]);
    let id = site.submit(&["--", "/bin/true"]);
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("agent"));
}

#[test]
fn exit_codes_reach_the_user() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &["--slots", "4"]);
    let cases =
        [("exit 7", 7, "user"), ("kill -9 $$", 137, "user"), ("exit 203", 203, "user"), ("exit 0", 0, "ok")];
    let ids = cases.map(|(script, ..)| site.shell(script));
    for ((script, code, outcome), id) in cases.iter().zip(&ids) {
        assert_eq!(site.wait(id), Some(*code), "{script}");
        assert_eq!(site.show(id)["attempts"][0]["outcome"], *outcome, "{script}");
        assert_eq!(site.show(id)["attempts"].as_array().unwrap().len(), 1, "{script}");
    }
    assert!(site.ok(&["show", &ids[0]]).contains("exit code 7"), "the state says why");
    assert_eq!(site.show(&ids[0])["reason"], "user: attempt 1 of 3: exit code 7");
    assert_eq!(site.show(&ids[3])["reason"], serde_json::Value::Null);
    assert_eq!(site.alice(&["wait", &ids[3], &ids[0], &ids[1]]).status.code(), Some(7));
    let missing = site.submit(&["--", "no-such-program"]);
    assert_eq!(site.wait(&missing), Some(127));
    let refused = site.submit(&["--", "/etc/passwd"]);
    assert_eq!(site.wait(&refused), Some(126));
    assert_eq!(site.alice(&["submit", "--wait", "--", "/bin/sh", "-c", "exit 9"]).status.code(), Some(9));
}

#[test]
fn a_cancelled_payload_leaves_nothing_running() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    let pids = site.path("pids");
    // The second process leaves the group and the session; both must go.
    let id =
        site.shell(&format!("setsid sleep 1000 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; sleep 1000"));
    let pids = site.await_file("pids");
    site.ok(&["cancel", &id]);
    assert_eq!(site.wait(&id), Some(143), "{}", site.log("agent"));
    assert_eq!(site.show(&id)["attempts"][0]["outcome"], "killed");
    for pid in pids.split_whitespace() {
        assert!(!is_alive(pid), "{pid} is alive");
    }
    let next = site.shell("echo next");
    assert_eq!(site.wait(&next), Some(0), "the pilot works on");
}

#[test]
fn a_payload_that_ignores_sigterm_is_killed_after_the_grace() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    let pid = site.path("pid");
    let id = site.shell(&format!("trap '' TERM; echo $$ > {pid}; while :; do sleep 1; done"));
    let pid = site.await_file("pid");
    site.ok(&["cancel", &id]);
    assert_eq!(site.wait(&id), Some(143));
    assert_eq!(site.show(&id)["attempts"][0]["report"]["exit_code"], 137);
    assert!(!is_alive(&pid));
}

#[test]
fn limits_end_a_payload() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &["--slots", "2"]);
    let slow = site.submit(&["--walltime", "1s", "--", "/bin/sleep", "1000"]);
    let hungry = "x=$(head -c 60000000 /dev/zero | tr '\\0' x); sleep 1000";
    let hungry = site.submit(&["--memory", "20M", "--", "/bin/sh", "-c", hungry]);
    for (id, word) in [(&slow, "walltime"), (&hungry, "memory")] {
        assert_eq!(site.wait(id), Some(143), "{}", site.show(id));
        let attempt = site.show(id)["attempts"][0].clone();
        assert_eq!(attempt["outcome"], "limit", "{attempt}");
        assert!(attempt["report"]["reason"].as_str().unwrap().contains(word), "{attempt}");
    }
}

#[test]
fn an_array_runs_once_for_each_index() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &["--slots", "3"]);
    let ids = site.submit(&["--array", "3-7", "--", "/bin/sh", "-c", "echo index $PILOT_ARRAY_INDEX"]);
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 5);
    assert_eq!(site.alice(&[&["wait"], &ids[..]].concat()).status.code(), Some(0));
    for (id, index) in ids.iter().zip(3..) {
        assert_eq!(site.ok(&["logs", id]), format!("index {index}\n"));
    }
    let jobs: serde_json::Value =
        serde_json::from_str(&site.ok(&["jobs", "--json", "--state", "done"])).unwrap();
    assert_eq!(jobs.as_array().unwrap().len(), 5);
    assert!(site.ok(&["status"]).contains("5 done"));
}

#[test]
fn a_log_is_complete_and_can_be_followed_while_it_grows() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    let id = site.shell(
        "i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; seq 1 200000; echo the tail",
    );
    let out = site.ok(&["logs", "-f", &id]);
    let mut want: String = (0..20).map(|i| format!("line {i}\n")).collect();
    (1..=200_000).for_each(|i| want.push_str(&format!("{i}\n")));
    want.push_str("the tail\n");
    assert_eq!(out.len(), want.len());
    assert!(out == want, "the log has the right length but not the right content");
}

#[test]
fn a_killed_agent_takes_its_payload_along_and_another_one_runs_it_again() {
    let site = Site::new("3s");
    let mut first = site.agent("agent", &[]);
    let (pid, count) = (site.path("pid"), site.path("count"));
    let script =
        format!("echo run >> {count}; if [ -e {pid} ]; then exit 0; fi; echo $$ > {pid}; sleep 1000");
    let id = site.shell(&script);
    let pid = site.await_file("pid");
    first.signal(9);
    assert_eq!(first.code_within(LIMIT), None);
    let give_up = Instant::now() + Duration::from_secs(15);
    while is_alive(&pid) {
        assert!(Instant::now() < give_up, "the payload outlives its agent");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _second = site.agent("second", &[]);
    assert_eq!(site.wait(&id), Some(0), "{}\n{}", site.show(&id), site.log("second"));
    assert_eq!(site.log("count"), "run\nrun\n");
    let attempts = site.show(&id)["attempts"].clone();
    assert_eq!(
        (attempts[0]["outcome"].as_str(), attempts[1]["outcome"].as_str()),
        (Some("lost"), Some("ok"))
    );
}

#[test]
fn a_drained_agent_hands_its_payload_back_at_once() {
    let site = Site::new("600s");
    let mut first = site.agent("agent", &[]);
    let pid = site.path("pid");
    let id = site.shell(&format!("if [ -e {pid} ]; then exit 0; fi; echo $$ > {pid}; sleep 1000"));
    let pid = site.await_file("pid");
    first.signal(15);
    assert_eq!(first.code_within(LIMIT), Some(0), "{}", site.log("agent"));
    assert!(!is_alive(&pid));
    assert_eq!(site.leftovers(), [""; 0]);
    // Far sooner than the lease would run out.
    let _second = site.agent("second", &[]);
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("second"));
}

#[test]
fn a_queue_that_restarts_loses_nothing() {
    let mut site = Site::new("60s");
    let _agent = site.agent("agent", &[]);
    let go = site.path("go");
    let id = site.shell(&format!("echo before; while [ ! -e {go} ]; do sleep 0.1; done; echo after"));
    site.await_state(&id, "running");
    site.queue.as_mut().unwrap().signal(9);
    site.queue = None;
    std::fs::write(&go, "").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    site.start_queue();
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("agent"));
    assert_eq!(site.ok(&["logs", &id]), "before\nafter\n");
    assert_eq!(site.show(&id)["attempts"].as_array().unwrap().len(), 1);
}

#[test]
fn payloads_at_the_same_time_get_different_ports_and_no_more_than_there_are() {
    let site = Site::new("30s");
    let policy = site.path("policy.toml");
    // Above what the harness gives to machines that run at the same time.
    let ports = "[ports]\nrange = \"27000-27019\"\nper_payload = 10\nquarantine = \"0s\"\nhostname = \"nat.example.org\"\n";
    std::fs::write(&policy, ports).unwrap();
    let dir = site.path("ports");
    let args = ["--slots", "3", "--policy", &policy, "--port-dir", &dir];
    let (_one, _two) = (site.agent("agent", &args), site.agent("second", &args));
    let script = "echo $GLOBUS_TCP_PORT_RANGE $GLOBUS_HOSTNAME; sleep 2";
    let ids = site.submit(&["--array", "1-4", "--ports", "1", "--", "/bin/sh", "-c", script]);
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(site.alice(&[&["wait"], &ids[..]].concat()).status.code(), Some(0), "{}", site.log("agent"));
    let mut given: Vec<String> = ids.iter().map(|id| site.ok(&["logs", id])).collect();
    given.sort();
    let (low, high) = ("27000,27009 nat.example.org\n", "27010,27019 nat.example.org\n");
    assert_eq!(given, [low, low, high, high]);
    for id in &ids {
        assert_eq!(site.show(id)["attempts"].as_array().unwrap().len(), 1, "{}", site.show(id));
    }
    let greedy = site.submit(&["--ports", "21", "--", "/bin/true"]);
    assert_eq!(site.wait(&greedy), Some(1));
    assert!(site.show(&greedy).to_string().contains("wants 21 ports"), "{}", site.show(&greedy));
}

#[test]
fn the_site_decides_whether_a_payload_has_ports_unasked() {
    let site = Site::new("30s");
    let policy = site.path("policy.toml");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let ports = format!(
        "[ports]\nrange = \"27100-27119\"\nper_payload = 5\ndefault = 5\nhostname = \"nat.example.org\"\n\
         variables = [\"PILOT_PORTS\", \"PILOT_PORT_0\"]\nhosts = {{ \"wn1.example.org\" = \"27100-27109\", {host:?} = \"27110-27119\" }}\n"
    );
    std::fs::write(&policy, ports).unwrap();
    let dir = site.path("ports");
    let _agent = site.agent("agent", &["--policy", &policy, "--port-dir", &dir]);
    let id = site.submit(&[
        "--",
        "/bin/sh",
        "-c",
        "echo $PILOT_PORTS $PILOT_PORT_4 ${GLOBUS_TCP_PORT_RANGE-unset}",
    ]);
    assert_eq!(site.wait(&id), Some(0), "{}", site.log("agent"));
    assert_eq!(site.ok(&["logs", &id]), "27110-27114 27114 unset\n", "the first block of this host's share");

    let stranger = "[ports]\nrange = \"27100-27119\"\nhosts = { \"wn1.example.org\" = \"27100-27109\" }\n";
    std::fs::write(&policy, stranger).unwrap();
    let mut refused = site.agent("refused", &["--policy", &policy, "--port-dir", &dir]);
    assert_eq!(refused.code_within(LIMIT), Some(2), "{}", site.log("refused"));
    let said = format!("[ports] hosts does not name this host, {host}");
    assert!(site.log("refused").contains(&said), "{}", site.log("refused"));
}

#[test]
fn an_idle_agent_ends_by_itself_and_a_lonely_one_gives_up() {
    let site = Site::new("30s");
    let mut idle = site.agent("agent", &["--max-idle", "1s"]);
    assert_eq!(idle.code_within(LIMIT), Some(0), "{}", site.log("agent"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = format!("https://localhost:{port}");
    let mut lonely = site.agent_of(&nowhere, "lonely", &["--give-up", "1s"]);
    assert_eq!(lonely.code_within(LIMIT), Some(3), "{}", site.log("lonely"));
    assert!(site.log("lonely").contains("cannot reach the queue"), "{}", site.log("lonely"));
}

#[test]
fn commands_say_what_to_do_when_something_is_missing() {
    let site = Site::new("30s");
    let run = |queue: &str, proxy: &Path| {
        let mut command = site.command();
        command.env("PILOT_QUEUE", queue).env("X509_USER_PROXY", proxy).arg("jobs");
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = run("https://localhost:1", &site.alice);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("PILOT_QUEUE"), "{text}");
    let (code, text) = run(&site.url, Path::new("/nowhere/proxy"));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("grid-proxy-init"), "{text}");
    let late = site
        .pki
        .subject("late", &[("C", "XX"), ("O", "Test Grid"), ("OU", "people"), ("CN", "Late")], -1)
        .unwrap();
    let pem = site.dir.path().join("late.pem");
    let mut text = String::new();
    for part in [&late.cert, &late.key] {
        std::fs::File::open(part).unwrap().read_to_string(&mut text).unwrap();
    }
    std::fs::write(&pem, text).unwrap();
    let (code, text) = run(&site.url, &pem);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("expired") && text.contains("grid-proxy-init"), "{text}");
    let stranger = site.alice(&["show", "01890000-0000-7000-8000-000000000000"]);
    assert_eq!(stranger.status.code(), Some(1));
}
