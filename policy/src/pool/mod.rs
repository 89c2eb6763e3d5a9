//! Pool accounts: which account of a pool a user holds, and how one becomes the user's.
//!
//! A `gridmapdir` holds one empty file for each account of its pools. A lease is a second hard link to that file, named after
//! the user. LCMAPS, Argus and Globus keep leases in the same way, so several of them may work in one directory at the same
//! time. The rule: link, then look again. Two links are a lease; three mean that somebody else was as fast, and whoever sees
//! them takes its own link away and tries again.
//!
//! | looking for | see |
//! |---|---|
//! | names of pools and leases | here |
//! | taking a lease, looking one up | [`lease`] |
//! | what has to be done on a file system | [`MapDir`] |
//!
//! Nothing that a credential says becomes a path: names of leases are encoded, and hold neither a slash nor a dot.

pub mod lease;

use identity::{AccountName, Dn, Fqan, Malformed};
use std::fmt;
use std::io;
use std::path::Path;

/// The name of a pool, without the dot that map files write before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool(AccountName);

impl Pool {
    /// Accepts what map files write: a dot, and what names of accounts begin with.
    ///
    /// # Errors
    /// For a dot alone, and for what no account can be named after.
    pub fn parse(written: &str) -> Result<Self, Malformed> {
        let malformed =
            || Malformed::new("pool", written, "write a dot and what its accounts begin with: .cms");
        let name = written.strip_prefix('.').ok_or_else(malformed)?;
        AccountName::parse(name).map(Self).map_err(|_| malformed())
    }

    /// Whether the account is one of the pool: the pool's name and digits. (LCMAPS asks for digits with
    /// `-strict_poolprefix_match yes` only; without it `.cms` would hand out `cmsprd001`.)
    pub fn has(&self, account: &str) -> bool {
        let rest = account.strip_prefix(self.0.as_str());
        rest.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()))
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ".{}", self.0)
    }
}

/// The name of a lease: the holder, in letters and digits (the "poolindex" of LCMAPS).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseName(String);

/// The longest name of a file (`NAME_MAX` of Linux).
const LONGEST: usize = 255;

impl LeaseName {
    /// The lease of a person; with `groups`, where a group map named some: the same person in other groups holds another
    /// account.
    ///
    /// # Errors
    /// For names that no file can have.
    pub fn of_person(dn: &Dn, groups: &[String]) -> Result<Self, Malformed> {
        let mut name = encoded(dn.as_str());
        for group in groups {
            if group.is_empty() || group.contains(['/', '\0']) {
                return Err(Malformed::new("group", group, "a slash has no place in the name of a lease"));
            }
            name.push(':');
            name.push_str(group);
        }
        Self::of(name)
    }

    /// The lease of a group or role, on a group of a pool.
    ///
    /// # Errors
    /// For names that are too long.
    pub fn of_fqan(fqan: &Fqan) -> Result<Self, Malformed> {
        Self::of(encoded(fqan.as_str()))
    }

    /// A name that was found in a directory; `None` when it is none of a lease.
    pub fn found(name: &str) -> Option<Self> {
        is_lease(name).then(|| Self(name.to_owned()))
    }

    fn of(name: String) -> Result<Self, Malformed> {
        if name.len() > LONGEST {
            let rule = "its encoded form must fit into 255 bytes, the longest name of a file";
            return Err(Malformed::new("name for a lease", &name, rule));
        }
        Ok(Self(name))
    }

