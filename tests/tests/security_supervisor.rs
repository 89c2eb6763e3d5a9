//! Rules for root's side: each test is an attack that once won, named by the rule that it tries (docs/threat-model.md).

use end_to_end::contract::{
    POLICY, call, catcher, catcher_ready, eventually, kill_as, lives, set_conf, sh, site, stop_catcher,
    wait_gone, written,
};
use end_to_end::security::{kill_supervisors, processes_with_uid, sessions, supervisor_of};
use harness::{Machine, Running, needs};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn status(pid: i32, field: &str) -> String {
    let text = fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().trim().to_owned()
}

/// A payload that waits; its process, and the supervisor's.
fn waiting(m: &Machine) -> (Running, i32, i32) {
    let file = "/home/alice/signals";
    let running = call(m, &m.proxy("Alice", "pilot")).args(catcher(file)).spawn();
    let payload = catcher_ready(file);
    let supervisor = supervisor_of(&sessions()[0]);
    (running, payload, supervisor)
}

#[test]
#[needs(root)]
fn one_structure_the_front_has_no_rights_and_the_supervisor_no_id_of_anybody() {
    let m = site();
    let (running, payload, supervisor) = waiting(&m);
    let (pilot, alice) = (m.uid("pilot"), m.uid("alice"));
    let front = running.pid();
    // The saved uid is the payload's: HTCondor's procd signals as the target account.
    // The payload runs, so the front has given everything up.
    assert_eq!(status(front, "Uid:"), format!("{pilot}\t{pilot}\t{alice}\t{pilot}"));
    for set in ["CapPrm:", "CapEff:", "CapInh:"] {
        assert_eq!(status(front, set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (status(supervisor, "Uid:"), status(supervisor, "Gid:")),
        ("0\t0\t0\t0".into(), "0\t0\t0\t0".into())
    );
    assert_eq!(status(supervisor, "Groups:"), "");
    assert_eq!(status(payload, "PPid:"), supervisor.to_string());
    for account in ["pilot", "alice"] {
        for signal in ["KILL", "STOP", "CONT", "TERM", "USR1"] {
            assert!(!kill_as(&m, account, signal, supervisor), "{account} {signal}");
        }
    }
    let locks = |pid: i32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|to| to.starts_with("/run/glexec")).count()
    };
    assert_eq!((locks(front), locks(payload)), (0, 0), "only the supervisor holds the session's lock");
    assert_eq!(locks(supervisor), 1);
    stop_catcher("/home/alice/signals");
    running.end_within(LIMIT).exits(7);
}

