//! Patterns with `*`.

use crate::Dn;

/// Whether `*` in the pattern, standing for a run of `wild` bytes, can make it equal to the text.
pub fn matches_glob(pattern: &[u8], text: &[u8], wild: impl Fn(u8) -> bool) -> bool {
    // reached[n]: the pattern so far matches the first n bytes.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for p in pattern {
        if *p == b'*' {
            for n in 0..text.len() {
                reached[n + 1] |= reached[n] && wild(text[n]);
            }
        } else {
            for n in (0..text.len()).rev() {
                reached[n + 1] = reached[n] && text[n] == *p;
            }
            reached[0] = false;
        }
    }
    reached[text.len()]
}

impl Dn {
    /// Whether this name, in which `*` stands for any characters but `.`, `/` and `=`, is that of the other: how hosts are
    /// listed that may ask a service.
    #[must_use]
    pub fn names_host(&self, other: &Self) -> bool {
        let inside = |byte| !matches!(byte, b'.' | b'/' | b'=');
        matches_glob(self.as_str().as_bytes(), other.as_str().as_bytes(), inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_names_the_hosts_of_one_domain() {
        let pattern = Dn::parse("/DC=org/CN=host/*.example.org").unwrap();
        let names = |text: &str| pattern.names_host(&Dn::parse(text).unwrap());
        assert!(names("/DC=org/CN=host/wn1.example.org"));
        for other in [
            "/DC=org/CN=host/a.b.example.org",
            "/DC=org/CN=host/x/CN=y.example.org",
            "/DC=org/CN=host/wn1.example.orgs",
        ] {
            assert!(!names(other), "{other}");
        }
    }

    #[test]
    fn globs_find_their_way_back() {
        let any = |p, t| matches_glob(p, t, |_| true);
        for (p, t) in [("", ""), ("*", ""), ("a*", "a"), ("*a*b", "xaxbxb"), ("a**b", "ab"), ("*ab", "aab")] {
            assert!(any(p.as_bytes(), t.as_bytes()), "{p} {t}");
        }
        for (p, t) in [("", "a"), ("a", ""), ("a*b", "a"), ("*a*b", "xbxa"), ("ab", "abc")] {
            assert!(!any(p.as_bytes(), t.as_bytes()), "{p} {t}");
        }
        let label = |p, t| matches_glob(p, t, |c| c != b'.');
        assert!(label(b"*.*.c", b"a.b.c") && !label(b"*.c", b"a.b.c"));
    }
}
