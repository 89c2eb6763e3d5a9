use super::*;

fn loosely(pattern: &str, name: &str) -> bool {
    let (one, other) = (loose_forms(pattern), loose_forms(name));
    one.iter().zip(&other).any(|(a, b)| a == b)
}

#[test]
fn spellings_of_one_name_are_equal() {
    for spellings in [
        &[
            "/CN=host/x.org",
            "/CN=host\\/x.org",
            "/cn=host/x.org",
            "/2.5.4.3=host/x.org",
            "/CommonName=host\\x2fx.org",
        ][..],
        &[
            "/CN=A/Email=a@x.org",
            "/CN=A/E=a@x.org",
            "/CN=A/emailAddress=a@x.org",
            "/CN=A/EMAILADDRESS=a@x.org",
            "/CN=A/1.2.840.113549.1.9.1=a@x.org",
            "/cn=A/OID.1.2.840.113549.1.9.1=a@x.org",
        ],
        &["/DC=org/UID=u1", "/DC=org/USERID=u1", "/dc=org/userid=u1", "/DC=org/0.9.2342.19200300.100.1.1=u1"],
        &["/O=Lab, Ltd.", "/O=Lab\\, Ltd.", "/o=Lab\\x2C Ltd."],
        &["/CN=a+b", "/CN=a\\+b"],
        &["/CN=J\\xC3\\xBCrgen", "/CN=J\\xc3\\xbcrgen", "/CN=J\u{fc}rgen"],
        &["/CN=a+UID=b", "/UID=b+CN=a", "/uid=b+cn=a"],
        &["/CN=back\\slash", "/CN=back\\\\slash", "/CN=back\\x5Cslash"],
    ] {
        for other in spellings {
            assert!(same_name(spellings[0], other), "{} {other}", spellings[0]);
            assert!(Meaning::of(other).is_name() && loosely(spellings[0], other), "{other}");
            assert!(Meaning::of(spellings[0]).may_be(other.as_bytes()), "{other}");
        }
    }
}

#[test]
fn different_names_stay_different() {
    for (one, other) in [
        ("/CN=Alice", "/CN=alice"),
        ("/CN=Alice", "/CN=Alice "),
        ("/CN=Alice\\/CN=Bob", "/CN=Alice/CN=Bob"),
        ("/CN=a\\+UID=b", "/CN=a+UID=b"),
        ("/CN=a/UID=b", "/UID=b/CN=a"),
        ("/O=A/CN=b", "/OU=A/CN=b"),
        ("/CN=A", "/CN=A/CN=proxy"),
        ("/CN=\\x5CxC3", "/CN=\\xC3"),
        ("/CN=a\\x5C/CN=b", "/CN=a\\/CN=b"),
    ] {
        assert!(!same_name(one, other), "{one} {other}");
    }
}

#[test]
fn without_escapes_a_slash_may_be_either() {
    assert!(loosely("/CN=Alice/CN=Bob", "/CN=Alice\\/CN=Bob"));
    assert!(loosely("/CN=Alice/Email=a", "/CN=Alice\\/emailAddress=a"));
    assert!(!loosely("/CN=Alice", "/CN=alice"));
}

#[test]
fn what_nobody_can_be_called_is_told() {
    for name in ["/CN=A", "/C=XX/O=a b/CN=x", "/1.2.3.4=x"] {
        assert!(Meaning::of(name).is_name(), "{name}");
    }
    for none in ["", "/", "CN=A", "CN=A,O=B", "/foo=bar", "/CN=", "A/CN=B", "/*", "\u{feff}/CN=A"] {
        assert!(!Meaning::of(none).is_name(), "{none}");
    }
    assert_eq!(Meaning::of("/CN=A/CN=proxy").last_common_name(), Some(&b"proxy"[..]));
    assert_eq!(Meaning::of("/CN=A/OU=proxy").last_common_name(), None);
}

/// Numbers that look random and are the same each time (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const KINDS: [&[&str]; 5] = [
    &["CN", "cn", "commonName", "2.5.4.3"],
    &["emailAddress", "Email", "E", "email", "1.2.840.113549.1.9.1"],
    &["UID", "USERID", "userId", "oid.0.9.2342.19200300.100.1.1"],
    &["DC", "dc", "domainComponent"],
    &["O", "organizationName", "2.5.4.10"],
];

/// One of the ways in which people write the value.
fn spelt(value: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in value {
        match (byte, numbers.below(3)) {
            (b'\\', 0) => text.extend(b"\\\\"),
            (b'\\', _) | (_, 1) if !byte.is_ascii_alphanumeric() => {
                text.extend(format!("\\x{byte:02X}").bytes())
            }
            (b'/' | b'+', _) => text.extend([b'\\', *byte]),
            (b',', 2) => text.extend(b"\\,"),
            _ => text.push(*byte),
        }
    }
    text
}

#[test]
fn two_spellings_of_one_random_name_are_equal_and_another_name_is_not() {
    let mut numbers = Numbers(0x2026_1128);
    let letters = b"aZ0 /+,\\=x\xc3\xbc\xff#\".CNE";
    for round in 0..5_000 {
        let name: Vec<(usize, Vec<u8>)> = (0..1 + numbers.below(4))
            .map(|_| {
                let value =
                    (0..1 + numbers.below(6)).map(|_| letters[numbers.below(letters.len())]).collect();
                (numbers.below(KINDS.len()), value)
            })
            .collect();
        let mut write = |name: &[(usize, Vec<u8>)]| {
            let mut text = Vec::new();
            for (kind, value) in name {
                text.extend(format!("/{}=", numbers.pick(KINDS[*kind])).bytes());
                text.extend(spelt(value, &mut numbers));
            }
            text
        };
        let (one, other) = (write(&name), write(&name));
        let shown = || format!("round {round}: {} {}", one.escape_ascii(), other.escape_ascii());
        assert!(same_name(&one, &other), "{}", shown());
        assert!(Meaning::of(&one).may_be(&other), "{}", shown());
        let mut changed = name.clone();
        changed[0].1.push(b'q');
        assert!(!same_name(&one, write(&changed)), "{}", shown());
    }
}
