//! SPDX licence expressions, as manifests have them.

use std::collections::BTreeSet;

/// Whether an expression can be met with these licences alone. `/` between two names is the old way to say `OR`.
pub(crate) fn is_met(expression: &str, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let met = either(&mut rest, allowed)?;
    if rest.is_empty() { Ok(met) } else { Err(format!("{:?} is not understood", rest[0])) }
}

fn either(rest: &mut &[&str], allowed: &BTreeSet<String>) -> Result<bool, String> {
    let mut met = both(rest, allowed)?;
    while take(rest, "OR") {
        met |= both(rest, allowed)?;
    }
    Ok(met)
}

fn both(rest: &mut &[&str], allowed: &BTreeSet<String>) -> Result<bool, String> {
    let mut met = one(rest, allowed)?;
    while take(rest, "AND") {
        met &= one(rest, allowed)?;
    }
    Ok(met)
}

fn one(rest: &mut &[&str], allowed: &BTreeSet<String>) -> Result<bool, String> {
    if take(rest, "(") {
        let met = either(rest, allowed)?;
        return if take(rest, ")") { Ok(met) } else { Err("a parenthesis is not closed".to_owned()) };
    }
    let (name, after) = rest.split_first().ok_or("a licence is missing at the end")?;
    *rest = after;
    let mut name = (*name).to_owned();
    if take(rest, "WITH") {
        let (exception, after) = rest.split_first().ok_or("an exception is missing at the end")?;
        *rest = after;
        name = format!("{name} WITH {exception}");
    }
    Ok(allowed.contains(&name))
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    let found = rest.first() == Some(&word);
    if found {
        *rest = &rest[1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::is_met;

    fn met(expression: &str) -> Result<bool, String> {
        is_met(expression, &["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into())
    }

    #[test]
    fn expressions_are_met_by_what_is_allowed() {
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "Apache-2.0/MIT",
            "(GPL-3.0 OR Zlib) AND MIT",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(met(good), Ok(true), "{good}");
        }
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "MIT AND (GPL-3.0 OR Apache-2.0)"] {
            assert_eq!(met(bad), Ok(false), "{bad}");
        }
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for wrong in ["", "MIT Zlib", "(MIT", "MIT OR", "Apache-2.0 WITH"] {
            assert!(met(wrong).is_err(), "{wrong}");
        }
    }
}
