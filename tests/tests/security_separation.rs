//! Privilege separation, proven: who opens, reads and parses what, what the children are given, and that a child that lies,
//! breaks or hangs gets a caller nowhere.

use end_to_end::security::{processes_with_uid, replace_children};
use harness::{Machine, Ran, Run, needs};
use std::fs;
use std::time::{Duration, Instant};

const CHILD: &str = env!("CARGO_BIN_EXE_security-child");

/// One process of a trace: its system calls, one a line.
struct Traced {
    calls: Vec<String>,
}

impl Traced {
    fn find(&self, word: &str) -> Option<usize> {
        self.calls.iter().position(|l| l.contains(word))
    }

    /// Where the call is; every process that is asked must have made it.
    fn at(&self, word: &str) -> usize {
        self.find(word).unwrap_or_else(|| panic!("no {word} in\n{}", self.short()))
    }

    fn short(&self) -> String {
        self.calls.iter().map(|l| l.chars().take(160).chain(['\n']).collect::<String>()).collect()
    }
}

/// The processes of one run: `glexec` itself, its verifier, the payload.
struct Trace {
    all: Vec<Traced>,
}

impl Trace {
    /// Runs `glexec` under strace. Root traces, so the setuid bit counts although the pilot is who calls.
    fn of(m: &Machine, proxy: &str) -> Self {
        fs::create_dir("/tmp/trace").expect("it is new");
        let run = m.command("/usr/bin/strace").env("GLEXEC_CLIENT_CERT", proxy);
        let run = run.args(["-f", "-ff", "-s", "1000000", "-o", "/tmp/trace/t", "-u", "pilot"]);
        run.args(["/usr/sbin/glexec", "/bin/true"]).output().ok();
        let read = |e: fs::DirEntry| fs::read_to_string(e.path()).expect("strace wrote it");
        let calls = |text: String| Traced { calls: text.lines().map(str::to_owned).collect() };
        Self {
            all: fs::read_dir("/tmp/trace").expect("it is there").flatten().map(read).map(calls).collect(),
        }
    }

    fn with(&self, word: &str) -> &Traced {
        self.all.iter().find(|t| t.find(word).is_some()).unwrap_or_else(|| panic!("nobody calls {word}"))
    }
}

/// The value that a traced call returned.
fn returned(call: &str) -> i64 {
    let value = call.rsplit_once(" = ").map(|(_, v)| v.split(' ').next().unwrap_or(v));
    value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no value: {call}"))
}

fn traced_site() -> (Machine, String, String) {
    let m = Machine::builder().pilot("pilot").account("alice").build();
    m.map("Alice", "alice");
    let proxy = m.proxy("Alice", "pilot");
    // A line from the middle of the private key: whoever handles the bytes shows it.
    let text = fs::read_to_string(&proxy).expect("it was just made");
    let key = text
        .split("PRIVATE KEY-----")
        .nth(1)
        .and_then(|k| k.lines().nth(3))
        .expect("a proxy has a key")
        .to_owned();
    (m, proxy, key)
}