#[test]
#[needs(root)]
fn rule_1_a_refusal_counter_that_is_held_makes_nobody_wait() {
    let m = site();
    sh(&m, "exit 0").output().ok();
    let refuse = || m.glexec().as_user("stranger").arg("/bin/true").output();
    refuse().refused(203, &[]);
    let counter = fs::File::open(format!("/run/glexec/refusals/{}", m.uid("stranger"))).unwrap();
    let held = nix::fcntl::Flock::lock(counter, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let began = Instant::now();
    refuse().refused(203, &[]);
    assert!(began.elapsed() < Duration::from_secs(30), "it waits for the lock");
    drop(held);
}

/// A second payload of the account traces the first one's process, and stops it on its way out.
#[test]
#[needs(root, "perl")]
fn rule_1_a_traced_payload_ends_with_its_session_and_costs_others_nothing() {
    let m = site();
    let (running, payload, _) = waiting(&m);
    // PTRACE_SEIZE with PTRACE_O_TRACEEXIT: whoever exits stops until its tracer lets it go.
    let tracer = "my $pid = shift; syscall(101, 0x4206, $pid + 0, 0, 0x40) == 0 or die qq(seize: $!\n); \
                  open(my $f, '>', '/home/alice/traced'); print $f qq(yes\n); close $f; sleep 600;";
    let holder = call(&m, &m.proxy("Alice", "pilot"))
        .args(["/usr/bin/perl", "-e", tracer, &payload.to_string()])
        .spawn();
    assert_eq!(written("/home/alice/traced"), "yes");
    let id =
        sessions().into_iter().find(|id| status(payload, "PPid:") == supervisor_of(id).to_string()).unwrap();
    let began = Instant::now();
    m.glexec().args(["--session", &id, "--end"]).output().ok();
    assert!(began.elapsed() < Duration::from_secs(20), "the tracer holds the session open");
    assert!(!lives(payload));
    running.end_within(LIMIT).exits(128 + 9);
    drop(holder);
}

#[test]
#[needs(root)]
fn rule_2_the_process_that_removes_the_directory_holds_no_lock() {
    let m = site();
    // A directory that takes long to remove.
    let fill = "mkdir d; cd d; i=0; while [ $i -lt 3000 ]; do : >$i; i=$((i+1)); done";
    let run = sh(&m, fill).env("GLEXEC_WORK_DIR", "/tmp/job-3");
    run.output().ok();
    assert!(!Path::new("/tmp/job-3").exists() && sessions().is_empty());
}

#[test]
#[needs(root, "setpriv", "fusermount")]
fn rule_4_names_of_mounts_that_are_no_text_take_no_wall_away() {
    let m = site();
    let mount = "d=$(printf '/mnt/\\377'); mkdir -p \"$d\" && mount -t tmpfs none \"$d\"";
    m.command("/bin/sh").args(["-c", mount]).output().ok();
    sh(&m, "setsid sleep 600 >/dev/null 2>&1 & exit 0").output().ok();
    assert_eq!(m.processes_of("alice"), Vec::<i32>::new());
    let record = &m.records()[0];
    assert_eq!(record["ladder"][0], "cgroup.kill", "{record}");
}

#[test]
#[needs(root)]
fn rule_5_a_payload_cannot_stop_the_clock() {
    let m = site();
    let script = "kill -STOP $PPID; trap '' TERM; while :; do sleep 1; done";
    let began = Instant::now();
    let ran = sh(&m, script).env("GLEXEC_LIMIT_WALLTIME", "2").output();
    ran.exits(128 + 9);
    assert!(began.elapsed() >= Duration::from_secs(2) && began.elapsed() < LIMIT);
    let record = &m.records()[0];
    assert_eq!(record["exit"]["killed_by"], "limit: walltime", "{record}");
}

#[test]
#[needs(root)]
fn rule_5_cpu_time_memory_and_processes_have_limits() {
    let m = site();
    let burn = "(while :; do :; done) & (while :; do :; done) & wait";
    sh(&m, burn).env("GLEXEC_LIMIT_CPU", "1").output();
    let eater = "my $x = ''; $x .= 'y' x 1_000_000 for 1 .. 400; sleep 600";
    let run = call(&m, &m.proxy("Alice", "pilot")).args(["/usr/bin/perl", "-e", eater]);
    let ate = run.env("GLEXEC_LIMIT_MEMORY", "100000000").output();
    assert_ne!(ate.code(), Some(0));
    let fork = "i=0; while [ $i -lt 40 ]; do sleep 20 & i=$((i+1)); done; wait";
    let forked = sh(&m, fork).env("GLEXEC_LIMIT_PIDS", "10").output();
    assert_ne!(forked.code(), Some(0), "{}", forked.errors());
    let records = m.records();
    assert_eq!(records[0]["exit"]["killed_by"], "limit: CPU time", "{}", records[0]);
    sh(&m, "exit 0").env("GLEXEC_LIMIT_WALLTIME", "1h").output().refused(201, &["GLEXEC_LIMIT_WALLTIME"]);
}

#[test]
#[needs(root, "perl")]
fn rule_6_a_name_that_is_no_text_hides_no_process() {
    let m = site();
    // prctl(PR_SET_NAME)
    let daemon = "use POSIX; if (fork) { sleep 1; exit 0 } POSIX::setsid(); my $n = qq(\\xff\\xfe); syscall(157, 15, $n, 0, 0, 0); \
                  open(my $f, '>', '/home/alice/pid'); print $f qq($$\n); close $f; sleep 600";
    for with_leaf in [true, false] {
        if !with_leaf {
            end_to_end::security::without_cgroups();
        }
        let ran = call(&m, &m.proxy("Alice", "pilot")).args(["/usr/bin/perl", "-e", daemon]).output();
        ran.ok();
        let pid: i32 = written("/home/alice/pid").parse().unwrap();
        wait_gone(pid);
        fs::remove_file("/home/alice/pid").unwrap();
    }
}

/// Starts a program with a socket as its standard input, and tries to take that from the moment on in which the kernel names
/// the program. Says how many of 300 tries won. Numbers of calls are those of Linux on x86-64.
const TAKE_THE_SOCKET: &str = r#"
use Socket; my $won = 0; my ($name, @command) = @ARGV;
for my $round (1 .. 3) {
  socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, 0) or die $!;
  my $child = fork // die $!;
  if (!$child) { open(STDIN, "<&", $theirs) or die $!; open(STDOUT, ">", "/dev/null"); exec @command or die $! }
  my $watched = syscall(434, $child, 0); my ($tries, $until) = (0, time + 20);
  while ($tries < 100 && time < $until) {
    open(my $comm, "<", "/proc/$child/comm") or last; next if (<$comm> // "") ne "$name\n";
    $tries++; my $taken = syscall(438, $watched, 0, 0); $won++ if $taken >= 0; syscall(3, $taken) if $taken >= 0;
  }
  $tries == 100 or die "only $tries tries"; kill 9, $child; waitpid $child, 0;
}
print "$won\n";
"#;

/// Between its start and its first line the runner could once be robbed by another process of its account. Who may not read a
/// program cannot look into who executes it (mode 0711), not for a moment.
#[test]
#[needs(root, "perl")]
fn rule_9_nobody_takes_the_runner_s_socket_not_even_while_it_starts() {
    use std::os::unix::fs::MetadataExt;
    let m = site();
    let runner = "/usr/libexec/pilotage/pilot-runner";
    let mode = fs::metadata(runner).expect("it is installed");
    assert_eq!((mode.uid(), mode.mode() & 0o7777), (0, 0o711));
    let take = |name: &str, command: &[&str]| {
        let run = m.command("/usr/bin/perl").as_user("alice").args(["-e", TAKE_THE_SOCKET, name]);
        run.args(command.iter().copied()).output().ok()
    };
    assert_eq!(take("pilot-runner", &[runner]), "0");
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|text| text.trim() != "0");
    if !yama {
        assert_eq!(take("sleep", &["/bin/sleep", "60"]), "300", "the attack itself is sound");
    }
}

