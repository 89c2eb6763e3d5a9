//! `[ports] enforce`: a payload's sockets stay inside its lease, whatever it tries.

use end_to_end::contract::{POLICY, call, eventually, set_conf, sh, site, written};
use end_to_end::security::{leaves, sessions, without_cgroups};
use harness::{Machine, Run, needs};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Functions for payloads: each prints what came of one attempt. Numbers of calls and options are those of Linux on x86-64.
const TRIES: &str = r#"
use strict; use Socket qw(:all); use Errno;
my ($LOW, $OTHER) = @ARGV; $| = 1;
sub say { print join(" ", @_), "\n" }
sub address { my ($ip, $port) = @_; my $v6 = $ip =~ /:/;
  return $v6 ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $ip)) : pack_sockaddr_in($port, inet_aton($ip)) }
sub made { my ($ip, $type, $protocol) = @_; socket(my $s, $ip =~ /:/ ? AF_INET6 : AF_INET, $type, $protocol) or return; return $s }
sub port { my $a = getsockname($_[0]); return (sockaddr_family($a) == AF_INET6 ? unpack_sockaddr_in6($a) : unpack_sockaddr_in($a))[0] }
sub leased { my $port = port($_[0]); return $port >= $LOW && $port <= $LOW + 4 ? "leased" : "port $port" }
sub tries { my ($name, $ip, $port, $type, $protocol, $prepare) = @_;
  my $s = made($ip, $type, $protocol // 0); if (!$s) { say($name, $!{EPERM} ? "EPERM" : "none"); return }
  $prepare->($s) if $prepare;
  if (bind($s, address($ip, $port))) { say($name, $ip =~ /127|::1$/ && $port ? "bound" : leased($s)) }
  else { say($name, $!{EPERM} ? "EPERM" : $!) }
  return $s }
"#;

fn policy_with(m: &Machine, lines: &str) {
    let text = fs::read_to_string(POLICY).expect("every machine has a policy");
    let text = text.replace("per_payload = 5\n", &format!("per_payload = 5\n{lines}\n"));
    m.write(POLICY, "root", 0o644, text);
}

/// The first five ports of the machine, as a lease, and one that is not in it.
fn lease(m: &Machine) -> (String, u16, u16) {
    let (low, _) = m.ports();
    (format!("{low}-{}", low + 4), low, low + 7)
}

fn perl(m: &Machine, script: &str) -> Run {
    let (leased, low, other) = lease(m);
    let run = call(m, &m.proxy("Alice", "pilot")).env("GLEXEC_PORTS", leased);
    run.args(["/usr/bin/perl", "-e", &format!("{TRIES}{script}"), &low.to_string(), &other.to_string()])
}

fn said(m: &Machine, script: &str) -> String {
    perl(m, script).output().ok()
}

#[track_caller]
fn expect(said: &str, lines: &[(&str, &str)]) {
    let told: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(told, lines, "{said}");
}

#[test]
#[needs(root, "perl")]
fn a_payload_binds_its_lease_and_nothing_else() {
    let m = site();
    let script = r#"
      for my $kind (["tcp", SOCK_STREAM], ["udp", SOCK_DGRAM]) { my ($name, $type) = @$kind;
        for my $ip ("0.0.0.0", "::") { my $v = $ip =~ /:/ ? 6 : 4;
          tries("$name$v-leased", $ip, $LOW, $type);
          tries("$name$v-last", $ip, $LOW + 4, $type);
          tries("$name$v-beyond", $ip, $LOW + 5, $type);
          tries("$name$v-below", $ip, $LOW - 1, $type);
          tries("$name$v-any", $ip, 0, $type);
        }
        tries("$name-mapped", "::ffff:0.0.0.0", $OTHER, $type);
        tries("$name-loopback4", "127.0.0.1", $OTHER, $type);
        tries("$name-loopback6", "::1", $OTHER, $type);
        tries("$name-looks-like-loopback", "::127.0.0.1", $OTHER, $type);
      }"#;
    let told = said(&m, script);
    let mut expected = Vec::new();
    for name in ["tcp", "udp"] {
        for v in ["4", "6"] {
            for (case, result) in [
                ("leased", "leased"),
                ("last", "leased"),
                ("beyond", "EPERM"),
                ("below", "EPERM"),
                ("any", "leased"),
            ] {
                expected.push((format!("{name}{v}-{case}"), result));
            }
        }
        expected.push((format!("{name}-mapped"), "EPERM"));
        expected.push((format!("{name}-loopback4"), "bound"));
        expected.push((format!("{name}-loopback6"), "bound"));
        expected.push((format!("{name}-looks-like-loopback"), "EPERM"));
    }
    let expected: Vec<_> = expected.iter().map(|(name, result)| (name.as_str(), *result)).collect();
    expect(&told, &expected);
    let record = &m.records()[0];
    assert_eq!(record["ports"]["range"], lease(&m).0.as_str(), "{record}");
    assert_eq!(record["ports"]["enforced_by"], "cgroup-bpf", "{record}");
    assert!(sessions().is_empty() && leaves(&m).is_empty());
}

/// As many sockets on port 0 as there are ports: each gets one of its own, and the next one none.
#[test]
#[needs(root, "perl")]
fn port_0_becomes_each_leased_port_in_turn() {
    let m = site();
    let script = r#"
      my %seen; my @kept;
      for (1 .. 5) { my $s = made("0.0.0.0", SOCK_STREAM, 0); bind($s, address("0.0.0.0", 0)) or die $!; listen($s, 1) or die $!;
        $seen{port($s)}++; push @kept, $s }
      say("different", scalar keys %seen);
      my $s = made("0.0.0.0", SOCK_STREAM, 0); say("sixth", bind($s, address("0.0.0.0", 0)) && listen($s, 1) ? port($s) : "none");"#;
    expect(&said(&m, script), &[("different", "5"), ("sixth", "none")]);
}

#[test]
#[needs(root, "perl", "unshare")]
fn no_way_leads_round_it() {
    let m = site();
    let script = r#"
      my $any = "0.0.0.0";
      # setsockopt: IP_FREEBIND, IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE, SO_REUSEADDR and SO_REUSEPORT
      tries("freebind", "192.0.2.1", $OTHER, SOCK_STREAM, 0, sub { setsockopt($_[0], 0, 15, 1) });
      tries("no-port", $any, 0, SOCK_STREAM, 0, sub { setsockopt($_[0], 0, 24, 1) });
      tries("port-range", $any, 0, SOCK_STREAM, 0, sub { setsockopt($_[0], 0, 51, pack("L", $OTHER << 16 | $OTHER)) });
      tries("reuse", $any, $OTHER, SOCK_DGRAM, 0, sub { setsockopt($_[0], SOL_SOCKET, SO_REUSEADDR, 1); setsockopt($_[0], SOL_SOCKET, 15, 1) });
      tries("mptcp", $any, $OTHER, SOCK_STREAM, 262);
      for my $p (["raw", SOCK_RAW, 6], ["raw-udp", SOCK_RAW, 17], ["sctp", SOCK_STREAM, 132], ["sctp-many", SOCK_SEQPACKET, 132],
                 ["dccp", 6, 33], ["udplite", SOCK_DGRAM, 136]) {
        my $s = made($any, $p->[1], $p->[2]); say($p->[0], $s ? "made" : "none") }
      say("packet", socket(my $packet, 17, SOCK_RAW, 0x0300) ? "made" : "none");
      # A socket that was bound may not be bound again by connecting it to nothing.
      my $again = tries("first", $any, $LOW, SOCK_DGRAM); connect($again, pack("S x14", 0)); say("again", bind($again, address($any, $OTHER)) ? "bound" : "none");
      my $child = fork // die; if (!$child) { syscall(112); my $grandchild = fork // die; if (!$grandchild) { tries("setsid", $any, $OTHER, SOCK_STREAM); exit } waitpid $grandchild, 0; exit } waitpid $child, 0;
      open(my $groups, "<", "/proc/self/cgroup"); my ($own) = grep { /^0::/ } <$groups>; my ($path) = $own =~ m{^0::(.*)/glexec-};
      for my $mount (glob("/sys/fs/cgroup/unified /sys/fs/cgroup")) { if (open(my $door, ">", "$mount$path/cgroup.procs")) { print $door $$; close $door } }
      tries("after-moving", $any, $OTHER, SOCK_STREAM);
      say("end", "reached");"#;
    let told = said(&m, script);
    expect(
        &told,
        &[
            ("freebind", "EPERM"),
            ("no-port", "leased"),
            ("port-range", "leased"),
            ("reuse", "EPERM"),
            ("mptcp", "EPERM"),
            ("raw", "none"),
            ("raw-udp", "none"),
            ("sctp", "none"),
            ("sctp-many", "none"),
            ("dccp", "none"),
            ("udplite", "none"),
            ("packet", "none"),
            ("first", "leased"),
            ("again", "none"),
            ("setsid", "EPERM"),
            ("after-moving", "EPERM"),
            ("end", "reached"),
        ],
    );
}

/// Root in a user namespace of its own has every capability there, and the cgroup's programs are asked all the same.
#[test]
#[needs(root, "perl", "unshare")]
fn namespaces_of_the_payload_s_own_change_nothing() {
    let m = site();
    let inner = r#"
      tries("tcp", "0.0.0.0", $OTHER, SOCK_STREAM); tries("udp", "::", $OTHER, SOCK_DGRAM); tries("leased", "0.0.0.0", $LOW, SOCK_STREAM);
      tries("privileged", "0.0.0.0", 80, SOCK_STREAM); say("raw", made("0.0.0.0", SOCK_RAW, 6) ? "made" : "none");"#;
    m.write("/opt/inner.pl", "root", 0o644, format!("{TRIES}{inner}"));
    let script = "for my $how (['--user', '--map-root-user'], ['--user', '--map-root-user', '--net'], ['--user', '--map-root-user', '--cgroup', '--pid', '--fork']) \
                  { system('/usr/bin/unshare', @$how, '/usr/bin/perl', '/opt/inner.pl', $LOW, $OTHER) == 0 or die qq(unshare: $?) }";
    let told = said(&m, script);
    let each =
        [("tcp", "EPERM"), ("udp", "EPERM"), ("leased", "leased"), ("privileged", "EPERM"), ("raw", "none")];
    expect(&told, &each.repeat(3));
}

/// There are ways to a port that do not lead through bind(2): to listen, or to send, with a socket that has none yet.
#[test]
#[needs(root, "perl")]
fn without_loopback_nobody_is_heard_on_ports_that_are_not_leased() {
    let m = site();
    policy_with(&m, "loopback = false");
    let file = "/home/alice/ports";
    let script = format!(
        r#"
      my $hidden = made("0.0.0.0", SOCK_STREAM, 0); listen($hidden, 5) or die $!;
      my $open = made("0.0.0.0", SOCK_STREAM, 0); bind($open, address("0.0.0.0", $LOW)) or die $!; listen($open, 5) or die $!;
      my $loopback = made("127.0.0.1", SOCK_STREAM, 0);
      my $refused = bind($loopback, address("127.0.0.1", $OTHER)) ? "bound" : "refused";
      my $datagrams = made("127.0.0.1", SOCK_DGRAM, 0); send($datagrams, "x", 0, address("127.0.0.1", 9));
      open(my $f, ">", "{file}.part"); print $f join(" ", port($hidden), port($datagrams), $refused), "\n"; close $f; rename "{file}.part", "{file}";
      my $in = ""; vec($in, fileno($hidden), 1) = 1; vec($in, fileno($open), 1) = 1; vec($in, fileno($datagrams), 1) = 1;
      my $heard = $in; select($heard, undef, undef, 60);
      say("hidden", vec($heard, fileno($hidden), 1)); say("open", vec($heard, fileno($open), 1)); say("datagrams", vec($heard, fileno($datagrams), 1));"#
    );
    let running = perl(&m, &script).spawn();
    let told = written(file);
    let told: Vec<&str> = told.split(' ').collect();
    let at = |port: &str| SocketAddr::from(([127, 0, 0, 1], port.parse::<u16>().expect("a port")));
    assert_eq!(told[2], "refused", "a loopback address is no exception here");
    let hidden = TcpStream::connect_timeout(&at(told[0]), Duration::from_secs(2));
    assert!(hidden.is_err(), "somebody was heard at {}", told[0]);
    UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(b"x", at(told[1]))).expect("a datagram is sent");
    TcpStream::connect_timeout(&at(&lease(&m).1.to_string()), LIMIT).expect("the leased port is open");
    let ran = running.end_within(LIMIT);
    expect(&ran.ok(), &[("hidden", "0"), ("open", "1"), ("datagrams", "0")]);
}

