//! Files that root trusts, and files that others swap under its hands.
//!
//! A path that anybody but root could have changed is refused with 202 and named. What a caller or a payload swaps
//! while `glexec` looks at it never yields another identity, and never lets a file of somebody else be read or written.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the tests: a panic is its failure"
)]

use end_to_end::contract::eventually;
use end_to_end::security::{leaves, rounds};
use harness::{Machine, Ran, Run, needs};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const POLICY: &str = "/etc/pilotage/policy.toml";
const CONF: &str = "/etc/glexec.conf";
const VERIFY: &str = "/usr/libexec/pilotage/glexec-verify";
const MAP: &str = "/usr/libexec/pilotage/glexec-map";
const SPOOL: &str = "/var/spool/pilotage/records";
const RUN: &str = "/run/glexec";

/// What root trusts; a call of [`site`] needs every one of them.
const TRUSTED: [&str; 11] = [
    POLICY,
    CONF,
    "/etc/grid-security/grid-mapfile",
    "/etc/grid-security/voms-mapfile",
    "/etc/grid-security/ban-mapfile",
    "/etc/grid-security/ban-voms-mapfile",
    "/etc/grid-security/certificates",
    "/etc/grid-security/vomsdir",
    VERIFY,
    SPOOL,
    RUN,
];

/// Alice is mapped by the grid-mapfile, which is asked after the voms-mapfile.
fn site() -> (Machine, String) {
    let builder = Machine::builder().pilot("pilot").account("alice").account("bob");
    let m = builder.mapping(&["voms-mapfile", "grid-mapfile"]).build();
    m.map("Alice", "alice");
    m.write("/etc/grid-security/voms-mapfile", "root", 0o644, "\"/cms/*\" bob\n");
    m.write("/etc/grid-security/ban-mapfile", "root", 0o644, "\"/O=Nobody/CN=Banned\"\n");
    m.write("/etc/grid-security/ban-voms-mapfile", "root", 0o644, "\"/banned/*\"\n");
    own_children(&m);
    let proxy = m.proxy("Alice", "pilot");
    (m, proxy)
}

/// Children of this machine's own: changing the installed ones would change those that cargo built.
fn own_children(m: &Machine) {
    for child in [VERIFY, MAP] {
        let bytes = fs::read(child).expect("it is installed");
        // Bound or copied: both are possible.
        let _ = std::process::Command::new("umount").arg(child).output();
        m.write(child, "root", 0o755, bytes);
    }
}

/// A call that finds nothing remembered of earlier ones: kept verdicts would spare it the verifier.
fn id(m: &Machine, proxy: &str) -> Ran {
    let _ = fs::remove_dir_all("/run/glexec/cache");
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy).args(["/usr/bin/id", "-u"]).output()
}

