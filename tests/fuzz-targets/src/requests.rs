//! What a caller of `glexec` controls: its arguments and its environment.

use crate::assert_one_line;
use glexec::request::{self, CredentialSource, Invocation, Target};
use glexec_helpers::blob;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

type Variable = (OsString, OsString);

/// argv, an empty word, then `NAME=VALUE` words, each with a NUL behind it.
fn words(data: &[u8]) -> (Vec<OsString>, Vec<Variable>) {
    let mut pieces = data.split(|b| *b == 0);
    let argv =
        pieces.by_ref().take_while(|w| !w.is_empty()).map(|w| OsStr::from_bytes(w).to_owned()).collect();
    let variable = |word: &[u8]| {
        let end = word.iter().position(|b| *b == b'=')?;
        Some((OsStr::from_bytes(&word[..end]).to_owned(), OsStr::from_bytes(&word[end + 1..]).to_owned()))
    };
    (argv, pieces.filter_map(variable).collect())
}

/// From argv and environment to a typed request.
pub fn request(data: &[u8]) {
    let (argv, environment) = words(data);
    let wish = request::parse(&argv, &environment);
    let mut noise = environment.clone();
    noise.push(("HOME".into(), "/".into()));
    assert_eq!(wish, request::parse(&argv, &noise), "an unrelated variable matters");
    match wish {
        Ok(Invocation::Run(request)) => judge(&request, &environment),
        Ok(Invocation::Session(call)) => {
            assert_eq!(Path::new(&call.id).components().count(), 1, "{:?} is a path", call.id);
            assert!(!call.id.contains(['/', '.']) && call.id.len() == 36);
        }
        Ok(Invocation::Help | Invocation::Version | Invocation::Defaults | Invocation::PortBlocks(_)) => {}
        Err(reason) => assert_one_line(&reason),
    }
}

fn judge(request: &request::Request, environment: &[Variable]) {
    if let Some(command) = &request.command {
        let program = command.program.as_bytes();
        assert!(program.contains(&b'/'), "{program:?}");
        assert!(!program.starts_with(b"-"), "{program:?} is an option");
    }
    for source in [&request.identity, &request.source] {
        match source {
            CredentialSource::File(path) => assert!(!path.as_os_str().is_empty()),
            CredentialSource::Text(text) => assert!(!text.is_empty()),
        }
    }
    if let Target::File(path) = &request.target {
        assert!(!path.as_os_str().is_empty());
    }
    if let Some(dir) = &request.work_dir {
        let plain = dir.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
        assert!(dir.is_absolute() && plain && dir.parent().is_some(), "{}", dir.display());
        assert_one_line(&dir.to_string_lossy());
    }
    if let Some(id) = &request.id {
        assert_one_line(id);
    }
    let certificates: Vec<_> = environment.iter().filter(|(n, _)| n == "GLEXEC_CLIENT_CERT").collect();
    assert!(certificates.windows(2).all(|two| two[0].1 == two[1].1), "two readers see two credentials");
}

/// The blob in `GLEXEC_ENV`: any bytes, and any variables there and back.
pub fn environment_blob(data: &[u8]) {
    match blob::unwrap(data) {
        Ok(variables) => there_and_back(variables),
        Err(why) => assert_one_line(&why),
    }
    let (_, variables) = words(&[&[0], data].concat());
    there_and_back(variables.into_iter().filter(|(name, _)| !name.is_empty()).collect());
}

fn there_and_back(variables: Vec<Variable>) {
    let pairs = variables.iter().map(|(n, v)| (n.as_os_str(), v.as_os_str()));
    let text = blob::wrap(pairs).expect("the input is in memory");
    assert!(!text.contains(char::is_whitespace));
    assert_eq!(blob::unwrap(text.as_bytes()), Ok(variables));
}
