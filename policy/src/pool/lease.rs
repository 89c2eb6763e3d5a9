//! Looking a lease up, and taking one.

use super::{Entry, LeaseName, MapDir, Pool, Wanted, is_lease};
use crate::decide::Stop;
use crate::judge::Denial;
use identity::{AccountName, one_line};
use std::fmt;
use std::io;

/// How often others may be faster before the call is refused. The pauses between make it several seconds.
const ATTEMPTS: u32 = 60;

/// What a directory says about a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// The user holds this account.
    Account(AccountName),
    /// The user holds none.
    Nothing,
    /// The user's lease is a file of its own: its account was taken out of the directory.
    Orphan(u64),
    /// Somebody is changing it now.
    Moving,
}

/// Who takes leases, and for whom the accounts must be good.
pub struct Taker<'a, D> {
    /// The directory.
    pub dir: &'a D,
    /// What is wanted.
    pub wanted: Wanted<'a>,
}

impl<D: MapDir> Taker<'_, D> {
    /// The user's account: the one that is held, or a free one, which becomes the user's.
    ///
    /// `fit` says whether a payload may have the account. It is asked before a lease is made, so that a call that is
    /// refused leaves none. A free account that does not fit is passed over; its reason counts when none fits.
    ///
    /// # Errors
    /// When there is no account, or none that fits.
    pub fn take(&self, fit: &mut dyn FnMut(&AccountName) -> Result<(), Stop>) -> Result<AccountName, Stop> {
        let mut moving = false;
        for attempt in 1..=ATTEMPTS {
            let held = self.holding()?;
            moving = held == Holding::Moving;
            match held {
                Holding::Account(account) => {
                    fit(&account)?;
                    self.io("touch", self.dir.touch(self.lease()))?;
                    return Ok(account);
                }
                Holding::Nothing => {}
                Holding::Orphan(inode) => self.remove_orphan(inode)?,
                Holding::Moving => {
                    self.dir.pause(attempt);
                    continue;
                }
            }
            let account = self.free(fit, attempt)?;
            if self.link(&account)? {
                return Ok(account);
            }
            self.dir.pause(attempt);
        }
        if moving {
            let what = "has more names than two, and that does not end; leave it and its account, and remove the others";
            return Err(Stop::Site(format!("{}: {} {what}", self.wanted.dir.display(), self.wanted.lease)));
        }
        let what =
            format!("others were faster {ATTEMPTS} times in pool {}; try again later", self.wanted.pool);
        Err(Denial::NoLease(what).into())
    }

    /// The account that [`Self::take`] would come to now, and whether it is held already. Nothing is changed.
    ///
    /// # Errors
    /// As for `take`.
    pub fn preview(
        &self,
        fit: &mut dyn FnMut(&AccountName) -> Result<(), Stop>,
    ) -> Result<(AccountName, bool), Stop> {
        match self.holding()? {
            Holding::Account(account) => fit(&account).map(|()| (account, true)),
            _ => self.free(fit, 1).map(|account| (account, false)),
        }
    }

    fn lease(&self) -> &str {
        self.wanted.lease.as_str()
    }

    fn holding(&self) -> Result<Holding, Stop> {
        let found = self.io("look at the lease", holding(self.dir, self.wanted.lease))?;
        match &found {
            Holding::Account(account) if !self.wanted.pool.has(account.as_str()) => {
                Err(Denial::NoLease(self.of_other_pool(account)).into())
            }
            _ => Ok(found),
        }
    }

    fn of_other_pool(&self, account: &AccountName) -> String {
        format!(
            "the user holds {account}, which is none of pool {}; a user changes pools when the site ends the lease: \
             site-policy pool retire {account}",
            self.wanted.pool
        )
    }

    /// A lease that is the only name of its file. Looked at again just before, since the user's other call may have made a
    /// good one by now.
    fn remove_orphan(&self, inode: u64) -> Result<(), Stop> {
        let now = self.io("look at the lease", self.dir.look(self.lease()))?;
        match now {
            Some(Entry { inode: same, links: 1, .. }) if same == inode => {
                self.io("remove the orphaned lease", self.dir.unlink(self.lease()))
            }
            _ => Ok(()),
        }
    }

    /// A free account that fits: the one that has been free for longest. Those who were too slow for it spread over the next.
    fn free(
        &self,
        fit: &mut dyn FnMut(&AccountName) -> Result<(), Stop>,
        attempt: u32,
    ) -> Result<AccountName, Stop> {
        let accounts = self.io("read the directory", accounts(self.dir, self.wanted.pool))?;
        if accounts.is_empty() {
            let (pool, dir) = (self.wanted.pool, self.wanted.dir.display());
            let what =
                format!("{dir} has no account of pool {pool}; make an empty file for each of them there");
            return Err(Denial::NoLease(what).into());
        }
        let free: Vec<_> = accounts.iter().filter(|(entry, _)| entry.links == 1).collect();
        let apart =
            self.lease().bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let start = usize::try_from(apart % attempt).unwrap_or(0).min(free.len());
        let mut unfit = None;
        for (_, account) in free[start..].iter().chain(&free[..start]) {
            match fit(account) {
                Ok(()) => return Ok(account.clone()),
                Err(stop) => unfit = unfit.or(Some(stop)),
            }
        }
        Err(unfit.unwrap_or_else(|| {
            let (pool, n) = (self.wanted.pool, accounts.len());
            let what = format!(
                "all {n} accounts of pool {pool} are leased; the site can add some, or end leases that nobody uses: \
                 site-policy pool expire"
            );
            Denial::NoLease(what).into()
        }))
    }

    /// Links, and looks again. `false`: somebody else was as fast, and nothing of ours is left.
    fn link(&self, account: &AccountName) -> Result<bool, Stop> {
        let lease = self.lease();
        let Some(before) = self.io("look at the account", self.dir.look(account.as_str()))? else {
            return Ok(false);
        };
        if before.links != 1 || !before.regular {
            return Ok(false);
        }
        let made = match self.dir.link(account.as_str(), lease) {
            // Taken out of the directory in between.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            made => self.io("make the lease", made)?,
        };
        if !made {
            return Ok(false);
        }
        match self.io("look at the lease", self.dir.look(lease))? {
            Some(Entry { inode, links: 2, .. }) if inode == before.inode => {
                self.io("touch the lease", self.dir.touch(lease))?;
                Ok(true)
            }
            // Taken away again by somebody who was allowed to.
            None => Ok(false),
            Some(entry) if entry.inode == before.inode => {
                self.io("take the lease back", self.dir.unlink(lease)).map(|()| false)
            }
            Some(_) => Ok(false),
        }
    }

    fn io<T>(&self, what: &str, done: io::Result<T>) -> Result<T, Stop> {
        done.map_err(|e| Stop::Site(self.trouble(what, &e)))
    }

    fn trouble(&self, what: &str, why: &dyn fmt::Display) -> String {
        one_line(&format!("{}: cannot {what} {}: {why}", self.wanted.dir.display(), self.lease()))
    }
}