/// Changes a component of a path, sees the call refused by its name, and changes it back.
fn refused_while(m: &Machine, proxy: &str, why: &str, spoil: impl FnOnce(), mend: impl FnOnce()) {
    spoil();
    let ran = id(m, proxy);
    mend();
    ran.refused(202, &[why]);
    assert_eq!(ran.text(), "", "{why}");
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it exists");
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

#[test]
#[needs(root)]
fn what_others_may_write_is_not_trusted() {
    let (m, proxy) = site();
    id(&m, &proxy).ok();
    for path in TRUSTED {
        // The file itself, then each directory above it.
        for place in Path::new(path).ancestors().filter(|p| p.parent().is_some()) {
            let mode = fs::metadata(place).unwrap().mode() & 0o7777;
            let name = name_of(place);
            for bits in [0o020, 0o002, 0o1002] {
                let words = format!("{name}: mode");
                refused_while(&m, &proxy, &words, || chmod(place, mode | bits), || chmod(place, mode));
            }
        }
    }
    id(&m, &proxy).ok();
}

#[test]
#[needs(root)]
fn what_belongs_to_others_is_not_trusted() {
    let (m, proxy) = site();
    for owner in ["pilot", "alice"] {
        let uid = m.uid(owner);
        let give = |place: &Path, uid| std::os::unix::fs::chown(place, Some(uid), None).unwrap();
        for path in TRUSTED {
            for place in Path::new(path).ancestors().filter(|p| p.parent().is_some()) {
                let words = format!("{}: belongs to uid {uid}", name_of(place));
                refused_while(&m, &proxy, &words, || give(place, uid), || give(place, 0));
            }
        }
    }
    id(&m, &proxy).ok();
}

#[test]
#[needs(root)]
fn links_count_only_when_root_made_them() {
    let (m, proxy) = site();
    for path in TRUSTED {
        let aside = format!("{path}.aside");
        fs::rename(path, &aside).unwrap();
        symlink(&aside, path).unwrap();
        id(&m, &proxy).ok();
        lchown(path, Some(m.uid("pilot")), None).unwrap();
        let ran = id(&m, &proxy);
        // A link of root's into a place where others put things.
        fs::remove_file(path).unwrap();
        fs::create_dir_all("/tmp/drop").unwrap();
        symlink("/tmp/drop/it", path).unwrap();
        symlink(&aside, "/tmp/drop/it").unwrap();
        let through_tmp = id(&m, &proxy);
        fs::remove_file(path).unwrap();
        fs::remove_file("/tmp/drop/it").unwrap();
        fs::rename(&aside, path).unwrap();
        ran.refused(202, &[path, "link that root does not own"]);
        through_tmp.refused(202, &[path, "tmp: mode 1777"]);
    }
    id(&m, &proxy).ok();
}

#[test]
#[needs(root)]
fn the_host_key_and_the_mapping_child_are_trusted_likewise() {
    let gums = "[mapping.gums]\nendpoints = [\"https://localhost:1/gums/services/X\"]\ntimeout = \"1s\"\n";
    let m = Machine::builder().pilot("pilot").account("alice").mapping(&["gums"]).policy_add(gums).build();
    m.pki();
    own_children(&m);
    let proxy = m.proxy("Alice", "pilot");
    id(&m, &proxy).refused(203, &["mapping service unavailable"]);
    for path in ["/etc/grid-security/hostcert.pem", "/etc/grid-security/hostkey.pem", MAP] {
        let mode = fs::metadata(path).unwrap().mode() & 0o7777;
        for bits in [0o020, 0o002] {
            chmod(path, mode | bits);
            let ran = id(&m, &proxy);
            chmod(path, mode);
            // The child is part of asking the service, which reports 203 whatever goes wrong.
            let code = if path == MAP { 203 } else { 202 };
            ran.refused(code, &[path, "lets others write"]);
        }
        std::os::unix::fs::chown(path, Some(m.uid("pilot")), None).unwrap();
        let ran = id(&m, &proxy);
        std::os::unix::fs::chown(path, Some(0), None).unwrap();
        assert!(matches!(ran.code(), Some(202 | 203)), "{ran:?}");
        assert!(ran.errors().contains(path) && ran.errors().contains("belongs to uid"), "{}", ran.errors());
    }
}

#[test]
#[needs(root)]
fn a_log_file_that_others_could_choose_is_not_written() {
    let (m, proxy) = site();
    id(&m, &proxy).ok();
    let log = Path::new(harness::GLEXEC_LOG);
    let before = fs::metadata(log).unwrap().len();
    chmod(log.parent().unwrap(), 0o777);
    id(&m, &proxy).ok();
    assert_eq!(fs::metadata(log).unwrap().len(), before);
    chmod(log.parent().unwrap(), 0o755);
    m.write("/etc/victim", "root", 0o600, "victim\n");
    fs::remove_file(log).unwrap();
    symlink("/etc/victim", log).unwrap();
    id(&m, &proxy).ok();
    assert_eq!(fs::read_to_string("/etc/victim").unwrap(), "victim\n");
}

/// Whoever calls first must not become the group that reads what is logged about everybody.
#[test]
#[needs(root)]
fn what_root_creates_belongs_to_root_alone() {
    let (m, proxy) = site();
    let _ = fs::remove_dir_all("/run/glexec");
    // The first caller is a stranger with an open umask; the log file and all directories are made now.
    let script = "umask 0; exec /usr/sbin/glexec /usr/bin/id";
    let _ = m.command("/bin/sh").as_user("bob").args(["-c", script]).output().exits(203);
    let script = "umask 0; exec /usr/sbin/glexec /bin/sh -c 'echo > /tmp/runs; sleep 600'";
    let run = m.command("/bin/sh").as_user("pilot").env("GLEXEC_CLIENT_CERT", &proxy).args(["-c", script]);
    let running = run.spawn();
    eventually("the payload", Duration::from_secs(60), || Path::new("/tmp/runs").exists().then_some(()));
    let mut wrong = Vec::new();
    let places = [RUN.to_owned(), SPOOL.to_owned(), harness::GLEXEC_LOG.to_owned()];
    for place in places.into_iter().chain(leaves(&m)) {
        others_in(Path::new(&place), &mut wrong);
    }
    drop(running);
    assert!(wrong.is_empty(), "not root's alone: {wrong:#?}");
}

/// Everything below a path that is not root's, or that others may write.
fn others_in(path: &Path, wrong: &mut Vec<String>) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if meta.uid() != 0 || meta.gid() != 0 || meta.mode() & 0o022 != 0 {
        let (uid, gid, mode) = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
        wrong.push(format!("{} {uid}:{gid} {mode:04o}", path.display()));
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        others_in(&entry.path(), wrong);
    }
}

