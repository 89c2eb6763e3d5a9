//! Where pilots have to switch the identity: the operator's rules, and what they say to one pilot.
//!
//! A pilot that does not switch runs everybody's payloads as its own account. The site then cannot tell the users apart, and holds the
//! pilot's owner responsible for all of them; so whoever runs the queue decides for which VOs and where that may be.

use std::fmt;
use std::sync::Arc;

/// Pilots of these VOs on these hosts have to switch. Written `*`, `vo=NAME`, `site=HOST` or `vo=NAME,site=HOST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchRule {
    /// All VOs when `None`.
    vo: Option<String>,
    /// Name of a worker node, or `*.DOMAIN`; all when `None`.
    site: Option<String>,
}

impl SwitchRule {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is wrong, and what would be accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rule = Self { vo: None, site: None };
        let usage =
            || format!("{text:?}: write *, vo=NAME, site=HOST, site=*.DOMAIN or vo=NAME,site=*.DOMAIN");
        if matches!(text, "*" | "true") {
            return Ok(rule);
        }
        for part in text.split(',') {
            let (key, value) = part.trim().split_once('=').ok_or_else(usage)?;
            let field = match key {
                "vo" => &mut rule.vo,
                "site" => &mut rule.site,
                _ => return Err(usage()),
            };
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            let name = value.strip_prefix("*.").filter(|_| key == "site").unwrap_or(value);
            if name.is_empty() || !name.chars().all(plain) || field.is_some() {
                return Err(usage());
            }
            *field = Some(value.to_ascii_lowercase());
        }
        Ok(rule)
    }

    /// Whether it speaks of a pilot. One whose proxy names no VO might be of any: a rule for a VO holds for it as well.
    fn covers(&self, vo: Option<&str>, host: &str) -> bool {
        let vo = self.vo.as_deref().is_none_or(|wanted| vo.is_none_or(|vo| vo.eq_ignore_ascii_case(wanted)));
        let host = host.to_ascii_lowercase();
        let site = self.site.as_deref().is_none_or(|wanted| match wanted.strip_prefix('*') {
            Some(domain) => host.ends_with(domain),
            None => host == wanted,
        });
        vo && site
    }
}

impl fmt::Display for SwitchRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("vo", &self.vo), ("site", &self.site)];
        let parts: Vec<_> = parts.iter().filter_map(|(k, v)| Some(format!("{k}={}", v.as_ref()?))).collect();
        f.write_str(if parts.is_empty() { "*".to_owned() } else { parts.join(",") }.as_str())
    }
}

/// The rules, and the VO of the pilot that they are asked about. Nothing is required by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switching {
    /// The operator's rules.
    pub rules: Arc<[SwitchRule]>,
    /// What the pilot's proxy says; `None` where it names no VO.
    pub vo: Option<String>,
}

impl Switching {
    /// The first rule that forbids this pilot on this host to run payloads without a switch.
    pub fn required(&self, host: &str) -> Option<&SwitchRule> {
        self.rules.iter().find(|rule| rule.covers(self.vo.as_deref(), host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(rules: &[&str], vo: Option<&str>, host: &str) -> Option<String> {
        let rules = rules.iter().map(|text| SwitchRule::parse(text).unwrap()).collect();
        Switching { rules, vo: vo.map(str::to_owned) }.required(host).map(ToString::to_string)
    }

    #[test]
    fn a_rule_holds_for_its_vo_at_its_site() {
        assert_eq!(required(&[], Some("cms"), "wn1.example.org"), None);
        assert_eq!(required(&["*"], Some("cms"), "wn1.example.org").unwrap(), "*");
        assert_eq!(required(&["vo=atlas"], Some("cms"), "wn1.example.org"), None);
        assert_eq!(required(&["vo=atlas", "vo=cms"], Some("CMS"), "wn1").unwrap(), "vo=cms");
        assert_eq!(required(&["site=*.example.org"], None, "WN1.Example.org").unwrap(), "site=*.example.org");
        assert_eq!(required(&["site=*.example.org"], None, "wn1.badexample.org"), None);
        assert_eq!(required(&["site=wn1"], None, "wn10"), None);
        let both = ["vo=cms,site=*.example.org"];
        assert!(required(&both, Some("cms"), "wn1.example.org").is_some());
        assert_eq!(required(&both, Some("cms"), "wn1.example.net"), None);
        assert_eq!(required(&both, Some("atlas"), "wn1.example.org"), None);
    }

    #[test]
    fn a_pilot_that_names_no_vo_does_not_escape_by_that() {
        assert_eq!(required(&["vo=cms"], None, "wn1").unwrap(), "vo=cms");
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_would_be_one() {
        for bad in
            ["", "cms", "vo=", "vo=*", "site=*", "site=a*b", "vo=a,vo=b", "host=x", "vo=a b", "vo=cms,"]
        {
            assert!(SwitchRule::parse(bad).unwrap_err().contains("vo=NAME,site=*.DOMAIN"), "{bad}");
        }
    }
}
