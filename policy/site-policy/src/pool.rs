//! `site-policy pool`: who holds which pool account, and the end of leases that nobody uses.
//!
//! A lease in use stays: a session of the account on this host, or a process of it. `glexec` holds a lock from the moment it
//! takes a lease until its session is on record, and the same lock is held alone here while leases are ended; so none goes that
//! is about to be used. Other hosts that share the directory are seen by the time of last use only.

use crate::cli::{PoolAction, PoolArgs};
use crate::{Reply, accounts};
use identity::AccountName;
use mapdir::Directory;
use nix::fcntl::{Flock, FlockArg};
use policy::SitePolicy;
use policy::pool::lease::{Holding, holding};
use policy::pool::{Entry, LeaseName, MapDir, Pool};
use policy::trusted::Rule;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where `glexec` keeps what ends with the boot.
const RUN_DIR: &str = "/run/glexec";

/// How long calls of `glexec` that take leases are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What an account is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Free,
    Leased,
    Used,
}

/// An account of a pool.
#[derive(Debug, Clone, Serialize)]
struct Row {
    account: String,
    state: State,
    /// The name of the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// The DN in lower case, as far as the name of the lease tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    /// Seconds since the epoch: when the lease was last used, or the account became free.
    used_unix_s: i64,
    /// Sessions and processes of the account on this host.
    sessions: usize,
    processes: usize,
}

#[derive(Serialize)]
struct Listed<'a> {
    gridmapdir: &'a Path,
    accounts: &'a [Row],
}

#[derive(Serialize)]
struct Kept {
    what: String,
    why: String,
}

#[derive(Serialize)]
struct Ended<'a> {
    gridmapdir: &'a Path,
    dry_run: bool,
    ended: &'a [Row],
    kept: &'a [Kept],
}

/// The directory, and what is known about it.
struct Place {
    path: PathBuf,
    directory: Directory,
}

/// How long a lease must not have been used to be expired: longer than the longest-lived proxies.
const OLD: Duration = Duration::from_secs(30 * 86_400);

/// Runs a command; an error means that something could not be read or done.
pub fn run(args: &PoolArgs) -> Result<Reply, String> {
    if let Some(why) = args.contradiction() {
        return Ok(Reply::usage(why.into()));
    }
    let pool = match args.pool.as_deref().map(Pool::parse).transpose() {
        Ok(pool) => pool,
        Err(e) => return Ok(Reply::usage(e.to_string())),
    };
    let place = Place::open(args)?;
    if args.action == PoolAction::List {
        let rows = place.rows(pool.as_ref())?;
        let report = Listed { gridmapdir: &place.path, accounts: &rows };
        return Ok(Reply::done(if args.json { json(&report)? } else { table(&rows) }));
    }
    let _alone = alone(args.dry_run)?;
    let rows = place.rows(pool.as_ref())?;
    let (chosen, missing) = match args.action {
        PoolAction::Retire => named(&rows, &args.lease),
        _ => (unused(rows, args.older_than.unwrap_or(OLD)), Vec::new()),
    };
    let (ended, mut kept) = place.end(chosen, args.dry_run)?;
    kept.extend(missing);
    let code = u8::from(args.action == PoolAction::Retire && !kept.is_empty());
    place.reply(&ended, &kept, args, code)
}

fn unused(rows: Vec<Row>, age: Duration) -> Vec<Row> {
    let oldest = now().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    rows.into_iter().filter(|row| row.lease.is_some() && row.used_unix_s <= oldest).collect()
}

fn named(rows: &[Row], names: &[String]) -> (Vec<Row>, Vec<Kept>) {
    let (mut chosen, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        let before = chosen.len();
        chosen.extend(rows.iter().filter(|row| row.means(name)).cloned());
        if chosen.len() == before {
            missing.push(Kept { what: name.clone(), why: "no lease of that name, account or holder".into() });
        }
    }
    (chosen, missing)
}

impl Row {
    /// By account, by name of the lease, or by DN.
    fn means(&self, name: &str) -> bool {
        let Some(lease) = &self.lease else { return false };
        let by_dn = || self.holder.as_deref() == Some(name.to_ascii_lowercase().as_str());
        self.account == name || lease == name || by_dn()
    }
}

