//! `glexec-verify`: the child of `glexec` that looks at what a caller handed over.
//!
//! One request frame on standard input, one verdict on standard output (see the crate `helper`). Before the first byte is
//! read the process gives up everything that it does not need; see [`confine`].
#![forbid(unsafe_code)]

mod confine;

use helper::{MAX_REQUEST, VerifyReply, VerifyRequest, encode_verify_reply, frame_length};
use identity::{Refusal, RefusalKind};
use std::io::{self, Read, Write};
use std::process::ExitCode;

const HELP: &str = "Usage: glexec-verify [--help | --version | --walls]

Judges one grid credential for glexec: reads a request frame from standard input and writes the verdict frame to
standard output. Not meant to be called by hand; use `site-policy explain --proxy FILE` to ask why a proxy is refused.

  --walls  build the walls that surround this program at work, and say which of them this kernel has

Exit codes: 0 a verdict was written, 2 wrong usage or started as root, 3 no verdict could be written.";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.iter().map(|a| a.to_str()).collect::<Vec<_>>().as_slice() {
        [] => {}
        [Some("--help" | "-h")] => return say(HELP),
        [Some("--version" | "-V")] => return say(concat!("glexec-verify ", env!("CARGO_PKG_VERSION"))),
        [Some("--walls")] => return walls(),
        _ => {
            let _ = writeln!(
                std::io::stderr(),
                "glexec-verify: takes no arguments but --help, --version and --walls"
            );
            return ExitCode::from(2);
        }
    }
    if nix::unistd::geteuid().is_root() {
        let _ = writeln!(
            std::io::stderr(),
            "glexec-verify: must not run as root; glexec starts it as account glexec"
        );
        return ExitCode::from(2);
    }
    let reply =
        std::panic::catch_unwind(judge).unwrap_or_else(|_| Err(site("the verifier failed on this input")));
    let frame = encode_verify_reply(&reply);
    let mut out = io::stdout().lock();
    match out.write_all(&frame).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "glexec-verify: cannot write the verdict: {e}");
            ExitCode::from(3)
        }
    }
}

fn say(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(3),
    }
}

fn walls() -> ExitCode {
    let built = confine::before_reading().and_then(|()| cell::narrow(cell::View::default()));
    match built {
        Ok(landlock) => say(&cell::report(landlock)),
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "glexec-verify: {reason}");
            ExitCode::from(3)
        }
    }
}

fn site(reason: impl Into<String>) -> Refusal {
    Refusal { kind: RefusalKind::Site, reason: reason.into() }
}

fn judge() -> VerifyReply {
    let unconfined = |e| site(format!("glexec-verify cannot confine itself: {e}"));
    confine::before_reading().map_err(unconfined)?;
    let frame = read_frame(&mut io::stdin().lock())?;
    let request = VerifyRequest::decode(&frame);
    let request =
        request.map_err(|e| site(format!("glexec-verify got a request it does not understand: {e}")))?;
    confine::to_this_request(&request).map_err(unconfined)?;
    credential::verify(&request)
}

/// Reads exactly one frame, never more than the limit.
fn read_frame(input: &mut impl Read) -> Result<Vec<u8>, Refusal> {
    let broken = |what: String| site(format!("glexec-verify got a broken request: {what}"));
    let mut frame = vec![0; 9];
    input.read_exact(&mut frame).map_err(|e| broken(e.to_string()))?;
    let length = frame_length(&frame, MAX_REQUEST).map_err(|e| broken(e.to_string()))?;
    frame.resize(length.unwrap_or(frame.len()), 0);
    input.read_exact(&mut frame[9..]).map_err(|e| broken(e.to_string()))?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bounded_and_whole() {
        let oversized = [b"PLT1\x01".as_slice(), &u32::MAX.to_be_bytes()].concat();
        for bad in [b"".as_slice(), b"PLT1", b"XXXX\x01\0\0\0\0", &oversized, b"PLT1\x01\0\0\0\x05abc"] {
            assert_eq!(read_frame(&mut &bad[..]).unwrap_err().kind, RefusalKind::Site, "{bad:?}");
        }
        assert_eq!(read_frame(&mut &b"PLT1\x01\0\0\0\x02abcd"[..]).unwrap(), b"PLT1\x01\0\0\0\x02ab");
    }
}
