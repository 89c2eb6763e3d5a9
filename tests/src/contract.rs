//! What the tests of gLExec's contract share: a site as its clients know it, and ways to call and to wait.

use harness::pki::Craft;
use harness::{Machine, Run};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Where clients look for it.
pub const GLEXEC: &str = "/usr/sbin/glexec";
/// Its configuration.
pub const CONF: &str = "/etc/glexec.conf";
/// What stands in for the databases of LCAS and LCMAPS.
pub const POLICY: &str = "/etc/pilotage/policy.toml";

/// A site: `pilot` and `other` may call, `stranger` may not; Alice and Bob are mapped to the accounts of their names.
pub fn site() -> Machine {
    let m = Machine::builder()
        .pilot("pilot")
        .pilot("other")
        .service("stranger")
        .account("alice")
        .account("bob")
        .build();
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

/// CPU time of a session by its record, microseconds. The kernel divides it between user and system by samples, so that
/// only the sum can be compared with what somebody else has counted.
pub fn cpu_us(record: &serde_json::Value) -> u64 {
    ["cpu_user_us", "cpu_sys_us"].iter().filter_map(|field| record["usage"][field].as_u64()).sum()
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
    eventually(path, Duration::from_secs(60), || fs::read_to_string(path).ok().filter(|t| t.ends_with('\n')))
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
    eventually(&format!("end of process {pid}"), Duration::from_secs(60), || (!lives(pid)).then_some(()));
}

/// Sends a signal as an account; true when it was allowed.
pub fn kill_as(m: &Machine, account: &str, signal: &str, pid: i32) -> bool {
    let run = m.command("/bin/kill").as_user(account).args(["-s", signal, "--", &pid.to_string()]);
    run.output().code() == Some(0)
}

/// Where a built program is to be found inside a machine, which has a `/tmp` of its own: a checkout below the host's is
/// only there where the harness keeps it.
pub fn seen_inside(program: &str) -> String {
    let kept = Path::new(harness::BUILT).join(Path::new(program).file_name().unwrap_or_default());
    if Path::new(program).exists() { program.to_owned() } else { kept.display().to_string() }
}

/// Puts a program into the machine where every account can execute it, and returns its path there.
///
/// # Panics
/// When it cannot be read.
pub fn install_tool(m: &Machine, source: &str) -> String {
    let name = Path::new(source).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let place = format!("/opt/contract/{name}");
    let source = seen_inside(source);
    let bytes = fs::read(&source).unwrap_or_else(|e| panic!("{source}: {e}"));
    m.write(&place, "root", 0o755, bytes);
    place
}

/// A program that waits: notes the signals that it gets in `FILE`, one a line, and ends with 7 once `FILE.stop` exists.
/// Perl, because a shell cannot catch signals that were ignored when it started.
const CATCHER: &str = r#"
my $file = shift;
my $note = sub { open(my $f, ">>", $file) or die; print $f "$_[0]\n"; close $f };
for my $signal (qw(TERM INT HUP QUIT USR1 USR2)) { $SIG{$signal} = sub { $note->($signal) } }
$note->("ready $$");
select(undef, undef, undef, 0.02) while !-e "$file.stop";
exit 7;
"#;

/// The command of a payload that writes `ready` and its process id to `file`, then each signal that it gets, and ends
/// with 7 after [`stop_catcher`].
pub fn catcher(file: &str) -> [String; 4] {
    ["/usr/bin/perl", "-e", CATCHER, file].map(str::to_owned)
}

/// Waits until the payload of [`catcher`] is ready; returns its process id.
#[track_caller]
pub fn catcher_ready(file: &str) -> i32 {
    let text = written(file);
    let pid = text.strip_prefix("ready ").and_then(|pid| pid.parse().ok());
    pid.unwrap_or_else(|| panic!("{file}: {text}"))
}

/// Lets the payload of [`catcher`] end.
///
/// # Panics
/// When the file cannot be written.
pub fn stop_catcher(file: &str) {
    fs::write(format!("{file}.stop"), "").unwrap_or_else(|e| panic!("{file}.stop: {e}"));
}

/// The system log of a machine: what its programs send to `/dev/log`.
#[derive(Debug)]
pub struct Syslog {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Syslog {
    /// Gives the machine a `/dev` of its own with a log in it; the calling thread must live in the machine.
    ///
    /// # Panics
    /// When that cannot be made.
    pub fn start(m: &Machine) -> Self {
        let devices = "mkdir -p /run/dev && cd /run/dev && for d in null zero full random urandom tty; \
                       do cp -a /dev/$d $d; done && mount --bind /run/dev /dev";
        m.command("/bin/sh").args(["-c", devices]).output().ok();
        let socket = UnixDatagram::bind("/dev/log").unwrap_or_else(|e| panic!("/dev/log: {e}"));
        chmod("/dev/log", 0o666);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = lines.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok(length) = socket.recv(&mut buffer) {
                let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if let Ok(mut lines) = written.lock() {
                    lines.push(line);
                }
            }
        });
        Self { lines }
    }

    /// Messages so far, each with the priority and time that syslog(3) puts before it.
    ///
    /// # Panics
    /// Never, unless the reader did.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("the reader does not panic").clone()
    }

    /// Waits for a message that holds this text.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        let found = || self.lines().into_iter().find(|l| l.contains(text));
        eventually(
            &format!("a log message with {text:?}, not {:?}", self.lines()),
            Duration::from_secs(60),
            found,
        )
    }
}
