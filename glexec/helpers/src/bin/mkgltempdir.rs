//! `mkgltempdir`: makes a directory that belongs to the payload's account, and removes it.

use glexec_helpers::gateway::{Gateway, Refused};
use glexec_helpers::tempdir::{self, Modes};
use glexec_helpers::{answer, complain};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

const PROGRAM: &str = "mkgltempdir";
const USAGE: &str = "\
Usage: mkgltempdir [-t MODE] [-m MODE] [DIRECTORY]   make one below DIRECTORY ($TMPDIR, /tmp) and print its path
       mkgltempdir -r [-f] PATH                      remove it; -f also what is inside
       mkgltempdir -h | --version
  -t MODE  octal mode of the directory that belongs to the payload's account (700)
  -m MODE  octal mode of the directory around it, which belongs to you (755)
The account is the one that glexec maps GLEXEC_CLIENT_CERT to.
Exit codes: 0 done; 1 failed; 2 usage; 201 to 204 from glexec";

#[derive(Debug, PartialEq, Eq)]
enum Task {
    Say(&'static str),
    Create { base: Option<PathBuf>, modes: Modes },
    Remove { target: PathBuf, force: bool },
}

fn main() -> ExitCode {
    let task = match parse(std::env::args_os().skip(1)) {
        Ok(task) => task,
        Err(why) => {
            complain(PROGRAM, &why);
            return ExitCode::from(2);
        }
    };
    match serve(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => {
            complain(PROGRAM, &refused.reason);
            ExitCode::from(refused.code)
        }
    }
}

fn serve(task: Task) -> Result<(), Refused> {
    match task {
        Task::Say(text) => answer(text),
        Task::Create { base, modes } => {
            let glexec = Gateway::find().map_err(|reason| Refused { code: 1, reason })?;
            let base = base
                .or_else(|| std::env::var_os("TMPDIR").filter(|d| !d.is_empty()).map(PathBuf::from))
                .unwrap_or_else(|| "/tmp".into());
            let path = tempdir::create(&glexec, &base, modes)?;
            answer(&path.to_string_lossy());
        }
        Task::Remove { target, force } => tempdir::remove(Gateway::find, &target, force)?,
    }
    Ok(())
}

fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Task, String> {
    let mut words = words.into_iter();
    let (mut modes, mut remove, mut force, mut rest) = (Modes::default(), false, false, Vec::new());
    let mut options_end = false;
    while let Some(word) = words.next() {
        if options_end || !word.as_bytes().starts_with(b"-") {
            rest.push(word);
            continue;
        }
        let mut mode = |option: &str| {
            let text = words.next().ok_or_else(|| format!("{option} needs a mode"))?;
            tempdir::mode(&text.to_string_lossy())
        };
        match word.as_bytes() {
            b"--" => options_end = true,
            b"-h" | b"--help" => return Ok(Task::Say(USAGE)),
            b"--version" => return Ok(Task::Say(concat!("mkgltempdir ", env!("CARGO_PKG_VERSION")))),
            b"-t" => modes.target = mode("-t")?,
            b"-m" => modes.parent = mode("-m")?,
            b"-r" => remove = true,
            b"-f" => force = true,
            b"-rf" | b"-fr" => (remove, force) = (true, true),
            _ => return Err(format!("unknown option {word:?}; see -h")),
        }
    }
    let mut rest = rest.into_iter().map(PathBuf::from);
    let task = match (remove, rest.next()) {
        (true, Some(target)) => Task::Remove { target, force },
        (true, None) => return Err("-r needs the path of the directory to remove".into()),
        (false, base) => Task::Create { base, modes },
    };
    rest.next().map_or(Ok(task), |extra| Err(format!("{}: one directory is enough", extra.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Task, String> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_old_options_mean_what_they_meant() {
        let modes = Modes { target: 0o777, parent: 0o755 };
        let base = Some(PathBuf::from("/scratch"));
        assert_eq!(parsed(&["-t", "777", "/scratch"]), Ok(Task::Create { base, modes }));
        let (base, modes) = (None, Modes { target: 0o700, parent: 0o711 });
        assert_eq!(parsed(&["-m", "711"]), Ok(Task::Create { base, modes }));
        let target = PathBuf::from("/x");
        assert_eq!(parsed(&["-r", "-f", "/x"]), Ok(Task::Remove { target: target.clone(), force: true }));
        assert_eq!(parsed(&["-r", "/x"]), Ok(Task::Remove { target, force: false }));
        assert_eq!(parsed(&["-h"]), Ok(Task::Say(USAGE)));
    }

    #[test]
    fn mistakes_are_named() {
        for (words, why) in [
            (&["-r"][..], "needs the path"),
            (&["-t"], "needs a mode"),
            (&["-t", "rwx"], "no mode"),
            (&["-x"], "unknown option"),
            (&["/a", "/b"], "one directory"),
        ] {
            assert!(parsed(words).unwrap_err().contains(why), "{words:?}");
        }
    }
}
