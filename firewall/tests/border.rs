//! Packets through a border that `gridfw` keeps with real nftables, and what becomes of it when something ends in the
//! middle.
#![allow(clippy::unwrap_used, reason = "a failing step fails its test")]

#[path = "border/mod.rs"]
mod border;

use border::{Border, NODE, eventually, there};
use harness::needs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

const JOB: &str = "/sites/here/firewall/7";

/// Sends an ICMPv6 echo request: exit code 0 for an answer, 1 for a refusal or none.
const PING: &str = r#"
use Socket qw(:all); socket(my $s, AF_INET6, SOCK_RAW, 58) or die; my $to = pack_sockaddr_in6(0, inet_pton(AF_INET6, $ARGV[0]));
for (1 .. 20) { send($s, pack("CCnnn", 128, 0, 0, $$ & 0xffff, $_), 0, $to); my $r = ""; vec($r, fileno($s), 1) = 1;
while (select(my $x = $r, undef, undef, 0.5)) { recv($s, my $p, 2000, 0); my $t = ord $p; exit 0 if $t == 129; exit 1 if $t == 1; } } exit 1;"#;

/// Waits for one packet of GRE, and says when it is ready and what came.
const GRE_IN: &str = r#"
use Socket qw(:all); $| = 1; socket(my $s, AF_INET6, SOCK_RAW, 47) or die; print "ready\n";
alarm 60; recv($s, my $p, 2000, 0); print "got ", substr($p, -5), "\n";"#;
const GRE_OUT: &str = r#"
use Socket qw(:all); socket(my $s, AF_INET6, SOCK_RAW, 47) or die;
send($s, pack("nn", 0, 0x88be) . "hello", 0, pack_sockaddr_in6(0, inet_pton(AF_INET6, $ARGV[0]))) or print "refused\n";"#;

fn listen(border: &Border, port: u16) -> TcpListener {
    border.node.inside(move || TcpListener::bind(("::", port)).unwrap())
}

fn pings(border: &Border) -> bool {
    border.caller.command("perl").args(["-e", PING, NODE]).status().unwrap().success()
}

