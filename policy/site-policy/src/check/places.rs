//! Directories, programs and host credentials.

use super::{Site, trusted};
use crate::finding::{About, Finding};
use credential::Trust;
use credential::inspect::{Weight, inspect};
use policy::file::{MapSource, TrustPolicy};
use policy::trusted::Rule;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const GLEXEC: &str = "/usr/sbin/glexec";
const RUN_DIR: &str = "/run/glexec";

/// Adds what is wrong with the places that `glexec` uses.
pub(super) fn check(site: &Site<'_>, found: &mut Vec<Finding>) {
    trust(site, found);
    setuid_program(Path::new(GLEXEC), found);
    helpers(site, found);
    services(site, found);
    run_dir(Path::new(RUN_DIR), found);
    spool(site, found);
    epilogue(site, found);
}

fn epilogue(site: &Site<'_>, found: &mut Vec<Finding>) {
    let Some(epilogue) = &site.conf.epilogue else { return };
    let remedy = "install it, or remove epilogue from glexec.conf";
    trusted(&epilogue.program, Rule::FILE, remedy, found);
    if !site.conf.linger {
        let what = "never runs: with linger = no nobody waits for the payload";
        About::new(&epilogue.program, found)
            .warning(what, "set linger = yes in glexec.conf, or remove epilogue");
    }
}

fn trust(site: &Site<'_>, found: &mut Vec<Finding>) {
    let trust = &site.policy.trust;
    let if_missing = "install the CA certificates of your grid, or correct [trust] ca_dir";
    if trusted(&trust.ca_dir, Rule::DIRECTORY, if_missing, found) {
        ca_dir(&trust.ca_dir, found);
    }
    verified_files(trust, found);
    if trust.voms_dir.exists() {
        trusted(&trust.voms_dir, Rule::DIRECTORY, "", found);
    } else {
        let mut about = About::new(&trust.voms_dir, found);
        let what = "does not exist: proxies with VOMS attributes are refused";
        about.warning(what, "install the LSC files of your VOs, or correct [trust] voms_dir");
    }
}

/// What `glexec-verify` would object to in the files of both directories, by its own code.
fn verified_files(trust: &TrustPolicy, found: &mut Vec<Finding>) {
    let judged_by = Trust {
        ca_dir: trust.ca_dir.clone(),
        voms_dir: trust.voms_dir.clone(),
        require_crl: trust.require_crl,
        max_proxy_lifetime: trust.max_proxy_lifetime,
        allow_limited: trust.allow_limited,
        rules: trust.rules,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    for objection in inspect(&judged_by, i64::try_from(now).unwrap_or(i64::MAX)) {
        let mut about = About::new(&objection.path, found);
        match objection.weight {
            Weight::Error => about.error(objection.reason, ""),
            Weight::Warning => about.warning(objection.reason, ""),
        }
    }
}

fn ca_dir(dir: &Path, found: &mut Vec<Finding>) {
    let mut about = About::new(dir, found);
    match fs::read_dir(dir) {
        Err(e) => about
            .error(format!("cannot be read: {e}"), "glexec-verify reads it as account glexec; chmod a+rx"),
        Ok(entries) => {
            let names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
            if !names.iter().any(|n| n.to_str().is_some_and(is_hashed_certificate)) {
                let remedy = "install the CA certificates under their hash, as openssl rehash does";
                about.error("holds no CA certificate (HASH.0): every credential is refused", remedy);
            }
        }
    }
}

/// Eight hexadecimal digits, a dot, a number.
fn is_hashed_certificate(name: &str) -> bool {
    let Some((hash, number)) = name.split_once('.') else {
        return false;
    };
    let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    hash.len() == 8 && hash.bytes().all(|c| c.is_ascii_hexdigit()) && digits
}

fn setuid_program(path: &Path, found: &mut Vec<Finding>) {
    if !trusted(path, Rule::FILE, "install glexec there, mode 4111", found) {
        return;
    }
    let Ok(metadata) = fs::metadata(path) else { return };
    let mut about = About::new(path, found);
    if metadata.mode() & 0o4000 == 0 {
        let what = "has no setuid bit: it decides and logs, but payloads run as the caller";
        about.warning(what, "chmod 4111, unless log-only is what you want");
    } else if mount_options(path).is_some_and(|options| options.split(',').any(|o| o == "nosuid")) {
        let what = "lies on a file system that is mounted nosuid: the setuid bit has no effect";
        about.error(what, "mount it without nosuid");
    }
    executable(&metadata, &mut about);
}

/// Options of the mount that holds the path, from `proc_pid_mountinfo(5)`.
fn mount_options(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    options_of(&fs::read_to_string("/proc/self/mountinfo").ok()?, &real)
}

/// The longest mount point above the path wins; of several mounts on one point, the last.
fn options_of(mountinfo: &str, path: &Path) -> Option<String> {
    let point_and_options = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    };
    let mounts = mountinfo.lines().filter_map(point_and_options);
    mounts.filter(|(point, _)| path.starts_with(point)).max_by_key(|(point, _)| point.len()).map(|(_, o)| o)
}

