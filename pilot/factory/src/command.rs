//! Runs the batch system's own clients, with bounds on time and on what they may say.

use batch::Command;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a client may take. One that takes longer is killed, and nobody knows what it did.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most bytes that are read of an answer.
const MOST: u64 = 64 << 20;

/// What it prints when it succeeds; otherwise one line with program, exit code and its last words.
pub async fn run(command: &Command) -> Result<String, String> {
    let program = command.argv.first().map_or("", String::as_str);
    match tokio::time::timeout(PATIENCE, to_the_end(command)).await {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(reason)) => Err(format!("{program}: {reason}")),
        Err(_) => Err(format!("{program}: no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn to_the_end(command: &Command) -> Result<String, String> {
    let (program, arguments) = command.argv.split_first().ok_or("nothing to run")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        // What belongs to the factory is not to reach jobs through a client that exports its environment.
        .env_remove("X509_USER_PROXY")
        .env_remove("PILOT_QUEUE")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("cannot be started: {e}; is it installed, and in PATH?"))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A client that does not read its input may have gone already.
            let _ = stdin.write_all(command.stdin.as_bytes()).await;
        }
    };
    let ((), out, said) = tokio::join!(write, read(stdout), read(stderr));
    let status = child.wait().await.map_err(|e| format!("cannot be waited for: {e}"))?;
    if status.success() {
        return Ok(out);
    }
    let words = if said.trim().is_empty() { out } else { said };
    let last = words.trim().lines().next_back().unwrap_or("said nothing").trim().to_owned();
    Err(format!("{status}: {last}"))
}

async fn read(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let _ = from.take(MOST).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command { argv: vec!["/bin/sh".into(), "-c".into(), script.into()], stdin: "in\n".into() }
    }

    #[tokio::test]
    async fn answers_and_failures_are_told_apart() {
        assert_eq!(run(&sh("cat; echo more")).await.as_deref(), Ok("in\nmore\n"));
        let error = run(&sh("echo a; echo b >&2; exit 3")).await.unwrap_err();
        assert!(error.contains("exit status: 3") && error.ends_with(": b"), "{error}");
        let none = Command { argv: vec!["/no/such/client".into()], stdin: String::new() };
        assert!(run(&none).await.unwrap_err().contains("PATH"));
    }
}