impl Place {
    /// The directory of the policy, or the one that is named. Root changes only what nobody else can change.
    fn open(args: &PoolArgs) -> Result<Self, String> {
        let path = match &args.gridmapdir {
            Some(path) => path.clone(),
            None => {
                let policy = SitePolicy::load(&args.policy).map_err(|e| e.to_string())?;
                policy.mapping.gridmapdir.ok_or_else(|| {
                    let why =
                        "leases no accounts: set [mapping] gridmapdir, or name a directory with --gridmapdir";
                    format!("{} {why}", args.policy.display())
                })?
            }
        };
        if nix::unistd::geteuid().is_root() && !args.dry_run && args.action != PoolAction::List {
            crate::outside::audit(&path, Rule::DIRECTORY).map_err(|e| e.about(&path))?;
        }
        let open = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self { path, directory: Directory::new(open) })
    }

    /// All accounts, or those of one pool, by pool and number.
    fn rows(&self, pool: Option<&Pool>) -> Result<Vec<Row>, String> {
        let failed = |e: io::Error| format!("{}: {e}", self.path.display());
        let names = self.directory.names().map_err(failed)?;
        let mut leases = BTreeMap::new();
        let mut accounts = Vec::new();
        for name in names {
            let Some(entry) = self.directory.look(&name).map_err(failed)? else { continue };
            if let Some(lease) = LeaseName::found(&name) {
                leases.insert(entry.inode, lease);
            } else if entry.regular
                && AccountName::parse(&name).is_ok()
                && pool.is_none_or(|pool| pool.has(&name))
            {
                accounts.push((name, entry));
            }
        }
        let (sessions, processes) = (sessions()?, processes().map_err(|e| format!("/proc: {e}"))?);
        accounts.sort_by(|(a, _), (b, _)| by_number(a).cmp(&by_number(b)));
        accounts
            .into_iter()
            .map(|(account, entry)| row(account, entry, leases.get(&entry.inode), &sessions, &processes))
            .collect()
    }

    /// Ends the leases that are not in use. What was used since it was looked at stays, too.
    fn end(&self, rows: Vec<Row>, dry_run: bool) -> Result<(Vec<Row>, Vec<Kept>), String> {
        let (mut ended, mut kept) = (Vec::new(), Vec::new());
        for row in rows {
            let Some(lease) = row.lease.as_deref().and_then(LeaseName::found) else { continue };
            let why = match row.state {
                State::Used => Some(format!(
                    "it is in use: {} sessions and {} processes on this host",
                    row.sessions, row.processes
                )),
                _ if !self.still(&row, &lease)? => Some("it has just been used or changed".into()),
                _ => None,
            };
            if let Some(why) = why {
                kept.push(Kept { what: format!("{} ({lease})", row.account), why });
                continue;
            }
            if !dry_run {
                let gone = self.directory.unlink(lease.as_str());
                gone.map_err(|e| format!("{}: cannot remove {lease}: {e}", self.path.display()))?;
            }
            ended.push(row);
        }
        Ok((ended, kept))
    }

    fn still(&self, row: &Row, lease: &LeaseName) -> Result<bool, String> {
        let failed = |e: io::Error| format!("{}: {lease}: {e}", self.path.display());
        let held = holding(&self.directory, lease).map_err(failed)?;
        let entry = self.directory.look(lease.as_str()).map_err(failed)?;
        let same = matches!(held, Holding::Account(account) if account.as_str() == row.account);
        Ok(same && entry.is_some_and(|entry| entry.used == row.used_unix_s))
    }

    fn reply(&self, ended: &[Row], kept: &[Kept], args: &PoolArgs, code: u8) -> Result<Reply, String> {
        let (gridmapdir, dry_run) = (&self.path, args.dry_run);
        let text = if args.json {
            json(&Ended { gridmapdir, dry_run, ended, kept })?
        } else {
            let done = if dry_run { "would end" } else { "ended" };
            let of = |row: &Row| row.holder.clone().unwrap_or_default();
            let mut text: String = ended
                .iter()
                .map(|row| {
                    format!("{done} {} of {}, last used {} ago\n", row.account, of(row), age(row.used_unix_s))
                })
                .collect();
            text.extend(kept.iter().map(|kept| format!("kept {}: {}\n", kept.what, kept.why)));
            text.push_str(&format!("{} {done}, {} kept\n", ended.len(), kept.len()));
            identity::shown::terminal_text(&text).into_owned()
        };
        Ok(Reply { text, code })
    }
}