/// A forged session names a cgroup and a spool of the forger's choice: nothing of it may be acted on.
#[test]
#[needs(root)]
fn sessions_in_a_run_directory_that_others_may_write_are_not_closed() {
    let (m, proxy) = site();
    let own = m.command("/bin/cat").arg("/proc/self/cgroup").output().ok();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let point =
        mounts.lines().find(|l| l.split(' ').nth(2) == Some("cgroup2")).and_then(|l| l.split(' ').nth(1));
    let (Some(point), Some(group)) = (point, own.lines().find_map(|l| l.strip_prefix("0::"))) else { return };
    let victims = format!("{point}{group}/victims");
    fs::create_dir(&victims).unwrap();
    let mut victim = m.command("/bin/sleep").arg("60").spawn();
    fs::write(format!("{victims}/cgroup.procs"), victim.pid().to_string()).unwrap();
    chmod(RUN, 0o777);
    let id_of_it = "01890000-0000-7000-8000-000000000000";
    let dir = format!("{RUN}/sessions/{id_of_it}");
    let (uid, pilot) = (m.uid("alice"), m.uid("pilot"));
    let state = format!(
        "version=1\nid={id_of_it}\ncaller_uid={pilot}\nuid={uid}\ngid={uid}\nsupervisor=1\ncgroup={victims}\n\
         spool=/tmp\nwork_dir=\n"
    );
    m.write(&format!("{dir}/state"), "pilot", 0o644, state);
    m.write(&format!("{dir}/lock"), "pilot", 0o644, "");
    let ran = id(&m, &proxy);
    let alive = victim.is_running();
    chmod(RUN, 0o755);
    assert!(alive, "root ended processes that a forged session named");
    ran.refused(202, &[RUN, "glexec: mode"]);
}

/// What came of the calls of a race.
#[derive(Debug, Default)]
struct Seen {
    /// By outcome: how many calls had it.
    outcomes: BTreeMap<&'static str, u32>,
    /// Calls during which something was swapped.
    swapped: u32,
    /// Swaps in all.
    swaps: u32,
}

impl Seen {
    /// Fails when this was no race: most calls must have met a swap, and each of these outcomes one call in twenty.
    #[track_caller]
    fn raced(&self, outcomes: &[&str]) {
        println!("{self:?}");
        let calls: u32 = self.outcomes.values().sum();
        assert!(self.swapped > calls / 2 && self.swaps > calls, "calls met too few swaps: {self:?}");
        for outcome in outcomes {
            let count = self.outcomes.get(outcome).copied().unwrap_or(0);
            assert!(count > calls / 20, "too few calls were {outcome}: {self:?}");
        }
    }
}

/// How many threads call: a call waits for the kernel more than it computes.
const CALLERS: u32 = 4;

/// Runs `round`, which names its outcome, until all rounds are done, on a few threads, while `swap` goes on and on.
fn race(total: u32, swap: impl Fn(u32) + Sync, round: impl Fn(u32) -> &'static str + Sync) -> Seen {
    let (over, next, swaps) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let callers = AtomicU32::new(CALLERS);
    let seen = Mutex::new(Seen::default());
    let call = || {
        let _last = Countdown { left: &callers, over: &over };
        while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < total) {
            let before = swaps.load(Ordering::Relaxed);
            let outcome = round(n);
            let met = swaps.load(Ordering::Relaxed) != before;
            let mut seen = seen.lock().expect("nobody fails while holding it");
            *seen.outcomes.entry(outcome).or_default() += 1;
            seen.swapped += u32::from(met);
        }
    };
    std::thread::scope(|s| {
        (0..CALLERS).for_each(|_| drop(s.spawn(call)));
        while !over.load(Ordering::Relaxed) {
            let n = swaps.load(Ordering::Relaxed);
            swap(n);
            swaps.store(n + 1, Ordering::Relaxed);
            // Never in step with the calls, and without taking their CPU.
            std::thread::sleep(Duration::from_micros(u64::from(n * 7 % 11) * 20));
        }
    });
    Seen { swaps: swaps.into_inner(), ..seen.into_inner().expect("nobody failed while holding it") }
}