/// What a payload asks for on its own way out comes back: only who listens to everybody is shut off.
#[test]
#[needs(root, "perl")]
fn clients_work_as_ever() {
    let m = site();
    policy_with(&m, "loopback = false");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has ports");
    let (tcp_port, udp_port) =
        (tcp.local_addr().expect("bound").port(), udp.local_addr().expect("bound").port());
    let server = std::thread::spawn(move || {
        let mut bytes = [0; 4];
        let (mut stream, _) = tcp.accept().expect("the payload connects");
        stream.read_exact(&mut bytes).expect("it speaks");
        stream.write_all(b"pong").expect("it listens");
        let (_, from) = udp.recv_from(&mut bytes).expect("it sends");
        udp.send_to(b"pong", from).expect("an answer is sent");
    });
    let script = format!(
        r#"
      for my $kind (["tcp", SOCK_STREAM, {tcp_port}], ["udp", SOCK_DGRAM, {udp_port}]) {{
        my $s = made("127.0.0.1", $kind->[1], 0); connect($s, address("127.0.0.1", $kind->[2])) or die $!; syswrite($s, "ping");
        sysread($s, my $answer, 4); say($kind->[0], $answer) }}"#
    );
    expect(&said(&m, &script), &[("tcp", "pong"), ("udp", "pong")]);
    server.join().expect("the server has answered");
}

