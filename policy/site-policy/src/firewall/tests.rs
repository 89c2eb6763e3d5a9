use super::*;
use clap::Parser;
use std::path::Path;

fn args(line: &str) -> FirewallArgs {
    let words = ["site-policy", "firewall"].into_iter().chain(line.split_whitespace());
    match crate::cli::Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}")).command {
        crate::cli::Command::Firewall(args) => args,
        other => panic!("{other:?}"),
    }
}

const POLICY: &str = "[ports]\nrange = \"40000-40999\"\nhostname = \"nat.example.org\"\n\
    hosts = { \"wn1\" = \"40000-40499\", \"wn2\" = \"40500-40999\" }\n[services]\nmyproxy = 7513\n";

fn written(line: &str) -> Result<String, String> {
    let policy = SitePolicy::parse(Path::new("p"), POLICY).unwrap();
    rendered(&args(line), &policy).map_err(|no| match no {
        No::Usage(why) | No::Refused(why) => why,
    })
}

#[test]
fn each_rule_says_what_it_is_for() {
    let nft = written("--role client --service gridftp --service myproxy --peer 192.0.2.0/24").unwrap();
    assert!(nft.contains(
        "ip saddr { 192.0.2.0/24 } tcp dport 40000-40999 ct state new counter accept comment \"gridftp client"
    ));
    assert!(nft.contains("ip daddr { 192.0.2.0/24 } tcp dport 7513 ") && !nft.contains("7512"), "{nft}");
    assert!(nft.contains("closed: parallel GET hangs") && !nft.contains("ip6 saddr"), "{nft}");
    let both = written("--role both --service gridftp --format iptables").unwrap();
    assert_eq!(both.matches("--dport 40000:40999").count(), 1, "one rule for both roles: {both}");
    assert!(both.contains("(and 1 more)"), "{both}");
}

#[test]
fn a_router_lets_pass_what_its_host_needs_and_in_its_direction() {
    let line = "--role server --service gridftp --host 10.99.2.2 --host fd00::2 --peer 10.99.1.0/24 --peer-ports 41000-41010";
    let nft = written(line).unwrap();
    assert!(nft.contains("ip daddr 10.99.2.2 ip saddr { 10.99.1.0/24 } tcp dport 2811 "), "{nft}");
    assert!(nft.contains("ip saddr 10.99.2.2 ip daddr { 10.99.1.0/24 } tcp dport 41000-41010 "), "{nft}");
    assert!(!nft.contains("ip6 "), "no peer has such an address: {nft}");
    assert!(written(&format!("{line} --format ip6tables")).unwrap().lines().all(|l| !l.contains("--dport")));
}

/// Whoever loads the rules of servers alone is told, in each format, what their jobs lack.
#[test]
fn rules_of_servers_name_those_of_clients() {
    for format in ["nft", "iptables", "ip6tables", "firewalld", "text"] {
        let told = |role: &str| written(&format!("--role {role} --service gt2 --format {format}")).unwrap();
        assert!(told("server").contains("# --role both writes both."), "{format}");
        assert!(!told("both").contains("writes both") && !told("client").contains("writes both"), "{format}");
    }
    // What a client needs inbound, a server site's jobs need: the callback range, and services elsewhere.
    let both = written("--role both --service gt2").unwrap();
    for line in
        written("--role client --service gt2").unwrap().lines().filter(|l| l.contains("accept comment"))
    {
        let rule = line.split(" comment ").next().unwrap_or_default();
        assert!(both.contains(rule), "{rule}");
    }
}

#[test]
fn dcap_stays_in_local_networks() {
    for peers in ["", "--peer 0.0.0.0/0", "--peer 10.0.0.0/8 --peer 192.0.2.0/24"] {
        let why = written(&format!("--role server --service dcap {peers}")).unwrap_err();
        assert!(why.contains("no authentication"), "{why}");
    }
    assert!(written("--role server --service dcap --peer 10.0.0.0/8 --peer fd00::/8").is_ok());
    assert!(written("--role server --service dcap --force").is_ok());
}

#[test]
fn shares_are_forwarded_and_servers_refused_behind_translation() {
    let line = "--role client --service gram --nat 192.0.2.1 --hosts wn1=10.0.0.1 --hosts wn2=10.0.0.2";
    let nft = written(line).unwrap();
    assert!(nft.contains("ip daddr 192.0.2.1 tcp dport 40500-40999 dnat to 10.0.0.2"), "{nft}");
    assert!(nft.contains("ip daddr 10.0.0.1 tcp dport 40000-40499 ct state new"), "{nft}");
    let server = written(&line.replace("client", "both")).unwrap_err();
    assert!(server.contains("certificates name the host"), "{server}");
    for (hosts, why) in [
        ("wn3=10.0.0.3", "does not name this host, wn3"),
        ("wn1", "write NAME=ADDRESS"),
        ("10.0.0.1:40000-40010,10.0.0.2:40010-40020", "in common"),
        ("10.0.0.1:40010-40000", "reversed"),
    ] {
        let said =
            written(&format!("--role client --service gram --nat 192.0.2.1 --hosts {hosts}")).unwrap_err();
        assert!(said.contains(why), "{hosts}: {said}");
    }
}

#[test]
fn servers_and_clients_are_told_the_range() {
    let told = |format: &str| written(&format!("--format {format}")).unwrap();
    assert!(
        told("inetd").contains(
            "env GLOBUS_TCP_PORT_RANGE=40000,40999 GLOBUS_HOSTNAME=nat.example.org /usr/sbin/globus"
        )
    );
    assert!(told("xinetd").contains("    env += GLOBUS_TCP_PORT_RANGE=40000,40999\n"));
    assert!(told("wrapper").contains("Never wrap a GridFTP server that root starts"));
    assert_eq!(told("java"), "-Dorg.globus.tcp.port.range=40000,40999 -DGLOBUS_HOSTNAME=nat.example.org\n");
    assert!(told("cog").ends_with("tcp.port.range=40000,40999\nip=nat.example.org\n"));
}

#[test]
fn what_is_missing_is_named() {
    assert!(written("--service gridftp").unwrap_err().contains("--role"));
    assert!(written("--role client").unwrap_err().contains("--service"));
    assert!(written("--role client --service gopher").unwrap_err().contains("known are"));
    assert!(written("--role client --service gridftp --peer wn1").unwrap_err().contains("--peer"));
    let empty = SitePolicy::parse(Path::new("p"), "").unwrap();
    let Err(No::Usage(why)) = rendered(&args("--role client --service gridftp"), &empty) else { panic!() };
    assert!(why.contains("[ports] range"), "{why}");
}

#[test]
fn every_service_can_be_written_in_every_format() {
    for service in policy::services::SERVICES.map(|(name, _)| name) {
        for role in ["client", "server", "both"] {
            for format in ["nft", "iptables", "ip6tables", "firewalld", "text"] {
                let line = format!("--role {role} --service {service} --force --format {format}");
                let text = written(&line).unwrap_or_else(|why| panic!("{line}: {why}"));
                assert!(text.lines().all(|l| l.len() < 400), "{text}");
            }
        }
    }
}