/// `ulimit -t` with a hard limit, `choom`, `nice`, `taskset` in the caller: the supervisor has its own.
#[test]
#[needs(root, "choom", "taskset")]
fn rule_7_what_the_caller_hands_on_bends_the_payload_only() {
    let m = site();
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let payload = "cat /proc/self/oom_score_adj; ulimit -t; nice; grep Cpus_allowed_list /proc/self/status; \
                   cat /proc/$PPID/oom_score_adj; sed -n 's/^Max cpu time *\\([a-z0-9]*\\).*/\\1/p' /proc/$PPID/limits; \
                   sed -n 's/.*) //p' /proc/$PPID/stat | cut -d' ' -f17";
    let script =
        "ulimit -t 3000; exec choom -n 1000 -- taskset -c 0 nice -n 7 /usr/sbin/glexec /bin/sh -c \"$1\"";
    let said = run.args(["-c", script, "sh", payload]).output().ok();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["1000", "3000", "7"], "{said}");
    assert!(lines[3].ends_with("\t0"), "{said}");
    assert!(lines[4].parse::<i32>().unwrap() <= 0, "the kernel must not choose the supervisor: {said}");
    assert!(["unlimited", "2999"].contains(&lines[5]), "{said}");
    assert_eq!(lines[6], "0", "{said}");
}

/// Something that a process hands on to the program that it executes.
struct Inherited {
    name: &'static str,
    /// Puts it on and executes what follows.
    caller: &'static [&'static str],
    /// What the payload says of itself, in a shell.
    ask: &'static str,
    payload: &'static str,
    /// What the kernel says of the supervisor.
    look: fn(i32) -> String,
    supervisor: &'static str,
}

fn of_proc(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default().trim().to_owned()
}

fn scheduling(pid: i32) -> String {
    let stat = of_proc(pid, "stat");
    // proc_pid_stat(5): the state is field 3, the policy field 41.
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(38)).unwrap_or_default().to_owned()
}

