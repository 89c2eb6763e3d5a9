//! `HOST.lsc` files: the chain of names that a VO's server must show, subject and issuer in turn, signer first.
//! Alternatives are set apart by a line `------ NEXT CHAIN ------`.

/// One alternative: pairs of subject and issuer.
pub type Names = Vec<(String, String)>;

/// The file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}; alternate subject and issuer, one DN a line")]
pub struct LscError {
    line: usize,
    what: &'static str,
}

/// Reads the text of a file.
pub fn parse(text: &str) -> Result<Vec<Names>, LscError> {
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
    let fits = |((s, i), (subject, issuer)): (&(String, String), &(&str, &str))| s == subject && i == issuer;
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

    #[test]
    fn alternatives_quotes_and_comments_are_read() {
        let text = "# server\n\"/CN=new\"\n/CN=ca\n------ NEXT CHAIN ------\n/CN=old\n/CN=ca\n";
        let lists = parse(text).unwrap();
        assert_eq!(lists.len(), 2);
        assert!(any_matches(&lists, &[("/CN=new", "/CN=ca")]));
        assert!(any_matches(&lists, &[("/CN=old", "/CN=ca")]));
        assert!(!any_matches(&lists, &[("/CN=new", "/CN=other")]));
        assert!(!any_matches(&lists, &[]));
    }

    #[test]
    fn a_listed_intermediate_must_be_there_a_listed_root_need_not() {
        let lists = parse("/CN=s\n/CN=sub\n/CN=sub\n/CN=root\n").unwrap();
        assert!(!any_matches(&lists, &[("/CN=s", "/CN=sub")]));
        assert!(any_matches(&lists, &[("/CN=s", "/CN=sub"), ("/CN=sub", "/CN=root")]));
        let rooted = parse("/CN=s\n/CN=root\n/CN=root\n/CN=root\n").unwrap();
        assert!(any_matches(&rooted, &[("/CN=s", "/CN=root")]));
    }

    #[test]
    fn broken_files_name_the_line() {
        assert_eq!(parse("/CN=a\nCN=b\n").unwrap_err().line, 2);
        assert!(parse("/CN=a\n").is_err());
        assert!(parse("").is_err());
    }
}
