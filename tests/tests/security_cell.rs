//! The cell of glexec's children: each wall by itself, against a program that tries what an intruder would try; and the
//! real children in it, at work.

#![allow(clippy::unwrap_used, reason = "a test that cannot prepare itself fails")]

use end_to_end::contract::seen_inside;
use end_to_end::security::processes_with_uid;
use harness::{Machine, Run, free_port, need, needs};
use helper::{MapReply, MapRequest, VerifyRequest};
use identity::{Dn, Mapping, VerifiedIdentity};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

const INTRUDER: &str = env!("CARGO_BIN_EXE_security-cell");

/// A machine with something to reach: files inside and outside of the view, listeners, another process.
struct Prison {
    m: Machine,
    inside: TcpListener,
    outside: TcpListener,
    name: String,
    _abstract: UnixListener,
    victim: Child,
}

impl Prison {
    fn new() -> Self {
        let m = Machine::builder().pilot("pilot").build();
        for file in ["/srv/in/f", "/srv/out/f"] {
            m.write(file, "root", 0o644, "x");
        }
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let name = format!("pilotage-cell-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let victim = Command::new("/bin/sleep").arg("300").spawn().unwrap();
        let (inside, outside) = (listen(), listen());
        Self { m, inside, outside, name, _abstract: UnixListener::bind_addr(&address).unwrap(), victim }
    }

    /// What the intruder reports. It runs as root, so that no right of an account is what stops it.
    fn answer(&self, walls: &str, act: &str, argument: &str) -> String {
        let argument = match argument {
            "PID" => self.victim.id().to_string(),
            "NAME" => self.name.clone(),
            "IN" => self.inside.local_addr().unwrap().port().to_string(),
            "OUT" => self.outside.local_addr().unwrap().port().to_string(),
            other => other.to_owned(),
        };
        let port = self.inside.local_addr().unwrap().port().to_string();
        let run = self.m.command(&seen_inside(INTRUDER)).args([walls, "/srv/in", &port, act, &argument]);
        run.output().ok()
    }

    /// Refused behind these walls, and not without them.
    fn refuses(&self, walls: &str, act: &str, argument: &str) {
        assert_eq!(self.answer("none", act, argument), "done", "{act} {argument} without walls");
        if act == "create" {
            fs::remove_file(argument).expect("it was just made");
        }
        let answer = self.answer(walls, act, argument);
        let refusal = ["refused EPERM", "refused EACCES"].contains(&answer.as_str());
        assert!(refusal, "{act} {argument} behind {walls}: {answer}");
    }

    fn allows(&self, walls: &str, act: &str, argument: &str) {
        assert_eq!(self.answer(walls, act, argument), "done", "{act} {argument} behind {walls}");
    }
}

impl Drop for Prison {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

/// What neither child may do, by its filter alone.
const NEITHER: [(&str, &str); 28] = [
    ("write", "/srv/out/f"),
    ("append", "/srv/out/f"),
    ("create", "/srv/out/new"),
    ("truncate", "/srv/out/f"),
    ("mode", "/srv/out/f"),
    ("memory-file", "x"),
    ("code", ""),
    ("fork", ""),
    ("spawn", "/bin/true"),
    ("signal", "PID"),
    ("thread-signal", "PID"),
    ("trace", "PID"),
    ("limit-of-another", "PID"),
    ("process-handle", "PID"),
    ("change-user", ""),
    ("namespace", ""),
    ("mount", "/srv/out"),
    ("key", ""),
    ("local-socket", ""),
    ("local-pair", ""),
    ("raw-socket", ""),
    ("packet-socket", ""),
    ("audit-socket", ""),
    ("take-a-port", ""),
    ("take-a-port-6", ""),
    ("listen", ""),
    ("packet-filter", ""),
    ("abstract", "NAME"),
];

#[test]
#[needs(root)]
fn filters_leave_nothing_but_reading_and_one_conversation() {
    let prison = Prison::new();
    for walls in ["reading", "conversation"] {
        NEITHER.iter().for_each(|(act, argument)| prison.refuses(walls, act, argument));
        prison.allows(walls, "read", "/srv/in/f");
        // Without walls this program becomes another one, and says nothing.
        assert_eq!(prison.answer("none", "execute", "/bin/true"), "");
        assert_eq!(prison.answer(walls, "execute", "/bin/true"), "refused EPERM");
        fs::write("/srv/out/gone", "").unwrap();
        assert_eq!(prison.answer(walls, "remove", "/srv/out/gone"), "refused EPERM");
        assert_eq!(prison.answer("none", "remove", "/srv/out/gone"), "done");
    }
    for (act, argument) in [("internet", ""), ("thread", ""), ("connect", "IN")] {
        prison.refuses("reading", act, argument);
        prison.allows("conversation", act, argument);
    }
    // A connection that opens with its first bytes is not seen by every Landlock.
    prison.refuses("conversation", "connect-with-data", "OUT");
}

/// The one with TCP ports and signals.
fn landlock() -> bool {
    need::that(has_landlock(), "this kernel has no Landlock with TCP ports and signals")
}

#[test]
#[needs(root, self::landlock)]
fn the_view_is_one_directory_and_one_port() {
    let prison = Prison::new();
    for (act, argument) in [
        ("read", "/srv/out/f"),
        ("list", "/srv/out"),
        ("read", "/etc/shadow"),
        ("write", "/srv/in/f"),
        ("create", "/srv/in/new"),
        ("truncate", "/srv/in/f"),
        ("spawn", "/bin/true"),
        ("connect", "OUT"),
        ("take-a-port", ""),
        ("signal", "PID"),
        ("abstract", "NAME"),
        ("mount", "/srv/in"),
    ] {
        prison.refuses("view", act, argument);
    }
    for (act, argument) in [("read", "/srv/in/f"), ("list", "/srv/in"), ("connect", "IN"), ("thread", "")] {
        prison.allows("view", act, argument);
    }
}

/// Its latest part that is used: signals, which here do no more than continue this process.
fn has_landlock() -> bool {
    let own = std::process::id().to_string();
    let args = ["view", "/srv", "1", "signal", &own];
    let said = Command::new(seen_inside(INTRUDER)).args(args).output().expect("the intruder starts");
    said.stdout.starts_with(b"refused")
}

/// A site that asks only its mapping service, at this name and port.
fn site(host: &str, port: u16, timeout: &str) -> Machine {
    let table = Machine::gums_table(port).replace("localhost", host);
    let table = table.replace("30s", timeout);
    let builder = Machine::builder().pilot("pilot").service("mapping").account("alice");
    let m = builder.mapping(&["gums"]).policy_add(&table).build();
    m.edit_policy(|p| p.replace("[mapping]", "[mapping]\ncache_ttl = \"0s\""));
    m.pki();
    m
}

fn id(m: &Machine, proxy: &str) -> Run {
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy).args(["/usr/bin/id", "-un"])
}

/// The status of each thread of the children that are at work, once there is one.
fn statuses_of_children(uid: u32) -> Vec<String> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let found = processes_with_uid(uid);
        let pids = found.iter().filter(|p| p.ends_with("glexec-map")).filter_map(|p| p.split(' ').next());
        let tasks = pids.filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
        let statuses: Vec<_> = tasks
            .flat_map(|t| t.flatten().filter_map(|t| fs::read_to_string(t.path().join("status")).ok()))
            .collect();
        // The main thread, the one that asks, and at times the one that looks up the name.
        if statuses.len() > 1 {
            return statuses;
        }
        assert!(Instant::now() < end, "no mapper with threads among {found:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[needs(root)]
fn every_thread_of_the_mapper_is_behind_the_walls() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let m = site("localhost", silent.local_addr().unwrap().port(), "3s");
    let mut call = id(&m, &m.proxy("Alice", "pilot")).spawn();
    let statuses = statuses_of_children(m.uid("glexec"));
    for status in &statuses {
        for line in
            ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"]
        {
            assert!(status.contains(line), "{line} not in {status}");
        }
    }
    assert!(call.is_running());
    call.end_within(Duration::from_secs(60)).refused(203, &["mapping service unavailable", "no answer"]);
}

/// Waits for a child that was started by hand and has nothing to read yet.
fn status_before_the_first_byte(m: &Machine, program: &str) -> String {
    let mut run = m.command(program).as_user("glexec");
    run.raw().stdin(Stdio::piped());
    let mut child = run.start();
    let end = Instant::now() + Duration::from_secs(20);
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        if status.contains("Seccomp:\t2") || Instant::now() > end {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    status
}

#[test]
#[needs(root)]
fn both_children_are_behind_the_walls_before_the_first_byte() {
    let m = site("localhost", 1, "3s");
    for program in ["glexec-verify", "glexec-map"] {
        let status = status_before_the_first_byte(&m, &format!("/usr/libexec/pilotage/{program}"));
        for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{program}: {line} not in {status}");
        }
    }
}

/// One process of a trace, by a word of its execveat.
fn traced(m: &Machine, program: &str) -> (Vec<String>, Vec<String>) {
    fs::create_dir("/tmp/trace").unwrap();
    let run = m.command("/usr/bin/strace").env("GLEXEC_CLIENT_CERT", m.proxy("Alice", "pilot"));
    let run =
        run.args(["-f", "-s", "64", "-o", "/tmp/trace/t", "-u", "pilot", "/usr/sbin/glexec", "/bin/true"]);
    run.output().refused(203, &["refused"]);
    let trace = fs::read_to_string("/tmp/trace/t").unwrap();
    let started = |l: &&str| l.contains("execveat(") && l.contains(program);
    let pid = trace.lines().find(started).expect("it was started").split(' ').next().unwrap().to_owned();
    let own = trace.lines().filter_map(|l| l.strip_prefix(&pid)).map(|l| l.trim_start().to_owned());
    (own.collect(), trace.lines().map(str::to_owned).collect())
}

#[test]
#[needs(root, "strace")]
fn the_verifier_narrows_its_view_before_it_parses() {
    let m = site("localhost", free_port(), "3s");
    let (own, _) = traced(&m, "glexec-verify");
    let at = |word: &str| own.iter().position(|l| l.contains(word)).unwrap_or_else(|| panic!("no {word}"));
    let filtered = at("seccomp(SECCOMP_SET_MODE_FILTER");
    let trusted = at("/etc/grid-security/certificates/");
    assert!(filtered < at("read(0, ") && at("read(0, ") < trusted);
    if has_landlock() {
        let narrowed = at("landlock_restrict_self(");
        assert!(filtered < narrowed && narrowed < trusted && own[narrowed].ends_with("= 0"));
    }
    // Nothing else is opened, so nothing else needs to be in view.
    let strange = |l: &&String| l.starts_with("openat(") && !l.contains("O_PATH");
    let strange: Vec<_> =
        own[trusted..].iter().filter(strange).filter(|l| !l.contains("/etc/grid-security/")).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
#[needs(root)]
fn links_of_the_ca_directory_may_lead_to_where_packages_keep_cas() {
    let builder = Machine::builder().pilot("pilot").account("alice");
    let m = builder.policy_add("[trust]\nca_dir = \"/opt/cas\"\n").build();
    m.map("Alice", "alice");
    let proxy = m.proxy("Alice", "pilot");
    let move_to = |place: &str| {
        for dir in ["/opt/cas", place] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir_all(dir).unwrap();
        }
        for entry in fs::read_dir("/etc/grid-security/certificates").unwrap().flatten() {
            let (name, kept) = (entry.file_name(), std::path::Path::new(place).join(entry.file_name()));
            fs::copy(entry.path(), &kept).unwrap();
            std::os::unix::fs::symlink(kept, std::path::Path::new("/opt/cas").join(name)).unwrap();
        }
    };
    move_to("/usr/share/cas");
    assert_eq!(id(&m, &proxy).output().ok(), "alice");
    move_to("/srv/cas");
    if has_landlock() {
        id(&m, &proxy).output().refused(202, &["/opt/cas/", "/srv/cas/", "keep it below this directory"]);
    }
}

#[test]
#[needs(root, "strace")]
fn the_mapper_narrows_its_view_before_it_speaks() {
    let m = site("localhost", free_port(), "3s");
    let (own, trace) = traced(&m, "glexec-map");
    let at = |word: &str| own.iter().position(|l| l.starts_with(word)).unwrap_or_else(|| panic!("no {word}"));
    let steps = ["seccomp(SECCOMP_SET_MODE_FILTER", "read(0, ", "landlock_create_ruleset(", "clone"];
    let places = steps.map(at);
    assert!(places.is_sorted(), "{steps:?} happen at {places:?}");
    assert!(own[places[0]].ends_with("= 0"));
    let network = trace.iter().position(|l| l.contains("AF_INET")).expect("it tries to connect");
    if has_landlock() {
        let narrowed = trace.iter().position(|l| l.contains("landlock_restrict_self(") && l.ends_with("= 0"));
        assert!(narrowed.expect("it narrows its view") < network);
    }
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").expect("proc is mounted").trim().to_owned()
}

/// An address for a name server of our own: nobody else of this host has it, nor another test.
fn own_address(test: u8) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 70 + test, high, low.clamp(1, 254))
}

