//! Settings of LCAS and LCMAPS in `glexec.conf`: which setting of ours does their work.

use super::Site;
use crate::finding::{About, Finding, Severity};
use policy::SitePolicy;
use policy::decide::{self, Stop};
use policy::file::MapSource;
use policy::lcas;
use std::path::Path;

/// Adds a finding for each of them that has a value.
pub(super) fn check(site: &Site<'_>, conf_file: &Path, found: &mut Vec<Finding>) {
    not_carried_over(site, conf_file, found);
    let mut about = About::new(conf_file, found);
    for (key, value) in site.conf.replaced.iter().filter(|(_, value)| !value.is_empty()) {
        let (severity, what, remedy) = instead(key, value, &site.policy);
        about.add(None, severity, format!("{key} has no effect here: {what}"), remedy);
    }
}

/// What LCAS decided and nothing here does: `glexec` refuses every call until that is mended.
fn not_carried_over(site: &Site<'_>, conf_file: &Path, found: &mut Vec<Finding>) {
    let host = crate::host::Site::new(false, site.libexec);
    // A ban file that cannot be used is told about elsewhere.
    let Ok(bans) = decide::bans(&host, &site.policy) else { return };
    if let Err(Stop::Site(why) | Stop::CannotTell(why)) = lcas::carried_over(&host, &site.conf, &bans.dns) {
        let remedy = "until then every call ends with 202";
        About::new(conf_file, found).error(format!("use_lcas = yes: {why}"), remedy);
    }
}

/// How bad it is, what takes the key's place, and what to do.
fn instead(key: &str, value: &str, policy: &SitePolicy) -> (Severity, String, &'static str) {
    use Severity::{Note, Warning};
    match key {
        "use_lcas" if is_no(value) => (Note, "there is no LCAS, bans stand in [bans]".into(), ""),
        "use_lcas" | "lcas_db_file" => {
            (Note, format!("{}, not LCAS, decide who is banned", bans(policy)), "")
        }
        "lcmaps_db_file" => (
            Note,
            format!("[mapping] order = {} and [trust] take its place", order(policy)),
            "site-policy import turns the file into a policy",
        ),
        "lcmaps_get_account_policy" => {
            (Note, format!("every call is decided by [mapping] order = {}", order(policy)), "")
        }
        "lcmaps_verify_account_policy" => {
            (Note, "calls with GLEXEC_MODE=lcmaps_verify_account are decided like all others".into(), "")
        }
        "lcmaps_voms_verification" if is_no(value) => (
            Warning,
            format!(
                "VOMS attributes are always verified, with [trust] voms_dir = {}",
                policy.trust.voms_dir.display()
            ),
            "keep that directory filled with the LSC files of your VOs",
        ),
        "lcmaps_voms_verification" => {
            (Note, "VOMS attributes are always verified, with [trust] voms_dir".into(), "")
        }
        _ if key.ends_with("_log_file") => {
            (Note, "all messages go where log_destination and log_file of this file say".into(), "")
        }
        _ if key.ends_with("_log_level") || key.ends_with("_debug_level") => {
            (Note, "log_level of this file counts for all messages".into(), "")
        }
        _ => (Note, "policy.toml takes the place of LCAS and LCMAPS".into(), ""),
    }
}

fn is_no(value: &str) -> bool {
    value.eq_ignore_ascii_case("no")
}

fn order(policy: &SitePolicy) -> String {
    let names: Vec<String> = policy.mapping.order.iter().map(MapSource::to_string).collect();
    format!("[{}]", names.join(", "))
}

fn bans(policy: &SitePolicy) -> String {
    let (dns, fqans) = (&policy.bans.dn_file.path, &policy.bans.fqan_file.path);
    format!("[bans] dn_file = {} and fqan_file = {}", dns.display(), fqans.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::glexec_conf::KEYS;

    #[test]
    fn every_key_of_lcas_and_lcmaps_has_its_own_answer() {
        let policy = SitePolicy::parse(Path::new("policy.toml"), "").unwrap();
        let keys: Vec<_> = KEYS.iter().filter(|k| k.contains("lcas_") || k.starts_with("lcmaps_")).collect();
        assert!(keys.len() >= 10 && KEYS.contains(&"use_lcas"));
        for key in keys {
            let (_, what, _) = instead(key, "x", &policy);
            assert!(!what.contains("takes the place of LCAS and LCMAPS"), "{key}");
        }
        assert!(instead("lcmaps_db_file", "x", &policy).1.contains("[grid-mapfile]"));
        assert_eq!(instead("lcmaps_voms_verification", "no", &policy).0, Severity::Warning);
    }
}