#[test]
#[needs(root, "perl")]
fn who_has_no_lease_binds_nothing_but_loopback() {
    let m = site();
    let script = format!(
        "{TRIES}{}",
        r#"tries("tcp", "0.0.0.0", $LOW, SOCK_STREAM); tries("any", "0.0.0.0", 0, SOCK_DGRAM); tries("loopback", "127.0.0.1", $OTHER, SOCK_STREAM);"#
    );
    let (_, low, other) = lease(&m);
    for linger in ["yes", "no"] {
        set_conf(&m, "linger", linger);
        let run = call(&m, &m.proxy("Alice", "pilot"));
        let ran = run.args(["/usr/bin/perl", "-e", &script, &low.to_string(), &other.to_string()]).output();
        expect(&ran.ok(), &[("tcp", "EPERM"), ("any", "EPERM"), ("loopback", "bound")]);
        eventually("the end of the session", LIMIT, || sessions().is_empty().then_some(()));
    }
    let record = &m.records()[0];
    assert_eq!(record["ports"]["range"], "none", "{record}");
    policy_with(&m, "enforce = false");
    let run = call(&m, &m.proxy("Alice", "pilot"));
    let ran = run.args(["/usr/bin/perl", "-e", &script, &low.to_string(), &other.to_string()]).output();
    assert!(ran.ok().starts_with("tcp leased"), "{}", ran.text());
}