fn row(
    account: String,
    entry: Entry,
    lease: Option<&LeaseName>,
    sessions: &BTreeMap<u32, usize>,
    processes: &BTreeMap<u32, usize>,
) -> Result<Row, String> {
    let uid = accounts::by_name(&account)?.map(|user| user.uid);
    let count = |of: &BTreeMap<u32, usize>| uid.and_then(|uid| of.get(&uid)).copied().unwrap_or_default();
    let (sessions, processes) = (count(sessions), count(processes));
    let state = match lease {
        _ if sessions + processes > 0 => State::Used,
        Some(_) => State::Leased,
        None => State::Free,
    };
    let (holder, groups) = lease.map(LeaseName::holder).unzip();
    let groups = groups.unwrap_or_default().split(':').filter(|group| !group.is_empty());
    Ok(Row {
        account,
        state,
        lease: lease.map(ToString::to_string),
        holder,
        groups: groups.map(str::to_owned).collect(),
        used_unix_s: entry.used,
        sessions,
        processes,
    })
}

/// The name without its number, and the number.
fn by_number(account: &str) -> (&str, usize, &str) {
    let name = account.trim_end_matches(|c: char| c.is_ascii_digit());
    (name, account.len(), account)
}

/// How many sessions each uid has on this host. Only root may look; for others there are processes.
fn sessions() -> Result<BTreeMap<u32, usize>, String> {
    let dir = Path::new(RUN_DIR).join("sessions");
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() => {
            return Ok(found);
        }
        Err(e) => return Err(format!("{}: {e}", dir.display())),
    };
    for entry in entries {
        let file = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path().join("state");
        // A session that ended meanwhile has no state any more.
        let Ok(state) = fs::read(&file) else { continue };
        let state = String::from_utf8_lossy(&state).into_owned();
        let uid = state.lines().find_map(|line| line.strip_prefix("uid=")?.parse::<u32>().ok());
        let uid =
            uid.ok_or_else(|| format!("{}: names no uid; glexec of another version?", file.display()))?;
        *found.entry(uid).or_default() += 1;
    }
    Ok(found)
}

/// How many processes run with each uid, real, effective or saved.
fn processes() -> io::Result<BTreeMap<u32, usize>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        if !entry.file_name().to_string_lossy().bytes().all(|c| c.is_ascii_digit()) {
            continue;
        }
        let status = fs::read(entry.path().join("status")).unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        for uid in uids.split_whitespace().filter_map(|uid| uid.parse::<u32>().ok()).collect::<BTreeSet<_>>()
        {
            *found.entry(uid).or_default() += 1;
        }
    }
    Ok(found)
}

/// The lock that `glexec` shares while it takes leases.
fn alone(dry_run: bool) -> Result<Option<Flock<File>>, String> {
    if dry_run {
        return Ok(None);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("only root can see which leases are in use; run this as root, or with --dry-run".into());
    }
    let path = Path::new(RUN_DIR).join("leases");
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR).map_err(|e| failed(&e))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        match Flock::lock(file.map_err(|e| failed(&e))?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((_, nix::errno::Errno::EAGAIN)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((_, nix::errno::Errno::EAGAIN)) => {
                return Err(failed(
                    &"calls of glexec are taking leases, and do not come to an end; try again",
                ));
            }
            Err((_, e)) => return Err(failed(&e)),
        }
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX)
}

fn age(used: i64) -> String {
    let seconds = (now() - used).max(0);
    match (seconds / 86_400, seconds / 3600, seconds / 60) {
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, _) => format!("{hours}h"),
        (days, ..) => format!("{days}d"),
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<12} {:<7} {:>6}  {}\n", "ACCOUNT", "STATE", "USED", "HOLDER");
    for row in rows {
        let state = match row.state {
            State::Free => "free",
            State::Leased => "leased",
            State::Used => "in use",
        };
        let groups =
            if row.groups.is_empty() { String::new() } else { format!(" ({})", row.groups.join(" ")) };
        let holder = row.holder.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "{:<12} {state:<7} {:>6}  {holder}{groups}\n",
            row.account,
            age(row.used_unix_s)
        ));
    }
    identity::shown::terminal_text(&text).into_owned()
}

fn json(report: &impl Serialize) -> Result<String, String> {
    let text = serde_json::to_string(report).map_err(|e| format!("cannot be written as JSON: {e}"))?;
    Ok(identity::shown::json(&text).into_owned() + "\n")
}
