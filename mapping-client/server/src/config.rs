//! The configuration file: who may ask, who gets which account, who is banned.

use identity::{AccountName, Dn, Fqan, Malformed, Meaning, same_name};
use policy::pool::Pool;
use serde::Deserialize;
use service::config::{self, BadConfig};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A whole configuration. `docs/mapping.md` describes the keys.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where accounts of pools are leased, as by `glexec` and LCMAPS.
    pub gridmapdir: Option<PathBuf>,
    /// Who may ask.
    pub callers: Callers,
    /// Persons by subject DN.
    pub users: BTreeMap<Dn, Target>,
    /// Groups and roles, in order; asked after `users`.
    pub fqans: Vec<FqanRule>,
    /// Who gets nothing; asked before everything else.
    pub bans: Bans,
    /// Numbers and groups of accounts, for clients that want them.
    pub accounts: BTreeMap<AccountName, Ids>,
}

/// `[callers]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callers {
    /// Subject DNs; `*` stands for any characters but `.`, `/` and `=`.
    pub allow: Vec<Dn>,
}

/// One `[[fqans]]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FqanRule {
    /// FQAN without absent role and capability; `*` stands for any characters, a final `/*` also for nothing.
    pub fqan: Fqan,
    /// The account, or the pool.
    pub account: Target,
}

/// Whom a rule names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Target {
    /// This account.
    Account(AccountName),
    /// One account of several, `.name`.
    Pool(Pool),
}

impl TryFrom<String> for Target {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        match text.starts_with('.') {
            true => Pool::parse(&text).map(Self::Pool),
            false => AccountName::parse(&text).map(Self::Account),
        }
    }
}

/// `[bans]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bans {
    /// Subject DNs; `*` stands for any characters.
    pub users: Vec<Dn>,
    /// FQANs as in `[[fqans]]`.
    pub fqans: Vec<Fqan>,
}

/// One `[accounts.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ids {
    /// Numeric user id.
    pub uid: Option<u32>,
    /// Numeric primary gid.
    pub gid: Option<u32>,
    /// Numeric secondary gids.
    pub groups: Vec<u32>,
    /// Name of the primary group.
    pub group: Option<AccountName>,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, BadConfig> {
        config::load(path, Self::parse)
    }

    /// Checks the text of a file.
    pub fn parse(text: &str) -> Result<Self, BadConfig> {
        let config: Self = config::parse(text)?;
        config.check().map_err(BadConfig::from)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let targets = || self.users.values().chain(self.fqans.iter().map(|r| &r.account));
        let plain = |target: &&Target| matches!(target, Target::Account(name) if name.as_str() == "root");
        if targets().any(|t| plain(&t)) || self.accounts.keys().any(|name| name.as_str() == "root") {
            return Err("nobody is mapped to root: name another account".into());
        }
        let pool = targets().find_map(|t| if let Target::Pool(pool) = t { Some(pool) } else { None });
        match (pool, &self.gridmapdir) {
            (Some(pool), None) => {
                return Err(format!("pool {pool} has no accounts without gridmapdir: name a directory"));
            }
            (None, Some(_)) => {
                let why = "no rule names a pool; write an account as .name, or remove gridmapdir";
                return Err(format!("gridmapdir has no effect: {why}"));
            }
            (_, Some(dir)) if !dir.is_absolute() => {
                return Err("gridmapdir: the path must be absolute".into());
            }
            _ => {}
        }
        let mut seen = HashMap::new();
        for (dn, account) in &self.users {
            if let Some((other, _)) =
                seen.insert(Meaning::of(dn.as_str()), (dn, account)).filter(|(_, a)| *a != account)
            {
                return Err(format!(
                    "[users]: {dn} and {other} are one name, but have different accounts; keep one of them"
                ));
            }
        }
        for (name, ids) in &self.accounts {
            let all = ids.uid.iter().chain(&ids.gid).chain(&ids.groups);
            if all.into_iter().any(|n| *n == 0 || *n == u32::MAX) {
                return Err(format!("[accounts.{name}]: 0 and 4294967295 are no ids for users"));
            }
            if ids.uid.is_some() != ids.gid.is_some() {
                return Err(format!("[accounts.{name}]: give uid and gid together, or neither"));
            }
        }
        Ok(())
    }

    /// The account of a person, in whatever way the name is spelt.
    pub fn account_of(&self, who: &Dn) -> Option<&Target> {
        let other_spelling = || self.users.iter().find(|(dn, _)| same_name(dn.as_str(), who.as_str()));
        self.users.get(who).or_else(|| other_spelling().map(|(_, account)| account))
    }

    /// Numbers and groups of an account; nothing when none are given.
    pub fn ids(&self, account: &AccountName) -> Ids {
        self.accounts.get(account).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        Config::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn the_sample_is_a_good_configuration_with_every_key() {
        let sample = include_str!("../../../packaging/mapping-server.toml");
        let empty = Config::parse(sample).unwrap();
        assert!(empty.callers.allow.is_empty(), "as shipped, nobody may ask");
        let uncommented: String =
            sample.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l).to_owned() + "\n").collect();
        let config = Config::parse(&uncommented).unwrap();
        assert!(!config.callers.allow.is_empty() && !config.users.is_empty() && !config.fqans.is_empty());
        assert!(!config.bans.users.is_empty() && !config.bans.fqans.is_empty());
        assert!(
            config.gridmapdir.is_some() && config.fqans.iter().any(|r| matches!(r.account, Target::Pool(_)))
        );
        assert!(
            config.accounts.values().any(|a| a.uid.is_some() && !a.groups.is_empty() && a.group.is_some())
        );
    }

    #[test]
    fn unknown_keys_are_errors_with_their_place() {
        let text = "[callers]\nallow = []\n\n[bans]\n  usres = []\n";
        let error = reason(text);
        assert!(error.starts_with("line 5, column 3: unknown field `usres`"), "{error}");
        for text in
            ["x = 1", "[pools]\n", "[[fqans]]\nfqan='/a'\naccount='a'\nuid=1\n", "[accounts.a]\nhome='/'\n"]
        {
            assert!(reason(text).contains("unknown field"), "{text}");
        }
    }

    #[test]
    fn malformed_values_are_errors_with_their_place() {
        for (text, why) in [
            ("[users]\n'CN=Alice' = 'alice'\n", "line 2"),
            ("[users]\n'/CN=Alice' = 'al ice'\n", "account name"),
            ("[[fqans]]\nfqan = 'testvo'\naccount = 'a'\n", "FQAN"),
            ("[[fqans]]\nfqan = '/testvo'\n", "missing field `account`"),
            ("[users]\n'/CN=A' = 'a'\n'/CN=A' = 'b'\n", "duplicate key"),
            ("[users\n", "line 1"),
        ] {
            assert!(reason(text).contains(why), "{}", reason(text));
        }
    }

    #[test]
    fn root_and_half_numbers_are_refused() {
        for text in [
            "[users]\n'/CN=A' = '.cms'\n",
            "gridmapdir = '/d'\n[users]\n'/CN=A' = 'a'\n",
            "gridmapdir = 'd'\n[users]\n'/CN=A' = '.a'\n",
            "gridmapdir = '/d'\n[users]\n'/CN=A' = '.'\n",
            "[users]\n'/CN=A' = 'root'\n",
            "[accounts.a]\nuid = 0\ngid = 5\n",
            "[accounts.a]\nuid = 20001\n",
            "[accounts.a]\nuid = 20001\ngid = 20001\ngroups = [0]\n",
        ] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }
}
