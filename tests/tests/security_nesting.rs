//! A payload never switches identity again, whichever way it reaches `glexec`.
//!
//! With `no_new_privs` the kernel takes the privilege away before anything of ours runs: the caller gets 203 and the
//! reason. Without it, root sees the signs itself: 203, a log line, and a record `denied` that names them.

use end_to_end::contract::{chmod, eventually, install_tool};
use harness::{Machine, Ran, Run, Service, free_port, needs};
use std::fs;
use std::path::Path;
use std::time::Duration;

const TRY: &str = "/home/alice/try.sh";
const PAYLOAD: &str = env!("CARGO_BIN_EXE_security-payload");
const TOOL: &str = "/opt/contract/security-payload";

/// Alice's account has a proxy of Bob's among its own files: everything but the right to use it.
fn site(policy: &str) -> Machine {
    let builder = Machine::builder().pilot("pilot").account("alice").account("bob");
    let m = builder.policy_add(policy).build();
    m.map("Alice", "alice");
    m.map("Bob", "bob");
    prepare(&m);
    m
}

fn prepare(m: &Machine) {
    // A payload may not make these, but an administrator may have.
    fs::hard_link("/usr/sbin/glexec", "/usr/sbin/gl-link").expect("one directory");
    fs::copy("/usr/sbin/glexec", "/usr/sbin/gl-copy").expect("one directory");
    chmod("/usr/sbin/gl-copy", 0o4111);
    fs::rename(m.proxy("Bob", "alice"), "/home/alice/bob.pem").expect("both are in one home");
    fs::rename(m.proxy("Alice", "alice"), "/home/alice/alice.pem").expect("both are in one home");
    let attempt = "#!/bin/sh\n\
        GLEXEC_CLIENT_CERT=${PROXY:-/home/alice/bob.pem} GLEXEC_TARGET_PROXY=/dev/null /usr/sbin/glexec /usr/bin/id -u 2>&1\n\
        echo \"code $?\"\n";
    m.write(TRY, "alice", 0o755, attempt);
    assert_eq!(install_tool(m, PAYLOAD), TOOL);
}

const OLD_RIGHTS: &str = "[payload]\nno_new_privs = false";

/// Alice's payload, called by the pilot.
fn payload(m: &Machine, script: &str) -> Run {
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    run.args(["/bin/sh", "-c", script]).limit(Duration::from_secs(90))
}

/// No word of another account, and a refusal.
#[track_caller]
fn stayed_alice(m: &Machine, name: &str, said: &str) {
    let bob = m.uid("bob").to_string();
    assert!(!said.lines().any(|l| l.trim() == bob), "{name} became bob:\n{said}");
    let codes: Vec<_> = said.lines().filter_map(|l| l.strip_prefix("code ")).collect();
    assert!(!codes.is_empty() && codes.iter().all(|c| *c != "0"), "{name} was not refused:\n{said}");
}

/// Ways to call from inside: name, script, and whether the setuid bit would count if it were not for us.
const WAYS: [(&str, &str, bool); 18] = [
    ("direct", "$TRY", true),
    ("with its own proxy", "PROXY=/home/alice/alice.pem $TRY", true),
    ("with the proxy it was given", "PROXY=$X509_USER_PROXY $TRY", true),
    ("cleared environment", "env -i TRY=$TRY sh -c $TRY", true),
    (
        "forged environment",
        "PILOT_SESSION= GLEXEC_ID=x SUDO_UID=0 USER=pilot LOGNAME=pilot HOME=/home/pilot $TRY",
        true,
    ),
    (
        "new session and double fork",
        "setsid sh -c '($TRY > o.new; mv o.new o) & exit' </dev/null; until [ -e o ]; do sleep 0.05; done; cat o; rm o",
        true,
    ),
    ("another reaper", "/opt/contract/security-payload reaper $TRY", true),
    (
        "by descriptor",
        "GLEXEC_CLIENT_CERT=/home/alice/bob.pem /opt/contract/security-payload fexec /usr/sbin/glexec /usr/bin/id -u 2>&1; echo code $?",
        true,
    ),
    (
        "by /proc",
        "cd /usr/sbin && GLEXEC_CLIENT_CERT=/home/alice/bob.pem /proc/self/cwd/glexec /usr/bin/id -u 2>&1; echo code $?",
        true,
    ),
    (
        "hard link that root made",
        "GLEXEC_CLIENT_CERT=/home/alice/bob.pem /usr/sbin/gl-link /usr/bin/id -u 2>&1; echo code $?",
        true,
    ),
    (
        "copy that root made setuid",
        "GLEXEC_CLIENT_CERT=/home/alice/bob.pem /usr/sbin/gl-copy /usr/bin/id -u 2>&1; echo code $?",
        true,
    ),
    (
        "symbolic link",
        "ln -sf /usr/sbin/glexec gl; GLEXEC_CLIENT_CERT=/home/alice/bob.pem ./gl /usr/bin/id -u 2>&1; echo code $?",
        true,
    ),
    (
        "hard link",
        "ln /usr/sbin/glexec /tmp/gl 2>/dev/null; GLEXEC_CLIENT_CERT=/home/alice/bob.pem /tmp/gl /usr/bin/id -u 2>&1; echo code $?",
        false,
    ),
    (
        "copy",
        "cp /usr/sbin/glexec /tmp/gc 2>/dev/null; GLEXEC_CLIENT_CERT=/home/alice/bob.pem /tmp/gc /usr/bin/id -u 2>&1; echo code $?",
        false,
    ),
    ("user namespace", "unshare -U $TRY", false),
    ("user namespace as its root", "unshare -Ur $TRY", false),
    ("pid and user namespace", "unshare -Urpf --mount-proc $TRY", false),
    ("mount and user namespace", "unshare -Um $TRY", false),
];

