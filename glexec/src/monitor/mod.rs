//! `glexec-monitor`: an optional daemon that stops payloads before they can execute `glexec`, and closes lost sessions.
//!
//! `glexec` refuses payloads by itself and sweeps at each call; nothing depends on this program. It adds a wall that
//! stands outside of what a payload can reach, and closes orphans without waiting for the next call.
//!
//! | looking for | see |
//! |---|---|
//! | the loop | [`monitor_loop`] |
//! | executions stopped before they start | [`exec_gate`] |
//! | is this process a payload | [`inspect`] |
//! | executions, births and ends as the kernel reports them | [`events`] |
//! | members of sessions without a cgroup leaf | [`session_members`] |
//! | live sessions and the ends of their supervisors | [`tracked`] |
//! | records, log, sweeps, kills | [`monitor_writer`], by [`message`] |

mod events;
mod exec_gate;
mod inspect;
mod message;
mod monitor_loop;
mod monitor_writer;
mod session_members;
mod tracked;

use crate::admit::config;
use crate::session::store::RUN_DIR;
use crate::sys::{fds, process};
use monitor_loop::MonitorLoop;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where `glexec` is installed.
const GLEXEC: &str = "/usr/sbin/glexec";

const HELP: &str = "\
Usage: glexec-monitor [--foreground] [--glexec PATH]...

Stops payloads before they can execute glexec, and closes sessions whose supervisor was killed.
It stays in the foreground and needs root. SIGHUP reads the configuration again, SIGTERM ends it.

  --glexec PATH  another installed glexec to protect, besides /usr/sbin/glexec and the one beside this program;
                 may be repeated
  --foreground   does nothing: it always stays in the foreground
  --help, --version

Exit codes: 0 ended by a signal, 1 another one runs on this host, 2 usage or not root, 3 cannot work
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum CommandLine {
    Help,
    Version,
    Watch(Vec<PathBuf>),
}

/// Why it does not run, with the exit code.
struct Refusal(u8, String);

/// Runs the monitor and returns its exit code.
pub fn main() -> ExitCode {
    let done = match parse(std::env::args_os().skip(1)) {
        Ok(CommandLine::Watch(binaries)) => watch(with_neighbour(binaries, std::env::current_exe().ok())),
        Ok(CommandLine::Help) => tell(HELP),
        Ok(CommandLine::Version) => {
            tell(concat!("glexec-monitor ", env!("CARGO_PKG_VERSION"), " (Pilotage)\n"))
        }
        Err(why) => Err(Refusal(2, why)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal(code, why)) => {
            let _ = writeln!(std::io::stderr(), "glexec-monitor: {why}");
            ExitCode::from(code)
        }
    }
}

fn tell(text: &str) -> Result<(), Refusal> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Refusal(1, format!("standard output: {e}")))
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<CommandLine, String> {
    let mut binaries = vec![PathBuf::from(GLEXEC)];
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--help" | "-h") => return Ok(CommandLine::Help),
            Some("--version" | "-V") => return Ok(CommandLine::Version),
            Some("--foreground") => {}
            Some("--glexec") => {
                let path = words.next().map(PathBuf::from).filter(|path| path.is_absolute());
                let path = path.ok_or("--glexec needs an absolute path, such as /opt/glite/sbin/glexec")?;
                if !binaries.contains(&path) {
                    binaries.push(path);
                }
            }
            _ => return Err(format!("{}: not an option; see --help", message::path_text(Path::new(&word)))),
        }
    }
    Ok(CommandLine::Watch(binaries))
}

/// Adds the glexec that was installed beside this program, when that is another one.
fn with_neighbour(mut binaries: Vec<PathBuf>, own: Option<PathBuf>) -> Vec<PathBuf> {
    let beside = own.map(|own| own.with_file_name("glexec"));
    binaries.extend(beside.filter(|path| !binaries.contains(path)));
    binaries
}

fn watch(binaries: Vec<PathBuf>) -> Result<(), Refusal> {
    if !geteuid().is_root() {
        return Err(Refusal(2, "needs root: it guards what root owns".into()));
    }
    let cannot = |why: String| Refusal(3, why);
    fds::fill_standard().map_err(|e| cannot(format!("/dev/null: {e}")))?;
    let notify = std::env::var_os("NOTIFY_SOCKET");
    process::clear_environment();
    let _lock = lock()?;
    let config = config::load().map_err(|failure| cannot(failure.reason()))?;
    let monitor_loop = MonitorLoop::open(config, binaries).map_err(cannot)?;
    if let Some(Err(e)) = notify.map(|socket| tell_ready(&socket)) {
        let _ = writeln!(std::io::stderr(), "glexec-monitor: cannot tell that it is ready: {e}");
    }
    monitor_loop.run().map_err(cannot)
}

/// One monitor per host; the lock ends with the process.
fn lock() -> Result<Flock<File>, Refusal> {
    let path = Path::new(RUN_DIR).join("monitor.lock");
    let cannot = |e: std::io::Error| Refusal(3, format!("{}: {e}", path.display()));
    DirBuilder::new().mode(0o755).recursive(true).create(RUN_DIR).map_err(cannot)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(cannot)?;
    let held = |_| Refusal(1, format!("another one runs on this host; it holds {}", path.display()));
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(held)
}

/// Readiness for a service manager (`sd_notify(3)`).
fn tell_ready(socket: &OsString) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(words: &[&str]) -> Result<CommandLine, String> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_understood() {
        assert_eq!(wish(&[]), Ok(CommandLine::Watch(vec![GLEXEC.into()])));
        let more = wish(&["--foreground", "--glexec", "/opt/glexec", "--glexec", GLEXEC]);
        assert_eq!(more, Ok(CommandLine::Watch(vec![GLEXEC.into(), "/opt/glexec".into()])));
        assert_eq!((wish(&["--help"]), wish(&["-V"])), (Ok(CommandLine::Help), Ok(CommandLine::Version)));
    }

    #[test]
    fn the_neighbour_is_guarded_as_well() {
        let with = |own: &str| with_neighbour(vec![GLEXEC.into()], Some(own.into()));
        assert_eq!(with("/usr/sbin/glexec-monitor"), [PathBuf::from(GLEXEC)]);
        assert_eq!(with("/usr/local/sbin/glexec-monitor")[1..], [PathBuf::from("/usr/local/sbin/glexec")]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for words in [&["--glexec"][..], &["--glexec", "relative"], &["now"], &["--glexec="]] {
            assert!(wish(words).is_err(), "{words:?}");
        }
    }
}
