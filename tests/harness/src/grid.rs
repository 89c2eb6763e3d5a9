//! The grid around a machine: its authority, its users, and their proxies in the hands of local accounts.

use crate::machine::Machine;
use crate::pki::{Craft, Pki, User, tampered};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

const DIR: &str = "/etc/grid-security";

/// What a machine knows of its grid so far.
#[derive(Default)]
pub(crate) struct Grid {
    pki: OnceLock<Pki>,
    users: Mutex<BTreeMap<String, User>>,
    mapped: Mutex<BTreeMap<String, String>>,
    proxies: AtomicU32,
}

impl std::fmt::Debug for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grid").finish_non_exhaustive()
    }
}

impl Machine {
    /// The authority, made at the first use; its directories are those in `/etc/grid-security`, and the host gets its
    /// `hostcert.pem` and `hostkey.pem` there.
    ///
    /// # Panics
    /// When the files cannot be made.
    pub fn pki(&self) -> &Pki {
        self.grid.pki.get_or_init(|| {
            let pki = Pki::new(Path::new(DIR)).unwrap_or_else(|e| panic!("cannot make a test grid: {e}"));
            let read = |file: &Path| fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            self.write("/etc/grid-security/hostcert.pem", "root", 0o644, read(&pki.host_cert));
            self.write("/etc/grid-security/hostkey.pem", "root", 0o400, read(&pki.host_key));
            pki
        })
    }

    /// A person on this grid, made at the first use; the name is its common name.
    ///
    /// # Panics
    /// When the certificate cannot be made.
    pub fn user(&self, name: &str) -> User {
        let mut users = self.grid.users.lock().expect("no test panics while it holds this");
        let make =
            || self.pki().user(&name.replace(' ', "-"), name).unwrap_or_else(|e| panic!("{name}: {e}"));
        users.entry(name.to_owned()).or_insert_with(make).clone()
    }

    /// Subject of the person's certificate.
    pub fn dn(&self, name: &str) -> String {
        self.user(name).dn
    }

    /// Adds a line to the grid-mapfile, or replaces the one that this person has.
    pub fn map(&self, name: &str, account: &str) {
        let dn = self.dn(name);
        let mut mapped = self.grid.mapped.lock().expect("no test panics while it holds this");
        mapped.insert(dn, account.to_owned());
        let lines: Vec<_> = mapped.iter().map(|(dn, account)| (dn.as_str(), account.as_str())).collect();
        self.grid_mapfile(&lines);
    }

    /// A good proxy of the person, valid for twelve hours, mode 0600 in the home of the account that owns it.
    pub fn proxy(&self, name: &str, owner: &str) -> String {
        self.craft(&Craft::default(), name, owner)
    }

    /// A proxy of the person that is as good or bad as it was made.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn craft(&self, craft: &Craft, name: &str, owner: &str) -> String {
        let path = self.new_path(owner);
        let made = craft.below_user(&self.user(name), Path::new(&path));
        made.unwrap_or_else(|e| panic!("proxy of {name}: {e}"));
        self.give(&path, owner)
    }

    /// A proxy of the person with one bit of its signature changed.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn tampered_proxy(&self, name: &str, owner: &str) -> String {
        let good = self.proxy(name, owner);
        let path = self.new_path(owner);
        // The signature stands last; ten bytes from the end is inside of it.
        tampered(Path::new(&good), Path::new(&path), 10).unwrap_or_else(|e| panic!("proxy of {name}: {e}"));
        self.give(&path, owner)
    }

    /// Puts a credential, or what pretends to be one, into the account's home, mode 0600.
    pub fn put_credential(&self, content: impl AsRef<[u8]>, owner: &str) -> String {
        let path = self.new_path(owner);
        self.write(&path, owner, 0o600, content);
        path
    }

    /// A path in the account's home that is not taken.
    pub fn new_path(&self, owner: &str) -> String {
        let number = self.grid.proxies.fetch_add(1, Ordering::Relaxed);
        format!("{}/proxy-{number}.pem", self.account(owner).home)
    }

    /// Makes a file the account's own, mode 0600; returns its path.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn give(&self, path: &str, owner: &str) -> String {
        let account = self.account(owner);
        let given = crate::accounts::own(path, account.uid, account.gid, 0o600);
        given.unwrap_or_else(|e| panic!("{path}: {e}"));
        path.to_owned()
    }
}