#[test]
#[needs(root)]
fn a_caller_gives_no_ports_that_are_not_the_host_s_or_that_a_living_session_has() {
    let m = site();
    let (leased, low, _) = lease(&m);
    let asks = |ports: &str| sh(&m, "exit 0").env("GLEXEC_PORTS", ports).output();
    for outside in ["1024-65535".to_owned(), format!("{}-{low}", low - 1), "50-60".to_owned(), "x".to_owned()]
    {
        asks(&outside).refused(201, &["GLEXEC_PORTS"]);
    }
    let holder = "echo ready > /home/alice/ready; while [ ! -e /home/alice/stop ]; do sleep 0.05; done";
    let running = sh(&m, holder).env("GLEXEC_PORTS", &leased).spawn();
    assert_eq!(written("/home/alice/ready"), "ready");
    asks(&leased).refused(201, &["a living session has"]);
    asks(&format!("{}-{}", low + 4, low + 9)).refused(201, &["a living session has"]);
    asks(&format!("{}-{}", low + 5, low + 9)).ok();
    fs::write("/home/alice/stop", "").expect("root may write");
    running.end_within(LIMIT).exits(0);
    asks(&leased).ok();
    assert!(sessions().is_empty());
}

#[test]
#[needs(root)]
fn where_no_wall_can_be_had_the_policy_decides() {
    let m = site();
    without_cgroups();
    let (leased, ..) = lease(&m);
    sh(&m, "exit 0").env("GLEXEC_PORTS", &leased).output().ok();
    let record = &m.records()[0];
    assert_eq!((&record["ports"]["enforced_by"]), "", "{record}");
    assert!(m.log().contains("the payload may bind any port"), "{}", m.log());
    policy_with(&m, "enforce = \"require\"");
    let marker = "/home/alice/ran";
    sh(&m, &format!("echo > {marker}"))
        .env("GLEXEC_PORTS", &leased)
        .output()
        .refused(202, &["[ports] enforce = \"require\""]);
    assert!(!fs::exists(marker).expect("a home can be read"));
    assert!(sessions().is_empty());
}