fn ask_names_at(m: &Machine, address: Ipv4Addr) {
    m.write("/etc/hosts", "root", 0o644, "127.0.0.1 localhost\n");
    m.write("/etc/nsswitch.conf", "root", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n");
    let conf = format!("nameserver {address}\noptions timeout:1 attempts:1\n");
    m.write("/etc/resolv.conf", "root", 0o644, conf);
}

/// The answer to a question for an address of IPv4; nothing of others. `cut` sends the asker to TCP.
fn dns_answer(question: &[u8], cut: bool) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|b| *b == 0).expect("a name") + 5;
    let is_a = question[end - 4..end - 2] == [0, 1];
    let count = u8::from(is_a && !cut);
    let flags = [0x81 | if cut { 2 } else { 0 }, 0x80];
    let header = [&question[..2], &flags, &[0, 1, 0, count, 0, 0, 0, 0]].concat();
    let record: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1];
    let answers = if count == 1 { record } else { &[] };
    [&header, &question[12..end], answers].concat()
}

/// Answers over TCP only, each datagram with "too long". Ends with the test's process.
fn name_server(address: Ipv4Addr) {
    let udp = UdpSocket::bind((address, 53)).expect("the loopback is wide");
    let tcp = TcpListener::bind((address, 53)).expect("the loopback is wide");
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((n, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&dns_answer(&buffer[..n], true), from);
        }
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                if stream.read_exact(&mut question).is_err() {
                    break;
                }
                let answer = dns_answer(&question, false);
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                let _ = stream.write_all(&[&length, &answer[..]].concat());
            }
        }
    });
}

