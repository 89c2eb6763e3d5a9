//! What the tests of gLExec's contract share: a site as its clients know it, and ways to call and to wait.

use harness::pki::Craft;
use harness::{Machine, Run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where clients look for it.
pub const GLEXEC: &str = "/usr/sbin/glexec";
/// Its configuration.
pub const CONF: &str = "/etc/glexec.conf";
/// What stands in for the databases of LCAS and LCMAPS.
pub const POLICY: &str = "/etc/pilotage/policy.toml";

/// A site: `pilot` and `other` may call, Alice and Bob are mapped to the accounts of their names.
pub fn site() -> Machine {
    let m = Machine::builder().pilot("pilot").pilot("other").account("alice").account("bob").build();
    m.map("Alice", "alice");
    m.map("Bob", "bob");
    m
}

/// A call of `pilot` with this file as the payload's credential and no copy of the proxy.
pub fn call(m: &Machine, proxy: &str) -> Run {
    m.glexec().env("GLEXEC_CLIENT_CERT", proxy).env("GLEXEC_TARGET_PROXY", "/dev/null")
}

/// As [`call`], with a fresh proxy of Alice, running a shell script.
pub fn sh(m: &Machine, script: &str) -> Run {
    call(m, &m.proxy("Alice", "pilot")).args(["/bin/sh", "-c", script])
}

/// A proxy that ended a minute ago.
pub fn expired() -> Craft {
    Craft { from: -7200, to: -60, ..Craft::default() }
}

/// Sets a key of `/etc/glexec.conf`, replacing the line that has it.
pub fn set_conf(m: &Machine, key: &str, value: &str) {
    let old = fs::read_to_string(CONF).unwrap_or_default();
    let others = old.lines().filter(|l| l.split('=').next().map(str::trim) != Some(key));
    let mut new: String = others.map(|l| format!("{l}\n")).collect();
    new.push_str(&format!("{key} = {value}\n"));
    m.write(CONF, "root", 0o640, new);
}

/// Lets root call, as the regression suite of gLite wants it.
pub fn let_root_call(m: &Machine) {
    set_conf(m, "user_white_list", "pilot, root");
}

/// Changes the mode of a file or directory.
///
/// # Panics
/// When there is none.
pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    let path = path.as_ref();
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Adds bits to the mode of a file or directory.
///
/// # Panics
/// When there is none.
pub fn chmod_add(path: impl AsRef<Path>, bits: u32) {
    let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()));
    chmod(path, (meta.permissions().mode() | bits) & 0o7777);
}

/// Asks until there is an answer.
///
/// # Panics
/// When there is none within the limit; `what` says what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for a file that a payload writes, until its text ends with a line break.
#[track_caller]
pub fn written(path: &str) -> String {
    eventually(path, Duration::from_secs(20), || fs::read_to_string(path).ok().filter(|t| t.ends_with('\n')))
        .trim_end()
        .to_owned()
}

/// Whether the process exists and is not a zombie.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits for the end of a process that is nobody's child here.
#[track_caller]
pub fn wait_gone(pid: i32) {
    eventually(&format!("end of process {pid}"), Duration::from_secs(20), || (!lives(pid)).then_some(()));
}

/// Sends a signal as an account; true when it was allowed.
pub fn kill_as(m: &Machine, account: &str, signal: &str, pid: i32) -> bool {
    let run = m.command("/bin/kill").as_user(account).args(["-s", signal, "--", &pid.to_string()]);
    run.output().code() == Some(0)
}

/// Puts a program into the machine where every account can execute it, and returns its path there.
///
/// # Panics
/// When it cannot be read.
pub fn install_tool(m: &Machine, source: &str) -> String {
    let name = Path::new(source).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let place = format!("/opt/contract/{name}");
    let bytes = fs::read(source).unwrap_or_else(|e| panic!("{source}: {e}"));
    m.write(&place, "root", 0o755, bytes);
    place
}
