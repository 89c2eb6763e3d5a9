//! `HOST.lsc` files: the chain of names that a VO's server must show, subject and issuer in turn, signer first.
//!
//! Alternatives are set apart by a line `------ NEXT CHAIN ------`.

use crate::signing_policy::printable;
use identity::same_name;

/// One alternative: pairs of subject and issuer.
pub type Names = Vec<(String, String)>;

/// The file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}; alternate subject and issuer, one DN a line")]
pub struct LscError {
    line: usize,
    what: &'static str,
}

/// Reads the bytes of a file. Bytes beyond ASCII become `\xHH`, the form in which names are compared.
pub fn parse(bytes: &[u8]) -> Result<Vec<Names>, LscError> {
    let text = printable(bytes);
    let mut lists = Vec::new();
    let mut current: Vec<&str> = Vec::new();
    let mut count = 0;
    for line in text.lines() {
        count += 1;
        let line = line.trim();
        let dn = line.trim_matches('"');
        if line.starts_with("---") {
            lists.push(close(&std::mem::take(&mut current), count)?);
        } else if dn.starts_with('/') {
            current.push(dn);
        } else if !line.is_empty() && !line.starts_with('#') {
            return Err(LscError { line: count, what: "this is no DN in /C=.. form" });
        }
    }
    if !current.is_empty() || lists.is_empty() {
        lists.push(close(&current, count)?);
    }
    Ok(lists)
}

fn close(names: &[&str], line: usize) -> Result<Names, LscError> {
    if names.is_empty() || !names.len().is_multiple_of(2) {
        return Err(LscError { line, what: "an odd number of names" });
    }
    Ok(names.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
}

/// Whether some alternative names the certificates of `chain` (subject and issuer each) from the signer upwards.
///
/// Certificates above the listed ones are not compared: they count only if they lead to a trusted root.
pub fn any_matches(lists: &[Names], chain: &[(&str, &str)]) -> bool {
    let fits = |((s, i), (subject, issuer)): (&(String, String), &(&str, &str))| {
        same_name(s, subject) && same_name(i, issuer)
    };
    lists.iter().any(|list| {
        // the last pair may describe the root, which servers leave out
        let rooted = list.last().is_some_and(|(s, i)| s == i);
        let needed = if rooted && list.len() == chain.len() + 1 { chain.len() } else { list.len() };
        needed > 0 && needed <= chain.len() && list.iter().zip(chain).take(needed).all(fits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str, chain: &[(&str, &str)]) -> bool {
        any_matches(&parse(text.as_bytes()).unwrap(), chain)
    }

    #[test]
    fn alternatives_quotes_and_comments_are_read() {
        let text =
            "# server of Z\u{fc}rich\n\"/CN=new\"\n/CN=ca\n------ NEXT CHAIN ------\n/CN=old\n/CN=ca\n";
        assert_eq!(parse(text.as_bytes()).unwrap().len(), 2);
        assert!(matches(text, &[("/CN=new", "/CN=ca")]));
        assert!(matches(text, &[("/CN=old", "/CN=ca")]));
        assert!(!matches(text, &[("/CN=new", "/CN=other")]));
        assert!(!matches(text, &[]));
    }

    #[test]
    fn a_listed_intermediate_must_be_there_a_listed_root_need_not() {
        let text = "/CN=s\n/CN=sub\n/CN=sub\n/CN=root\n";
        assert!(!matches(text, &[("/CN=s", "/CN=sub")]));
        assert!(matches(text, &[("/CN=s", "/CN=sub"), ("/CN=sub", "/CN=root")]));
        assert!(matches("/CN=s\n/CN=root\n/CN=root\n/CN=root\n", &[("/CN=s", "/CN=root")]));
    }

    #[test]
    fn every_spelling_of_a_name_is_that_name() {
        let server = r"/O=Grid/CN=host\/voms.example.org/emailAddress=v@x.org";
        let ca = r"/DC=org/CN=J\xC3\xBCrgen\+Co CA";
        for subject in [
            server,
            "/O=Grid/CN=host/voms.example.org/Email=v@x.org",
            "/o=Grid/cn=host/voms.example.org/E=v@x.org",
            "/O=Grid/CN=host/voms.example.org/1.2.840.113549.1.9.1=v@x.org",
        ] {
            for issuer in [ca, "/DC=org/CN=J\u{fc}rgen+Co CA", "/dc=org/cn=J\u{fc}rgen+Co CA"] {
                assert!(matches(&format!("{subject}\n{issuer}\n"), &[(server, ca)]), "{subject} {issuer}");
            }
        }
        assert!(!matches("/O=Grid/CN=host\n/CN=a\n", &[(r"/O=Grid\/CN=host", "/CN=a")]), "one is not two");
    }

    #[test]
    fn broken_files_name_the_line() {
        assert_eq!(parse(b"/CN=a\nCN=b\n").unwrap_err().line, 2);
        for broken in [&b"/CN=a\n"[..], b"", b"\0\0\0\0", b"<html>\n", b"\x1f\x8b\x08", b"/\0C\0N\0=\0a\0\n"]
        {
            assert!(parse(broken).is_err(), "{broken:?}");
        }
    }
}