fn all_ways(m: &Machine) {
    for (name, script, _) in WAYS {
        let ran = payload(m, &format!("export TRY={TRY}; cd /home/alice; {script}")).output();
        stayed_alice(m, name, &ran.text());
    }
}

#[test]
#[needs(root, "unshare")]
fn no_way_leads_from_a_payload_to_another_account() {
    let m = site("");
    // What the ways try would work, if it were not for the walls.
    let other =
        m.glexec().env("GLEXEC_CLIENT_CERT", m.proxy("Bob", "pilot")).args(["/usr/bin/id", "-u"]).output();
    assert_eq!(other.ok(), m.uid("bob").to_string());
    all_ways(&m);
    for (name, script, counts) in WAYS {
        let said = payload(&m, &format!("export TRY={TRY}; cd /home/alice; {script}")).output().text();
        let told = said.contains("code 203") && said.contains("no_new_privs");
        assert!(told || !counts, "{name}: {said}");
    }
}

#[test]
#[needs(root, "unshare")]
fn without_no_new_privs_root_itself_sees_who_calls() {
    let m = site(OLD_RIGHTS);
    let status = "grep NoNewPrivs /proc/self/status";
    assert_eq!(payload(&m, status).output().ok(), "NoNewPrivs:\t0", "the test tests what it says");
    all_ways(&m);
    let counting: Vec<_> = WAYS.iter().filter(|(.., counts)| *counts).collect();
    let denied: Vec<_> = m.records().into_iter().filter(|r| r["state"] == "denied").collect();
    assert!(denied.len() >= counting.len(), "{} records for {} calls", denied.len(), counting.len());
    for record in &denied {
        let text = record.to_string();
        // Who called, and whose payload that was.
        assert_eq!(record["caller_uid"], m.uid("alice"), "{text}");
        assert_eq!(record["payload"]["dn"], m.dn("Alice"), "{text}");
        for sign in ["session_account", "session_cgroup", "supervisor_ancestor", "payload_account"] {
            assert!(text.contains(sign), "no {sign} in {text}");
        }
    }
    let words = [
        &format!("refused 203 uid {}:", m.uid("alice")),
        "nested call",
        &m.dn("Alice"),
        "payload of session",
    ];
    let lines = m.log().lines().filter(|l| words.iter().all(|w| l.contains(w))).count();
    assert!(lines >= denied.len(), "{lines} log lines for {} records", denied.len());
}

#[test]
#[needs(root)]
fn each_sign_is_enough_by_itself() {
    // Everybody may call, and the accounts are listed by name: neither list nor range stops the payload.
    let builder = Machine::builder().pilot("pilot").account("alice").account("bob").policy_add(OLD_RIGHTS);
    let m = builder.build();
    m.map("Alice", "alice");
    m.map("Bob", "bob");
    prepare(&m);
    everybody_calls(&m);
    // Another account of the machine that sits in the payload's cgroup, without being its account.
    let direct = payload(&m, TRY).output().text();
    assert!(direct.contains("code 203") && direct.contains("session_account"), "{direct}");
    // From outside of the session's cgroup and tree, while the session lives: the account alone tells.
    let mut first = payload(&m, "echo > /tmp/lives; sleep 600").spawn();
    eventually("the first session", Duration::from_secs(60), || {
        Path::new("/tmp/lives").exists().then_some(())
    });
    let outside = m.command(TRY).as_user("alice").output();
    assert!(first.is_running());
    stayed_alice(&m, "from outside, during", &outside.text());
    assert!(outside.text().contains("session_account"), "{}", outside.text());
    assert!(
        !outside.text().contains("session_cgroup") && !outside.text().contains("supervisor"),
        "{}",
        outside.text()
    );
}

