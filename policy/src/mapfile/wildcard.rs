//! Wildcards of map and ban files.

/// `fnmatch(3)` with `FNM_NOESCAPE`: `*`, `?` and `[...]`, all of which also match a slash.
pub fn wildcard_match(pattern: impl AsRef<[u8]>, text: impl AsRef<[u8]>) -> bool {
    let (p, t) = (pattern.as_ref(), text.as_ref());
    let (mut pi, mut ti, mut star) = (0, 0, None);
    while ti < t.len() {
        if p.get(pi) == Some(&b'*') {
            star = Some((pi, ti));
            pi += 1;
        } else if let Some(next) = match_one(p, pi, t[ti]) {
            pi = next;
            ti += 1;
        } else if let Some((at, from)) = star {
            // Let the latest star swallow one byte more; older ones need not be tried again.
            star = Some((at, from + 1));
            pi = at + 1;
            ti = from + 1;
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|c| *c == b'*')
}

/// Where the pattern goes on after it has matched one byte, if it does.
fn match_one(pattern: &[u8], at: usize, byte: u8) -> Option<usize> {
    match *pattern.get(at)? {
        b'?' => Some(at + 1),
        b'[' => match bracket(&pattern[at + 1..], byte) {
            Some((true, length)) => Some(at + 1 + length),
            Some((false, _)) => None,
            // Never closed, so it stands for itself.
            None => (byte == b'[').then_some(at + 1),
        },
        literal => (literal == byte).then_some(at + 1),
    }
}

/// Whether the set that begins here holds the byte, and how long the set is; `None` when it is never closed.
fn bracket(set: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let first = usize::from(negated);
    let (mut at, mut found) = (first, false);
    loop {
        match *set.get(at)? {
            // A `]` in the first place is a member.
            b']' if at > first => return Some((found != negated, at + 1)),
            low => match (set.get(at + 1), set.get(at + 2)) {
                (Some(b'-'), Some(high)) if *high != b']' => {
                    found |= (low..=*high).contains(&byte);
                    at += 3;
                }
                _ => {
                    found |= low == byte;
                    at += 1;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_cross_slashes_and_can_repeat() {
        for (pattern, text, expected) in [
            ("/cms*", "/cms-other/x", true),
            ("*/CN=*", "/C=XX/CN=Alice", true),
            ("/a*b*c", "/aXbXbXc", true),
            ("/a*b*c", "/aXbXbX", false),
            ("/a?c", "/abc", true),
            ("", "", true),
            ("", "x", false),
            ("/CN=[Mm]allory*", "/CN=Mallory 2", true),
            ("/CN=[Mm]allory*", "/CN=Tallory", false),
            ("[a-c]x[!0-9]", "bxq", true),
            ("[a-c]x[^0-9]", "bx5", false),
            ("[]a]", "]", true),
            ("[a-]", "-", true),
            ("*[0-9]", "cms001", true),
            ("a[b", "a[b", true),
            ("a[b", "ab", false),
        ] {
            assert_eq!(wildcard_match(pattern, text), expected, "{pattern} {text}");
        }
    }
}
