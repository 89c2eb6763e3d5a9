//! Errors of `glexec.conf`, told about the file that was really read.

use policy::GlexecConf;
use policy::glexec_conf::GLEXEC_CONF;

/// What is wrong, and in which line.
pub struct ConfError {
    pub line: Option<usize>,
    pub reason: String,
}

/// Parses the text; the parser itself always names the usual place of the file, which need not be this one.
pub fn parse(text: impl AsRef<[u8]>) -> Result<GlexecConf, ConfError> {
    GlexecConf::parse(text).map_err(|error| {
        let said = error.to_string();
        let rest = said.strip_prefix(GLEXEC_CONF).and_then(|t| t.strip_prefix(':')).unwrap_or(&said);
        let (line, reason) = rest.split_once(": ").unwrap_or(("", rest));
        ConfError { line: line.parse().ok().filter(|n| *n > 0), reason: reason.to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_and_reason_are_kept_and_the_usual_place_is_not() {
        let error = parse("[glexec]\nlinger = perhaps\n").unwrap_err();
        assert_eq!(error.line, Some(2));
        assert!(error.reason.starts_with("linger is"), "{}", error.reason);
    }
}