fn is_idle(pid: i32) -> String {
    let said =
        std::process::Command::new("ionice").args(["-p", &pid.to_string()]).output().expect("it is there");
    String::from_utf8_lossy(&said.stdout).starts_with("idle").to_string()
}

fn memory_policy(pid: i32) -> String {
    let maps = of_proc(pid, "numa_maps");
    let mut kinds: Vec<&str> = maps.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.join(" ")
}

fn blocks_usr1(pid: i32) -> String {
    let mask = u64::from_str_radix(&status(pid, "SigBlk:"), 16).unwrap_or_default();
    (mask & 1 << 9 != 0).to_string()
}

const INHERITED: [Inherited; 7] = [
    Inherited {
        name: "scheduling class",
        caller: &["/usr/bin/chrt", "--batch", "0"],
        ask: "chrt -p $$ | sed -n 's/.*policy: //p'",
        payload: "SCHED_BATCH",
        look: scheduling,
        supervisor: "0",
    },
    Inherited {
        name: "I/O priority",
        caller: &["/usr/bin/ionice", "-c", "3"],
        ask: "ionice -p $$",
        payload: "idle",
        look: is_idle,
        supervisor: "false",
    },
    Inherited {
        name: "memory policy",
        // set_mempolicy(2): MPOL_BIND to node 0
        caller: &[
            "/usr/bin/perl",
            "-e",
            "my $nodes = pack('Q', 1); syscall(238, 2, $nodes, 64) == 0 or die $!; exec @ARGV",
        ],
        ask: "cut -d' ' -f2 /proc/self/numa_maps | sort -u",
        payload: "bind:0",
        look: memory_policy,
        supervisor: "default",
    },
    Inherited {
        name: "personality",
        caller: &["/usr/bin/setarch", "--uname-2.6"],
        ask: "cat /proc/self/personality",
        payload: "00020000",
        look: |pid| of_proc(pid, "personality"),
        supervisor: "00000000",
    },
    Inherited {
        name: "timer slack",
        // prctl(2): PR_SET_TIMERSLACK
        caller: &["/usr/bin/perl", "-e", "syscall(157, 29, 1_000_000_000, 0, 0, 0); exec @ARGV"],
        ask: "cat /proc/self/timerslack_ns",
        payload: "50000",
        look: |pid| of_proc(pid, "timerslack_ns"),
        supervisor: "50000",
    },
    Inherited {
        name: "umask",
        caller: &["/bin/sh", "-c", "umask 077; exec \"$@\"", "sh"],
        ask: "umask",
        payload: "0077",
        look: |pid| status(pid, "Umask:"),
        supervisor: "0022",
    },
    Inherited {
        name: "ignored signals",
        caller: &["/bin/sh", "-c", "trap '' USR1; exec \"$@\"", "sh"],
        ask: "kill -USR1 $$; echo ignored",
        payload: "ignored",
        look: blocks_usr1,
        supervisor: "true",
    },
];

/// The table "What a process inherits from its caller": those rows that no other test looks at from both sides.
#[test]
#[needs(root, "perl", "chrt", "ionice", "setarch")]
fn rule_7_what_is_inherited_reaches_the_payload_and_not_the_supervisor() {
    let m = site();
    for row in INHERITED {
        let file = "/home/alice/told";
        let script = format!(
            "exec 2>&1; ({}) > {file}.part; mv {file}.part {file}; while [ ! -e {file}.stop ]; do sleep 0.05; done",
            row.ask
        );
        let run = m.command(row.caller[0]).as_user("pilot").args(&row.caller[1..]);
        let run = run.env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let running = run.args(["/usr/sbin/glexec", "/bin/sh", "-c", &script]).spawn();
        let payload = eventually(row.name, LIMIT, || fs::read_to_string(file).ok()).trim().to_owned();
        // Its own memory policy is set once the payload is on its way.
        eventually(row.name, LIMIT, || {
            let shown = (row.look)(supervisor_of(&sessions()[0]));
            (shown == row.supervisor).then_some(())
        });
        fs::write(format!("{file}.stop"), "").unwrap();
        running.end_within(LIMIT).exits(0);
        assert_eq!(payload, row.payload, "{}", row.name);
        for left in [file.to_owned(), format!("{file}.stop")] {
            fs::remove_file(left).unwrap();
        }
    }
}