#[test]
#[needs(root)]
fn names_come_from_files_and_from_name_servers() {
    let port = free_port();
    let m = site(&host_name(), port, "10s");
    let config = format!("[users]\n{:?} = \"alice\"\n", m.dn("Alice"));
    let _server = m.mapping_server(port, &config).expect("the mapping service starts");
    let proxy = m.proxy("Alice", "pilot");
    // Nobody listens at the first address; choosing asks netlink for this host's own.
    let both = format!("127.0.0.1 localhost\n::1 {0}\n127.0.0.1 {0}\n", host_name());
    m.write("/etc/hosts", "root", 0o644, both);
    assert_eq!(id(&m, &proxy).output().ok(), "alice", "by /etc/hosts");
    ask_names_at(&m, own_address(1));
    let ran = id(&m, &proxy).output();
    ran.refused(203, &["mapping service unavailable", &host_name(), "name"]);
    name_server(own_address(1));
    assert_eq!(id(&m, &proxy).output().ok(), "alice", "by a name server, over TCP in the end");
    // Where the file is kept elsewhere, as by systemd-resolved.
    m.write("/run/names/resolv.conf", "root", 0o644, fs::read("/etc/resolv.conf").unwrap());
    fs::remove_file("/etc/resolv.conf").unwrap();
    std::os::unix::fs::symlink("/run/names/resolv.conf", "/etc/resolv.conf").unwrap();
    assert_eq!(id(&m, &proxy).output().ok(), "alice", "by a linked resolv.conf");
}

