//! The configuration file, `/etc/pilotage/accounting.toml`.

use crate::compare::Others;
use crate::store::reduce::Retention;
use identity::Dn;
use serde::Deserialize;
use service::config::{self, BadConfig};
use std::path::{Path, PathBuf};

/// A whole configuration; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address or host name, and port.
    pub listen: String,
    /// Certificate of this service, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Trusted authorities.
    pub ca_dir: PathBuf,
    /// The store's directory.
    pub store: PathBuf,
    /// `[writers]`.
    pub writers: Writers,
    /// `[readers]`.
    pub readers: Readers,
    /// `[retention]`.
    pub retention: Retention,
    /// `[reconcile]`.
    pub reconcile: Others,
}

/// Who may bring records.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Writers {
    /// Subjects of hosts; `*` stands for any characters but `.`, `/` and `=`.
    pub allow: Vec<Dn>,
    /// Each host brings its own records only.
    pub own_host: bool,
}

/// Who may ask what.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Readers {
    /// Subjects that may ask everything.
    pub all: Vec<Dn>,
    /// Subjects that may ask for sums without names of persons.
    pub sums: Vec<Dn>,
    /// Whoever has a certificate may ask for records of its own subject.
    pub own: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "[::]:8446".into(),
            cert: "/etc/grid-security/accounting/hostcert.pem".into(),
            key: "/etc/grid-security/accounting/hostkey.pem".into(),
            ca_dir: "/etc/grid-security/certificates".into(),
            store: "/var/lib/pilotage/accounting-site".into(),
            writers: Writers::default(),
            readers: Readers::default(),
            retention: Retention::default(),
            reconcile: Others::default(),
        }
    }
}

impl Default for Writers {
    fn default() -> Self {
        Self { allow: Vec::new(), own_host: true }
    }
}

impl Default for Readers {
    fn default() -> Self {
        Self { all: Vec::new(), sums: Vec::new(), own: true }
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Names file, line and reason.
    pub fn load(path: &Path) -> Result<Self, BadConfig> {
        config::load(path, Self::parse)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Names line and reason.
    pub fn parse(text: &str) -> Result<Self, BadConfig> {
        let config: Self = config::parse(text)?;
        config.listen.parse::<service::Address>().map_err(|e| BadConfig::from(format!("listen: {e}")))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_shows_every_key_and_its_default() {
        let sample = include_str!("../../../packaging/accounting.toml");
        assert_eq!(Config::parse(sample).unwrap(), Config::default(), "as shipped, the defaults hold");
        let text: String =
            sample.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l).to_owned() + "\n").collect();
        let config = Config::parse(&text).unwrap();
        assert!(!config.writers.allow.is_empty() && !config.readers.all.is_empty());
        assert!(!config.readers.sums.is_empty());
        let others = &config.reconcile;
        let files = [&others.slurm, &others.oar, &others.gridengine, &others.claims];
        assert!(files.iter().all(|file| file.is_some()), "{others:?}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, why) in [
            ("listne = 'x'\n", "line 1, column 1: unknown field `listne`"),
            ("\n[writers]\nalow = []\n", "line 3, column 1: unknown field `alow`"),
            ("[readers]\nall = ['CN=x']\n", "line 2"),
            ("listen = 'nowhere'\n", "listen"),
            ("[retention]\narguments = '12h'\n", "line 2"),
            ("[retention]\nidentty = '90d'\n", "unknown field `identty`"),
        ] {
            let told = Config::parse(text).unwrap_err().to_string();
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
