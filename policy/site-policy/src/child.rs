//! Running `glexec-verify` and `glexec-map` as `glexec` does: a frame in, a frame out, no privilege.

use crate::accounts;
use helper::{MapReply, MapRequest, VerifyReply, VerifyRequest};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The account that the children run as when root asks.
pub const CHILD_ACCOUNT: &str = "glexec";

/// Asks `glexec-verify` in `libexec` to judge a credential.
pub fn verify(libexec: &Path, request: &VerifyRequest) -> Result<VerifyReply, String> {
    let program = libexec.join("glexec-verify");
    let frame = talk(&program, request.encode())?;
    helper::decode_verify_reply(&frame).map_err(|e| format!("{}: {e}", program.display()))
}

/// Asks `glexec-map` in `libexec` for an account.
pub fn map(libexec: &Path, request: &MapRequest) -> Result<MapReply, String> {
    let program = libexec.join("glexec-map");
    let frame = talk(&program, request.encode())?;
    MapReply::decode(&frame).map_err(|e| format!("{}: {e}", program.display()))
}

fn talk(program: &Path, frame: Vec<u8>) -> Result<Vec<u8>, String> {
    let failed = |why: String| format!("{}: {why}", program.display());
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    drop_root(&mut command)?;
    let mut child = command.spawn().map_err(|e| failed(format!("cannot be started: {e}")))?;
    // The child reads everything before it answers, but it may die before: a closed pipe shows in its exit code.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(&frame);
    }
    let reply = read_reply(&mut child).map_err(|e| failed(e.to_string()))?;
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let said = identity::one_line(String::from_utf8_lossy(&output.stderr).trim());
        return Err(failed(format!("{}: {said}", output.status)));
    }
    Ok(reply)
}

fn read_reply(child: &mut Child) -> std::io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let limit = u64::try_from(helper::MAX_REPLY).unwrap_or(u64::MAX) + 64;
        stdout.take(limit).read_to_end(&mut reply)?;
    }
    Ok(reply)
}

/// Both children refuse to run as root.
fn drop_root(command: &mut Command) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let user = match accounts::by_name(CHILD_ACCOUNT)? {
        Some(user) => user,
        None => {
            accounts::by_name("nobody")?.ok_or("neither account glexec nor nobody exists; create glexec")?
        }
    };
    // Supplementary groups are dropped along with the uid.
    command.uid(user.uid).gid(user.gid);
    Ok(())
}
