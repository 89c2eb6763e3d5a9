//! Lines of a grid-mapfile that LCMAPS and Globus read differently.
//!
//! One file often serves both: `glexec` reads it as LCMAPS does, a GridFTP server or gatekeeper of Globus as Globus does. Then
//! one line may give a person an account here and another one, or none, there.

use policy::mapfile;
use std::collections::HashMap;

/// Line, and what each of the two makes of it.
pub(super) type Difference = (usize, String);

/// Every line on which the two differ, in the order of the file.
pub(super) fn differences(text: &[u8]) -> Vec<Difference> {
    let written: Vec<&[u8]> = text.split(|c| *c == b'\n').collect();
    let mut earlier: HashMap<Vec<u8>, (usize, Vec<u8>)> = HashMap::new();
    let mut found = Vec::new();
    for line in mapfile::lines(text).flatten() {
        let mut note = |what: String| found.push((line.number, what));
        let globus_key = reencoded(&unescaped(line.key));
        if globus_key != line.key {
            note(format!("Globus takes the name for {}, LCMAPS as it is written", shown(&globus_key)));
        }
        let raw = written.get(line.number - 1).copied().unwrap_or_default();
        let ours = line.accounts().next();
        let theirs = first_of_globus(raw, line.key, line.quoted);
        match (ours, theirs) {
            (ours, Some(theirs)) if ours != Some(theirs) => {
                let lcmaps = ours.map_or("no account".to_owned(), shown);
                note(format!(
                    "a '#' in the line: Globus reads the account {}, LCMAPS {lcmaps}",
                    shown(theirs)
                ));
            }
            (None, None) => note("names nobody: LCMAPS skips the line, Globus refuses the look-up".into()),
            _ => {}
        }
        if ours.is_some_and(|name| name.starts_with(b"."))
            && line.key.iter().any(|c| matches!(c, b'*' | b'?' | b'['))
        {
            note("wildcards count for pools of LCMAPS, and for nothing of Globus".into());
        }
        let same = earlier.entry(globus_key.to_ascii_lowercase());
        let (first, key) = same.or_insert_with(|| (line.number, line.key.to_vec()));
        if *first != line.number && *key != line.key {
            note(format!(
                "Globus takes it for the name of line {first}, which wins there; LCMAPS tells the two apart"
            ));
        }
    }
    found
}

fn shown(text: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(text))
}

/// `\xHH` is a byte, and a backslash before anything else goes.
fn unescaped(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len());
    let mut rest = key;
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [b'x', high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |c: &u8| {
                    char::from(*c).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or_default()
                };
                out.push(digit(high) * 16 + digit(low));
                tail
            }
            (b'\\', [next, tail @ ..]) => {
                out.push(*next);
                tail
            }
            _ => {
                out.push(*first);
                after
            }
        };
    }
    out
}

/// Bytes beyond printable ASCII as `\xHH`, upper case.
fn reencoded(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len());
    for byte in key {
        match (0x20..=0x7e).contains(byte) {
            true => out.push(*byte),
            false => out.extend(format!("\\x{byte:02X}").into_bytes()),
        }
    }
    out
}

/// The first account of the line where `#` begins no comment.
fn first_of_globus<'a>(line: &'a [u8], key: &[u8], quoted: bool) -> Option<&'a [u8]> {
    let start = line.iter().position(|c| !matches!(c, b' ' | b'\t'))?;
    let rest = line[start..].get(key.len() + if quoted { 2 } else { 0 }..)?;
    let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
    rest.split(|c| matches!(c, b',' | b' ' | b'\t')).find(|account| !account.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: impl AsRef<[u8]>) -> Vec<usize> {
        differences(text.as_ref()).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn lines_that_both_read_alike_are_no_news() {
        let same = "# people\n\"/C=XX/CN=Alice Adams\" alice\n/CN=B\tb,c\n\"/CN=J\\xC3\\xBCrgen\" j # he\n\n\"/CN=C\" .cms\n";
        assert_eq!(lines(same), [] as [usize; 0]);
    }

    #[test]
    fn each_way_to_differ_is_told() {
        for (text, line, why) in [
            ("\"/CN=A \\\"B\\\"\" a\n", 1, "Globus takes the name for"),
            ("\"/CN=host\\/x.org\" a\n", 1, "/CN=host/x.org"),
            ("\n\"/CN=J\\xc3\\xbcrgen\" j\n", 2, "\\\\xC3\\\\xBC"),
            ("\"/CN=J\u{fc}rgen\" j\n", 1, "LCMAPS as it is written"),
            ("/CN=A a#b\n", 1, "LCMAPS \"a\""),
            ("/CN=A # a\n", 1, "LCMAPS no account"),
            ("/CN=A\n", 1, "Globus refuses the look-up"),
            ("\"/C=XX/*\" .cms\n", 1, "wildcards count for pools"),
            ("/CN=A a\n/CN=a b\n", 2, "the name of line 1"),
        ] {
            let found = differences(text.as_bytes());
            assert!(
                found.len() == 1 && found[0].0 == line && found[0].1.contains(why),
                "{text:?}: {found:?}"
            );
        }
    }
}