/// What prctl(2) sets and exec keeps: numbers of the operation and its arguments.
const KEPT_BY_EXEC: [(&str, &str); 9] = [
    ("PR_SET_PDEATHSIG", "1, 9"),
    ("PR_SET_DUMPABLE", "4, 0"),
    ("PR_SET_KEEPCAPS", "8, 1"),
    ("PR_MCE_KILL", "33, 1, 1"),
    ("PR_SET_CHILD_SUBREAPER", "36, 1"),
    ("PR_SET_THP_DISABLE", "41, 1"),
    ("PR_SET_SPECULATION_CTRL", "53, 0, 4"),
    ("PR_SET_MDWE", "65, 1"),
    ("PR_SET_MEMORY_MERGE", "67, 1"),
];

/// A session goes as ever, and its memory is nobody's to compare: the kernel merges no page of the supervisor's with another's.
#[test]
#[needs(root, "perl")]
fn rule_7_what_prctl_leaves_bends_nothing() {
    let m = site();
    for (name, arguments) in KEPT_BY_EXEC {
        let set = format!(
            "syscall(157, {arguments}, (0) x 3); exec '/usr/sbin/glexec', '/bin/sh', '-c', 'cat /proc/$PPID/ksm_stat 2>/dev/null; (sleep 0); exit 7'"
        );
        let run =
            m.command("/usr/bin/perl").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let ran = run.args(["-e", &set]).output();
        assert_eq!(ran.code(), Some(7), "{name}: {}", ran.text());
        assert!(!ran.text().contains("ksm_merge_any: yes"), "{name}: {}", ran.text());
    }
    let states: Vec<_> = m.records().into_iter().map(|r| r["state"].clone()).collect();
    assert_eq!(states, vec![serde_json::json!("closed"); KEPT_BY_EXEC.len()]);
    assert!(sessions().is_empty());
}

/// Without the instruction that reads clocks the loader may end before our first line; else all goes as ever. Never in between.
#[test]
#[needs(root, "perl")]
fn rule_7_a_caller_without_clocks_gets_a_whole_session_or_none() {
    let m = site();
    let set = "syscall(157, 26, 2, 0, 0, 0); exec '/usr/sbin/glexec', '/bin/sh', '-c', 'exit 7'";
    let run =
        m.command("/usr/bin/perl").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let ran = run.args(["-e", set]).output();
    let whole = ran.code() == Some(7) && m.records().iter().all(|r| r["state"] == "closed");
    let none = ran.signal() == Some(11) && m.records().is_empty();
    assert!(whole || none, "{:?} {:?} {:?}", ran.code(), ran.signal(), m.records());
    assert!(sessions().is_empty());
    sh(&m, "exit 0").output().ok();
}

/// Securebits need a caller with rights of its own, such as a batch system's daemon that became the pilot. One that keeps
/// capabilities across a change of ids would leave them to the payload.
#[test]
#[needs(root, "setpriv")]
fn rule_7_securebits_leave_the_payload_no_capability_or_nothing_runs() {
    let m = site();
    let (uid, gid) = (m.uid("pilot").to_string(), m.account("pilot").gid.to_string());
    let ask = "grep -h ^Cap /proc/self/status | grep -v CapBnd | cut -f2 | sort -u; setpriv --dump | grep -i securebits";
    for (bits, goes) in [
        ("+no_setuid_fixup", true),
        ("+no_setuid_fixup,+no_setuid_fixup_locked", false),
        ("+noroot,+noroot_locked", false),
    ] {
        let run = m.command("/usr/bin/setpriv").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
        let become_pilot = ["--reuid", &uid, "--regid", &gid, "--clear-groups", "--securebits", bits];
        let ran = run.args(become_pilot).args(["/usr/sbin/glexec", "/bin/sh", "-c", ask]).output();
        if goes {
            let said = ran.ok();
            assert_eq!(said.lines().next(), Some("0000000000000000"), "{bits}: {said}");
            assert!(said.ends_with("Securebits: [none]"), "{bits}: {said}");
        } else {
            ran.refused(202, &[]);
            assert!(!ran.text().contains("00000000"), "{bits}: {}", ran.text());
        }
    }
}