/// The site has made every mistake: everybody may call, and payload accounts are listed by name.
fn everybody_calls(m: &Machine) {
    m.write("/etc/glexec.conf", "root", 0o640, "[glexec]\nlinger = yes\nuser_white_list = *\n");
    m.edit_policy(|p| {
        let uids = m.uid_range();
        p.replace(&format!("allow = [\"{}-{}\"]", uids.0, uids.1), "allow = [\"alice\", \"bob\"]")
    });
}

#[test]
#[needs(root)]
fn accounts_that_are_listed_by_name_are_payload_accounts_all_the_same() {
    let m = site(OLD_RIGHTS);
    everybody_calls(&m);
    payload(&m, "true").output().ok();
    // What a payload left to cron runs after its session.
    let after = m.command(TRY).as_user("alice").output();
    stayed_alice(&m, "after its session", &after.text());
}

#[test]
#[needs(root)]
fn a_payload_cannot_take_hold_of_its_supervisor() {
    let m = site(OLD_RIGHTS);
    let script = format!(
        "{TOOL} ptrace $PPID; cat /proc/$PPID/environ; cat /proc/$PPID/maps; ls /proc/$PPID/fd; \
                          echo > /proc/$PPID/mem; echo end"
    );
    let ran = payload(&m, &script).output();
    assert_eq!(ran.text(), "ptrace EPERM\nend", "{}", ran.errors());
}

#[test]
#[needs(root)]
fn an_escaped_payload_gets_nowhere() {
    let m = site(OLD_RIGHTS);
    // Ends the front, which is allowed; the supervisor is not its to end. Then it calls from a session of its own.
    let script = format!(
        "kill -9 $PPID 2>/dev/null && echo killed; front=$(cut -d' ' -f4 /proc/$PPID/stat); \
         setsid sh -c 'kill -9 $0; sleep 0.3; {TRY} > /home/alice/escaped 2>&1; sleep 600' $front & sleep 60"
    );
    let ran = payload(&m, &script).output();
    assert_eq!((ran.signal(), ran.text()), (Some(9), String::new()));
    eventually("the end of the escaped", Duration::from_secs(60), || {
        m.processes_of("alice").is_empty().then_some(())
    });
    let said = fs::read_to_string("/home/alice/escaped").unwrap_or_default();
    assert!(!said.contains(&m.uid("bob").to_string()), "{said}");
    // The supervisor has ended all of it.
    payload(&m, "true").output().ok();
    assert_eq!(end_to_end::security::sessions(), Vec::<String>::new());
    let records = m.records();
    let closed =
        records.iter().filter(|r| r["exit"]["killed_by"] == "the glexec that waited was killed").count();
    assert_eq!(closed, 1, "{records:?}");
}

#[test]
#[needs(root)]
fn a_session_that_is_ending_lets_nobody_slip_through() {
    let m = site(OLD_RIGHTS);
    for _ in 0..15 {
        let script =
            format!("(while :; do {TRY} >> /home/alice/late 2>&1; done) >/dev/null 2>&1 & sleep 0.1");
        payload(&m, &script).output().ok();
        assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    }
    let said = fs::read_to_string("/home/alice/late").unwrap();
    assert!(said.lines().filter(|l| *l == "code 203").count() >= 15, "{said}");
    stayed_alice(&m, "at the end", &said);
}

