//! `site-policy ports`: what is leased on this node, by whom, since when, what rests, and who listens.
//!
//! Agents agree on blocks by files that root hands out, one of the block's name each, which says `held` or `free UID` since the time
//! it was written; without a switch in a directory of the node, where `LOW-HIGH.lock` is locked with flock(2) while a payload has the
//! block, and `LOW-HIGH.UID` is the mark of the account that had it last. All are read without locking anything: locks stand in
//! `/proc/locks`.

use crate::cli::{BLOCK_DIR, PORT_DIR, PortsArgs};
use crate::node::{self, Node};
use crate::{Reply, accounts};
use policy::file::PortsPolicy;
use policy::ports::PortRange;
use policy::ports::node::Listener;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a block is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Leased,
    Resting,
    Free,
}

#[derive(Debug, Serialize)]
struct Block {
    block: String,
    state: State,
    /// The account that has it, or had it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// The agent that holds the lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// Since when it is in this state, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    since_unix_s: Option<u64>,
    /// Seconds until its rest is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    rests_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Listening {
    protocol: &'static str,
    address: String,
    port: u16,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// Whether the port belongs to a block that is leased.
    leased: bool,
}

#[derive(Debug, Serialize)]
struct View {
    host: String,
    range: Option<String>,
    share: Option<String>,
    per_payload: u16,
    quarantine_s: u64,
    blocks: Vec<Block>,
    listeners: Vec<Listening>,
}

/// Looks and shows. Exit code 1: this host has no ports, though the site leases some.
pub fn run(args: &PortsArgs) -> Result<Reply, String> {
    let policy = crate::site_or_default(args.policy.as_deref())?.ports;
    let node = Node::look()?;
    let share = match policy.share_of(&node.names()) {
        Ok(share) => share,
        Err(why) => return Ok(Reply { text: format!("{why}\n"), code: 1 }),
    };
    let view = view(&policy, share, &Places::of(args.port_dir.as_deref()), &node);
    let text = if args.json {
        serde_json::to_string(&view).map_err(|e| e.to_string())? + "\n"
    } else {
        in_words(&view)
    };
    Ok(Reply::done(text))
}

/// Where pilots agree on blocks.
pub struct Places<'a> {
    /// Files that root hands out.
    root: Option<&'a Path>,
    /// Where there is no switch.
    shared: &'a Path,
}

impl<'a> Places<'a> {
    /// The usual ones, or this directory alone.
    pub fn of(named: Option<&'a Path>) -> Self {
        let root = named.is_none().then_some(Path::new(BLOCK_DIR));
        Self { root, shared: named.unwrap_or(Path::new(PORT_DIR)) }
    }

    /// What a block is doing, as root's files have it, or else the directory.
    fn block(&self, range: PortRange, quarantine: Duration, locks: &BTreeMap<u64, u32>) -> Block {
        let of_root = self.root.map(|dir| block_of_root(range, dir, quarantine, locks));
        let taken = of_root.filter(|block| block.state != State::Free);
        taken.unwrap_or_else(|| block(range, self.shared, quarantine, locks))
    }
}

/// What root's file says. Who had it is for root to read; everybody sees since when, and who holds the lock.
fn block_of_root(range: PortRange, dir: &Path, quarantine: Duration, locks: &BTreeMap<u64, u32>) -> Block {
    let path = dir.join(range.to_string());
    let meta = fs::symlink_metadata(&path).ok().filter(|meta| meta.is_file() && meta.uid() == 0);
    let pid = meta.as_ref().and_then(|meta| locks.get(&meta.ino()).copied());
    let word = meta.as_ref().and_then(|_| fs::read_to_string(&path).ok()).unwrap_or_default();
    let written = meta.and_then(|meta| meta.modified().ok());
    let age = written.map(|written| SystemTime::now().duration_since(written).unwrap_or_default());
    let state = match (pid, age) {
        (Some(_), _) => State::Leased,
        (None, Some(_)) if word == "held" => State::Leased,
        (None, Some(age)) if age < quarantine => State::Resting,
        _ => State::Free,
    };
    let holder = pid.and_then(|pid| fs::metadata(format!("/proc/{pid}")).ok()).map(|meta| meta.uid());
    let uid = holder.or_else(|| word.strip_prefix("free ")?.parse().ok()).filter(|_| state != State::Free);
    // What a pilot has locked is in use since its session began, which root's word tells.
    let since = written.filter(|_| state == State::Resting || word == "held");
    Block::of(
        range,
        state,
        uid,
        pid,
        since,
        age.filter(|_| state == State::Resting).map(|age| quarantine.saturating_sub(age)),
    )
}

impl Block {
    fn of(
        range: PortRange,
        state: State,
        uid: Option<u32>,
        pid: Option<u32>,
        since: Option<SystemTime>,
        rests: Option<Duration>,
    ) -> Self {
        Self {
            block: range.to_string(),
            state,
            uid,
            account: uid.and_then(name_of),
            pid,
            since_unix_s: since
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .map(|since| since.as_secs()),
            rests_s: rests.map(|left| left.as_secs_f64().ceil() as u64),
        }
    }
}

