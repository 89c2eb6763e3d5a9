//! Who may call `glexec`, as both files of the site list it.

use identity::{AccountName, Malformed};

/// Who may call, as written in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerPattern {
    /// `*`
    Anybody,
    /// An account name.
    Account(AccountName),
    /// `.base`: `base` followed by digits.
    Pool(AccountName),
}

impl CallerPattern {
    /// Parses `*`, `name` or `.base`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        match text.strip_prefix('.') {
            _ if text == "*" => Ok(Self::Anybody),
            Some(base) => AccountName::parse(base).map(Self::Pool),
            None => AccountName::parse(text).map(Self::Account),
        }
    }

    /// Whether the account is meant.
    pub fn matches(&self, name: &AccountName) -> bool {
        match self {
            Self::Anybody => true,
            Self::Account(account) => account == name,
            Self::Pool(base) => name
                .as_str()
                .strip_prefix(base.as_str())
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_digit())),
        }
    }
}