#[test]
#[needs(root, "nft", "ip", "perl", "conntrack")]
fn packets_pass_where_it_is_open_and_nowhere_else() {
    let border = Border::new();
    let (_in, _out) = (listen(&border, 8000), listen(&border, 8001));
    assert!(border.reaches(8000), "nothing is closed before there is a table");
    let gridfw = border.start();
    assert!(!border.reaches(8000) && !pings(&border));
    let (status, text) = gridfw.ask(
        "alice",
        "POST",
        "/stable/sites/here/firewall/7",
        r#"[{"addr": ["wn1"], "port": 8000, "proto": "tcp"}]"#,
    );
    assert!(
        status == 200 && text.ends_with(r#"[{"addr":["2001:db8:2::2"],"port":[8000],"proto":"tcp"}]"#),
        "{text}"
    );
    assert!(border.reaches(8000) && !border.reaches(8001));
    assert!(pings(&border), "ICMPv6 comes with an opening");
    gridfw.open(r#"{"addr": "wn1-ipv6", "port": "8001-8002", "src_addr": "2001:db8:7::/48"}"#);
    assert!(!border.reaches(8001), "from elsewhere only");
    gridfw.open(r#"{"addr": "wn1-ipv6", "port": "8000..8010", "src_addr": "2001:db8:1::/48"}"#);
    assert!(border.reaches(8001) && border.reaches(8000), "openings add up, and overlap");
    assert_eq!(gridfw.ask("alice", "DELETE", JOB, "").0, 200);
    assert!(!border.reaches(8000) && !border.reaches(8001) && !pings(&border));
}

#[test]
#[needs(root, "nft", "ip", "perl", "conntrack")]
fn udp_and_every_other_protocol() {
    let border = Border::new();
    let gridfw = border.start();
    let server = border.node.inside(|| UdpSocket::bind("[::]:9000").unwrap());
    server.set_read_timeout(Some(border::LIMIT)).unwrap();
    gridfw.open(&format!(r#"{{"addr": "{NODE}", "port": 9000}}"#));
    let client = border.caller.inside(|| UdpSocket::bind("[::]:0").unwrap());
    client.send_to(b"hello", (NODE, 9000)).unwrap();
    let mut text = [0; 16];
    assert_eq!(server.recv(&mut text).unwrap(), 5);
    gridfw.open(r#"{"addr": "wn1", "proto": "all"}"#);
    let mut receiver = border.node.command("perl");
    let mut receiver = receiver.args(["-e", GRE_IN]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(receiver.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(border.caller.command("perl").args(["-e", GRE_OUT, NODE]).status().unwrap().success());
    said.read_to_string(&mut line).unwrap();
    receiver.wait().unwrap();
    assert_eq!(line, "ready\ngot hello\n");
}

#[test]
#[needs(root, "nft", "ip", "conntrack")]
fn ipv4_is_opened_when_it_is_asked_for() {
    let border = Border::new();
    let _listener = listen(&border, 8000);
    let gridfw = border.start();
    let reaches = || {
        let to: SocketAddr = "203.0.113.2:8000".parse().unwrap();
        border.caller.inside(move || TcpStream::connect_timeout(&to, border::LIMIT).is_ok())
    };
    assert!(!reaches());
    let (status, text) =
        gridfw.ask("alice", "POST", JOB, r#"{"addr4": "wn1", "port": 8000, "proto": "tcp"}"#);
    assert!(status == 200 && text.contains(r#""addr":[],"addr4":["203.0.113.2"]"#), "{text}");
    assert!(reaches() && !border.reaches(8000));
}

#[test]
#[needs(root, "nft", "ip", "conntrack")]
fn connections_outlive_an_opening_unless_they_are_cut() {
    let border = Border::new();
    let gridfw = border.start();
    let listener = listen(&border, 8000);
    let opening = r#"{"addr": "wn1", "port": 8000, "proto": "tcp"}"#;
    gridfw.open(opening);
    let to: SocketAddr = format!("[{NODE}]:8000").parse().unwrap();
    let mut client = border.caller.inside(move || TcpStream::connect_timeout(&to, border::LIMIT).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(border::LIMIT)).unwrap();
    let mut one = [0];
    assert_eq!(gridfw.ask("alice", "DELETE", JOB, "").0, 200);
    client.write_all(b"a").unwrap();
    assert_eq!(server.read(&mut one).unwrap(), 1, "it stands, as with the original");
    gridfw.open(opening);
    assert_eq!(gridfw.ask("alice", "DELETE", &format!("{JOB}?flush=1"), "").0, 200);
    // Neither side takes it up again.
    let _ = client.write_all(b"b");
    let _ = server.write_all(b"c");
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    assert!(!matches!(server.read(&mut one), Ok(1)), "cut");
    assert!(
        !border.router.sh("conntrack -L -f ipv6 2>/dev/null").contains("dport=8000 "),
        "nothing of it is known"
    );
    let (status, text) = gridfw.ask("alice", "DELETE", &format!("{JOB}?flush=maybe"), "");
    assert!(status == 400 && text.contains("flush: write 1"), "{text}");
}

#[test]
#[needs(root, "nft", "ip")]
fn kill_in_the_middle_of_a_transaction_loses_nothing_and_keeps_nothing() {
    let border = Border::new();
    let gridfw = border.start();
    gridfw.open(r#"{"addr": "wn1", "port": 22, "proto": "tcp"}"#);
    let (began, go) = (border.path("began"), border.path("go"));
    border.program(
        "nft",
        &format!("case $1 in -f) touch {}; while [ ! -e {} ]; do sleep 0.1; done;; esac; exec /usr/sbin/nft \"$@\"", began.display(), go.display()),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            gridfw.ask("alice", "POST", JOB, r#"{"addr": "wn1", "port": "8000..8010", "proto": "tcp"}"#)
        });
        eventually("the transaction has begun", || there(&began));
        gridfw.signal("KILL");
    });
    gridfw.kill();
    std::fs::write(&go, "").unwrap();
    let gridfw = border.start();
    assert!(border.set("port6").contains(". tcp . 22") && border.set("ports6").contains(". tcp . 8000-8010"));
    let (_, text) = gridfw.ask("alice", "GET", JOB, "");
    assert!(text.contains("[22]") && text.contains("8000..8010"), "{text}");
    // The job ends while nobody is there.
    gridfw.kill();
    border.jobs("8|bob|RUNNING|OK|2|wn2\n");
    let gridfw = border.start();
    assert!(!border.set("port6").contains("elements") && !border.set("icmp6").contains("elements"));
    assert_eq!(gridfw.ask("alice", "GET", JOB, "").0, 404);
    let trail = border.command().args(["--audit", "7"]).output().unwrap();
    let trail = String::from_utf8_lossy(&trail.stdout).into_owned();
    let lines: Vec<&str> = trail.lines().collect();
    assert_eq!(lines.len(), 3, "{trail}");
    assert!(
        lines[0].contains(r#""what":"end""#) && lines[0].contains(r#""why":"the job is over""#),
        "{trail}"
    );
    assert!(lines[2].contains(r#""who":"alice""#), "{trail}");
}

#[test]
#[needs(root, "nft", "ip")]
fn nft_that_fails_is_tried_again_and_half_a_transaction_is_mended() {
    let border = Border::new();
    let gridfw = border.start();
    let real = "/usr/sbin/nft";
    // The first line of a change is done, the rest is not, and nothing else works either.
    border.program(
        "nft",
        &format!("case $1 in -f) head -1 | {real} -f -; echo broken >&2; exit 1;; esac; exec {real} \"$@\""),
    );
    let (status, text) = gridfw.ask("alice", "POST", JOB, r#"{"addr": "wn1", "port": 22, "proto": "tcp"}"#);
    assert!(status == 202 && text.contains("warning: 199 gridfw"), "{text}");
    assert_eq!(gridfw.ask("alice", "GET", JOB, "").0, 202);
    std::fs::remove_file(border.path("bin/nft")).unwrap();
    gridfw.signal("HUP");
    eventually("the firewall has caught up", || gridfw.ask("alice", "GET", JOB, "").0 == 200);
    assert!(border.set("port6").contains(". tcp . 22"));
    // Somebody else's flush is noticed, too.
    border.router.sh("nft flush ruleset");
    gridfw.signal("HUP");
    eventually("the table is back", || border.router.sh("nft list ruleset").contains(". tcp . 22"));
}

#[test]
#[needs(root, "nft", "ip")]
fn requests_at_once_all_arrive() {
    let border = Border::new();
    let gridfw = border.start();
    std::thread::scope(|scope| {
        for port in 0..8 {
            let gridfw = &gridfw;
            scope.spawn(move || {
                gridfw.open(&format!(r#"{{"addr": "wn1", "port": {}, "proto": "tcp"}}"#, 9000 + 2 * port))
            });
        }
    });
    let set = border.set("port6");
    (0..8).for_each(|port| assert!(set.contains(&format!(". tcp . {}", 9000 + 2 * port)), "{set}"));
}

#[test]
#[needs(root, "nft", "ip")]
fn strangers_and_other_jobs_get_nothing() {
    let border = Border::new();
    let gridfw = border.start();
    let body = r#"{"addr": "wn1", "port": 22}"#;
    for (who, path, body, status, message) in [
        ("bob", JOB, body, 403, "not yours"),
        ("alice", "/sites/here/firewall/9", body, 404, "not there"),
        ("alice", JOB, r#"{"addr": "wn2", "port": 22}"#, 403, "no address of a node of job 7"),
        ("alice", JOB, r#"{"addr": "wn1"}"#, 400, "port: missing"),
        ("alice", "/sites/a%2Fb/firewall/7", body, 404, "is not here"),
        ("alice", "/sites/here/firewall/7%3B", body, 400, "no number of a job"),
        ("a b", JOB, body, 401, "no login"),
    ] {
        let (found, text) = gridfw.ask(who, "POST", path, body);
        assert!(
            found == status && text.contains(message) && text.contains("\"message\""),
            "{path} {body}: {text}"
        );
    }
    border.jobs("7|alice|PENDING|OK|2|\n");
    assert_eq!(gridfw.ask("alice", "POST", JOB, body).0, 409);
    border.program("squeue", "echo away >&2; exit 1");
    assert_eq!(gridfw.ask("alice", "POST", JOB, body).0, 503);
    assert!(!border.set("port6").contains("elements"));
    let (status, text) = gridfw.ask("alice", "GET", "/sites", "");
    assert!(status == 404 && text.contains("/sites/SITE/firewall/JOBID"), "{text}");
}

#[test]
#[needs(root, "nft", "ip")]
fn a_table_of_somebody_else_stays() {
    let border = Border::new();
    border.router.sh("nft add table inet gridfw; nft add chain inet gridfw theirs");
    let output = border.command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("is not ours"), "{said}");
    assert!(border.router.sh("nft list ruleset").contains("theirs"));
    let check = border.command().arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(
        check.status.code() == Some(1) && said.contains("error: nft: the table inet gridfw is not ours"),
        "{said}"
    );
    border.router.sh("nft delete table inet gridfw");
    let check = border.command().arg("--check").output().unwrap();
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stdout));
}

#[test]
#[needs(root, "nft", "ip")]
fn a_changed_policy_holds_from_a_signal_on_and_a_broken_one_changes_nothing() {
    let border = Border::new();
    border.config("[policy]\nports = \"8000..8010\"\n");
    let gridfw = border.start_with(&["--backend", "dry-run"]);
    let ask = |port: u16| {
        gridfw.ask("alice", "POST", JOB, &format!(r#"{{"addr": "wn1", "port": {port}, "proto": "tcp"}}"#)).0
    };
    assert_eq!((ask(8000), ask(9000)), (200, 403));
    border.config("[policy]\nports = \"9000\"\n");
    assert_eq!(ask(9000), 403, "not before the signal");
    gridfw.signal("HUP");
    eventually("the policy is read again", || ask(9000) == 200);
    assert_eq!(ask(8001), 403);
    let shown = gridfw.ask("alice", "GET", JOB, "").1;
    assert!(shown.contains("8000"), "what is open stays open: {shown}");
    border.config("[policy]\nportz = \"1\"\n");
    gridfw.signal("HUP");
    eventually("the fault is named", || border.log().contains("the configuration is left as it was"));
    assert!(border.log().contains("portz"), "{}", border.log());
    assert_eq!((ask(9000), ask(8001)), (200, 403));
}
