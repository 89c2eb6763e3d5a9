use super::*;
use identity::Dn;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;

type Meddler<'a> = dyn FnMut(&Paper<'a>, &str) + 'a;

/// A directory of values: names and the number of their file. Somebody else may work in it between two calls.
#[derive(Default)]
struct Paper<'a> {
    names: RefCell<BTreeMap<String, u64>>,
    used: RefCell<BTreeMap<u64, i64>>,
    clock: Cell<i64>,
    pauses: Cell<u32>,
    meddler: RefCell<Option<Box<Meddler<'a>>>>,
}

impl Paper<'_> {
    fn of(names: &[(&str, u64)]) -> Self {
        let paper = Self::default();
        paper.names.borrow_mut().extend(names.iter().map(|(name, inode)| ((*name).to_owned(), *inode)));
        paper.clock.set(1000);
        paper
    }

    fn put(&self, name: &str, inode: u64) {
        self.names.borrow_mut().insert(name.into(), inode);
    }

    fn drop_name(&self, name: &str) {
        self.names.borrow_mut().remove(name);
    }

    /// Lets the others do something; they are not asked about what they do themselves.
    fn others(&self, call: &str) {
        let taken = self.meddler.borrow_mut().take();
        if let Some(mut meddler) = taken {
            meddler(self, call);
            *self.meddler.borrow_mut() = Some(meddler);
        }
    }

    fn list(&self) -> Vec<String> {
        self.names.borrow().keys().cloned().collect()
    }
}

impl MapDir for Paper<'_> {
    fn names(&self) -> io::Result<Vec<String>> {
        self.others("names");
        Ok(self.list())
    }

    fn look(&self, name: &str) -> io::Result<Option<Entry>> {
        self.others("look");
        let names = self.names.borrow();
        Ok(names.get(name).map(|inode| Entry {
            inode: *inode,
            links: names.values().filter(|other| *other == inode).count() as u64,
            regular: *inode < 900,
            used: self.used.borrow().get(inode).copied().unwrap_or_default(),
        }))
    }

    fn link(&self, account: &str, lease: &str) -> io::Result<bool> {
        self.others("link");
        let mut names = self.names.borrow_mut();
        let inode = *names.get(account).ok_or(io::ErrorKind::NotFound)?;
        if names.contains_key(lease) {
            return Ok(false);
        }
        names.insert(lease.to_owned(), inode);
        Ok(true)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.others("unlink");
        self.drop_name(name);
        Ok(())
    }

    fn touch(&self, name: &str) -> io::Result<()> {
        self.clock.set(self.clock.get() + 1);
        self.used.borrow_mut().insert(self.names.borrow()[name], self.clock.get());
        Ok(())
    }

    fn pause(&self, _: u32) {
        self.pauses.set(self.pauses.get() + 1);
    }
}

fn pool() -> Pool {
    Pool::parse(".cms").unwrap()
}

fn lease(cn: &str) -> LeaseName {
    LeaseName::of_person(&Dn::parse(&format!("/CN={cn}")).unwrap(), &[]).unwrap()
}

fn take_fitting(dir: &Paper<'_>, cn: &str, fits: impl Fn(&str) -> bool) -> Result<String, Stop> {
    let (pool, lease) = (pool(), lease(cn));
    let wanted = Wanted { dir: Path::new("/pools"), pool: &pool, lease: &lease };
    let mut fit = |account: &AccountName| match fits(account.as_str()) {
        true => Ok(()),
        false => Err(Denial::NoSuchAccount(account.to_string()).into()),
    };
    Taker { dir, wanted }.take(&mut fit).map(|account| account.to_string())
}

fn take(dir: &Paper<'_>, cn: &str) -> Result<String, Stop> {
    take_fitting(dir, cn, |_| true)
}

fn why(stop: Stop) -> String {
    match stop {
        Stop::Denied(denial) => denial.to_string(),
        Stop::Site(why) | Stop::CannotTell(why) => format!("site: {why}"),
    }
}

#[test]
fn a_user_keeps_the_account_and_another_gets_another() {
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2), ("cms10", 10), ("cmsprd1", 20), ("root", 30)]);
    assert_eq!(take(&dir, "a").unwrap(), "cms1");
    assert_eq!(take(&dir, "b").unwrap(), "cms2");
    assert_eq!(take(&dir, "a").unwrap(), "cms1");
    assert_eq!(take(&dir, "c").unwrap(), "cms10");
    let refused = why(take(&dir, "d").unwrap_err());
    assert!(refused.contains("all 3 accounts of pool .cms are leased"), "{refused}");
    assert_eq!(dir.list().iter().filter(|name| is_lease(name)).count(), 3, "the refused one left nothing");
}

#[test]
fn the_account_that_has_been_free_for_longest_is_taken() {
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2)]);
    take(&dir, "a").unwrap();
    dir.drop_name(lease("a").as_str());
    assert_eq!(take(&dir, "b").unwrap(), "cms2", "cms1 was somebody's just now");
}