#[test]
#[needs(root, "strace")]
fn root_reads_the_proxy_once_and_hands_it_on_unparsed() {
    let (m, proxy, key) = traced_site();
    let trace = Trace::of(&m, &proxy);
    let glexec = trace.with("execve(\"/usr/sbin/glexec\"");
    let naming: Vec<_> =
        trace.all.iter().flat_map(|t| &t.calls).filter(|l| l.contains(&format!("\"{proxy}\""))).collect();
    assert_eq!(naming.len(), 1, "one call names the proxy: {naming:?}");
    let open = glexec.at(&proxy);
    let call = &glexec.calls[open];
    assert!(
        call.starts_with("openat(") && call.contains("O_NOFOLLOW") && call.contains("O_RDONLY"),
        "{call}"
    );
    let rights = glexec.calls[..open].iter().rfind(|l| l.starts_with("setresuid(")).unwrap();
    assert!(rights.contains(&format!("setresuid(-1, {}, -1)", m.uid("pilot"))), "caller's rights: {rights}");
    let fd = returned(call);
    let until = open
        + 1
        + glexec.calls[open + 1..].iter().position(|l| l.starts_with(&format!("close({fd})"))).unwrap();
    let during = &glexec.calls[open + 1..until];
    let read: i64 =
        during.iter().filter(|l| l.starts_with(&format!("read({fd}, "))).map(|l| returned(l)).sum();
    assert_eq!(u64::try_from(read).unwrap(), fs::metadata(&proxy).unwrap().len(), "every byte is read once");
    assert!(!during.iter().any(|l| l.contains("seek(") || l.starts_with("pread")), "{during:?}");
    // What root does with the bytes: it writes them to a pipe, and nothing else.
    let shown: Vec<_> = glexec.calls.iter().filter(|l| l.contains(&key)).collect();
    let reads = shown.iter().filter(|l| l.starts_with("read(")).count();
    assert!(reads <= 1, "the bytes come in once");
    for call in shown.iter().filter(|l| !l.starts_with("read(")) {
        let to = call.strip_prefix("write(").and_then(|l| l.split(',').next()).unwrap_or("?");
        let pipe = glexec.calls.iter().any(|l| l.starts_with("pipe2([") && l.contains(&format!(", {to}]")));
        assert!(pipe, "written to something that is no pipe: {:.60}", call);
    }
}

#[test]
#[needs(root, "strace")]
fn root_neither_talks_to_the_network_nor_reads_certificates() {
    let (m, proxy, _) = traced_site();
    let trace = Trace::of(&m, &proxy);
    let glexec = trace.with("execve(\"/usr/sbin/glexec\"");
    for word in ["AF_INET", "libcrypto", "libssl", "/etc/grid-security/certificates/", "hostkey.pem"] {
        assert_eq!(glexec.find(word), None, "{word}");
    }
    // Later ones are the name service's, as nsswitch.conf has it.
    let start = &glexec.calls[..glexec.at("close_range(")];
    let libraries = start.iter().filter(|l| l.starts_with("openat(") && l.contains(".so"));
    let known = ["ld.so.cache", "/libc.so.6", "/libgcc_s.so.1"];
    let strange: Vec<_> = libraries.filter(|l| !known.iter().any(|k| l.contains(k))).collect();
    assert!(strange.is_empty(), "the setuid program loads {strange:?}");
}

#[test]
#[needs(root, "strace")]
fn the_verifier_has_nothing_left_when_the_first_byte_arrives() {
    let (m, proxy, key) = traced_site();
    let trace = Trace::of(&m, &proxy);
    let verifier = trace.all.iter().find(|t| t.find("execveat(").is_some()).expect("a child was executed");
    let uid = m.uid("glexec");
    let steps = [
        "setgroups(0".to_owned(),
        format!("setresgid({uid}, {uid}, {uid})"),
        format!("setresuid({uid}, {uid}, {uid})"),
        "prctl(PR_SET_NO_NEW_PRIVS, 1".to_owned(),
        "execveat(".to_owned(),
        "prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE".to_owned(),
        "seccomp(SECCOMP_SET_MODE_FILTER".to_owned(),
        "read(0, ".to_owned(),
    ];
    let places: Vec<_> = steps.iter().map(|s| verifier.at(s)).collect();
    assert!(places.is_sorted(), "{steps:?} happen at {places:?}\n{}", verifier.short());
    assert!(verifier.calls[places[6]].ends_with("= 0"), "{:.80}", verifier.calls[places[6]]);
    let after = &verifier.calls[places[7]..];
    assert!(after.iter().any(|l| l.starts_with("read(0, ") && l.contains(&key)), "it does get the proxy");
    let writes_files = |l: &&String| {
        l.starts_with("openat(") && ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|f| l.contains(f))
    };
    assert_eq!(after.iter().find(writes_files), None);
    for call in ["socket(", "connect(", "clone", "fork", "execve", "ptrace(", "kill("] {
        assert!(!after.iter().any(|l| l.starts_with(call)), "{call} after the filter");
    }
}