fn executable(metadata: &Metadata, about: &mut About<'_>) {
    if metadata.mode() & 0o001 == 0 {
        about.error("cannot be executed by everybody", "chmod a+x");
    }
}

fn helpers(site: &Site<'_>, found: &mut Vec<Finding>) {
    let asks_service = site.policy.mapping.order.iter().any(|s| matches!(s, MapSource::Service(_)));
    for (name, needed) in [("glexec-verify", true), ("glexec-map", asks_service)] {
        let path = site.libexec.join(name);
        let if_missing = "install it; without it calls end with 202";
        if needed
            && trusted(&path, Rule::FILE, if_missing, found)
            && let Ok(metadata) = fs::metadata(&path)
        {
            executable(&metadata, &mut About::new(&path, found));
        }
    }
}

fn services(site: &Site<'_>, found: &mut Vec<Finding>) {
    for source in &site.policy.mapping.order {
        let MapSource::Service(service) = source else {
            continue;
        };
        let Some(section) = site.policy.mapping.services.get(service.name()) else {
            continue;
        };
        if section.endpoints.is_empty() {
            let what = format!("[mapping.{service}] has no endpoint", service = service.name());
            About::new(site.policy_file, found).error(what, "list the URLs of the service in endpoints");
        }
        let if_missing =
            format!("install the host's certificate, or correct [mapping.{}] cert", service.name());
        trusted(&section.cert, Rule::FILE, &if_missing, found);
        let if_missing = format!("install the host's key, or correct [mapping.{}] key", service.name());
        if trusted(&section.key, Rule::FILE, &if_missing, found)
            && fs::metadata(&section.key).is_ok_and(|m| m.mode() & 0o077 != 0)
        {
            let mut about = About::new(&section.key, found);
            about.error("others can read this private key", "chmod 0400");
        }
    }
}

fn run_dir(dir: &Path, found: &mut Vec<Finding>) {
    if dir.exists() {
        trusted(dir, Rule::DIRECTORY, "", found);
    } else {
        let mut about = About::new(dir, found);
        about.warning("does not exist; the first call creates it", "mkdir -m 0755 and a line in tmpfiles.d");
    }
}

fn spool(site: &Site<'_>, found: &mut Vec<Finding>) {
    let dir = &site.policy.accounting.spool;
    let consequence =
        if site.policy.accounting.require_record { "calls end with 202" } else { "nothing is recorded" };
    let if_missing =
        format!("{consequence} until you run: install -d -m 0700 -o root -g root {}", dir.display());
    if trusted(dir, Rule::DIRECTORY, &if_missing, found)
        && fs::metadata(dir).is_ok_and(|m| m.mode() & 0o077 != 0)
    {
        let what = "others can look into the spool, which names users and their commands";
        About::new(dir, found).warning(what, "chmod 0700");
    }
    if !site.policy.accounting.require_record {
        let what = "[accounting] require_record = false: payloads may run without a trace";
        About::new(site.policy_file, found).warning(what, "set it to true");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_certificates_are_recognised() {
        assert!(is_hashed_certificate("5a1d0b8c.0") && is_hashed_certificate("5a1d0b8c.12"));
        for other in ["5a1d0b8c.r0", "5a1d0b8c.signing_policy", "ca.pem", "5a1d0b8c.", "5a1d0b8c"] {
            assert!(!is_hashed_certificate(other), "{other}");
        }
    }

    #[test]
    fn the_innermost_mount_decides() {
        let info = "1 0 8:1 / / rw,relatime - ext4 /dev/a rw\n\
                    2 1 8:2 / /usr ro,nosuid - ext4 /dev/b rw\n\
                    3 1 8:3 / /usrlocal rw - ext4 /dev/c rw\n";
        assert_eq!(options_of(info, Path::new("/usr/sbin/glexec")).as_deref(), Some("ro,nosuid"));
        assert_eq!(options_of(info, Path::new("/usrx/glexec")).as_deref(), Some("rw,relatime"));
    }
}
