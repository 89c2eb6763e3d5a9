//! Who may see what: decided from the configuration and the caller's subject, and nothing else.

use super::config::{Config, Readers, Writers};
use crate::filter::Filter;
use crate::sum::Key;
use crate::upload;
use identity::{Dn, same_name};

/// What a caller may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// Sums that name no person.
    Sums,
    /// Records of this subject.
    Own(String),
    /// Nothing.
    Nothing,
}

/// Which hosts' records a caller may bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Brings {
    /// Those of any host.
    AnyHost,
    /// Those of this host.
    Host(String),
}

/// Why a caller is turned away, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Forbidden(pub String);

/// What this caller may ask.
pub fn of(readers: &Readers, caller: &Dn) -> Scope {
    let is = |list: &[Dn]| list.iter().any(|dn| same_name(dn.as_str(), caller.as_str()));
    if is(&readers.all) {
        Scope::All
    } else if is(&readers.sums) {
        Scope::Sums
    } else if readers.own {
        Scope::Own(caller.as_str().to_owned())
    } else {
        Scope::Nothing
    }
}

/// Which records this caller may bring.
///
/// # Errors
/// When it may bring none, with the remedy.
pub fn brings(config: &Writers, caller: &Dn) -> Result<Brings, Forbidden> {
    if !config.allow.iter().any(|pattern| pattern.names_host(caller)) {
        return Err(Forbidden(format!("{caller} may not bring records; add it to [writers] allow")));
    }
    match upload::host_of(caller.as_str()) {
        _ if !config.own_host => Ok(Brings::AnyHost),
        Some(host) => Ok(Brings::Host(host.to_owned())),
        None => Err(Forbidden(format!("{caller} names no host, and [writers] own_host is set"))),
    }
}

impl Scope {
    /// The question about records, narrowed to what may be seen.
    ///
    /// # Errors
    /// When nothing of it may be seen.
    pub fn narrow(&self, filter: Filter) -> Result<Filter, Forbidden> {
        match self {
            Self::All => Ok(filter),
            Self::Own(dn) => match &filter.dn {
                Some(asked) if !same_name(asked, dn) => {
                    Err(Forbidden("only records of your own subject; leave dn out".to_owned()))
                }
                _ => Ok(Filter { dn: Some(dn.clone()), ..filter }),
            },
            Self::Sums => Err(Forbidden("only sums: ask /v1/summary".to_owned())),
            Self::Nothing => Err(Forbidden("nothing may be asked by you; see [readers]".to_owned())),
        }
    }

    /// The same for sums, kept apart by these keys.
    ///
    /// # Errors
    /// When nothing of it may be seen, or the keys name persons.
    pub fn narrow_sums(&self, filter: Filter, keys: &[Key]) -> Result<Filter, Forbidden> {
        let names_persons = filter.dn.is_some()
            || filter.account.is_some()
            || filter.uid.is_some()
            || filter.cred_sha256.is_some()
            || filter.batch.is_some()
            || filter.parent.is_some()
            || keys.iter().any(|key| matches!(key, Key::User | Key::Account | Key::Batch | Key::Reason));
        match self {
            Self::Sums if names_persons => {
                Err(Forbidden("only sums that name no person, account or job".to_owned()))
            }
            Self::Sums => Ok(filter),
            _ => self.narrow(filter),
        }
    }

    /// Its word in logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Sums => "sums",
            Self::Own(_) => "own",
            Self::Nothing => "nothing",
        }
    }
}

/// Whether anybody may bring or ask anything, for `--check`.
pub fn is_of_use(config: &Config) -> bool {
    !config.writers.allow.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dn(text: &str) -> Dn {
        Dn::parse(text).unwrap()
    }

    #[test]
    fn each_sees_what_is_meant_for_it() {
        let readers = Readers { all: vec![dn("/CN=sec")], sums: vec![dn("/CN=boss")], own: true };
        let any = || Filter { vo: Some("cms".into()), ..Filter::default() };
        assert_eq!(of(&readers, &dn("/CN=sec")).narrow(any()).unwrap(), any());
        let boss = of(&readers, &dn("/CN=boss"));
        assert!(boss.narrow(any()).is_err() && boss.narrow_sums(any(), &[Key::Vo]).is_ok());
        assert!(boss.narrow_sums(any(), &[Key::User]).is_err());
        assert!(boss.narrow_sums(Filter { uid: Some(1), ..any() }, &[Key::Vo]).is_err());
        let ada = of(&readers, &dn("/CN=ada"));
        assert_eq!(ada.narrow(any()).unwrap().dn.as_deref(), Some("/CN=ada"));
        assert!(ada.narrow(Filter { dn: Some("/CN=bob".into()), ..any() }).is_err());
        assert_eq!(ada.narrow_sums(any(), &[Key::User]).unwrap().dn.as_deref(), Some("/CN=ada"));
        let closed = Readers { own: false, ..readers };
        assert!(of(&closed, &dn("/CN=ada")).narrow(any()).is_err());
    }

    #[test]
    fn a_host_brings_its_own_records() {
        let mut writers = Writers { allow: vec![dn("/DC=org/CN=host/*.example.org")], own_host: true };
        let node = dn("/DC=org/CN=host/wn1.example.org");
        assert_eq!(brings(&writers, &node), Ok(Brings::Host("wn1.example.org".into())));
        assert!(brings(&writers, &dn("/DC=org/CN=ada")).is_err());
        writers.own_host = false;
        assert_eq!(brings(&writers, &node), Ok(Brings::AnyHost));
    }
}