/// A site whose children are the intruder's. Its credentials are plays, see the child's source.
fn taken_over() -> Machine {
    let gums = "[mapping.gums]\nendpoints = [\"https://localhost:1/gums/services/X\"]\ntimeout = \"1s\"\n";
    let builder = Machine::builder().pilot("pilot").service("stranger").account("alice").account("bob");
    let m = builder.mapping(&["gums"]).policy_add(gums).build();
    m.edit_policy(|p| p.replace("[mapping]", "[mapping]\ncache_ttl = \"0s\""));
    m.pki();
    replace_children(CHILD);
    m
}

fn play(m: &Machine, verify: &str, map: &str) -> Run {
    let credential = m.put_credential(format!("hostile {verify} {map}\n"), "pilot");
    m.glexec().env("GLEXEC_CLIENT_CERT", credential).args(["/usr/bin/id", "-u"])
}

/// What the child has seen of itself: it comes back as the reason of a refusal.
fn seen(m: &Machine, what: &str) -> String {
    let ran = play(m, what, "").env("GLEXEC_SECRET", "secret").env("LD_PRELOAD", "/x").output();
    let errors = ran.refused(201, &[]).errors();
    errors.trim_start_matches("glexec: ").trim_end().to_owned()
}

#[test]
#[needs(root)]
fn a_child_is_given_no_right_no_descriptor_and_no_word_of_the_caller() {
    let m = taken_over();
    play(&m, "good", "good").output().ok();
    let uid = m.uid("glexec");
    let status = seen(&m, "status");
    let none = "0000000000000000";
    let four = format!("{uid} {uid} {uid} {uid}");
    for line in [
        format!("Uid: {four}"),
        format!("Gid: {four}"),
        "Groups:;".into(),
        format!("CapInh: {none}"),
        format!("CapPrm: {none}"),
        format!("CapEff: {none}"),
        format!("CapBnd: {none}"),
        format!("CapAmb: {none}"),
        "NoNewPrivs: 1".into(),
    ] {
        assert!(status.contains(&line), "{line} not in {status}");
    }
    let limits = seen(&m, "limits");
    for limit in ["RLIMIT_CORE (0, 0)", "RLIMIT_FSIZE (0, 0)", "RLIMIT_NOFILE (64, 64)"] {
        assert!(limits.contains(limit), "{limit} not in {limits}");
    }
    for (limit, most) in [("RLIMIT_AS", 1 << 30), ("RLIMIT_CPU", 60)] {
        let value = limits.split(&format!("{limit} (")).nth(1).and_then(|l| l.split(',').next());
        let value: u64 = value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{limits}"));
        assert!(value <= most, "{limit} {value}");
    }
    let fds = seen(&m, "fds");
    let open: Vec<_> = fds.split("; ").map(|l| l.split(' ').collect::<Vec<_>>()).collect();
    let good = open.len() == 3
        && open[0][1].starts_with("pipe:")
        && open[1][1].starts_with("pipe:")
        && open[2] == ["2", "/dev/null"];
    assert!(good, "{fds}");
    assert_eq!(seen(&m, "place"), "/ 077 LANG=C PATH=/usr/bin:/bin");
}

/// Refused with the code and the words, in time, and without a payload.
fn stopped(ran: &Ran, took: Duration, code: i32, words: &[&str], longest: u64, row: &str) {
    assert_eq!(ran.code(), Some(code), "{row}: {}{}", ran.text(), ran.errors());
    assert_eq!(ran.text(), "", "{row}");
    assert_eq!(ran.errors().lines().count(), 1, "{row}: {}", ran.errors());
    for word in words {
        assert!(ran.errors().contains(word), "{row}: {word} not in {}", ran.errors());
    }
    assert!(took < Duration::from_secs(longest), "{row}: took {took:?}");
}

fn nobody_is_left(m: &Machine) {
    // Of the account itself, not counting what an earlier call of the same account might still run: there is none.
    assert_eq!(processes_with_uid(m.uid("glexec")), Vec::<String>::new(), "children stay behind");
}

