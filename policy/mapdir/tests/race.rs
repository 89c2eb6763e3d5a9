//! Many processes and one directory: no account is ever given twice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use identity::{AccountName, Dn};
use mapdir::Directory;
use policy::decide::Stop;
use policy::judge::Denial;
use policy::pool::lease::Taker;
use policy::pool::{LeaseName, MapDir, Pool, Wanted};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// In the environment of a racer: the directory, and the user's name.
const DIRECTORY: &str = "MAPDIR_RACE_DIRECTORY";
const USER: &str = "MAPDIR_RACE_USER";

fn take(dir: &Path, user: &str) -> Result<AccountName, Stop> {
    let directory = Directory::new(File::open(dir).unwrap());
    let pool = Pool::parse(".cms").unwrap();
    let lease = LeaseName::of_person(&Dn::parse(&format!("/CN={user}")).unwrap(), &[]).unwrap();
    let wanted = Wanted { dir, pool: &pool, lease: &lease };
    Taker { dir: &directory, wanted }.take(&mut |_| Ok(()))
}

/// What each racer runs: this program again, as the one test that waits for the start and takes.
#[test]
fn racer() {
    let (Some(dir), Ok(user)) = (std::env::var_os(DIRECTORY), std::env::var(USER)) else { return };
    let dir = Path::new(&dir);
    while !dir.join(".start").exists() {
        std::thread::yield_now();
    }
    let line = match take(dir, &user) {
        Ok(account) => format!("got {account}"),
        Err(Stop::Denied(Denial::NoLease(why))) => format!("none {why}"),
        Err(other) => format!("broken {other:?}"),
    };
    fs::write(dir.join(format!(".said-{}", std::process::id())), line).unwrap();
}

fn start(dir: &Path, user: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "racer", "--nocapture"])
        .env(DIRECTORY, dir)
        .env(USER, user)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets one process for each user race; returns what they say.
fn race(dir: &Path, accounts: usize, users: impl Iterator<Item = String>) -> Vec<String> {
    for n in 1..=accounts {
        File::create(dir.join(format!("cms{n:03}"))).unwrap();
    }
    let racers: Vec<_> = users.map(|user| start(dir, &user)).collect();
    File::create(dir.join(".start")).unwrap();
    let said = |mut racer: Child| {
        let id = racer.id();
        assert!(racer.wait().unwrap().success());
        fs::read_to_string(dir.join(format!(".said-{id}"))).unwrap()
    };
    racers.into_iter().map(said).collect()
}

/// Each lease and the account that it shares its file with.
fn leases(dir: &Path) -> Vec<(String, u64)> {
    let directory = Directory::new(File::open(dir).unwrap());
    let names = directory.names().unwrap().into_iter().filter(|name| name.starts_with('%'));
    names
        .map(|name| (directory.look(&name).unwrap().unwrap(), name))
        .map(|(e, name)| (name, e.links))
        .collect()
}

#[test]
fn sixty_four_processes_race_for_the_last_account_and_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let said = race(dir.path(), 1, (0..64).map(|n| format!("user {n}")));
    let got: Vec<_> = said.iter().filter(|line| line.starts_with("got ")).collect();
    assert!(got.len() == 1 && !said.iter().any(|line| line.starts_with("broken")), "{said:#?}");
    let left = leases(dir.path());
    assert!(left.len() == 1 && left[0].1 == 2, "{left:?}");
}

#[test]
fn as_many_accounts_as_users_are_all_given_and_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let said = race(dir.path(), 32, (0..32).map(|n| format!("user {n}")));
    let got: BTreeSet<_> = said.iter().filter_map(|line| line.strip_prefix("got ")).collect();
    assert_eq!((got.len(), leases(dir.path()).len()), (32, 32), "{said:#?}");
}

#[test]
fn the_calls_of_one_user_all_get_one_account() {
    let dir = tempfile::tempdir().unwrap();
    let said = race(dir.path(), 4, (0..24).map(|_| "Alice".to_owned()));
    let got: BTreeSet<_> = said.iter().collect();
    assert!(got.len() == 1 && said[0].starts_with("got "), "{said:#?}");
    assert_eq!(leases(dir.path()).len(), 1);
}