    /// The name of the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whom it means: the name as far as the encoding tells (letters are lower case), and what stands after it.
    pub fn holder(&self) -> (String, &str) {
        let (name, groups) = self.0.split_once(':').unwrap_or((&self.0, ""));
        (decoded(name), groups)
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a file of this name is a lease and no account.
pub fn is_lease(name: &str) -> bool {
    name.starts_with('%')
}

/// Letters in lower case, digits, and every other byte as `%` and two digits (lower case).
fn encoded(name: &str) -> String {
    let mut out = String::with_capacity(3 * name.len());
    for byte in name.bytes() {
        match byte.is_ascii_alphanumeric() {
            true => out.push(byte.to_ascii_lowercase().into()),
            false => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

fn decoded(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = code
            .and_then(|two| std::str::from_utf8(two).ok())
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A file of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which file it is, whatever its names.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Whether it is a regular file.
    pub regular: bool,
    /// When the lease was last used, seconds since the epoch.
    pub used: i64,
}

/// The files of a directory, one system call each. Names are those of this module, or were read from the directory.
pub trait MapDir {
    /// All names; those that are no text are left out.
    ///
    /// # Errors
    /// Of the system.
    fn names(&self) -> io::Result<Vec<String>>;

    /// What has this name; links are not followed. `None` when nothing has.
    ///
    /// # Errors
    /// Of the system.
    fn look(&self, name: &str) -> io::Result<Option<Entry>>;

    /// Gives the account's file a second name. `false`: something has that name.
    ///
    /// # Errors
    /// Of the system.
    fn link(&self, account: &str, lease: &str) -> io::Result<bool>;

    /// Takes a name away; it may be gone.
    ///
    /// # Errors
    /// Of the system.
    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Sets the time of last use to now.
    ///
    /// # Errors
    /// Of the system.
    fn touch(&self, name: &str) -> io::Result<()>;

    /// Waits for a moment that nobody can guess, longer after more attempts.
    fn pause(&self, attempt: u32);
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The directory.
    pub dir: &'a Path,
    /// The pool that a map file names.
    pub pool: &'a Pool,
    /// The lease of the user.
    pub lease: &'a LeaseName,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dn(text: &str) -> Dn {
        Dn::parse(text).unwrap()
    }

    #[test]
    fn leases_are_named_as_lcmaps_names_them() {
        let groups = ["gridprod".to_owned(), "gridcms".to_owned()];
        let name = LeaseName::of_person(&dn("/C=XX/O=Test Grid/OU=robots/CN=Pilot Robot"), &groups).unwrap();
        assert_eq!(
            name.as_str(),
            "%2fc%3dxx%2fo%3dtest%20grid%2fou%3drobots%2fcn%3dpilot%20robot:gridprod:gridcms"
        );
        assert_eq!(name.holder(), ("/c=xx/o=test grid/ou=robots/cn=pilot robot".into(), "gridprod:gridcms"));
        let name = LeaseName::of_person(&dn("/CN=J\\xC3\\xBC.-_~x"), &[]).unwrap();
        assert_eq!(name.as_str(), "%2fcn%3dj%5cxc3%5cxbc%2e%2d%5f%7ex");
        let name = LeaseName::of_fqan(&Fqan::parse("/cms/Role=pilot").unwrap()).unwrap();
        assert_eq!(name.as_str(), "%2fcms%2frole%3dpilot");
    }

    #[test]
    fn no_name_of_a_lease_is_a_path() {
        for text in ["/../../etc/passwd", "/CN=a/../b", "/."] {
            let name = LeaseName::of_person(&dn(text), &[]).unwrap();
            assert!(is_lease(name.as_str()) && !name.as_str().contains(['/', '.']), "{name}");
        }
        assert!(LeaseName::of_person(&dn("/CN=a"), &["../x".into()]).is_err());
        assert!(LeaseName::of_person(&dn("/CN=a"), &[String::new()]).is_err());
        assert!(LeaseName::of_person(&dn(&format!("/{}", "=".repeat(90))), &[]).is_err(), "too long");
    }

    #[test]
    fn a_pool_has_its_name_and_digits() {
        let pool = Pool::parse(".cms").unwrap();
        for (account, has) in [
            ("cms1", true),
            ("cms001", true),
            ("cms", false),
            ("cmsprd001", false),
            ("cms1~", false),
            ("xcms1", false),
        ] {
            assert_eq!(pool.has(account), has, "{account}");
        }
        for bad in [".", "cms", "..", ".a/b", ". x", ".%2f", "", ".7"] {
            assert!(Pool::parse(bad).is_err(), "{bad}");
        }
    }
}