/// Ways to break the conversation: name, words of the refusal, whether it lasts until the deadline.
const BROKEN: [(&str, &str, bool); 17] = [
    ("silent", "in time", true),
    ("slow", "in time", true),
    ("lingers", "in time", true),
    ("nothing", "without a whole answer", false),
    ("truncated", "without a whole answer", false),
    ("header-only", "without a whole answer", false),
    ("oversized", "longer than the limit", false),
    ("endless", "", false),
    ("wrong-kind", "wrong kind", false),
    ("wrong-magic", "wrong magic", false),
    ("extra-bytes", "without a whole answer", false),
    ("unknown-field", "malformed", false),
    ("field-twice", "twice", false),
    ("exit-1", "ended badly", false),
    ("killed", "ended badly", false),
    ("filtered", "filter of system calls", false),
    ("control-character", "", false),
];

#[test]
#[needs(root)]
fn a_verifier_that_breaks_the_conversation_is_refused_in_time() {
    let m = taken_over();
    std::thread::scope(|s| {
        for (part, words, late) in BROKEN {
            let m = &m;
            s.spawn(move || {
                let run = play(m, part, "good");
                let began = Instant::now();
                let ran = run.output();
                // The deadline of a verdict is 20 s.
                let longest = if late { 30 } else { 15 };
                stopped(&ran, began.elapsed(), 202, &["glexec-verify", words], longest, part);
            });
        }
    });
    nobody_is_left(&m);
}

#[test]
#[needs(root)]
fn a_mapper_that_breaks_the_conversation_is_refused_in_time() {
    let m = taken_over();
    for (part, words, _) in BROKEN.into_iter().filter(|(part, ..)| *part != "control-character") {
        let run = play(&m, "good", part);
        let began = Instant::now();
        let ran = run.output();
        // Its deadline is the service's timeout of 1 s and 2 s more.
        stopped(&ran, began.elapsed(), 203, &["mapping service unavailable", "glexec-map", words], 8, part);
    }
    nobody_is_left(&m);
}

#[test]
#[needs(root)]
fn a_verifier_cannot_vouch_for_other_bytes_or_another_time() {
    let m = taken_over();
    for (part, code, words) in [("other-digest", 202, "other bytes"), ("expired", 201, "expired")] {
        let ran = play(&m, part, "good").output();
        stopped(&ran, Duration::ZERO, code, &[words], 1, part);
    }
}

/// What a mapper may claim, and the words by which root's own checks refuse it.
const LIES: [(&str, &str); 15] = [
    ("uid-0", "uid 0"),
    ("name-and-uid-0", "contradicts passwd"),
    ("uid-of-another", "contradicts passwd"),
    ("uid-4294967295", "not an account"),
    ("gid-0", "group 0"),
    ("gid-of-the-system", "group 42"),
    ("groups-0", "group 0"),
    ("groups-of-the-system", "group"),
    ("group-root", "group 0"),
    ("root", "uid 0"),
    ("daemon", "uid 1"),
    ("glexec", "mapped to"),
    ("pilot", "mapped to"),
    ("path-as-name", "mapped to"),
    ("nosuchaccount", "not an account"),
];

#[test]
#[needs(root)]
fn a_mapper_cannot_hand_out_what_root_withholds() {
    let m = taken_over();
    for (part, words) in LIES {
        let ran = play(&m, "good", part).output();
        stopped(&ran, Duration::ZERO, 203, &[words], 1, part);
    }
    play(&m, "good", "stranger").output().refused(203, &["mapped to"]);
    play(&m, "good", "empty-name").output().exits(203);
    play(&m, "good", "good").output().ok();
}

#[test]
#[needs(root)]
fn a_child_that_forks_leaves_nobody_behind() {
    let m = taken_over();
    for (verify, map) in [("forks", "good"), ("good", "forks")] {
        let _ = play(&m, verify, map).output();
        nobody_is_left(&m);
    }
    // While the payload runs its supervisor has no other child than the payload, not even one that has ended.
    let credential = m.put_credential("hostile forks forks\n", "pilot");
    let script = "for p in $(cat /proc/$PPID/task/$PPID/children); do \
                  [ \"$(cat /proc/$p/comm)\" = glexec-reaper ] || echo $p; done; echo $$";
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", credential).args(["/bin/sh", "-c", script]);
    let said = run.output().ok();
    let pids: Vec<_> = said.split_whitespace().collect();
    assert!(pids.len() == 2 && pids[0] == pids[1], "{said}");
}