fn view(policy: &PortsPolicy, share: Option<PortRange>, places: &Places<'_>, node: &Node) -> View {
    let locks = node::locks();
    let blocks: Vec<(PortRange, Block)> = share
        .into_iter()
        .flat_map(|share| share.blocks(policy.per_payload))
        .map(|range| (range, places.block(range, policy.quarantine, &locks)))
        .collect();
    let leased = |port: u16| blocks.iter().any(|(range, b)| b.state == State::Leased && range.contains(port));
    let listeners = node.listeners.iter().filter(|l| share.is_some_and(|share| share.contains(l.port)));
    let listeners = listeners.map(|l| listening(l, leased(l.port))).collect();
    View {
        host: node.host.clone(),
        range: policy.range.map(|r| r.to_string()),
        share: share.map(|r| r.to_string()),
        per_payload: policy.per_payload,
        quarantine_s: policy.quarantine.as_secs(),
        blocks: blocks.into_iter().map(|(_, block)| block).collect(),
        listeners,
    }
}

/// The blocks of this node that a payload has now.
pub fn leased(share: PortRange, policy: &PortsPolicy, places: &Places<'_>) -> Vec<PortRange> {
    let locks = node::locks();
    let is_leased =
        |range: &PortRange| places.block(*range, policy.quarantine, &locks).state == State::Leased;
    share.blocks(policy.per_payload).filter(is_leased).collect()
}

fn listening(listener: &Listener, leased: bool) -> Listening {
    Listening {
        protocol: listener.protocol,
        address: listener.address.to_string(),
        port: listener.port,
        uid: listener.uid,
        account: name_of(listener.uid),
        pid: node::process_of_socket(listener.inode),
        leased,
    }
}

fn name_of(uid: u32) -> Option<String> {
    accounts::by_uid(uid).ok().flatten().map(|user| user.name)
}

fn block(range: PortRange, dir: &Path, quarantine: Duration, locks: &BTreeMap<u64, u32>) -> Block {
    let lock = fs::symlink_metadata(dir.join(format!("{range}.lock"))).ok().filter(fs::Metadata::is_file);
    let pid = lock.and_then(|meta| locks.get(&meta.ino()).copied());
    let mark = newest_mark(range, dir);
    let now = SystemTime::now();
    // A mark dated in the future comes from a clock that was set back: its rest begins when it is first seen.
    let age = mark.as_ref().map(|mark| now.duration_since(mark.written).unwrap_or_default());
    let state = match (pid, age) {
        (Some(_), _) => State::Leased,
        (None, Some(age)) if age < quarantine => State::Resting,
        _ => State::Free,
    };
    let shown = mark.as_ref().filter(|_| state != State::Free);
    let rests = age.filter(|_| state == State::Resting).map(|age| quarantine.saturating_sub(age));
    Block::of(range, state, shown.map(|mark| mark.uid), pid, shown.map(|mark| mark.written), rests)
}

struct Mark {
    uid: u32,
    written: SystemTime,
}

/// The mark written last, by whichever account; one that pretends to be another account's does not count.
fn newest_mark(range: PortRange, dir: &Path) -> Option<Mark> {
    let prefix = format!("{range}.");
    let marks = fs::read_dir(dir).ok()?.flatten().filter_map(|entry| {
        let uid = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse::<u32>().ok()?;
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(entry.path()).ok()?;
        let meta = file.metadata().ok().filter(|meta| meta.is_file() && meta.uid() == uid)?;
        let mut word = Vec::new();
        file.take(16).read_to_end(&mut word).ok()?;
        Some(Mark { uid, written: meta.modified().ok()? })
    });
    marks.max_by_key(|mark| mark.written)
}

fn in_words(view: &View) -> String {
    let Some(share) = &view.share else {
        return "[ports] range is not set: payloads get no ports on this node\n".into();
    };
    let count = |state| view.blocks.iter().filter(|b| b.state == state).count();
    let mut text = format!(
        "{}: {share}, {} blocks of {} ports: {} leased, {} resting, {} free\n",
        view.host,
        view.blocks.len(),
        view.per_payload,
        count(State::Leased),
        count(State::Resting),
        count(State::Free)
    );
    for block in view.blocks.iter().filter(|block| block.state != State::Free) {
        let who = match (&block.account, block.uid) {
            (Some(name), _) => format!("account {name}"),
            (None, Some(uid)) => format!("uid {uid}"),
            (None, None) => "an account that only root may see".into(),
        };
        let pid = block.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
        let since = block.since_unix_s.map(|since| format!(" since {}", utc(since))).unwrap_or_default();
        text.push_str(&match block.rests_s {
            Some(left) => format!("{:<12} rests    {left}s more, after {who}\n", block.block),
            None => format!("{:<12} leased   by {who}{pid}{since}\n", block.block),
        });
    }
    for one in &view.listeners {
        let who = one.account.clone().unwrap_or_else(|| format!("uid {}", one.uid));
        let pid = one.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
        let strange = if one.leased { "" } else { "; the port is not leased" };
        text.push_str(&format!(
            "{:<12} {} listens on {}: {who}{pid}{strange}\n",
            one.port, one.protocol, one.address
        ));
    }
    text
}

/// `2026-11-28 16:30:00 UTC`, by the civil calendar (Hinnant, days_from_civil).
fn utc(unix: u64) -> String {
    let (days, left) = (unix / 86_400, unix % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (left / 3600, left / 60 % 60, left % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(utc(1_795_883_400), "2026-11-28 16:30:00 UTC");
    }
}