#[test]
#[needs(root, "perl")]
fn signals_above_31_are_passed_on_and_told() {
    let m = site();
    for (script, code) in [("kill -34 $$", 162), ("kill -64 $$", 192)] {
        sh(&m, script).output().exits(code);
    }
    let record = &m.records()[0];
    assert_eq!((&record["state"], &record["exit"]["signal"]), (&"closed".into(), &34.into()), "{record}");
    let (running, payload, _) = waiting(&m);
    m.command("/bin/kill")
        .as_user("pilot")
        .args(["-s", "36", "--", &running.pid().to_string()])
        .output()
        .ok();
    running.end_within(LIMIT).exits(128 + 36);
    wait_gone(payload);
}

#[test]
#[needs(root, "perl")]
fn the_caller_s_alarm_rings_for_the_payload() {
    let m = site();
    // setitimer(2): ITIMER_VIRTUAL and ITIMER_PROF, half a second of CPU time
    let timer = |which: u32| {
        format!("my $time = pack('q4', 0, 0, 0, 500000); syscall(38, {which}, $time, 0) == 0 or die $!")
    };
    let alarms = [
        ("alarm 2".into(), "sleep 600", 14),
        (timer(1), "while :; do :; done", 26),
        (timer(2), "while :; do :; done", 27),
    ];
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        for (set, payload, signal) in &alarms {
            let run = m
                .command("/usr/bin/perl")
                .as_user("pilot")
                .env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
            let script = format!("{set}; exec '/usr/sbin/glexec', '/bin/sh', '-c', 'exec 2>&1; {payload}'");
            let ran = run.args(["-e", &script]).output();
            let rang = ran.code() == Some(128 + signal) || ran.signal() == Some(*signal);
            assert!(rang, "linger = {linger}, {set}: {:?} {:?}", ran.code(), ran.signal());
        }
    }
}

/// What one session of an account tries on a process of another: signals, tracing, memory, descriptors, limits, priorities.
/// Numbers of calls are those of Linux on x86-64.
const ON_A_NEIGHBOUR: &str = r#"
my $pid = shift() + 0; sub told { print "$_[0] ", ($_[1] ? "yes" : "no"), "\n" }
told("signal", kill("USR1", $pid)); told("probe", kill(0, $pid));
my $queued = pack("i4 x112", 10, 0, -1, 0); told("queue", syscall(129, $pid, 10, $queued) == 0);
my $watched = syscall(434, $pid, 0); told("pidfd-signal", syscall(424, $watched, 12, 0, 0) == 0);
my $taken = syscall(438, $watched, 1, 0); told("pidfd-getfd", $taken >= 0);
told("program", defined(readlink("/proc/$pid/exe")));
told("memory", open(my $m, "+<", "/proc/$pid/mem"));
told("descriptors", defined(readlink("/proc/$pid/fd/0")));
my $there = "x" x 8; my $here = pack("PQ", $there, 8); my $remote = pack("QQ", 4096, 8);
syscall(310, $pid, $here, 1, $remote, 1, 0); told("vm-read", !$!{EPERM});
told("trace", syscall(101, 0x4206, $pid, 0, 0) == 0);
my $none = pack("QQ", 0, 0); told("limit", syscall(302, $pid, 4, $none, 0) == 0);
my $uid = $< + 0; told("nice", syscall(141, 0, $pid, 19) == 0); told("nice-all", syscall(141, 2, $uid, 19) == 0);
told("io", syscall(251, 1, $pid, 3 << 13) == 0); told("io-all", syscall(251, 3, $uid, 3 << 13) == 0);
my $zero = pack("i", 0); my $attributes = pack("LLQlLQQQ", 48, 3, 0, 19, 0, 0, 0, 0);
told("scheduler", syscall(144, $pid, 3, $zero) == 0); told("parameter", syscall(142, $pid, $zero) == 0);
told("attributes", syscall(314, $pid, $attributes, 0) == 0);
my $mask = "\1" . "\0" x 127; syscall(256, $pid, 64, $mask, $mask); told("pages", !($!{EPERM} || $!{ENOSYS}));
my $all = "\xff" x 128; told("affinity", syscall(203, $pid, 128, $all) == 0);
my $score; told("oom", open($score, ">", "/proc/$pid/oom_score_adj") && syswrite($score, "1000"));
told("own", kill(0, $$) && syscall(302, 0, 4, $none, 0) == 0 && syscall(141, 0, 0, 19) == 0 && syscall(251, 1, 0, 3 << 13) == 0);
"#;

