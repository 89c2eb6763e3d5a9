//! `glexec-map`: asks a mapping service on behalf of `glexec`, without any privilege.
//!
//! Reads one frame with the question from standard input, writes one frame with the answer to standard output and
//! exits with 0, whatever the answer. Exit code 2: started in a way it refuses; 3: the question is malformed or
//! nobody reads the answer. It is not meant to be run by hand; see `mapping-query(1)`. Before the first byte is read
//! the process gives up everything that it does not need; see [`confine`].

mod confine;

use helper::{MapReply, MapRequest};
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

const HELP: &str = "Usage: glexec-map [--help | --version | --walls]

Asks a mapping service for glexec: reads a frame with the question from standard input and writes the frame with the
answer to standard output. Not meant to be called by hand; use mapping-query to ask a service.

  --walls  build the walls that surround this program at work, and say which of them this kernel has

Exit codes: 0 an answer was written, 2 wrong usage or started as root, 3 no answer could be written.";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let done = match arguments.iter().map(|a| a.to_str()).collect::<Vec<_>>().as_slice() {
        [] if nix::unistd::geteuid().is_root() => {
            let _ = writeln!(
                std::io::stderr(),
                "glexec-map: refuses to run as root: it parses what a network peer sends; start it through glexec"
            );
            return ExitCode::from(2);
        }
        [] => run(),
        [Some("--help" | "-h")] => say(HELP),
        [Some("--version" | "-V")] => say(concat!("glexec-map ", env!("CARGO_PKG_VERSION"))),
        [Some("--walls")] => walls().and_then(|text| say(&text)),
        _ => {
            let _ = writeln!(
                std::io::stderr(),
                "glexec-map: takes no arguments but --help, --version and --walls"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "glexec-map: {reason}");
            ExitCode::from(3)
        }
    }
}

fn say(text: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{text}").map_err(|e| e.to_string())
}

fn walls() -> Result<String, String> {
    confine::before_reading()?;
    cell::narrow(cell::View::default()).map(cell::report)
}

/// The TLS library parses the system's CA bundle before it is told to trust one directory only: 60 ms of nothing for
/// each call. An empty bundle spares them.
fn skip_system_store() {
    // SAFETY: no thread has been started yet, so nobody else looks at the environment.
    unsafe { std::env::set_var("SSL_CERT_FILE", "/dev/null") };
}

fn run() -> Result<(), String> {
    skip_system_store();
    let reply = match confine::before_reading() {
        Ok(()) => answer(&read_question()?),
        Err(reason) => MapReply::Unavailable(format!("glexec-map cannot confine itself: {reason}")),
    };
    let mut out = io::stdout().lock();
    let written = out.write_all(&reply.encode()).and_then(|()| out.flush());
    written.map_err(|e| format!("cannot write the answer: {e}"))
}

fn read_question() -> Result<MapRequest, String> {
    let mut frame = Vec::new();
    let limit = u64::try_from(helper::MAX_REQUEST).unwrap_or(u64::MAX) + 16;
    let read = io::stdin().lock().take(limit).read_to_end(&mut frame);
    read.map_err(|e| format!("cannot read the question: {e}"))?;
    MapRequest::decode(&frame).map_err(|e| e.to_string())
}

fn answer(request: &MapRequest) -> MapReply {
    if let Err(reason) = confine::to_this_conversation(request) {
        return MapReply::Unavailable(format!("glexec-map cannot confine itself: {reason}"));
    }
    match in_time(request.clone()) {
        // EPERM is what the filter says.
        MapReply::Unavailable(reason) if reason.contains("(os error 1)") => MapReply::Unavailable(format!(
            "{reason} (if a library needs more than glexec-map may do: see Confinement in docs/mapping.md)"
        )),
        reply => reply,
    }
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