/// What the user of this lease holds.
///
/// # Errors
/// Of the system, and for a lease that nobody can understand.
pub fn holding(dir: &impl MapDir, lease: &LeaseName) -> io::Result<Holding> {
    let Some(entry) = dir.look(lease.as_str())? else { return Ok(Holding::Nothing) };
    if !entry.regular {
        return Err(io::Error::other("it is no regular file"));
    }
    match entry.links {
        1 => Ok(Holding::Orphan(entry.inode)),
        2 => other_name(dir, lease, entry),
        // A racer's link that will be taken away soon. One that stays ends the call after some attempts.
        _ => Ok(Holding::Moving),
    }
}

fn other_name(dir: &impl MapDir, lease: &LeaseName, entry: Entry) -> io::Result<Holding> {
    for name in dir.names()?.into_iter().filter(|name| name != lease.as_str()) {
        // Names come and go while the directory is read.
        if dir.look(&name)?.is_some_and(|other| other.inode == entry.inode) {
            return match AccountName::parse(&name) {
                Ok(account) if !is_lease(&name) => Ok(Holding::Account(account)),
                _ => Err(io::Error::other(format!("it shares its file with {name:?}, which is no account"))),
            };
        }
    }
    match dir.look(lease.as_str())? {
        Some(now) if now == entry => Err(io::Error::other(
            "its account lies outside of the directory; put the account's file back, or remove the lease",
        )),
        _ => Ok(Holding::Moving),
    }
}

/// The accounts of a pool, those that have not been used for longest first; then by number.
///
/// # Errors
/// Of the system.
pub fn accounts(dir: &impl MapDir, pool: &Pool) -> io::Result<Vec<(Entry, AccountName)>> {
    let mut found = Vec::new();
    for name in dir.names()?.into_iter().filter(|name| pool.has(name)) {
        if let (Some(entry), Ok(account)) = (dir.look(&name)?, AccountName::parse(&name))
            && entry.regular
        {
            found.push((entry, account));
        }
    }
    found.sort_by(|(a, x), (b, y)| (a.used, x.as_str().len(), x).cmp(&(b.used, y.as_str().len(), y)));
    Ok(found)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
