//! `glexec-map`: asks a mapping service on behalf of `glexec`, without any privilege.
//!
//! Reads one frame with the question from standard input, writes one frame with the answer to standard output and
//! exits with 0, whatever the answer. Exit code 2: started in a way it refuses; 3: the question is malformed or
//! nobody reads the answer. It is not meant to be run by hand; see `mapping-query(1)`.

use policy::wire::{self, MapReply, MapRequest};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

fn main() -> ExitCode {
    if let Err(reason) = shed() {
        eprintln!("glexec-map: {reason}");
        return ExitCode::from(2);
    }
    skip_system_store();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("glexec-map: {reason}");
            ExitCode::from(3)
        }
    }
}

/// Gives up, before any byte is read, what an intruder could use: new privileges, core files, being traced.
fn shed() -> Result<(), String> {
    if nix::unistd::geteuid().is_root() {
        return Err(
            "refuses to run as root: it parses what a network peer sends; start it through glexec".into()
        );
    }
    let failed = |what: &str, e: nix::Error| format!("cannot {what}: {e}");
    nix::sys::prctl::set_no_new_privs().map_err(|e| failed("give up new privileges", e))?;
    nix::sys::prctl::set_dumpable(false).map_err(|e| failed("forbid tracing", e))?;
    let core = nix::sys::resource::Resource::RLIMIT_CORE;
    nix::sys::resource::setrlimit(core, 0, 0).map_err(|e| failed("forbid core files", e))
}

/// The TLS library parses the system's CA bundle before it is told to trust one directory only: 60 ms of nothing for
/// each call. An empty bundle spares them.
fn skip_system_store() {
    // SAFETY: no thread has been started yet, so nobody else looks at the environment.
    unsafe { std::env::set_var("SSL_CERT_FILE", "/dev/null") };
}

fn run() -> Result<(), String> {
    let mut frame = Vec::new();
    let limit = u64::try_from(wire::MAX_REQUEST).unwrap_or(u64::MAX) + 16;
    io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut frame)
        .map_err(|e| format!("cannot read the question: {e}"))?;
    let request = MapRequest::decode(&frame).map_err(|e| e.to_string())?;
    drop(frame);
    let reply = in_time(request).encode();
    let mut out = io::stdout().lock();
    out.write_all(&reply).and_then(|()| out.flush()).map_err(|e| format!("cannot write the answer: {e}"))
}

/// Asks in a second thread: name resolution and a CA directory on a dead file server know no deadline.
fn in_time(mut request: MapRequest) -> MapReply {
    request.timeout = request.timeout.min(mapping_client::LONGEST);
    let timeout = request.timeout;
    let (sender, receiver) = mpsc::channel();
    let worker = std::thread::Builder::new().spawn(move || {
        // The receiver is gone once the time is up; then nobody wants the answer.
        let _ = sender.send(mapping_client::map(&request));
    });
    if let Err(e) = worker {
        return MapReply::Unavailable(format!("cannot start a thread: {e}"));
    }
    let late = Duration::from_millis(100);
    match receiver.recv_timeout(timeout + late) {
        Ok(reply) => reply,
        Err(RecvTimeoutError::Timeout) => {
            MapReply::Unavailable(format!("no answer within {} s", timeout.as_secs_f32()))
        }
        Err(RecvTimeoutError::Disconnected) => {
            MapReply::Unavailable("the client broke down; see its messages".into())
        }
    }
}