/// What follows the uid alone and no filter can tell apart: open without a process namespace (docs/threat-model.md).
const OPEN: [&str; 2] = ["affinity", "oom"];

/// Without a wish of the site's they are processes of one uid, and the docs say so. With it the kernel says no to each.
#[test]
#[needs(root, "perl")]
fn sessions_of_one_account_are_kept_apart_where_the_site_wants_it() {
    let m = site();
    let file = "/home/alice/signals";
    let apart = "isolate = \"account\"\n";
    let before = fs::read_to_string(POLICY).expect("every machine has a policy");
    for (keys, reached, open) in
        [("", "yes", "yes"), (apart, "no", "yes"), (&format!("{apart}pid_namespace = true\n"), "no", "no")]
    {
        m.write(POLICY, "root", 0o644, format!("{before}\n[payload]\n{keys}"));
        let (running, ..) = waiting(&m);
        // In a namespace it calls itself something else.
        let of_alice = processes_with_uid(m.uid("alice"));
        let payload = of_alice.iter().find_map(|line| line.split(' ').next()?.parse::<i32>().ok());
        let payload = payload.expect("it waits");
        let run = call(&m, &m.proxy("Alice", "pilot"));
        let attack = run.args(["/usr/bin/perl", "-MErrno", "-e", ON_A_NEIGHBOUR, &payload.to_string()]);
        let said = attack.output().ok();
        // Yama (ptrace_scope) takes tracing away on some hosts, and all that needs the same right.
        let yama =
            fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|text| text.trim() != "0");
        for line in said.lines() {
            let (what, came) = line.split_once(' ').expect("two words");
            let traces =
                ["pidfd-getfd", "program", "memory", "descriptors", "vm-read", "trace"].contains(&what);
            let expected = match what {
                "own" => "yes",
                what if OPEN.contains(&what) => open,
                _ => reached,
            };
            // From a namespace the process has no number, and these say another error than that it is forbidden.
            let unknown = open == "no" && ["vm-read", "pages"].contains(&what);
            let known = !unknown && (reached == "no" || !(traces && yama || what == "pages"));
            assert!(came == expected || !known, "{keys:?}, {what}: {said}");
        }
        assert_eq!(said.lines().count(), 22, "{said}");
        assert!(lives(payload));
        stop_catcher(file);
        running.end_within(LIMIT).exits(7);
        let heard = fs::read_to_string(file).expect("it was ready");
        assert_eq!(heard.contains("USR1"), reached == "yes", "{heard}");
        for left in [file.to_owned(), format!("{file}.stop")] {
            fs::remove_file(left).expect("it was there");
        }
    }
    let record =
        m.records().into_iter().find(|r| r["isolation"] == serde_json::json!(["landlock", "seccomp"]));
    assert!(record.is_some(), "the record names the walls: {:?}", m.records());
}

#[test]
#[needs(root)]
fn the_session_s_id_comes_from_glexec_itself() {
    let m = site();
    let script = "exec 7>/home/pilot/session; GLEXEC_SESSION_FD=7 exec /usr/sbin/glexec /bin/sh -c 'echo $PILOT_SESSION; ls /proc/self/fd | wc -l'";
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let said = run.args(["-c", script]).output().ok();
    let told = eventually("the id", LIMIT, || {
        fs::read_to_string("/home/pilot/session").ok().filter(|t| t.ends_with('\n'))
    });
    assert_eq!(said.lines().next(), Some(told.trim()));
}

#[test]
#[needs(root)]
fn a_supervisor_that_root_killed_leaves_its_session_to_the_next_call() {
    let m = site();
    let (running, payload, _) = waiting(&m);
    kill_supervisors();
    running.end_within(LIMIT).exits(202);
    wait_gone(payload);
    sh(&m, "exit 0").output().ok();
    assert!(sessions().is_empty());
}
