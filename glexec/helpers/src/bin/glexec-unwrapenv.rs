//! `glexec_unwrapenv.pl`: sets the environment from `GLEXEC_ENV` and becomes the command.

use glexec_helpers::exclusion::{self, Exclusion, Parsed};
use glexec_helpers::{answer, blob, complain};
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

const PROGRAM: &str = "glexec_unwrapenv.pl";
const USAGE: &str = "\
Usage: glexec_unwrapenv.pl [--exclude=NAME[,NAME]...]... [--] COMMAND [ARGUMENT]...
Sets the variables that glexec_wrapenv.pl packed into GLEXEC_ENV, then becomes COMMAND.
A single COMMAND that holds blanks or other characters special to the shell is run by /bin/sh.
Never set: HOME LOGNAME USER X509_USER_PROXY _
Exit codes: those of COMMAND; 126 it cannot be executed; 127 it is not there; 255 GLEXEC_ENV or the call is wrong";
/// What a shell would not take as it is; `exec` of Perl, which the old script used, goes to the shell by the same rule.
const SPECIAL: &[u8] = b" \t\n$&*(){}[]'\";\\|?<>~`#";

fn main() -> ExitCode {
    let (exclusion, words) = match exclusion::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(exclusion, words)) => (exclusion, words),
        Ok(Parsed::Help) => return said(USAGE),
        Ok(Parsed::Version) => return said(concat!("glexec_unwrapenv.pl ", env!("CARGO_PKG_VERSION"))),
        Err(why) => return refused(255, &why),
    };
    let environment = match environment(&exclusion) {
        Ok(environment) => environment,
        Err(why) => return refused(255, &why),
    };
    let Some((program, arguments)) = command(words) else {
        return refused(255, "no command to run; see --help");
    };
    // Looked up in the PATH that was unpacked, as the caller would look it up.
    let error = Command::new(&program).args(arguments).env_clear().envs(environment).exec();
    let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    refused(code, &format!("{}: {error}", program.to_string_lossy()))
}

/// The present variables, with those of the blob over them.
fn environment(exclusion: &Exclusion) -> Result<blob::Variables, String> {
    let blob = std::env::var_os("GLEXEC_ENV")
        .ok_or("GLEXEC_ENV is not set; set it to what glexec_wrapenv.pl prints")?
        .into_vec();
    let unpacked = blob::unwrap(&blob).map_err(|why| format!("GLEXEC_ENV {why}"))?;
    let unpacked = unpacked.into_iter().filter(|(name, _)| !exclusion.has(name));
    Ok(std::env::vars_os().chain(unpacked).collect())
}

/// The program and its arguments; a single word that only a shell understands goes to the shell.
fn command(mut words: Vec<OsString>) -> Option<(OsString, Vec<OsString>)> {
    match words.as_slice() {
        [] => None,
        [line] if is_for_shell(line) => Some(("/bin/sh".into(), vec!["-c".into(), line.clone()])),
        _ => {
            let program = words.remove(0);
            Some((program, words))
        }
    }
}

fn is_for_shell(line: &OsStr) -> bool {
    // A file may have blanks in its name.
    line.as_bytes().iter().any(|b| SPECIAL.contains(b)) && !Path::new(line).is_file()
}

fn said(text: &str) -> ExitCode {
    answer(text);
    ExitCode::SUCCESS
}

fn refused(code: u8, why: &str) -> ExitCode {
    complain(PROGRAM, why);
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Option<(OsString, Vec<OsString>)> {
        command(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn only_a_single_word_goes_to_the_shell() {
        let line = "cd /tmp; ls -l 2>&1;";
        assert_eq!(words(&[line]), Some(("/bin/sh".into(), vec!["-c".into(), line.into()])));
        assert_eq!(words(&["ls -l"]), Some(("/bin/sh".into(), vec!["-c".into(), "ls -l".into()])));
        assert_eq!(words(&["/bin/ls"]), Some(("/bin/ls".into(), vec![])));
        assert_eq!(words(&["echo", "a; b"]), Some(("echo".into(), vec!["a; b".into()])));
        assert_eq!(words(&[]), None);
    }
}