#[test]
fn an_account_that_does_not_fit_is_not_leased() {
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2)]);
    assert_eq!(take_fitting(&dir, "a", |account| account != "cms1").unwrap(), "cms2");
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2)]);
    let refused = why(take_fitting(&dir, "a", |_| false).unwrap_err());
    assert!(refused.contains("mapped to cms1"), "{refused}");
    assert_eq!(dir.list(), ["cms1", "cms2"], "a refused call leaves no lease");
    let dir = Paper::of(&[("cms1", 1), (lease("a").as_str(), 1), ("cms2", 2)]);
    assert!(
        take_fitting(&dir, "a", |account| account != "cms1").is_err(),
        "the held one counts, and no other"
    );
}

#[test]
fn what_is_wrong_with_a_directory_is_said() {
    let lease = lease("a");
    let name = lease.as_str();
    for (names, said) in [
        (&[("atlas1", 1)][..], "has no account of pool .cms"),
        (&[("atlas1", 1), (name, 1), ("cms1", 2)], "holds atlas1, which is none of pool .cms"),
        (&[(name, 950), ("cms1", 2)], "site: /pools: cannot look at the lease"),
        (&[("%2fcn%3db", 1), (name, 1), ("cms1", 2)], "which is no account"),
        (&[("cms1", 1), (name, 1), ("cms2", 1)], "has more names than two"),
        (&[("cms1", 950)], "has no account of pool .cms"),
    ] {
        let dir = Paper::of(names);
        let refused = why(take(&dir, "a").unwrap_err());
        assert!(refused.contains(said), "{refused}");
        assert_eq!(dir.list().len(), names.len(), "nothing is changed: {said}");
    }
}

#[test]
fn an_orphaned_lease_is_replaced() {
    let lease = lease("a");
    let dir = Paper::of(&[(lease.as_str(), 7), ("cms1", 1)]);
    assert_eq!(take(&dir, "a").unwrap(), "cms1");
    assert_eq!(dir.names.borrow()[lease.as_str()], 1);
}

#[test]
fn an_orphan_that_became_a_good_lease_meanwhile_stays() {
    let lease = lease("a");
    let name = lease.as_str().to_owned();
    let dir = Paper::of(&[(&name, 7), ("cms1", 1), ("cms2", 2)]);
    let mut looks = 0;
    *dir.meddler.borrow_mut() = Some(Box::new(move |dir, call| {
        looks += u32::from(call == "look");
        if looks == 2 {
            dir.put(&name, 2);
        }
    }));
    assert_eq!(take(&dir, "a").unwrap(), "cms2");
}

#[test]
fn two_who_took_one_account_do_not_both_keep_it() {
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2)]);
    let mut done = false;
    // The other one links right before us and looks right after: three names, so we go away and take another.
    *dir.meddler.borrow_mut() = Some(Box::new(move |dir, call| {
        if call == "link" && !done {
            done = true;
            dir.put("%2fcn%3dother", 1);
        }
    }));
    assert_eq!(take(&dir, "a").unwrap(), "cms2");
    assert_eq!(dir.pauses.get(), 1);
}

#[test]
fn a_lease_that_another_call_of_the_user_made_is_used() {
    let name = lease("a").as_str().to_owned();
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2)]);
    let mut done = false;
    *dir.meddler.borrow_mut() = Some(Box::new(move |dir, call| {
        if call == "link" && !done {
            done = true;
            dir.put(&name, 2);
        }
    }));
    assert_eq!(take(&dir, "a").unwrap(), "cms2");
}

#[test]
fn a_third_name_that_goes_away_is_waited_for() {
    let name = lease("a").as_str().to_owned();
    let dir = Paper::of(&[("cms1", 1), (&name, 1), ("%2fcn%3dracer", 1)]);
    let mut looks = 0;
    *dir.meddler.borrow_mut() = Some(Box::new(move |dir, _| {
        looks += 1;
        if looks == 3 {
            dir.drop_name("%2fcn%3dracer");
        }
    }));
    assert_eq!(take(&dir, "a").unwrap(), "cms1");
}

#[test]
fn racers_who_never_stop_end_the_call() {
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2)]);
    *dir.meddler.borrow_mut() = Some(Box::new(|dir, call| match call {
        "link" => dir.put("%2fcn%3dracer", 1),
        "names" => dir.drop_name("%2fcn%3dracer"),
        _ => {}
    }));
    dir.drop_name("cms2");
    let refused = why(take(&dir, "a").unwrap_err());
    assert!(refused.contains("others were faster") && !dir.list().contains(&lease("a").as_str().to_owned()));
}

#[test]
fn a_preview_changes_nothing() {
    let dir = Paper::of(&[("cms1", 1), ("cms2", 2)]);
    let (pool, held) = (pool(), lease("a"));
    let wanted = Wanted { dir: Path::new("/pools"), pool: &pool, lease: &held };
    let preview = || Taker { dir: &dir, wanted }.preview(&mut |_| Ok(())).unwrap();
    assert_eq!(preview(), (AccountName::parse("cms1").unwrap(), false));
    assert_eq!(dir.list(), ["cms1", "cms2"]);
    take(&dir, "a").unwrap();
    assert!(preview().1);
}