#[test]
#[needs(root)]
fn a_dead_name_server_is_a_clear_refusal_in_time() {
    let m = site(&host_name(), free_port(), "3s");
    let address = own_address(2);
    let _deaf = UdpSocket::bind((address, 53)).expect("the loopback is wide");
    ask_names_at(&m, address);
    let began = Instant::now();
    let ran = id(&m, &m.proxy("Alice", "pilot")).output();
    ran.refused(203, &["mapping service unavailable", &host_name()]);
    assert!(!ran.errors().contains("ended badly"), "{}", ran.errors());
    assert!(began.elapsed() < Duration::from_secs(15), "took {:?}", began.elapsed());
}

#[test]
#[needs(root)]
fn the_verifier_works_on_kernels_without_landlock() {
    let m = site("localhost", 1, "3s");
    m.write("/opt/wrapper", "root", 0o755, fs::read(seen_inside(INTRUDER)).unwrap());
    let request = VerifyRequest {
        credential: fs::read(m.proxy("Alice", "pilot")).unwrap(),
        ca_dir: "/etc/grid-security/certificates".into(),
        voms_dir: "/etc/grid-security/vomsdir".into(),
        require_crl: false,
        max_proxy_lifetime: Duration::from_secs(7 * 86400),
        allow_limited: true,
        rules: identity::ChainRules::default(),
        require_key: true,
        now: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
    };
    for errno in [libc::ENOSYS, libc::EOPNOTSUPP, libc::EPERM] {
        let program = "/usr/libexec/pilotage/glexec-verify";
        let run = m.command("/opt/wrapper").as_user("glexec");
        let ran =
            run.args(["without-landlock", &errno.to_string(), program]).input(request.encode()).output();
        ran.exits(0);
        let verdict = helper::decode_verify_reply(&ran.stdout).unwrap();
        assert_eq!(verdict.unwrap().subject.as_str(), m.dn("Alice"), "{errno}");
    }
}