/// Ends the race when the last caller ends, also by a failed assertion.
struct Countdown<'a> {
    left: &'a AtomicU32,
    over: &'a AtomicBool,
}

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.over.store(true, Ordering::Relaxed);
        }
    }
}

/// Puts a link, or a second name of a file, in the place of whatever is there; atomically.
fn put(at: &str, make: impl FnOnce(&str) -> std::io::Result<()>) {
    let beside = format!("{at}.beside");
    let _ = fs::remove_file(&beside);
    make(&beside).expect("the directory is the swapper's");
    fs::rename(&beside, at).expect("both are in one directory");
}

fn racing_site() -> Machine {
    let m = Machine::builder()
        .pilot("pilot")
        .pilot("other")
        .account("alice")
        .account("bob")
        .account("carol")
        .build();
    for (user, account) in [("Alice", "alice"), ("Bob", "bob"), ("Carol", "carol")] {
        m.map(user, account);
    }
    m.edit_policy(|p| p.replace("[callers]", "[accounting]\nrequire_record = true\n[callers]"));
    m
}

/// Calls of each race. `PILOTAGE_RACE_ROUNDS` sets how many there are in all three of them.
fn calls_per_race() -> u32 {
    rounds("PILOTAGE_RACE_ROUNDS", 10_000).div_ceil(3)
}

#[test]
#[needs(root)]
fn a_proxy_file_that_is_swapped_gives_its_own_identity_or_none() {
    let m = racing_site();
    let (alice, bob) = (m.proxy("Alice", "pilot"), m.proxy("Bob", "pilot"));
    // Carol's proxy is the other pilot's: however it is reached, it must not count.
    let carol = m.proxy("Carol", "other");
    chmod("/home/other", 0o711);
    let texts = [fs::read_to_string(&alice).unwrap(), fs::read_to_string(&bob).unwrap()];
    let uids = [m.uid("alice").to_string(), m.uid("bob").to_string()];
    let racing = "/home/pilot/racing.pem";
    let swap = |n: u32| match n % 5 {
        0 => put(racing, |at| fs::hard_link(&alice, at)),
        1 => put(racing, |at| symlink(&carol, at)),
        2 => put(racing, |at| fs::hard_link(&bob, at)),
        3 => put(racing, |at| fs::hard_link(&carol, at)),
        _ => put(racing, |at| symlink("/etc/shadow", at)),
    };
    swap(0);
    let seen = race(calls_per_race(), swap, |n| {
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", racing);
        let run = if n % 2 == 0 { run.env("GLEXEC_TARGET_PROXY", "/dev/null") } else { run };
        let ran = run.args(["/bin/sh", "-c", "id -u; cat $X509_USER_PROXY"]).output();
        if ran.code() != Some(0) {
            ran.exits(201);
            assert_eq!(ran.text(), "");
            return "refused";
        }
        let text = ran.text();
        let (uid, proxy) = text.split_once('\n').unwrap_or((&text, ""));
        let who = uids.iter().position(|u| u == uid).unwrap_or_else(|| panic!("became {uid}"));
        // Two calls for one user may renew one file; both have the user's own bytes.
        assert!(proxy.is_empty() || proxy.trim() == texts[who].trim(), "{uid} got somebody else's proxy");
        ["Alice's", "Bob's"][who]
    });
    seen.raced(&["Alice's", "Bob's", "refused"]);
}

/// Files of Bob and of root that Alice's pilot and payload try to have overwritten or removed.
fn treasures(m: &Machine) -> Vec<(String, fs::Metadata)> {
    m.write("/home/bob/job/precious", "bob", 0o600, "bob's\n");
    m.write("/home/bob/proxy", "bob", 0o600, "bob's\n");
    m.write("/srv/root/job/precious", "root", 0o644, "root's\n");
    m.write("/srv/root/proxy", "root", 0o644, "root's\n");
    let bob = m.uid("bob");
    std::os::unix::fs::chown("/home/bob/job", Some(bob), Some(bob)).expect("it was just made");
    let all = ["/home/bob", "/home/bob/job", "/home/bob/job/precious", "/home/bob/proxy", "/srv/root"];
    let more = ["/srv/root/job", "/srv/root/job/precious", "/srv/root/proxy"];
    all.iter().chain(&more).map(|p| ((*p).to_owned(), fs::metadata(p).expect("all of them exist"))).collect()
}

