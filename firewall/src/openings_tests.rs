use super::*;

fn one(value: Value) -> Asked {
    parse(value.to_string().as_bytes()).unwrap().remove(0)
}

fn reason(value: Value) -> String {
    parse(value.to_string().as_bytes()).expect_err(&value.to_string()).to_string()
}

fn name(text: &str) -> Host {
    Host::Name(HostName::parse(text).unwrap())
}

#[test]
fn an_object_and_a_list_are_taken() {
    let opening = json!({"addr": "a-1.nancy.grid5000.fr b-2", "port": 22});
    let asked = one(opening.clone());
    assert_eq!(asked.addr, [name("a-1.nancy.grid5000.fr"), name("b-2")].into());
    assert_eq!((asked.proto, asked.ports.to_string()), (Proto::TcpUdp, "22".into()));
    assert!(asked.sources.is_empty());
    let both = json!([opening, {"addr": ["2001:db8::1"], "proto": "all"}]);
    let both = parse(both.to_string().as_bytes()).unwrap();
    assert_eq!((both.len(), both[1].proto), (2, Proto::All));
}

#[test]
fn what_the_clients_send_is_taken() {
    let python = json!([{"addr": ["gros-1-ipv6.nancy.grid5000.fr"], "port": [22, "40000-40010"], "proto": "tcp",
        "src_addr": "2001:db8::/32"}]);
    let asked = parse(python.to_string().as_bytes()).unwrap();
    assert_eq!(asked[0].ports.to_string(), "22,40000..40010");
    assert_eq!(asked[0].hints.len(), 1);
    let enoslib = one(json!({"addr": ["a-1-ipv6.lyon.grid5000.fr"], "proto": "all", "port": null}));
    assert_eq!(enoslib.proto, Proto::All);
}

#[test]
fn each_error_names_the_field_and_what_would_be_accepted() {
    for (body, field, remedy) in [
        (json!({"port": 22}), "addr:", "IPv6 addresses of nodes"),
        (json!({"addr": "", "port": 22}), "addr:", "nodes of the job"),
        (json!({"addr": 5, "port": 22}), "addr:", "list of texts"),
        (json!({"addr": [5], "port": 22}), "addr:", "list of texts"),
        (json!({"addr": "a b;c", "port": 22}), "addr:", "2001:db8::1"),
        (json!({"addr": "1.2.3", "port": 22}), "addr:", "2001:db8::1"),
        (json!({"addr": "a"}), "port:", "proto all"),
        (json!({"addr": "a", "proto": "all", "port": 22}), "port:", "leave one of them out"),
        (json!({"addr": "a", "port": "ssh"}), "port:", "8000..8010"),
        (json!({"addr": "a", "port": 22, "proto": "icmp"}), "proto:", "tcp+udp, tcp, udp or all"),
        (json!({"addr": "a", "port": 22, "proto": 6}), "proto:", "tcp+udp, tcp, udp or all"),
        (json!({"addr": "a", "port": 22, "src_addr": "2001:db8::1/32"}), "src_addr:", "write 2001:db8::/32"),
        (json!({"addr": "a", "port": 22, "src_addr": "*"}), "src_addr:", "2001:db8::/32"),
        (json!({"addr": "a", "port": 22, "src_addr": []}), "src_addr:", "leave it out"),
        (json!({"addr4": "2001:db8::1", "port": 22}), "addr4:", "write it in addr"),
        (json!({"addr": "a", "ports": 22}), "\"ports\"", "port and src_addr"),
        (json!("a"), "no opening", "addr, proto, port"),
        (json!([]), "0 openings", "send {"),
    ] {
        let reason = reason(body.clone());
        assert!(reason.contains(field) && reason.contains(remedy), "{body}: {reason}");
    }
    let second = reason(json!([{"addr": "a", "port": 22}, {"addr": "a", "port": 0}]));
    assert!(second.starts_with("opening 2: port: 0"), "{second}");
    assert!(parse(b"{").unwrap_err().to_string().contains("no JSON"));
}

#[test]
fn twins_of_names() {
    let twin = |text| HostName::parse(text).unwrap().twin().as_str().to_owned();
    assert_eq!(twin("gros-1.nancy.grid5000.fr"), "gros-1-ipv6.nancy.grid5000.fr");
    assert_eq!(twin("gros-1-ipv6.nancy.grid5000.fr"), "gros-1.nancy.grid5000.fr");
    assert_eq!(twin("wn"), "wn-ipv6");
    assert_eq!(twin("-ipv6x.a".trim_start_matches('-')), "ipv6x-ipv6.a");
    for bad in ["", ".", "a..b", "-a", "a b", "a/b", "10.0.0", "{", &"a".repeat(64)] {
        assert!(HostName::parse(bad).is_none(), "{bad:?}");
    }
}

#[test]
fn what_is_shown_is_what_is_stored() {
    let asked =
        one(json!({"addr": ["2001:db8::2", "2001:db8::1"], "addr4": "192.0.2.1", "port": "80 22 90..95",
        "proto": "tcp", "src_addr": "2001:db8:9::/48 2001:db8:8::1 198.51.100.0/24"}));
    let addr = ["2001:db8::2", "2001:db8::1", "192.0.2.1"].map(|a| a.parse().unwrap()).into();
    let nets = ["2001:db8:9::/48", "2001:db8:8::1/128", "198.51.100.0/24"].map(|a| a.parse().unwrap()).into();
    let opening = Opening::new(&asked, addr, nets).unwrap();
    let shown = opening.to_json();
    assert_eq!(
        shown,
        json!({"addr": ["2001:db8::1", "2001:db8::2"], "addr4": ["192.0.2.1"], "proto": "tcp",
            "port": [22, 80, "90..95"], "src_addr": ["198.51.100.0/24", "2001:db8:8::1", "2001:db8:9::/48"]})
    );
    assert_eq!(Opening::from_json(&shown).unwrap(), opening);
}

#[test]
fn nothing_is_opened_towards_addresses_of_no_host_or_from_nowhere() {
    let asked = one(json!({"addr": "a", "port": 22}));
    for odd in
        ["::1", "::", "ff02::1", "fe80::1", "::ffff:192.0.2.1", "127.0.0.1", "224.0.0.1", "169.254.0.1"]
    {
        let refused = Opening::new(&asked, [odd.parse().unwrap()].into(), BTreeSet::new());
        assert!(refused.unwrap_err().starts_with("addr:"), "{odd}");
    }
    let v4_only = ["192.0.2.0/24".parse().unwrap()].into();
    let refused = Opening::new(&asked, ["2001:db8::1".parse().unwrap()].into(), v4_only);
    assert!(refused.unwrap_err().contains("no IPv6 source"));
    assert!(Opening::new(&asked, BTreeSet::new(), BTreeSet::new()).is_err());
}