/// What glexec would ask about Alice.
fn question(m: &Machine, port: u16) -> MapRequest {
    let pki = m.pki();
    let dn = |text: &str| Dn::parse(text).unwrap();
    MapRequest {
        service: identity::Service::Gums,
        endpoints: vec![format!("https://localhost:{port}/")],
        host_credential: [fs::read(&pki.host_cert).unwrap(), fs::read(&pki.host_key).unwrap()].concat(),
        ca_dir: "/etc/grid-security/certificates".into(),
        timeout: Duration::from_secs(10),
        host: host_name(),
        identity: VerifiedIdentity {
            subject: dn(&m.dn("Alice")),
            issuer: dn(&pki.ca_dn()),
            serial: "01".into(),
            not_after: 0,
            limited: false,
            digest: [0; 32],
            voms: None,
            chain_pem: Vec::new(),
        },
    }
}

#[test]
#[needs(root)]
fn the_mapper_works_on_kernels_without_landlock() {
    let port = free_port();
    let m = site("localhost", port, "10s");
    let config = format!("[users]\n{:?} = \"alice\"\n", m.dn("Alice"));
    let _server = m.mapping_server(port, &config).expect("the mapping service starts");
    m.write("/opt/wrapper", "root", 0o755, fs::read(seen_inside(INTRUDER)).unwrap());
    let program = "/usr/libexec/pilotage/glexec-map";
    let on_a_kernel_that_says = |errno: i32| {
        m.command("/opt/wrapper").as_user("glexec").args(["without-landlock", &errno.to_string(), program])
    };
    for errno in [libc::ENOSYS, libc::EOPNOTSUPP, libc::EPERM] {
        let ran = on_a_kernel_that_says(errno).input(question(&m, port).encode()).output();
        ran.exits(0);
        let alice = Mapping { account: Some("alice".into()), ..Mapping::default() };
        assert_eq!(MapReply::decode(&ran.stdout), Ok(MapReply::Mapped(alice)), "{errno}");
    }
}