#[test]
#[needs(root)]
fn nested_kill_ends_the_offender_s_session() {
    let m = site("[payload]\nno_new_privs = false\nnested = \"kill\"");
    let script = format!("(setsid sleep 77 &) ; {TRY} > /home/alice/said; sleep 600");
    let began = std::time::Instant::now();
    payload(&m, &script).output().exits(137);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    assert!(m.log().contains("its payload called glexec and is ended"), "{}", m.log());
    let states: Vec<_> =
        m.records().iter().map(|r| r["state"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(states.contains(&"denied".to_owned()) && states.contains(&"closed".to_owned()), "{states:?}");
}

/// What the attempt said that a service made for the account.
#[track_caller]
fn refused_through(m: &Machine, name: &str) {
    let out = "/home/alice/service.out";
    let limit = Duration::from_secs(20);
    let said = eventually(name, limit, || fs::read_to_string(out).ok().filter(|t| t.contains("code ")));
    stayed_alice(m, name, &said);
    assert!(said.contains("code 203") && said.contains("payload_account"), "{name}: {said}");
}

/// The attempt with its output in a file, as services run it.
fn to_file(m: &Machine) -> &'static str {
    let script = format!(
        "#!/bin/sh\n{TRY} > /home/alice/service.new 2>&1; mv /home/alice/service.new /home/alice/service.out\n"
    );
    m.write("/home/alice/service.sh", "alice", 0o755, script);
    "/home/alice/service.sh"
}

#[test]
#[needs(root, "cron")]
fn cron_is_no_way_around() {
    let m = site(OLD_RIGHTS);
    let script = to_file(&m);
    m.write("/var/spool/cron/crontabs/alice", "alice", 0o600, format!("@reboot {script}\n"));
    payload(&m, "true").output().ok();
    // After the session, since it has no tie to it; jobs for the start of the machine run when cron starts.
    let _cron = Service::start("cron", m.command("/usr/sbin/cron").arg("-f")).unwrap();
    refused_through(&m, "cron");
}

#[test]
#[needs(root, "atd", "at")]
fn at_is_no_way_around() {
    let m = site(OLD_RIGHTS);
    let script = to_file(&m);
    let _atd = Service::start("atd", m.command("/usr/sbin/atd").arg("-f")).unwrap();
    eventually("atd", Duration::from_secs(60), || Path::new("/run/atd.pid").exists().then_some(()));
    let wait = "until [ -e /home/alice/service.out ]; do sleep 0.1; done";
    let ran = payload(&m, &format!("cd; echo {script} | at now; timeout 15 sh -c '{wait}'")).output();
    assert!(ran.errors().contains("job "), "the job is accepted: {}", ran.errors());
    refused_through(&m, "at");
}

/// Under the default policy a payload leaves nothing to services that need a setuid or setgid program.
#[test]
#[needs(root, "crontab", "at")]
fn jobs_cannot_be_left_to_cron_or_at_without_new_privileges() {
    let m = site("");
    let tries = "echo '* * * * * /bin/true' | crontab - && echo DONE; echo /bin/true | at now + 1 hour && echo DONE; echo end";
    let spools = ["/var/spool/cron/crontabs", "/var/spool/cron/atjobs"].map(Path::new);
    let left = || spools.iter().flat_map(end_to_end::security::names).filter(|n| n != ".SEQ").count();
    let before = left();
    let ran = payload(&m, tries).output();
    assert_eq!(ran.text(), "end", "{}", ran.errors());
    assert_eq!(left(), before);
    // By itself the account may.
    let own = m.command("/bin/sh").as_user("alice").args(["-c", tries]).output();
    assert!(own.text().contains("DONE"), "{}", own.errors());
}

#[test]
#[needs(root, "sshd", "ssh", "ssh-keygen")]
fn ssh_is_no_way_around() {
    let m = site(OLD_RIGHTS);
    let port = free_port();
    let _sshd = sshd(&m, port);
    let login = format!(
        "ssh -i .ssh/key -p {port} -o StrictHostKeyChecking=no -o BatchMode=yes alice@127.0.0.1 {TRY}"
    );
    let ran = payload(&m, &format!("cd; {login}")).output();
    refused_by_root(&m, "ssh", &ran);
    let after = m.command("/bin/sh").as_user("alice").args(["-c", &login]).output();
    refused_by_root(&m, "ssh after the session", &after);
}

#[track_caller]
fn refused_by_root(m: &Machine, name: &str, ran: &Ran) {
    let said = ran.text();
    stayed_alice(m, name, &said);
    assert!(said.contains("code 203") && said.contains("payload_account"), "{name}: {said}{}", ran.errors());
}

fn sshd(m: &Machine, port: u16) -> Service {
    m.write("/home/alice/.ssh/authorized_keys", "alice", 0o600, "");
    std::os::unix::fs::chown("/home/alice/.ssh", Some(m.uid("alice")), None).expect("it exists");
    for (key, who) in [("/home/alice/.ssh/key", "alice"), ("/etc/ssh/test_key", "root")] {
        let run = m.command("/usr/bin/ssh-keygen").as_user(who);
        run.args(["-q", "-t", "ed25519", "-N", "", "-f", key]).output().ok();
    }
    let public = fs::read_to_string("/home/alice/.ssh/key.pub").expect("ssh-keygen wrote it");
    m.write("/home/alice/.ssh/authorized_keys", "alice", 0o600, public);
    let config =
        format!("Port {port}\nListenAddress 127.0.0.1\nHostKey /etc/ssh/test_key\nUsePAM no\nPidFile none\n");
    m.write("/etc/ssh/test_config", "root", 0o600, config);
    fs::create_dir_all("/run/sshd").expect("/run is this machine's own");
    let run = m.command("/usr/sbin/sshd").args(["-D", "-e", "-f", "/etc/ssh/test_config"]);
    Service::start("sshd", run).and_then(|s| s.listens(port)).unwrap_or_else(|e| panic!("{e}"))
}