#[track_caller]
fn untouched(treasures: &[(String, fs::Metadata)]) {
    for (path, before) in treasures {
        let now = fs::metadata(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let same = |m: &fs::Metadata| (m.ino(), m.uid(), m.mode(), m.mtime(), m.mtime_nsec(), m.ctime_nsec());
        assert_eq!(same(&now), same(before), "{path}");
    }
}

#[test]
#[needs(root)]
fn a_target_proxy_that_is_swapped_never_lands_in_a_foreign_place() {
    let m = racing_site();
    let proxy = m.proxy("Alice", "pilot");
    let treasures = treasures(&m);
    fs::create_dir("/home/alice/good").unwrap();
    std::os::unix::fs::chown("/home/alice/good", Some(m.uid("alice")), None).unwrap();
    chmod("/home/alice", 0o755);
    m.write("/home/alice/own", "alice", 0o600, "an older copy");
    let (dir, file) = ("/home/alice/t", "/home/alice/good/proxy");
    let swap = |n: u32| match n % 8 {
        0 | 4 => put(dir, |at| symlink("/home/alice/good", at)),
        3 => put(dir, |at| symlink("/home/bob", at)),
        7 => put(dir, |at| symlink("/srv/root", at)),
        // The file itself, too: a link in its place must not be followed.
        1 => put(file, |at| symlink("/home/bob/proxy", at)),
        5 => put(file, |at| symlink("/srv/root/proxy", at)),
        2 => drop(fs::remove_file(file)),
        _ => put(file, |at| fs::hard_link("/home/alice/own", at)),
    };
    swap(0);
    let seen = race(calls_per_race(), swap, |_| {
        let run = m.glexec().env("GLEXEC_CLIENT_CERT", &proxy);
        let ran = run.env("GLEXEC_TARGET_PROXY", format!("{dir}/proxy")).arg("/bin/true").output();
        match ran.code() {
            Some(0) => "written",
            Some(201) => "refused",
            _ => panic!("{ran:?}"),
        }
    });
    untouched(&treasures);
    seen.raced(&["written", "refused"]);
}

fn with_work_dir(m: &Machine, proxy: &str, dir: &str, script: &str) -> Run {
    let run = m.glexec().env("GLEXEC_CLIENT_CERT", proxy).env("GLEXEC_TARGET_PROXY", "/dev/null");
    run.env("GLEXEC_WORK_DIR", dir).args(["/bin/sh", "-c", script])
}

#[test]
#[needs(root)]
fn a_working_directory_that_is_swapped_takes_nothing_with_it() {
    let m = racing_site();
    let proxy = m.proxy("Alice", "pilot");
    let treasures = treasures(&m);
    // The payload itself puts a link in the place of its directory, or a link into it.
    for victim in ["/home/bob/job", "/srv/root/job"] {
        let script = format!("cd /; rmdir /home/alice/job; ln -s {victim} /home/alice/job");
        with_work_dir(&m, &proxy, "/home/alice/job", &script).output().ok();
        let _ = fs::remove_file("/home/alice/job");
        with_work_dir(&m, &proxy, "/home/alice/job", &format!("ln -s {victim} link")).output().ok();
        assert!(!Path::new("/home/alice/job").exists());
    }
    untouched(&treasures);
    fs::create_dir("/home/alice/good").unwrap();
    std::os::unix::fs::chown("/home/alice/good", Some(m.uid("alice")), None).unwrap();
    let swap = |n: u32| match n % 4 {
        0 | 2 => put("/home/alice/t", |at| symlink("/home/alice/good", at)),
        1 => put("/home/alice/t", |at| symlink("/home/bob", at)),
        _ => put("/home/alice/t", |at| symlink("/srv/root", at)),
    };
    swap(0);
    let seen = race(calls_per_race(), swap, |n| {
        // Every second one aims at a directory that exists where the link may lead.
        let name = if n % 2 == 0 { "job".to_owned() } else { format!("job-{n}") };
        let ran = with_work_dir(&m, &proxy, &format!("/home/alice/t/{name}"), "echo x > file").output();
        match ran.code() {
            Some(0) => "run",
            // The payload itself found its directory gone, or the link turned.
            Some(1 | 2) => "failed",
            Some(201) => "refused",
            _ => panic!("{ran:?}"),
        }
    });
    untouched(&treasures);
    seen.raced(&["run", "refused"]);
}
